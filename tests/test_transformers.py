"""The front-end of transformers on tiny random models: what stands around y*, draws, losses,
resuming.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LIMIT
from tiny_transformers import MODELS, WORDS, pairs

from fairseq_erpo import FAMILY, previous_tokens
from fairseq_erpo.algorithm.batch import Expert
from fairseq_erpo.huggingface import ErpoConfig, ErpoTrainer
from fairseq_erpo.huggingface.data import Cuts, encoded

ROOT = Path(__file__).resolve().parents[1]
COMMON: dict[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 1,
    "save_strategy": "no",
    "logging_steps": 1,
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "constant",
}
SGD: dict[str, Any] = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.01}


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., ErpoTrainer]:
    """`trainer("t5", row="interp")`: a trainer of a fresh tiny model."""

    def make(
        name: str = "t5",
        dropout: float = 0.0,
        rows: Any = None,
        model: Any = None,
        reward_funcs: Any = None,
        peft_config: Any = None,
        eval_dataset: Any = None,
        **flags: Any,
    ) -> ErpoTrainer:
        args = ErpoConfig(**{"output_dir": str(tmp_path / "run"), **COMMON, **flags})
        return ErpoTrainer(
            model=MODELS[name].model(dropout) if model is None else model,
            args=args,
            train_dataset=pairs() if rows is None else rows,
            processing_class=MODELS[name].tokenizer(),
            reward_funcs=reward_funcs,
            peft_config=peft_config,
            eval_dataset=eval_dataset,
        )

    return make


def weights(model: Any) -> torch.Tensor:
    return torch.cat([part.detach().flatten().clone() for part in model.parameters()])


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_equals_teacher_forced(name: str, trainer: Callable[..., ErpoTrainer]) -> None:
    """With the cache, copies that share a source, and sentences that leave on the way."""
    made = trainer(name, row="interp")
    batch = made.engine.batch_of_sentences(range(6), made.now)
    assert made.engine.conventions.prefix == MODELS[name].prefix
    tokens = batch.target.repeat_interleave(2, 0)
    previous = previous_tokens(tokens, batch.vocabulary)
    made.model.eval()
    with torch.no_grad():
        whole, cached = batch.start(2), batch.start(2)
        features = whole.teacher_forced(previous)
        expected = whole.log_probs(features.flatten(0, 1)).unflatten(0, previous.shape)
        rows = torch.arange(1, len(tokens))
        cached.keep(rows)  # as the sampler does before the first step
        for t in range(previous.size(1)):
            stays = tokens[rows, t].ne(batch.vocabulary.pad)
            if not stays.all():
                cached.keep(stays.nonzero()[:, 0])
                rows = rows[stays]
            found = cached.log_probs(cached.step(previous[rows, : t + 1]))
            # Float32, other shapes of the same products
            torch.testing.assert_close(found, expected[rows, t], rtol=0, atol=1e-5)
    assert made.engine.projection.splits and features.size(2) == 32, "the logits were kept"
    assert len(rows) < len(tokens) - 1, "no sentence was shorter than another"


@pytest.mark.parametrize("name", MODELS)
def test_targets_are_words_and_their_end(name: str, trainer: Callable[..., ErpoTrainer]) -> None:
    """Whatever stands around them, and nothing else is ever drawn or rewarded."""
    made = trainer(name, row="interp", mixture="model=1", schedule="constant", preset="paper")
    words = made.processing_class.convert_tokens_to_ids([f"▁{word}" for word in WORDS])
    if name != "nllb":
        words = made.processing_class.convert_tokens_to_ids(WORDS)
    batch, vocabulary = (
        made.engine.batch_of_sentences(range(32), made.now),
        made.engine.conventions.vocabulary,
    )
    told = made.processing_class.convert_tokens_to_ids
    if name == "nllb":  # the target's language, not the source's
        assert set(batch.inputs.sources.start[:, 1].tolist()) == {told("eng_Latn")}
    for row, pair in zip(batch.target, pairs(), strict=False):
        bare = [int(i) for i in row if i != vocabulary.pad]
        pieces = pair["target"].split()
        wanted = [told(f"▁{piece}" if name == "nllb" else piece) for piece in pieces]
        assert bare == [*wanted, vocabulary.eos]
    made.model.eval()
    with torch.no_grad():
        drawn = made.engine.row.draw(batch)
    assert drawn is not None and bool(drawn.sample.origin.eq(Expert.MODEL).any())
    # NLLB's tokenizer has the letters of its words as pieces of their own
    letters = range(4, 17) if name == "nllb" else ()
    allowed = {*words, vocabulary.eos, vocabulary.unk, vocabulary.pad, *letters}
    assert set(drawn.sample.tokens.unique().tolist()) <= allowed


def stock(name: str, steps: int, **flags: Any) -> tuple[torch.Tensor, list[float]]:
    """What Seq2SeqTrainer does, the given prefix not learnt."""
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    tiny = MODELS[name]
    model, tokenizer = tiny.model(), tiny.tokenizer()
    rows = pairs(48)
    sides = [[row[side] for row in rows] for side in ("source", "target")]
    found = encoded(sides, tokenizer, "", Cuts(512, 256))
    data = [{key: found[key][number] for key in found} for number in range(len(rows))]
    inner = DataCollatorForSeq2Seq(tokenizer, model=model)

    def collate(rows: Sequence[Any]) -> Any:
        batch = inner([dict(row) for row in rows])
        labels = batch["labels"]
        first = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
        read = torch.cat([first, labels[:, :-1]], 1)
        batch["decoder_input_ids"] = read.masked_fill(read.eq(-100), tokenizer.pad_token_id)
        labels[:, : tiny.prefix] = -100
        return batch

    plain = Seq2SeqTrainingArguments(**COMMON, **SGD, max_steps=steps, **flags)
    before = weights(model)
    trained = Seq2SeqTrainer(model=model, args=plain, train_dataset=data, data_collator=collate)
    trained.train()
    return weights(model) - before, losses(trained)


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "nllb"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mle_equals_seq2seq_trainer(
    name: str, smoothing: float, trainer: Callable[..., ErpoTrainer], tmp_path: Path
) -> None:
    flags = {"label_smoothing_factor": smoothing, "output_dir": str(tmp_path / "stock")}
    moved, said = stock(name, 3, **flags)
    made = trainer(
        name, rows=pairs(48), row="mle", max_steps=3, label_smoothing_factor=smoothing, **SGD
    )
    before = weights(made.model)
    made.train()
    assert losses(made) == pytest.approx(said, abs=1e-5)
    step = weights(made.model) - before
    assert float((step - moved).norm() / moved.norm()) < 1e-5


def same_step(one: torch.Tensor, other: torch.Tensor) -> None:
    """But for sums in another order, in float32."""
    assert float((one - other).abs().max()) < 1e-6
    assert float((one - other).norm() / one.norm()) < 1e-4


PARTS = {
    "interp": {"row": "interp", "preset": "paper", "anneal_every": "2u"},
    "risk": {"row": "interp", "preset": "risk", "reward": "bleu", "anneal_every": "2u"},
}


@pytest.mark.parametrize("case", PARTS)
def test_accumulation_changes_nothing(case: str, trainer: Callable[..., ErpoTrainer]) -> None:
    """32 sentences at once, or 16 and 16."""
    found = []
    for size, parts in ((32, 1), (16, 2)):
        made = trainer(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            max_steps=4,
            **PARTS[case],
            **SGD,
        )
        before = weights(made.model)
        made.train()
        found.append(weights(made.model) - before)
    same_step(*found)


TWO = """
import sys; sys.path[:0] = [{tests!r}]
import torch, os
from test_transformers import *
def make(dropout, **more):
    args = ErpoConfig(**{{**COMMON, **SGD, **PARTS[{case!r}], "output_dir": {output!r},
        "max_steps": 4, "ddp_backend": "gloo", **more}})
    return ErpoTrainer(MODELS["t5"].model(dropout), args, train_dataset=pairs(),
        processing_class=MODELS["t5"].tokenizer())
