"""examples/huggingface/train.py: the cached decoder, the loss at λ_data = 1, and some updates of
two rows.
"""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import LIMIT

from fairseq_erpo import FAMILY, previous_tokens

pytestmark = pytest.mark.slow  # importing transformers takes five seconds

SCRIPT = Path(__file__).parents[1] / "examples/huggingface/train.py"
LINES = [" ".join("abcdefgh"[(i + j) % 8] * 2 for j in range(1 + i % 5)) for i in range(24)]
PAIRS = [(number, line, line[::-1]) for number, line in enumerate(LINES)]


@pytest.fixture(scope="module")
def train() -> ModuleType:
    from huggingface import train

    return train


@pytest.fixture
def learner(train: ModuleType) -> Any:
    """`learner("interp", erpo_preset="paper")`: a fresh tiny model without dropout."""

    def make(row: str, **flags: Any) -> Any:
        torch.manual_seed(1)
        model, tokenizer = train.new_model(LINES, pieces=40, width=16)
        model.eval()
        model.train = lambda mode=True: model  # no dropout at any time
        return train.Learner(model, tokenizer, FAMILY[row], flags, LINES, seed=1)

    return make


def test_cached_equals_teacher_forced(train: ModuleType, learner: Any) -> None:
    """Step by step with the cache, sentences leaving on the way, as in one pass over the whole
    prefix.
    """
    made = learner("mle")
    model, source, target = (
        made.model.eval(),
        made.ids(LINES[:6]),
        made.ids([line for _, _, line in PAIRS[:6]]),
    )
    previous = previous_tokens(target, made.vocabulary)
    mask = source.ne(made.vocabulary.pad).long()
    with torch.no_grad():
        encoded = model.get_encoder()(input_ids=source, attention_mask=mask)[0]
        cached, whole = (train.CachedDecoder(model, encoded, mask) for _ in range(2))
        expected = whole.log_probs(whole.teacher_forced(previous))
        rows = torch.arange(6)
        for t in range(previous.size(1)):
            kept = target[rows, t].ne(made.vocabulary.pad)
            if not kept.all():
                cached.keep(kept.nonzero()[:, 0])
                rows = rows[kept]
            found = cached.log_probs(cached.step(previous[rows, : t + 1]))
            # Float32, other shapes of the same products
            torch.testing.assert_close(found, expected[rows, t], rtol=0, atol=1e-5)
    assert len(rows) < 6  # some sentence was shorter than another


@pytest.mark.parametrize("row", ["mle", "interp"])
def test_only_data_is_cross_entropy(learner: Any, row: str) -> None:
    made = learner(
        row, **({} if row == "mle" else {"erpo_schedule": "constant", "erpo_lambda": "data=1"})
    )
    source, target = made.ids([x for _, x, _ in PAIRS]), made.ids([y for _, _, y in PAIRS])
    labels = target.masked_fill(target.eq(made.vocabulary.pad), -100)
    expected = made.model(input_ids=source, attention_mask=source.ne(0).long(), labels=labels).loss
    torch.testing.assert_close(made.loss(PAIRS, (1, 0, 0)), expected, rtol=1e-5, atol=0)


def test_every_row_that_needs_no_more(learner: Any) -> None:
    for name in FAMILY.keys() - {"mixer", "sequence_tutor"}:
        made = learner(name)
        # Late, so that every schedule has come to its end
        loss = made.loss(PAIRS[:4], (3, 100_000, 0))
        loss.backward()
        assert loss.isfinite(), name


