"""Random flags and files: each is accepted with a meaning, or refused in a line or two that name
the flag or the file.

A few cases a kind, always the same, among the quick tests; `make fuzz` takes ten minutes for new
ones and prints a table.
"""

import hashlib
import io
import json
import math
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_equal_bits, build, configuration
from fuzzing import LONG, TABLE, fuzzed, judged, table
from hypothesis import example, given
from hypothesis import strategies as st

from fairseq_erpo.algorithm.estep import Candidates, reward_log_weights
from fairseq_erpo.algorithm.predrawn import PredrawnSamples
from fairseq_erpo.algorithm.schedule import Now, Run
from fairseq_erpo.family import FAMILY
from fairseq_erpo.family.flags import FLAGS
from fairseq_erpo.family.resolve import resolve
from fairseq_erpo.rewards import REWARDS, make_reward
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.verbs import dashed
from fairseq_erpo.vocabulary import Vocabulary

pytestmark = pytest.mark.timeout(3600 if LONG else 900)
VOCABULARY = Vocabulary(size=12, pad=1, eos=2, unk=3, never=(0, 1))


@pytest.fixture(scope="module", autouse=True)
def tabled() -> Iterator[None]:
    yield
    if TABLE:
        Path(TABLE).write_text(f"\n{table()}\n", "utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ---- what numbers, texts and JSON may look like ----

ODD = [
    "",
    " ",
    "inf",
    "-inf",
    "nan",
    "1e999999999",
    "1e400",
    "1e-320",
    "-0",
    "1/0",
    "1/" + "9" * 400,
    "9" * 5000,
    "0x10",
    "1_0",
    "٣",
    "½",
    "\0",
    "\u2028",
    "é" * 300,
    "%s",
    "$\\frac$",
    "--",
    "=",
]
NUMBERS = st.one_of(
    st.floats().map(repr), st.integers(-9, 9).map(str), st.integers().map(str), st.sampled_from(ODD)
)
TEXTS = NUMBERS | st.text(max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just(10**400))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DEEP = "[" * 3000  # more than Python's recursion limit


def often(*values: Any) -> st.SearchStrategy[Any]:
    """Mostly one of these, which are good, so that what comes behind them is reached."""
    return st.integers(0, 3).flatmap(lambda n: st.sampled_from(values) if n else SCALARS)


def mutated(good: Any) -> st.SearchStrategy[Any]:
    """JSON content like `good`, in which parts are missing or other values."""
    if isinstance(good, dict) and good:
        # Of many, something would always be wrong
        few = st.sets(st.sampled_from([*good]), max_size=2)
        changed = few.flatmap(
            lambda keys: st.fixed_dictionaries({key: mutated(good[key]) for key in sorted(keys)})
        )
        without = few.map(
            lambda keys: {key: value for key, value in good.items() if key not in keys}
        )
        return st.integers(0, 9).flatmap(
            lambda n: JSON if n == 0 else without if n < 4 else changed.map(lambda new: good | new)
        )
    if isinstance(good, list):
        return st.tuples(*map(mutated, good)).map(list) | JSON
    return st.integers(0, 9).flatmap(lambda n: st.just(good) if n % 2 else JSON)


def contents(good: Any) -> st.SearchStrategy[bytes]:
    """A file that should hold such JSON."""
    written = mutated(good).map(lambda content: json.dumps(content).encode())
    return (
        written
        | st.sampled_from([b"", b"{", b"\xff\xfe", b"\0" * 9, DEEP.encode(), b"null"])
        | st.binary(max_size=20)
    )


# ---- flags ----


def check_settings(settings: Any) -> None:
    """λ lies on the simplex at every moment of a run."""
    for epoch, update, falls in ((1, 0, 0), (2, 17, 1), (99, 10**6, 9), (10**6, 10**9, 10**5)):
        now = Now(epoch, update, falls, Run(10**6, 100))
        λ = settings.schedule.mixture(now)
        shares = (λ.model, λ.reward, λ.data)
        assert (
            min(shares) >= 0 and math.isclose(sum(shares), 1) and settings.schedule.stage(now) >= 0
        )


KNOWN = {
    "erpo_lambda": ["model=3/7,reward=4/7", "data=1"],
    "erpo_anneal_every": ["4e", "60u", "8%"],
    "erpo_pretrain": ["2e", "5u"],
    "erpo_c": ["auto:.1", "inf", "50"],
    "erpo_reward": [*REWARDS, "metric"],
    "erpo_targets": ["drawn", "reward", "policy", "risk"],
    "erpo_schedule": ["linear", "plateau", "inverse_sigmoid"],
    "erpo_preset": ["risk", "robust", "paper"],
    "erpo_baseline": ["none", "greedy", "leave_one_out"],
}


def values_of(flag: str) -> st.SearchStrategy[Any]:
    """What fairseq's parser may hand over."""
    if FLAGS[flag].type is float:
        return st.floats() | st.sampled_from([0.0, 0.1, 1.0, 1e-320, 1e308])
    if FLAGS[flag].type is int:
        return st.integers(-2, 5) | st.integers() | st.just(10**400)
    return st.sampled_from(KNOWN.get(flag, ["x"])) | TEXTS


@fuzzed(2000, quick=60)
@given(data=st.data())
def test_flags_of_criterions(data: st.DataObject) -> None:
    row = FAMILY[data.draw(st.sampled_from(sorted(FAMILY)))]
    some = (
        data.draw(st.lists(st.sampled_from([flag for flag in row.flags]), unique=True, max_size=4))
        if row.flags
        else []
    )
    given = {flag: data.draw(values_of(flag)) for flag in some}
    settings = judged("flags of a criterion", lambda: row.settings(given), *map(dashed, given))
    if settings is not None:
        check_settings(settings)


NAMES = st.sampled_from(["model", "reward", "data", "task", "delta", " model", "MODEL", ""])
SHARES = st.sampled_from([".5", "1", "0", "3/7", "4/7", ".25"]) | NUMBERS


@fuzzed(2000, quick=60)
@given(
    st.lists(
        st.lists(st.tuples(NAMES, SHARES).map("=".join), max_size=4).map(",".join), max_size=3
    ).map(":".join)
    | TEXTS
)
@example("model=9e307,reward=9e307")
def test_lambdas(text: str) -> None:
    settings = judged("--erpo-lambda", lambda: resolve({"erpo_lambda": text}), "--erpo-lambda")
    if settings is not None:
        check_settings(settings)


@fuzzed(2000, quick=60)
@given(
    st.sampled_from(["erpo_anneal_every", "erpo_pretrain"]),
    st.tuples(NUMBERS, st.sampled_from("euE ")).map("".join) | TEXTS,
)
def test_durations(flag: str, text: str) -> None:
    settings = judged("durations", lambda: resolve({flag: text}), dashed(flag))
    if settings is not None:
        check_settings(settings)


@fuzzed(1500, quick=30)
@given(st.sampled_from(["", "auto:", "auto", "auto:."]), NUMBERS | st.floats(0, 1).map(repr))
def test_inverse_temperatures(prefix: str, number: str) -> None:
    settings = judged("--erpo-c", lambda: resolve({"erpo_c": prefix + number}), "--erpo-c")
    if settings is not None:
        reference = Reference.from_target(torch.tensor([[5, 6, 5, 2], [7, 2, 1, 1]]), VOCABULARY)
        reward = make_reward("edit")
        gains, candidates = (
            reward.gains(reward.start(reference)),
            Candidates.from_reference(reference, VOCABULARY),
        )
        weights = reward_log_weights(gains, candidates, settings.experts.c_reward, 1)
        assert torch.allclose(weights.softmax(1).sum(1), torch.ones(2))


# ---- files of the text tools ----

ENTRY = {
    "epoch": 1,
    "update": 0.5,
    "num_updates": "17",
    "loss": "3.1",
    "train_loss": "3.2",
    "train_num_updates": "20",
    "valid_loss": "3.3",
    "valid_num_updates": "20",
    "valid_best_bleu": "9.5",
    "valid_bleu": "9.5",
    "train_lambda_model": "0.5",
}
TRAINING = {key: ENTRY[key] for key in ("epoch", "update", "num_updates", "loss")}
LINES = (
    st.sampled_from([TRAINING, ENTRY, {"epoch": 2, **ENTRY}]).flatmap(mutated).map(json.dumps)
    | TEXTS
)


@fuzzed(300, quick=25)
@given(
    st.lists(LINES, max_size=5),
    st.sampled_from(["", "2026 | INFO | ", '{"epoch": ' + DEEP + "\n", '{"epoch": 1e400}\n']),
)
@example(['{"epoch": 1' + 400 * "0" + "}"], "")
def test_training_logs(folder: Path, lines: list[str], before: str) -> None:
    from fairseq_erpo.tools import curves, training_log

    (folder / "log").write_text("\n".join(before + line for line in lines), "utf-8", "replace")
    history = judged("training logs", lambda: training_log.read(folder / "log"), str(folder))
    if history is not None:
        figures = [*history.train_inner.values(), *history.train.values(), *history.valid.values()]
        assert all(math.isfinite(value) for one in figures for value in one.values())
        for panel in (
            panel
            for made in curves.panels({"a": [history]}, curves.looks("a")).values()
            for panel in made
        ):
            if LONG:
                curves.svg(panel)


@pytest.fixture(scope="module")
def scores() -> dict[str, Any]:
    """What `evaluate --json` writes."""
    from fairseq_erpo.scores import TEST
    from fairseq_erpo.tools.evaluate import compare

    texts = [["a b c", "d e f"], ["a b d", "d e f"]]
    result = compare({"mle": texts, "interp": texts[::-1]}, ["a b c", "d e g"], None)
    for key in ("bleu", "rouge1"):
        result["systems"]["interp"]["scores"][key] |= {"difference": 1.5, "p": 0.03}
    result |= {
        "baseline": "mle",
        "test": TEST,
        "columns": ["bleu", "rouge1"],
        "decoding": {"split": "test", "beam": 5, "lenpen": 0.6},
    }
    found: dict[str, Any] = json.loads(json.dumps(result))
    return found


@fuzzed(600, quick=20)
@given(data=st.data())
def test_scores(folder: Path, scores: dict[str, Any], data: st.DataObject) -> None:
    from fairseq_erpo.tools import curves, report

    (folder / "scores.json").write_bytes(data.draw(contents(scores)))
    found = judged(
        "scores.json", lambda: report.read_scores(str(folder / "scores.json")), "--scores"
    )
    if found is not None:
        assert "<script" not in "".join(report.score_table(found))
        panel = report.score_panel(found, curves.looks(found["systems"]))
        if LONG:
            curves.svg(panel)


@fuzzed(2000)
@given(
    st.lists(st.tuples(st.sampled_from("DTHSP"), st.integers(0, 3), TEXTS, TEXTS), max_size=6),
    st.binary(max_size=6),
)
def test_outputs_of_generate(
    folder: Path, lines: list[tuple[str, int, str, str]], rest: bytes
) -> None:
    from fairseq_erpo.tools.generate import read

    text = "".join(
        f"{letter}-{number}\t{score}\t{words}\n" for letter, number, score, words in lines
    )
    (folder / "out").write_bytes(text.encode("utf-8", "replace") + rest)
    output = judged("outputs of fairseq-generate", lambda: read(folder / "out"), str(folder))
    if output is not None and output.references is not None:
        assert len(output.references) == len(output.hypotheses)


@fuzzed(2000)
@given(
    st.lists(
        st.tuples(
            NUMBERS | st.sampled_from("0123"), NUMBERS, st.sampled_from(["a", "b c"]) | TEXTS
        ),
        max_size=5,
    ),
    st.binary(max_size=4),
)
def test_samples_files(folder: Path, lines: list[tuple[str, str, str]], rest: bytes) -> None:
    file = folder / "samples"
    file.write_bytes(
        "".join("\t".join(line) + "\n" for line in lines).encode("utf-8", "replace") + rest
    )

    def encode(text: str) -> list[int]:
        return [
            VOCABULARY.unk if word not in "abc" else 4 + "abc".index(word) for word in text.split()
        ]

    samples = judged("samples files", lambda: PredrawnSamples(file, encode, VOCABULARY), str(file))
    if samples is not None:
        tokens, rewards = samples.read([int(line[0]) for line in lines[:1]])
        assert len(tokens) == len(rewards) == samples.samples and bool(rewards.isfinite().all())


# ---- what the examples keep ----

CORPUS = {
    "digest": "0",
    "sizes": {"train": 3},
    "languages": ["de", "en"],
    "selection": {"pieces": 100},
    "moses": False,
}


@fuzzed(1500)
@given(contents(CORPUS))
def test_corpus_manifests(folder: Path, content: bytes) -> None:
    import table as examples_table

    (folder / "corpus.json").write_bytes(content)
    plan, _ = examples_table.plan_of(
        examples_table.arguments(["translation", "--data", str(folder), "--out", str(folder / "o")])
    )
    judged("corpus.json", lambda: plan.stages() and plan.table(), "corpus.json")


@fuzzed(1500)
@given(contents({"digest": "0", "seconds": 3.5, "core_seconds": 2.5}))
def test_done_stages(folder: Path, content: bytes) -> None:
    import table as examples_table
    from stages import Runner, Stage

    (folder / "stage").mkdir(exist_ok=True)
    (folder / "stage" / "done.json").write_bytes(content)
    runner, stage = Runner(folder, 1), Stage("stage", ("true",))
    judged("done.json", lambda: examples_table.minutes(runner, stage), "done.json")


# ---- gail ----


@fuzzed(2000, quick=60)
@given(st.sampled_from(["--ppo", "--discriminator"]), st.data())
def test_records(flag: str, data: st.DataObject) -> None:
    flags = pytest.importorskip("gail.flags")
    from gail.settings import PPOSettings

    kind = PPOSettings if flag == "--ppo" else flags.DiscriminatorSettings
    names = st.sampled_from([*vars(kind()), "", "x"])
    values = NUMBERS | st.sampled_from([".5", "1", "100", "true", "no", "airl"])
    text = data.draw(
        st.lists(st.tuples(names, values).map("=".join), max_size=3).map(",".join) | TEXTS
    )
    settings = judged(f"{flag} of gail", lambda: flags.parse_record(kind, kind(), text, flag), flag)
    if settings is not None:
        assert all(
            math.isfinite(value) for value in vars(settings).values() if isinstance(value, float)
        )


def archive_of(arrays: dict[str, bytes]) -> bytes:
    """An .npz of these members."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return sink.getvalue()


def member(descr: str, order: bool, shape: tuple[int, ...], data: bytes) -> bytes:
    """A .npy whose header says what it wants."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode(
        "latin-1", "replace"
    )
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("gymnasium")
    from gail_worlds import SHORT, demonstrations

    from gail import archive

    path = tmp_path_factory.mktemp("demos") / "d.npz"
    archive.save(demonstrations(SHORT, 2), path, "test", 3)
    return path


