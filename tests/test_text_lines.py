"""A line of text ends at a line feed and nowhere else, whoever reads it: sides of a corpus and
scores must not shift.
"""

import ast
import gzip
import json
from pathlib import Path

import corpus
import pytest

from fairseq_erpo.__main__ import main
from fairseq_erpo.files import text_lines

ROOT = Path(__file__).parents[1]
# What Python's splitlines(), or its text files, take for the end of a line.
SEPARATORS = ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
LINES = [
    *(f"before {n}{mark}after {n} it all" for n, mark in enumerate(SEPARATORS)),
    "the last line of all",
]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\xc2\x85b\n\xe2\x80\xa8c\n", ["a\u0085b", "\u2028c"]),
        (b"\xef\xbb\xbfa\r\nb", ["a", "b"]),
        (b"a\rb\r\nc\n", ["a\rb", "c"]),
        (b"a\n\n", ["a", ""]),
        (b"\n", [""]),
        (b"", []),
    ],
)
def test_lines_end_at_line_feeds_only(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    for name, raw in (("text", content), ("text.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(raw)
        assert text_lines(tmp_path / name) == lines


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.de", b"\xff\n"), ("a.gz", b"text"), ("b.gz", gzip.compress(b"text", mtime=0)[:-9])],
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        text_lines(tmp_path / name)


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def test_equal_texts_score_100(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also as fairseq-generate's output, of which a line is `D-number`, tab, score, tab, text."""
    text = write(tmp_path / "text", LINES)
    rows = [
        row for n, line in enumerate(LINES) for row in (f"T-{n}\t{line}", f"D-{n}\t-0.5\t{line}")
    ]
    generated = write(tmp_path / "generated", rows)
    main(
        [
            "evaluate",
            f"a={text}",
            f"b={generated}",
            "--reference",
            str(text),
            "--json",
            str(tmp_path / "scores.json"),
        ]
    )
    for system in json.loads((tmp_path / "scores.json").read_text())["systems"].values():
        for name in ("bleu", "chrf", "rouge1", "rougeL"):
            assert system["scores"][name]["mean"] == pytest.approx(100, abs=1e-6), name


def test_sides_of_a_corpus_stay_parallel(tmp_path: Path) -> None:
    """Whichever side has the mark; and no mark is left, at which fairseq-preprocess would end a
    line.
    """
    source = write(tmp_path / "text.de", LINES)
    target = write(tmp_path / "text.en", [line.upper() for line in reversed([*reversed(LINES)])])
    pairs = corpus.read_files(source, target)
    assert len(pairs) == len(LINES) and all(a.upper() == b for a, b in pairs)
    assert not any(mark in side for pair in pairs for side in pair for mark in SEPARATORS)


def test_no_text_is_read_in_another_way() -> None:
    """Where a program calls splitlines() or readlines(), it is on a message or a log, in these
    files.
    """
    messages = {
        "files.py",
        "processes.py",
        "verbs.py",
        "load_run.py",
        "training_log.py",
        "stages.py",
        "corpus.py",
        "prepare.py",
        "run.py",
    }
    found = set()
    for path in sorted(
        [*(ROOT / "fairseq_erpo").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    ):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute)
        ]
        found |= {path.name for call in calls if call.attr in ("splitlines", "readlines")}
    assert found <= messages