made = make(0.0)
before = weights(made.model); made.train()
whole = make(0.1, save_strategy="steps", save_steps=3); whole.train()
again = make(0.1); again.train(resume_from_checkpoint={output!r} + "/checkpoint-3")
if int(os.environ["RANK"]) == 0:
    resumed = torch.equal(weights(whole.model), weights(again.model))
    torch.save((weights(made.model) - before, losses(made), resumed), {output!r} + "/moved.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", PARTS)
def test_two_processes_change_nothing(
    case: str, trainer: Callable[..., ErpoTrainer], tmp_path: Path
) -> None:
    script = tmp_path / "two.py"
    output = tmp_path / "two"
    output.mkdir()
    script.write_text(TWO.format(tests=str(ROOT / "tests"), case=case, output=str(output)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", "29631", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]
    moved, said, resumed = torch.load(output / "moved.pt")
    assert resumed, "a resumed run of two processes is another one"
    made = trainer(per_device_train_batch_size=32, max_steps=4, **PARTS[case], **SGD)
    before = weights(made.model)
    made.train()
    step = weights(made.model) - before
    same_step(step, moved)
    assert losses(made) == pytest.approx(said, abs=1e-5)


def test_epochs_are_counted_as_they_pass(trainer: Callable[..., ErpoTrainer]) -> None:
    """Four updates an epoch; λ moves when the next one begins."""
    made = trainer(row="interp", preset="paper", anneal_every="1e", max_steps=8)
    made.train()
    shares = [line["lambda/data"] for line in made.state.log_history if "loss" in line]
    assert shares == pytest.approx([0.72] * 4 + [0.44] * 4)


def test_draws_belong_to_sentences(trainer: Callable[..., ErpoTrainer]) -> None:
    """Two that are equal have two draws; in another batch each has its own again."""
    made = trainer(row="pg", reward="bleu", rows=pairs(1) * 8)
    made.model.eval()
    found = []
    for numbers in (range(8), [5, 2]):
        batch = made.engine.batch_of_sentences(numbers, made.now)
        with torch.no_grad():
            drawn = made.engine.row.draw(batch)
        assert drawn is not None
        found.append([[int(i) for i in row if i != 0] for row in drawn.sample.tokens])
    assert len(set(map(tuple, found[0]))) > 4
    assert found[1] == [found[0][5], found[0][2]]


def test_every_row_trains(trainer: Callable[..., ErpoTrainer]) -> None:
    for name, row in FAMILY.items():
        flags = {"anneal_every": "1u"} if "erpo_anneal_every" in row.flags else {}
        made = trainer(row=name, max_steps=3, **flags)
        before = weights(made.model)
        made.train()
        assert all(map(torch.tensor(losses(made)).isfinite().tolist().__getitem__, range(3))), name
        assert not torch.equal(before, weights(made.model)), name
