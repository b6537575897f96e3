"""Bad input ends with one line that begins with `erpo: ` and says what to change: no traceback,
nothing trained.
"""

import copy
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fairseq, build, configuration, write_corpus

from fairseq_erpo.annealers import Annealer

INTERP = "--criterion erpo_interp --erpo-preset robust"


@pytest.fixture
def refused(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`refused("--criterion ...", "flag=value", ...)`: what the criterion says of these values.

    They are set after fairseq's parser, which takes most of a second, and whose part is only to
    split the command line.
    """

    def run(arguments: str, **values: Any) -> str:
        built = build(tiny_data, arguments)
        cfg = copy.deepcopy(configuration(tiny_data, arguments).criterion)
        for name, value in values.items():
            assert name in cfg
            cfg[name] = value
        with pytest.raises(SystemExit) as caught:
            built.task.build_criterion(cfg).check_start()
        message = caught.value.code
        assert isinstance(message, str)  # printed, and the exit code is 1
        assert message.startswith("erpo: ") and "\n" not in message, message
        return message

    return run


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"erpo_lambda": "model=-.1,reward=.1,data=1"}, ["--erpo-lambda", "negative"]),
        ({"erpo_lambda": "model=.5,reward=.5,data=.5"}, ["--erpo-lambda", "sum to one", "1.5"]),
        ({"erpo_lambda": "model=.1"}, ["--erpo-lambda", "sum to one"]),
        ({"erpo_lambda": "model=nan,data=1"}, ["--erpo-lambda"]),
        ({"erpo_lambda": "model=1/0"}, ["--erpo-lambda", "not a number"]),
        ({"erpo_lambda": "self=.5,truth=.5"}, ["--erpo-lambda", "model=.12,reward=.16,data=.72"]),
        ({"erpo_lambda": ".1,.2,.7"}, ["--erpo-lambda", "model=.12,reward=.16,data=.72"]),
        ({"erpo_lambda": ""}, ["--erpo-lambda"]),
        ({"erpo_reward": "meteor"}, ["--erpo-reward", "meteor", "bleu", "edit"]),
        ({"erpo_schedule": "exponential"}, ["--erpo-schedule", "exponential", "stairs", "plateau"]),
        ({"erpo_anneal_every": "0e"}, ["--erpo-anneal-every", "positive"]),
        ({"erpo_anneal_every": "-4e"}, ["--erpo-anneal-every", "between"]),
        ({"erpo_anneal_every": "nane"}, ["--erpo-anneal-every", "between"]),
        ({"erpo_c": "auto:0"}, ["--erpo-c", "auto:"]),
        ({"erpo_c": "auto:1"}, ["--erpo-c", "auto:"]),
        ({"erpo_c": "auto:1.5"}, ["--erpo-c", "auto:"]),
        ({"erpo_c": "auto:-.1"}, ["--erpo-c", "auto:"]),
        ({"erpo_c": "auto:nan"}, ["--erpo-c", "auto:"]),
        ({"erpo_c": "auto:"}, ["--erpo-c", "auto:"]),
        ({"erpo_c": "hot"}, ["--erpo-c", "hot"]),
        ({"erpo_c": "-1"}, ["--erpo-c"]),
        ({"erpo_c": "nan"}, ["--erpo-c"]),
        ({"erpo_c_model": -1.0}, ["--erpo-c-model"]),
        ({"erpo_c_model": float("nan")}, ["--erpo-c-model"]),
        ({"erpo_samples": 1001}, ["--erpo-samples", "1000"]),
        ({"erpo_preset": "best"}, ["--erpo-preset", "best", "paper", "robust"]),
        (
            {"erpo_anneal_every": "4"},
            ["--erpo-anneal-every", "no unit", "4e (epochs)", "4u (updates)"],
        ),
        ({"erpo_anneal_every": "soon"}, ["--erpo-anneal-every", "soon", "4e (epochs)"]),
        ({"erpo_anneal_every": "1e400u"}, ["--erpo-anneal-every", "between"]),
        ({"erpo_lambda": "model=.5,task=.5"}, ["--erpo-lambda", "model=.5,task=.5"]),
        ({"erpo_baseline": "greedy"}, ["--erpo-baseline greedy", "--erpo-targets policy"]),
        (
            {"erpo_preset": "corpus", "erpo_targets": "reward"},
            ["--erpo-targets policy", "(--erpo-preset corpus sets --erpo-baseline)"],
        ),
        ({"erpo_targets": "task"}, ["--erpo-targets", "task", "reward"]),
        ({"erpo_preset": "risk", "erpo_samples": 1}, ["--erpo-samples 2"]),
        ({"erpo_pretrain": "-1e"}, ["--erpo-pretrain", "between"]),
        ({"erpo_pretrain": "2.5e"}, ["--erpo-pretrain", "whole number"]),
        (
            {"erpo_pretrain": "10u", "erpo_anneal_every": "4e"},
            ["--erpo-pretrain 10u", "--erpo-anneal-every 4e", "one unit"],
        ),
        ({"label_smoothing": 1.0}, ["--label-smoothing"]),
        ({"label_smoothing": -0.1}, ["--label-smoothing"]),
        ({"label_smoothing": float("nan")}, ["--label-smoothing"]),
    ],
    ids=lambda value: (
        ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_flags(refused: Any, values: dict[str, Any], words: list[str]) -> None:
    message = refused(INTERP, **values)
    assert all(word in message for word in words), message


def test_bang_bang_sets_alpha_itself(tiny_data: Path) -> None:
    with pytest.raises(SystemExit, match=r"^erpo: --erpo-bang-bang .* leave --erpo-alpha out"):
        build(tiny_data, "--criterion erpo_spg --erpo-bang-bang .3 --erpo-alpha .02")


def test_a_reward_of_text_cannot_lead_a_draw(tiny_data: Path) -> None:
    with pytest.raises(SystemExit, match=r"^erpo: --erpo-reward chrf has no ΔR .* bleu,"):
        build(tiny_data, "--criterion erpo_spg --erpo-reward chrf")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--erpo-payoff hamming --erpo-reward rouge", "--erpo-reward rouge"),
        ("--erpo-samples-file {file} --erpo-reward rouge", "--erpo-reward rouge"),
        ("--erpo-samples-file {file} --erpo-payoff hamming", "--erpo-payoff hamming"),
    ],
)
def test_a_flag_of_raml_that_would_change_nothing(
    tiny_data: Path, tmp_path: Path, flags: str, line: str
) -> None:
    with pytest.raises(SystemExit, match=f"^erpo: {line}"):
        build(tiny_data, f"--criterion erpo_raml {flags.format(file=tmp_path / 'samples')}")


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        ("--erpo-preset corpus", ""),
        ("--erpo-preset corpus --erpo-c 50", "--erpo-c 50"),
        ("--erpo-preset corpus --erpo-c 50 --erpo-lambda model=.5,reward=.5", ""),
        ("--erpo-preset paper --erpo-lambda reward=1 --erpo-c-model 2", "--erpo-c-model 2.0"),
        ("--erpo-preset paper --erpo-lambda reward=1 --erpo-targets reward", ""),
        ("--erpo-preset paper --erpo-lambda data=1 --erpo-targets policy", "--erpo-targets policy"),
        (
            "--erpo-preset paper --erpo-lambda model=1 --erpo-targets reward",
            "--erpo-targets reward",
        ),
        (
            "--erpo-preset paper --erpo-schedule constant --erpo-layout sentence",
            "--erpo-layout sentence",
        ),
        ("--erpo-preset paper --erpo-layout sentence", ""),
        (
            "--erpo-preset paper --erpo-schedule constant --erpo-anneal-every 9e",
            "--erpo-anneal-every 9e",
        ),
        (
            "--erpo-preset paper --erpo-schedule plateau --erpo-anneal-every 9e",
            "--erpo-anneal-every 9e",
        ),
        ("--erpo-preset paper --erpo-schedule linear --erpo-anneal-every 9e", ""),
    ],
)
def test_a_flag_that_lambda_makes_idle_is_said_to_be(
    tiny_data: Path, flags: str, idle: str, caplog: pytest.LogCaptureFixture
) -> None:
    build(tiny_data, f"--criterion erpo_interp {flags}")
    lines = [
        record.getMessage()
        for record in caplog.records
        if "changes nothing here" in record.getMessage()
    ]
    assert len(lines) == bool(idle) and all(line.startswith(f"{idle} ") for line in lines)


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ("--erpo-preset robust --erpo-reward rouge", True),
        ("--erpo-preset paper --erpo-reward chrf", True),
        ("--erpo-preset robust --erpo-reward rouge --erpo-teacher same", False),
        ("--erpo-preset corpus --erpo-reward rouge", False),
    ],
)
def test_a_reward_that_is_only_logged_is_said_to_be(
    tiny_data: Path, flags: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    build(tiny_data, f"--criterion erpo_interp {flags}")
    assert ("--erpo-reward is logged as seq_reward and not learnt from" in caplog.text) is warned


def sharded(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny corpus, and as a second shard its validation data."""
    second = shutil.copytree(tiny_data, tmp_path / "second")
    for file in second.glob("valid.*"):
        file.replace(file.with_name(file.name.replace("valid", "train")))
    return Path(f"{tiny_data}{os.pathsep}{second}")


def test_predrawn_samples_are_of_one_folder(tiny_data: Path, tmp_path: Path) -> None:
    """Sentences are counted from 0 in each."""
    with pytest.raises(SystemExit, match=r"^erpo: --erpo-samples-file .* as one"):
        build(
            sharded(tiny_data, tmp_path),
            f"--criterion erpo_raml --erpo-samples-file {tmp_path / 'samples'}",
        )


def test_noise_is_counted_over_all_shards(tiny_data: Path, tmp_path: Path) -> None:
    """Whichever is loaded, so that a resumed run draws the same."""

    def counted(data: Path, epoch: int) -> list[torch.Tensor]:
        built = build(data, "--criterion erpo_noising --erpo-noise kneser_ney")
        built.task.load_dataset("train", epoch=epoch)
        loaded = built.task.dataset("train")
        tensors = [
            value
            for value in vars(built.criterion.cache.noising).values()
            if torch.is_tensor(value)
        ]
        assert built.task.dataset("train") is loaded
        return tensors

    both = sharded(tiny_data, tmp_path)
    first, second, alone = counted(both, 1), counted(both, 2), counted(tiny_data, 1)
    assert (
        first and all(map(torch.equal, first, second)) and not all(map(torch.equal, first, alone))
    )


def test_label_smoothing_of_mle(refused: Any) -> None:
    assert "--label-smoothing" in refused("--criterion erpo_mle", label_smoothing=2.0)


def test_left_padded_targets(tiny_data: Path) -> None:
    with pytest.raises(SystemExit, match=r"^erpo: .*--left-pad-target"):
        build(tiny_data, f"{INTERP} --left-pad-target")


def test_schedule_that_leaves_the_simplex() -> None:
    """No named schedule does; one of a user's own is refused at the first λ."""
    for share in (1.2, -0.1, float("nan")):
        with pytest.raises(ValueError, match="leave the simplex"):
            Annealer(lambda elapsed, share=share: share)(0)


class Evil:
    """Unpickling this runs code: it makes the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


BROKEN = (
    "missing",
    "folder",
    "empty",
    "random bytes",
    "text",
    "truncated",
    "no checkpoint",
    "list",
    "pickle with code",
    "zip with code",
)


def broken(kind: str, folder: Path, checkpoint: Path) -> Path:
    """A file that is no checkpoint."""
    path = folder / "model.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "random bytes":
        path.write_bytes(bytes(i * 97 % 251 for i in range(5000)))
    elif kind == "text":
        path.write_text("this is\nno checkpoint\n")
    elif kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-3000])
    elif kind == "no checkpoint":
        torch.save({"weights": torch.ones(3)}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "pickle with code":
        path.write_bytes(pickle.dumps({"model": Evil(folder / "executed"), "cfg": {}}))
    elif kind == "zip with code":
        torch.save({"model": Evil(folder / "executed"), "cfg": {"a": 1}}, path)
    return path


@pytest.mark.parametrize("kind", BROKEN)
def test_checkpoint_that_is_none(
    refused: Any, kind: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = broken(kind, tmp_path, tiny_checkpoint)
    for criterion in (INTERP, "--criterion erpo_mle"):
        # As fairseq does, at the first launch only: the folder is there, and has no checkpoint yet.
        assert str(path) in refused(
            criterion, finetune_from_model=str(path), save_dir=str(tmp_path)
        )
    assert not (tmp_path / "executed").exists()


def test_unpickling_the_evil_file_would_execute_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Otherwise the test above would show nothing."""
    path = broken("pickle with code", tmp_path, tiny_checkpoint)
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()


def test_from_the_outside(
    fairseq: Fairseq, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The whole command line: one line, exit code 1, no traceback, no checkpoint."""
    empty = write_corpus(tmp_path / "text", {"train": 0, "valid": 3, "test": 3})
    data = tmp_path / "empty"
    prefixes = [word for split in ("train", "valid") for word in (f"--{split}pref", empty / split)]
    dictionaries = ["--srcdict", tiny_data / "dict.de.txt", "--tgtdict", tiny_data / "dict.en.txt"]
    fairseq.start(
        "fairseq-preprocess", ["-s", "de", "-t", "en", *prefixes, *dictionaries, "--destdir", data]
    ).succeed()
    language, lines = tmp_path / "language", write_corpus(tmp_path / "lines") / "valid.en"
    monolingual = ["--only-source", "--trainpref", lines, "--validpref", lines]
    fairseq.start("fairseq-preprocess", [*monolingual, "--destdir", language]).succeed()
    evil = broken("zip with code", tmp_path, tiny_checkpoint)
    cases = {
        "negative": (
            tiny_data,
            f"{INTERP} --erpo-lambda model=-.1,reward=.1,data=1",
            "must not be negative",
        ),
        "empty": (data, INTERP, "the train data holds no sentence pair"),
        "no valid": (tiny_data, f"{INTERP} --valid-subset dev", "dev"),
        "no folder": (tmp_path / "nowhere", f"{INTERP} --task erpo_translation", "nowhere"),
        "no data": (tmp_path / "text", f"{INTERP} --task erpo_translation", "fairseq-preprocess"),
        "code": (
            tiny_data,
            f"{INTERP} --finetune-from-model {evil}",
            "it asks for posix.mkdir, which could run code",
        ),
        # With a translation task fairseq itself cannot build a decoder-only model.
        "language model": (
            language,
            f"{INTERP} --task language_modeling --arch transformer_lm --decoder-embed-dim 16 "
            "--decoder-layers 1 "
            "--decoder-attention-heads 2 --tokens-per-sample 32 --max-target-positions 64",
            "TransformerLanguageModel is not an encoder-decoder model",
        ),
    }
    jobs = {
        name: fairseq.train(where, tmp_path / "save" / name, flags)
        for name, (where, flags, _) in cases.items()
    }
    for name, (_, _, words) in cases.items():
        done = jobs[name].wait()
        assert done.code == 1, f"{name}: {done.output[-2000:]}"
        assert len(done.refusals) == 1 and words in done.refusals[0], (
            f"{name}: {done.output[-2000:]}"
        )
        assert "Traceback" not in done.output, name
        assert not list((tmp_path / "save" / name).glob("*.pt")), name
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("gpu", "flags", "tpu"), [(True, [], False), (True, ["--tpu"], True), (False, [], True)]
)
def test_bf16_is_a_gpus_where_there_is_one(
    gpu: bool, flags: list[str], tpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fairseq makes a TPU run of every --bf16."""
    from fairseq import options

    import fairseq_erpo.tasks  # noqa: F401 - what --user-dir does

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    words = ["data", "--arch", "transformer_tiny", "--bf16", *flags]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    assert args.tpu == tpu
