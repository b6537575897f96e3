"""What of fairseq's we override, in the states that it can meet: later epochs, resumed, other
batches, other tasks.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    SPLITS,
    Built,
    Fairseq,
    assert_equal_bits,
    build,
    configuration,
    load,
    write_corpus,
)
from fairseq import tasks
from fairseq.trainer import Trainer

from fairseq_erpo.plugin import decoder

SMALL = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 "
    "--encoder-ffn-embed-dim 32 "
    "--decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2"
)
BART = f"--arch bart_base {SMALL}"
LAST = "checkpoint_last.pt"


@pytest.fixture(scope="session")
def joined_data(tmp_path_factory: pytest.TempPathFactory, fairseq: Fairseq) -> Path:
    """As `tiny_data`, with one dictionary for both languages."""
    text = write_corpus(tmp_path_factory.mktemp("joined") / "text")
    data = text.parent / "data"
    prefixes = [word for split in SPLITS for word in (f"--{split}pref", text / split)]
    words = [
        "-s",
        "de",
        "-t",
        "en",
        *prefixes,
        "--destdir",
        data,
        "--workers",
        1,
        "--joined-dictionary",
    ]
    fairseq.start("fairseq-preprocess", words).succeed()
    return data


# ---- the order of the data ----

Order = dict[int, list[list[int]]]  # epoch -> the sentences of each batch


def order(data: str, flags: str, resumed: tuple[int, int] | None = None, epochs: int = 4) -> Order:
    """The batches as fairseq's training loop asks for them; `resumed`: the epoch and the batch that
    a checkpoint was made at.
    """
    cfg = configuration(data, flags)  # type: ignore[arg-type]
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    sharded = task.has_sharded_data("train")
    epoch, batch = resumed or (1, 0)
    iterator = trainer.get_train_iterator(epoch, disable_iterator_cache=sharded)
    if resumed:
        shuffle = epoch > cfg.dataset.curriculum
        iterator.load_state_dict(
            {"version": 2, "epoch": epoch, "iterations_in_epoch": batch, "shuffle": shuffle}
        )
    found: Order = {}
    while iterator.next_epoch_idx <= epochs:
        batches = iterator.next_epoch_itr(shuffle=iterator.next_epoch_idx > cfg.dataset.curriculum)
        found[iterator.epoch] = [batch["id"].tolist() for batch in batches]
        iterator = trainer.get_train_iterator(
            iterator.next_epoch_idx, load_dataset=sharded, disable_iterator_cache=sharded
        )
    return found


MULTI = "--task translation_multi_simple_epoch --lang-pairs de-en"
ITERATORS = {
    "kept for all epochs": "",
    "new every epoch": "--update-epoch-batch-itr True",
    "in groups": "--grouped-shuffling",
    "seeds of its own": "--update-ordered-indices-seed",
    "other sizes": "--batch-size 10 --required-batch-size-multiple 4",
    "without the rest": "--skip-remainder-batch",
    "sampled": f"{MULTI} --sampling-method temperature --sampling-temperature 5",
    "round robin": f"{MULTI} --sampling-method RoundRobin",
}


@pytest.mark.parametrize("flags", ITERATORS.values(), ids=ITERATORS)
def test_the_data_come_in_fairseqs_order_also_when_resumed(tiny_data: Path, flags: str) -> None:
    """In the third epoch, beyond the seed, which is 1."""
    whole = order(str(tiny_data), f"--criterion erpo_mle {flags}")
    assert whole == order(
        str(tiny_data), f"--criterion cross_entropy {flags or '--task translation'}"
    )
    resumed = order(str(tiny_data), f"--criterion erpo_mle {flags}", (3, 2))
    assert resumed == {3: whole[3][2:], 4: whole[4]}


def test_shards_come_in_fairseqs_order_also_when_resumed(tiny_data: Path) -> None:
    """A shard that comes again has other batches, as fairseq has it."""
    shards = f"{tiny_data}:{tiny_data}"
    whole = order(shards, "--criterion erpo_mle")
    assert whole == order(shards, "--criterion cross_entropy")
    assert {tuple(sorted(batch)) for batch in whole[1]} != {
        tuple(sorted(batch)) for batch in whole[3]
    }
    assert order(shards, "--criterion erpo_mle", (3, 2)) == {3: whole[3][2:], 4: whole[4]}


def test_a_curriculum_ends(tiny_data: Path) -> None:
    """fairseq 0.12 shuffles all epochs as it does the first one of the process."""
    whole = order(str(tiny_data), "--criterion erpo_mle --curriculum 2")
    shuffled = order(str(tiny_data), "--criterion erpo_mle")
    assert whole[1] == whole[2] != shuffled[2]
    assert whole[3] == shuffled[3] and whole[4] == shuffled[4]
    for epoch in (2, 3):
        resumed = order(str(tiny_data), "--criterion erpo_mle --curriculum 2", (epoch, 2))
        assert resumed == {epoch: whole[epoch][2:]} | {
            later: whole[later] for later in range(epoch + 1, 5)
        }


# ---- what a search leaves behind ----


def facts(model: Any) -> dict[tuple[str, str], Any]:
    """What is written in the modules beside parameters, but for the mode, which fairseq's trainer
    sets itself.
    """
    return {
        (name, key): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in ("training", "_parameters", "_buffers", "_modules")
    }


@pytest.mark.parametrize("arch", [BART, f"--arch transformer {SMALL}"], ids=["bart", "transformer"])
def test_a_search_leaves_nothing_in_the_model(joined_data: Path, arch: str) -> None:
    """Neither fairseq's for --eval-bleu, which is made with the model, nor that of
    --erpo-candidates beam.
    """
    flags = f"{arch} --task erpo_translation --criterion erpo_mrt --erpo-candidates beam"
    plain = build(joined_data, flags)
    built = build(joined_data, f"{flags} --eval-bleu")
    assert facts(built.model).keys() == facts(plain.model).keys()
    before = facts(built.model)
    built.task.inference_step(
        built.task.sequence_generator, [built.model], built.batch([3, 14, 15], "valid")
    )
    built.criterion.train()(built.model.train(), built.batch([3, 14, 15]))
    after = facts(built.model)
    assert after.keys() == before.keys()
    assert [
        key
        for key, value in after.items()
        if isinstance(value, int | bool | str) and value != before[key]
    ] == []


@pytest.mark.slow
@pytest.mark.parametrize("arch", [BART, f"--arch transformer {SMALL}"], ids=["bart", "transformer"])
@pytest.mark.parametrize(
    "criterion", ["erpo_mle", "erpo_interp --erpo-preset robust --erpo-schedule constant"]
)
def test_validation_changes_nothing_in_training(
    fairseq: Fairseq, joined_data: Path, tmp_path: Path, arch: str, criterion: str
) -> None:
    """Four hypotheses a source, in the middle of epochs and at their ends: the parameters of a run
    that never searched.
    """
    flags = [
        *f"{arch} --task erpo_translation --criterion {criterion} --max-epoch 2".split(),
        "--no-epoch-checkpoints",
    ]
    search = ["--eval-bleu", "--eval-bleu-args", '{"beam": 4}', "--validate-interval-updates", "7"]
    jobs = {
        name: fairseq.train(joined_data, tmp_path / name, [*flags, *more])
        for name, more in (("with", search), ("without", ["--disable-validation"]))
    }
    for job in jobs.values():
        job.succeed()
    one, other = (load(tmp_path / name / LAST) for name in jobs)
    assert_equal_bits(one["model"], other["model"])
    assert_equal_bits(one["last_optimizer_state"], other["last_optimizer_state"])


# ---- models and tasks that draws cannot ask ----

DRAWS = "--criterion erpo_interp --erpo-preset robust --erpo-schedule constant"
IDS = [3, 14, 15, 92, 65]


def first_batch(built: Built, sample: dict[str, Any]) -> str:
    """What the criterion says of it; nothing if it trains."""
    try:
        built.task.begin_epoch(1, built.model)
        built.criterion.train()(built.model.train(), sample)
    except SystemExit as error:
        assert str(error).startswith("erpo: ") and "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("criterion", [DRAWS, "--criterion erpo_mle"])
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (f"--arch transformer {SMALL} --adaptive-softmax-cutoff 5,10", "--adaptive-softmax-cutoff"),
        (f"--arch nonautoregressive_transformer {SMALL}", "NATransformerModel"),
        ("--arch fconv_self_att", "FConvModelSelfAtt"),
    ],
    ids=["adaptive", "nonautoregressive", "no steps"],
)
def test_models_that_do_not_train_cost_one_line(
    tiny_data: Path, flags: str, named: str, criterion: str
) -> None:
    built = build(tiny_data, f"{flags} --task translation {criterion}")
    assert named in first_batch(built, built.batch(IDS))


def test_a_decoder_that_differs_step_by_step_is_found_before_anything_is_drawn(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its positions are one further on when it goes word by word. MLE trains it; so does whoever
    has another criterion.
    """
    monkeypatch.setattr(decoder, "takes", lambda _: False)  # its steps are its own
    for flags, refused in ((DRAWS, True), ("--criterion erpo_mle", False)):
        built = build(tiny_data, f"--arch transformer {SMALL} {flags}")
        assert first_batch(built, built.batch(IDS)) == ""
        built = build(tiny_data, f"--arch transformer {SMALL} {flags}")
        right = built.model.decoder.extract_features

        def further(
            previous: Any,
            *more: Any,
            right: Any = right,
            incremental_state: Any = None,
            **named: Any,
        ) -> Any:
            if incremental_state is not None:
                previous = torch.cat([previous[:, :1], previous], 1)
            return right(previous, *more, incremental_state=incremental_state, **named)

        built.model.decoder.extract_features = further
        assert ("TransformerModel" in first_batch(built, built.batch(IDS))) is refused