@pytest.mark.parametrize(
    ("row", "flags", "named"),
    [
        ("raml", {"erpo_samples_file": "file"}, ["--erpo-samples-file (leave it out)"]),
        ("interp", {"erpo_schedule": "plateau"}, ["--erpo-schedule plateau (use"]),
        (
            "interp",
            {"erpo_preset": "corpus"},
            ["--erpo-preset corpus and risk (use --erpo-reward bleu)"],
        ),
        (
            "interp",
            {"erpo_preset": "robust", "erpo_teacher": "corpus_bleu"},
            ["--erpo-teacher corpus_bleu (use bleu)"],
        ),
        ("mrt", {"erpo_candidates": "beam"}, ["--erpo-candidates beam (use samples)"]),
    ],
)
def test_what_would_be_ignored_is_refused(
    learner: Any, row: str, flags: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"^this needs fairseq's criterion: ") as refused:
        learner(row, **flags)
    assert all(text in str(refused.value) for text in named)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--valid 0", "train.py: --valid must lie between 1 and 23 for these texts"),
        ("--valid 24", "train.py: --valid must lie between 1 and 23 for these texts"),
        ("--row interp --valid 4 --erpo-c -1", "train.py: --erpo-c: "),
        ("--row mixer", "invalid choice: 'mixer'"),
        ("--help", "--label-smoothing"),
        ("--row interp --help", "--erpo-c ERPO_C "),
    ],
)
def test_wrong_input_is_one_line_and_help_is_whole(
    flags: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"{line}\n" for line in LINES))
    monkeypatch.setattr(
        sys,
        "argv",
        [str(SCRIPT), str(text), str(text), "--pieces", "40", "--width", "16", *flags.split()],
    )
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    said = "".join([str(ended.value), *capsys.readouterr()])
    assert message in said
    if "--help" in flags:
        assert "(default: 100)" in said and not re.search(
            r"^  --\S+ [A-Z_]+\n +-", said, re.MULTILINE
        ), "a flag without a word"


def test_lines_are_what_newlines_end(train: ModuleType, tmp_path: Path) -> None:
    """Not what splits a text elsewhere in Unicode; and a byte order mark is no letter."""
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        Path(path).write_bytes("\ufeffa\x85b\rc\n\nc\r\n".encode())
    assert train.read(paths) == [["a\x85b\rc", "", "c"]] * 2
    Path(paths[1]).write_text("a\n")
    with pytest.raises(ValueError, match=r"a has 3 lines and .*b has 1; they must be parallel"):
        train.read(paths)


@pytest.mark.parametrize("mark", ["<pad>", "</s>"])
def test_a_symbol_of_the_tokenizer_in_a_text_is_refused(
    train: ModuleType, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the target in the middle."""
    text = tmp_path / "text"
    text.write_text("".join(f"{line}\n" for line in [*LINES, f"a {mark} b"]))
    monkeypatch.setattr(
        sys,
        "argv",
        [str(SCRIPT), str(text), str(text), "--pieces", "40", "--width", "16", "--valid", "4"],
    )
    with pytest.raises(SystemExit, match=rf"^train\.py: a text has {mark}"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_few_updates(tmp_path: Path) -> None:
    """The script from the outside: a model from scratch by `mle`, saved; then `interp` from it."""
    texts = tmp_path / "source", tmp_path / "target"
    for path, side in zip(texts, (1, 2), strict=True):
        path.write_text("".join(f"{pair[side]}\n" for pair in PAIRS))
    first = ["--row", "mle", "--save", tmp_path / "model", "--label-smoothing", ".1"]
    then = [
        "--row",
        "interp",
        "--model",
        tmp_path / "model",
        "--erpo-anneal-every",
        "1u",
        "--erpo-reward",
        "bleu",
    ]
    for flags in (first, then):
        common = [
            "--epochs",
            "2",
            "--batch",
            "8",
            "--valid",
            "4",
            "--pieces",
            "40",
            "--width",
            "16",
        ]
        command = [sys.executable, SCRIPT, *texts, *common, *flags]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == 0, done.stderr
        assert [
            line.split(":")[0] for line in done.stdout.split("\n") if line.startswith("epoch")
        ] == ["epoch 1", "epoch 2"]
        assert "nan" not in done.stdout and "BLEU" in done.stdout


def test_no_fairseq_and_short(train: ModuleType) -> None:
    code = "import sys; from huggingface import train; print('fairseq' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout.strip() == "False", done.stderr
    assert len(SCRIPT.read_text().splitlines()) <= 200