DESCRS = st.sampled_from(
    [
        "'<f8'",
        "'<i8'",
        "'|b1'",
        "'|O'",
        "'<U9'",
        "[('a', '<f8')]",
        "'<M8[s]'",
        "'<c16'",
        "'x'",
        "1",
        "'<f4'",
    ]
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 14, 10**13, 2**63, -1]), max_size=3).map(tuple)


@fuzzed(600, quick=20)
@given(data=st.data())
def test_headers_of_demonstrations(folder: Path, demonstrations: Path, data: st.DataObject) -> None:
    from gail import archive, trajectories
    from gail.demos import FIELDS
    from gail.policies import plain_expert

    with zipfile.ZipFile(demonstrations) as whole:
        arrays = {name: whole.read(f"{name}.npy") for name in FIELDS}
    for name in data.draw(st.lists(st.sampled_from([*FIELDS]), min_size=1, max_size=2)):
        fuzz = st.tuples(DESCRS, st.booleans(), SHAPES, st.binary(max_size=64)).map(
            lambda parts: member(*parts)
        )
        arrays[name] = data.draw(fuzz | st.binary(max_size=20))
    file = folder / "d.npz"
    file.write_bytes(archive_of(arrays))
    manifest = json.loads(demonstrations.with_suffix(".json").read_text())
    manifest["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_suffix(".json").write_text(json.dumps(manifest))
    judged("headers of demonstrations", lambda: archive.load(file), str(file))
    other = {
        "obs": "observations",
        "acts": "actions",
        "rews": "rewards",
        "lengths": "lengths",
        "terminal": "terminated",
    }
    file.write_bytes(archive_of({name: arrays[field] for name, field in other.items()}))
    judged(
        "headers of trajectories",
        lambda: trajectories.load(file, manifest["env_id"]),
        str(file),
        "trajector",
    )
    names = ("obs_mean", "obs_meansq", "W0", "b0", "W_out", "b_out", "log_std")
    file.write_bytes(archive_of(dict(zip(names, arrays.values(), strict=False))))
    box = np.full(1, -3, np.float32), np.full(1, 3, np.float32)
    judged("headers of experts", lambda: plain_expert(file, box)(np.zeros((2, 4)), None), str(file))


@fuzzed(1500)
@given(data=st.data())
def test_manifests_of_demonstrations(
    folder: Path, demonstrations: Path, data: st.DataObject
) -> None:
    from gail import archive

    file = folder / "manifest.npz"
    file.write_bytes(demonstrations.read_bytes())
    file.with_suffix(".json").write_bytes(
        data.draw(contents(json.loads(demonstrations.with_suffix(".json").read_text())))
    )
    judged("manifests of demonstrations", lambda: archive.load(file), str(file.with_suffix("")))


# ---- damage: cut short, or a bit flipped ----


def damaged(content: bytes) -> Iterator[bytes]:
    """Cut and flipped at each tenth of the file, and in its first bytes; by `make fuzz` at a
    hundred random places more.
    """
    places = [len(content) * tenth // 10 for tenth in range(10)] + [8, 17, 20, 30]
    places += random.sample(range(len(content)), min(200, len(content))) if LONG else []
    for place in places:
        yield content[:place]
        yield content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


def check_damage(kind: str, file: Path, load: Callable[[], Any]) -> None:
    """Loaded bit-equal, or refused."""
    good, whole = file.read_bytes(), load()
    for content in damaged(good):
        file.write_bytes(content)
        found = judged(f"damaged {kind}", load, str(file.with_suffix("")))
        if found is not None:
            assert_equal_bits(found, whole)
    file.write_bytes(good)


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    """Binarised data of a few sentences, without a process of fairseq-preprocess."""
    from fairseq.data import Dictionary, indexed_dataset

    words = Dictionary()
    for word in "abcdefgh":
        words.add_symbol(word)
    for language in ("de", "en"):
        words.save(str(folder / f"dict.{language}.txt"))
        prefix = str(folder / f"train.de-en.{language}")
        builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(words))
        for n in range(9):
            builder.add_item(torch.tensor([*range(4, 6 + n % 5), words.eos()]))
        builder.finalize(f"{prefix}.idx")
    return folder


def test_a_damaged_index(data: Path) -> None:
    from fairseq import tasks

    import fairseq_erpo.tasks  # noqa: F401

    def load() -> list[torch.Tensor]:
        task = tasks.setup_task(
            configuration(data, "--criterion erpo_mle --task erpo_translation").task
        )
        task.load_dataset("train")
        pairs = task.dataset("train")
        return [
            side.clone()
            for n in range(len(pairs))
            for side in (pairs[n]["source"], pairs[n]["target"])
        ]

    for language in ("de", "en"):
        check_damage(".idx", data / f"train.de-en.{language}.idx", load)


def test_a_damaged_checkpoint(data: Path) -> None:
    from omegaconf import OmegaConf

    from fairseq_erpo.plugin import checkpoints

    flags = "--criterion erpo_mle --encoder-layers 1 --decoder-layers 1"
    cfg = OmegaConf.to_container(configuration(data, flags), resolve=True, enum_to_str=True)
    history = [
        {"criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 4}
    ]
    state = {
        "cfg": cfg,
        "args": None,
        "model": build(data, flags).model.state_dict(),
        "optimizer_history": history,
    }
    state |= {
        "last_optimizer_state": {"x": torch.arange(9.0)},
        "task_state": {},
        "extra_state": {"epoch": 1, "train_iterator": {}},
    }
    torch.save(state, data / "checkpoint.pt")

    def load() -> Any:
        return {
            key: value
            for key, value in checkpoints.load(str(data / "checkpoint.pt")).items()
            if key != "cfg"
        }

    check_damage("checkpoint of fairseq-train", data / "checkpoint.pt", load)


def test_a_damaged_demonstration(demonstrations: Path) -> None:
    from gail_worlds import SHORT

    from gail import archive

    for suffix in (".npz", ".json"):
        file = demonstrations.with_suffix(suffix)
        check_damage(
            f"demonstration ({suffix})",
            file,
            lambda: arrays_of(archive.load(demonstrations, SHORT)),
        )


def arrays_of(demos: Any) -> dict[str, Any]:
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in vars(demos).items()
    }


def test_a_damaged_checkpoint_of_gail(folder: Path) -> None:
    checkpoints = pytest.importorskip("gail.checkpoints")
    content = {
        "policy": {"weight": torch.arange(99.0)},
        "env_id": "Hopper-v5",
        "numbers": [1, 2.5, "x"],
    }
    checkpoints.save(content, folder / "policy.pt")
    check_damage(
        "checkpoint of gail", folder / "policy.pt", lambda: checkpoints.load(folder / "policy.pt")
    )


def test_a_damaged_log(folder: Path) -> None:
    """A log has no checksum: what is read of it is what its lines say, and a line that is none is
    left out.
    """
    from fairseq_erpo.tools import training_log

    file = folder / "train.log"
    file.write_text(
        "".join(
            json.dumps({**ENTRY, "epoch": n, "train_num_updates": str(20 * n)}) + "\n"
            for n in range(1, 6)
        )
    )
    whole = training_log.read(file).train
    for content in damaged(file.read_bytes()):
        file.write_bytes(content)
        history = judged("damaged log", lambda: training_log.read(file), str(file))
        if history is not None:
            assert (
                sum(whole.get(update) == values for update, values in history.train.items())
                >= len(history.train) - 1
            )