@pytest.mark.parametrize("how", ["begins with <s>", "ends with a word", "read behind a word"])
def test_targets_that_draws_cannot_make_are_found_before_anything_is_drawn(
    tiny_data: Path, how: str
) -> None:
    """As of tasks that put a beginning in front, or a language where `</s>` is."""
    built = build(tiny_data, f"--arch transformer {SMALL} {DRAWS}")
    sample = built.batch(IDS)
    target, read = sample["target"], sample["net_input"]["prev_output_tokens"]
    dictionary = built.task.target_dictionary
    if how == "begins with <s>":
        target[:, 0] = read[:, 1] = dictionary.bos()
    elif how == "ends with a word":
        target[target.eq(dictionary.eos())] = len(dictionary) - 1
    else:
        read[:, 0] = len(dictionary) - 1
    assert "--task" in first_batch(built, sample)


def test_other_criterions_are_asked_nothing(tiny_data: Path) -> None:
    """fairseq's own loss for its adaptive softmax, with our task."""
    adaptive = f"--arch transformer {SMALL} --adaptive-softmax-cutoff 5,10 --task erpo_translation"
    built = build(tiny_data, f"{adaptive} --criterion adaptive_loss --ddp-backend legacy_ddp")
    assert first_batch(built, built.batch(IDS)) == ""
