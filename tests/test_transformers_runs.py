"""Whole runs of the transformers front-end: resuming, rewards, adapters, precision, logs, and what
is refused.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_transformers import losses, trainer, weights  # noqa: F401
from tiny_transformers import MODELS, pairs

from fairseq_erpo.huggingface import ErpoConfig, ErpoTrainer

Make = Callable[..., ErpoTrainer]

RESUMED = {
    "in an epoch": {"row": "interp", "preset": "paper", "anneal_every": "3u"},
    "accumulated": {
        "row": "interp",
        "preset": "paper",
        "anneal_every": "1e",
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 8,
    },
    "risk": {"row": "interp", "metric_for_best_model": "bleu"},
    "corpus": {"row": "interp", "preset": "corpus", "reward": "corpus_bleu"},
    "mixer": {"row": "mixer", "anneal_every": "2u"},
    "plateau": {
        "row": "interp",
        "preset": "paper",
        "schedule": "plateau",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "loss",
        "greater_is_better": True,  # so that each better model is a fall
    },
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("at", [3, 4], ids=["mid-epoch", "epoch's end"])
def test_resumed_equals_uninterrupted(case: str, at: int, trainer: Make, tmp_path: Path) -> None:  # noqa: F811
    """Bit for bit, dropout included; four updates an epoch."""
    flags = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "learning_rate": 3e-3}
    flags |= RESUMED[case]
    whole = trainer(dropout=0.1, **flags, **evaluated(case))
    whole.train()
    kept = tmp_path / "run" / f"checkpoint-{at}"
    shutil.move(kept, tmp_path / "kept")
    shutil.rmtree(tmp_path / "run")
    shutil.move(tmp_path / "kept", kept)
    again = trainer(dropout=0.1, **flags, **evaluated(case))
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(whole.model), weights(again.model))
    same = [line for line in whole.state.log_history if "lambda/data" in line]
    assert [line["lambda/data"] for line in again.state.log_history if "lambda/data" in line] == [
        line["lambda/data"] for line in same
    ]
    if case == "plateau":
        assert len({line["lambda/data"] for line in same}) > 1, "the score never fell"


def evaluated(case: str) -> dict[str, Any]:
    return {"eval_dataset": pairs(16, seed=5)} if case == "plateau" else {}


def test_a_dataset_of_datasets(trainer: Make) -> None:  # noqa: F811
    """As a list of rows trains; tokenised ones, too."""
    from datasets import Dataset

    flags = {"row": "interp", "preset": "paper", "anneal_every": "1u", "max_steps": 2}
    texts = Dataset.from_list([{**row, "number": n} for n, row in enumerate(pairs())])
    ids = Dataset.from_list([trainer(**flags).train_dataset[n] for n in range(64)])
    ids = ids.remove_columns(["source", "target"])
    found = []
    for rows in (None, texts, ids):
        made = trainer(rows=rows, **flags)
        made.train()
        found.append(losses(made))
    assert found[0] == found[1] == found[2]


def test_nothing_to_resume_is_a_beginning(trainer: Make) -> None:  # noqa: F811
    made = trainer(row="mle", max_steps=1)
    assert made.train(resume_from_checkpoint=True).global_step == 1


# ---- rewards


def as_ours(sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> Any:
    return [float(len(set(h.split()) & set(r.split()))) for h, r in zip(hypotheses, references)]  # noqa: B905


def as_trl(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> Any:
    assert len(columns["target"]) == len(columns["kind"]) == len(prompts)
    return [None if not c else float(len(c.split())) for c in completions]


def test_rewards_by_name_and_as_functions(trainer: Make) -> None:  # noqa: F811
    rows = [{**row, "kind": "a"} for row in pairs()]
    common = {"row": "pg", "max_steps": 2, "rows": rows}
    for reward in ("chrf", "rouge_score", "corpus_bleu", "rougeL"):
        trainer(reward=reward, **common).train()
    both = trainer(
        reward_funcs=[as_ours, as_trl, "bleu", "chrf"], reward_weights=[1.0, 0.5, 0, 0], **common
    )
    both.train()
    line = both.state.log_history[0]
    expected = line["rewards/as_ours/mean"] + 0.5 * line["rewards/as_trl/mean"]
    assert line["reward"] == pytest.approx(expected, rel=1e-5) and expected > 1
    assert {"rewards/bleu/mean", "rewards/chrf/mean"} <= line.keys()
    alone = trainer(reward_funcs=as_ours, **common)
    alone.train()
    assert losses(alone) != losses(both)


@pytest.mark.parametrize(
    ("func", "named"),
    [
        (lambda sources, hypotheses, references: [1.0], "1 numbers"),
        (lambda sources, hypotheses, references: [float("nan")] * len(sources), "nan"),
        (lambda sources, hypotheses, references: 1.0, "list of numbers"),
        (lambda sources: [1.0], "completions"),
        (3, "not 3"),
        ("nothing", "nothing"),
    ],
)
def test_wrong_rewards_are_named(func: Any, named: str, trainer: Make) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=named):
        trainer(row="pg", reward_funcs=func, max_steps=1).train()


def test_a_perfect_output_has_the_best_reward(trainer: Make) -> None:  # noqa: F811
    """BART's BOS and NLLB's language are no words of it."""
    for name in ("t5", "bart", "nllb", "mbart-cc25"):
        made = trainer(name, row="pg", reward="bleu")
        batch = made.engine.batch_of_sentences(range(4), made.now)
        from fairseq_erpo.algorithm.batch import Expert
        from fairseq_erpo.algorithm.draw import score

        perfect = score(batch, batch.target, Expert.MODEL)
        assert perfect.reward.tolist() == pytest.approx([1.0] * 4), name
        shown = made.engine.inputs.texts(batch.target)
        assert [text.split() for text in shown] == [row["target"].split() for row in pairs(4)]


# ---- what transformers brings along


def test_lora_and_the_prior_that_it_began_from(trainer: Make) -> None:  # noqa: F811
    from peft import LoraConfig

    config = LoraConfig(r=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    flags = {"row": "sequence_tutor", "max_steps": 3, "alpha": 1.0, "reward": "edit"}
    flags |= {"learning_rate": 0.05, "optim": "sgd", "max_grad_norm": 0.0}
    made = trainer(peft_config=config, **flags)
    before = {name: part.clone() for name, part in made.model.named_parameters()}
    made.train()
    moved = {n for n, p in made.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("lora" in name for name in moved)
    batch = made.engine.batch_of_sentences(range(4), made.now)
    with torch.no_grad():
        made.model.eval()
        off = batch.log_p(batch.inputs.prior(1), batch.target)
        on = batch.log_p(batch.start(1), batch.target)
        first = trainer(row="sequence_tutor").engine.batch_of_sentences(range(4), made.now)
        expected = first.log_p(first.start(1), first.target)
    torch.testing.assert_close(off, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(on, expected, atol=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        {"gradient_checkpointing": True},
        {"train_sampling_strategy": "group_by_length"},
        {"bf16": True},
        {"optim": "adafactor"},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_what_seq2seq_trainer_has_goes_on_working(flags: Any, trainer: Make) -> None:  # noqa: F811
    made = trainer(row="interp", preset="risk", reward="bleu", max_steps=3, **flags)
    made.train()
    assert all(abs(loss) < 100 for loss in losses(made))


def test_gradient_checkpointing_changes_nothing(trainer: Make) -> None:  # noqa: F811
    flags = {"row": "interp", "preset": "paper", "anneal_every": "1u", "max_steps": 3}
    plain, saved = trainer(**flags), trainer(gradient_checkpointing=True, **flags)
    plain.train()
    saved.train()
    assert losses(plain) == pytest.approx(losses(saved), abs=1e-5)


@pytest.mark.parametrize("name", ["t5", "nllb", "mbart-cc25"])
def test_predict_with_generate(name: str, tmp_path: Path) -> None:
    """`generate` begins with NLLB's target language, and with mBART's, without being told."""
    tiny = MODELS[name]
    tokenizer, seen = tiny.tokenizer(), []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {"bleu": 1.0}

    args = ErpoConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        row="interp",
        max_steps=2,
        predict_with_generate=True,
        generation_max_length=12,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="bleu",
        save_strategy="no",
        disable_tqdm=True,
    )
    made = ErpoTrainer(
        tiny.model(),
        args,
        train_dataset=pairs(16),
        eval_dataset=pairs(8, seed=3),
        processing_class=tokenizer,
        compute_metrics=metrics,
    )
    made.train()
    assert len(seen) == 2 and len(seen[0]) == 8
    begins = {"nllb": [2, tokenizer.convert_tokens_to_ids("eng_Latn")], "t5": [0]}
    begins["mbart-cc25"] = [4]
    start = begins[name]
    assert all(list(row[: len(start)]) == start for row in seen[0])
    assert made.args.validated_by == "bleu"
    assert made.engine.settings.reward is not made.engine.settings.teacher


def test_samples_of_a_file_and_of_the_beam(trainer: Make, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "samples"
    lines = [f"{n}\t{s}\t{row['target']}\n" for n, row in enumerate(pairs()) for s in (1, 0)]
    file.write_text("".join(lines))
    made = trainer("bart", row="raml", samples_file=str(file), max_steps=2)
    made.train()
    batch = made.engine.batch_of_sentences([3], made.now)
    drawn = made.engine.row.draw(batch)
    assert drawn is not None and drawn.samples == 2
    assert torch.equal(drawn.sample.tokens[:1], batch.target)
    (tmp_path / "fewer").write_text("".join(lines[:-2]))
    with pytest.raises(ValueError, match="sentence 63"):
        trainer("bart", row="raml", samples_file=str(tmp_path / "fewer"))
    for name in ("t5", "nllb"):
        made = trainer(name, row="mrt", candidates="beam", samples=3, max_steps=2)
        made.train()
        batch = made.engine.batch_of_sentences(range(3), made.now)
        made.model.eval()
        with torch.no_grad():
            found = batch.inputs.beam(3)
        allowed = set(range(batch.vocabulary.size)) - set(batch.vocabulary.never)
        assert len(found) == 9 and set(found.unique().tolist()) <= allowed | {batch.vocabulary.pad}


def test_log_card_and_completions(trainer: Make, tmp_path: Path) -> None:  # noqa: F811
    flags = {"preset": "risk", "reward": "bleu", "anneal_every": "1u", "max_steps": 4}
    made = trainer(row="interp", log_completions=True, **flags)
    made.train()
    line = [line for line in made.state.log_history if "loss" in line][-1]
    wanted = "reward reward_std completions/mean_length completions/clipped_ratio "
    wanted += "frac_reward_zero_std lambda/model lambda/data from_model from_reward delta_r/model"
    assert set(wanted.split()) <= line.keys()
    assert line["lambda/model"] == 1 and line["from_model"] == 1
    shown = [json.loads(text) for text in (tmp_path / "run/completions.jsonl").open()]
    assert {row["step"] for row in shown} == {1, 2, 3, 4}
    assert all(len(row["tokens"]) == len(row["drawn_by"]) for row in shown)
    assert shown[0]["reference"] in {row["target"] for row in pairs()}
    made.create_model_card()
    card = (tmp_path / "run/README.md").read_text()
    for told in ("--row interp", "--reward bleu", "--anneal-every 1u", "model=1"):
        assert told in card


# ---- what is refused


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(pairs())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stream": ({"rows": Stream()}, "stream"),
    "no rows": ({"rows": [{"source": "w1", "target": ""}]}, "sentence 0 is empty"),
    "columns": ({"rows": [{"from": "w1", "to": "w1"}]}, "--source-column"),
    "row": ({"row": "nothing"}, "--row"),
    "foreign flag": ({"row": "mle", "samples": 3}, "--samples"),
    "flag": ({"row": "interp", "mixture": "model=2"}, "--mixture"),
    "plateau": ({"row": "interp", "schedule": "plateau"}, "--eval-strategy"),
    "weights": ({"row": "pg", "reward_funcs": ["bleu"], "reward_weights": [1.0, 2.0]}, "weights"),
    "ids": ({"rows": [{"input_ids": [5, 1], "labels": [900, 1]}]}, "sentence 0"),
    "long target": (
        {"name": "bart", "rows": [{"input_ids": [5, 2], "labels": [0, *[5] * 70, 2]}]},
        "64 positions",
    ),
    "long source": (
        {"name": "bart", "rows": [{"input_ids": [5] * 70, "labels": [0, 5, 2]}]},
        "source of sentence 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_one_line(case: str, trainer: Make) -> None:  # noqa: F811
    flags, named = REFUSED[case]
    with pytest.raises(ValueError, match=named) as refused:
        trainer(**{"row": "interp", **flags})
    assert "\n" not in str(refused.value) and "erpo-" not in str(refused.value)


def test_long_texts_are_cut_at_the_models_positions(trainer: Make) -> None:  # noqa: F811
    """And no draw goes beyond them."""
    made = trainer("bart", row="pg", rows=pairs(16, longest=100), max_steps=1)
    made.train()
    batch = made.engine.batch_of_sentences(range(16), made.now)
    assert batch.target.size(1) == 63 == batch.max_positions


def test_ways_of_several_gpus_are_refused_by_name(trainer: Make) -> None:  # noqa: F811
    from types import SimpleNamespace

    from fairseq_erpo.huggingface.checks import check_run

    model, args = MODELS["t5"].model(), trainer(row="mle").args
    args._n_gpu = 2
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2"):
        check_run(model, args)
    args._n_gpu, args.fsdp = 1, True
    with pytest.raises(ValueError, match="--fsdp"):
        check_run(model, args)
    args.fsdp, args.deepspeed = False, "config.json"
    for stage in (2, 3):
        args.deepspeed_plugin = SimpleNamespace(zero_stage=stage)
        if stage == 2:
            check_run(model, args)
    with pytest.raises(ValueError, match="ZeRO-3"):
        check_run(model, args)


def test_prompt_tuning_other_tokenizers_and_other_models_are_refused(tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    def refused(model: Any, name: str, tokenizer: Any = None) -> None:
        with pytest.raises(ValueError, match=name):
            ErpoTrainer(
                model,
                ErpoConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[]),
                train_dataset=pairs(4),
                processing_class=tokenizer or MODELS["t5"].tokenizer(),
            )

    prompt = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    refused(get_peft_model(MODELS["t5"].model(), prompt), "LoRA")
    refused(MODELS["t5"].model(), "tokenizer", MODELS["bart"].tokenizer())
    refused(MODELS["t5"].model(), "tokenizer", MODELS["nllb"].tokenizer())
    small = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=40)
    refused(GPT2LMHeadModel(small), "encoder-decoder")
