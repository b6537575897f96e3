"""What recipes are trained on: archives and text files read as they are, split without leaks,
chosen and written.
"""

import gzip
import io
import json
import re
import shutil
import sys
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import corpus
import pytest
from recipes import TASKS, Selection


def text(n: int) -> list[corpus.Pair]:
    return [(f"das ist Satz {i} von {n}", f"this is sentence {i} of {n}") for i in range(n)]


def write_sides(
    folder: Path, name: str, pairs: list[corpus.Pair], packed: bool = False
) -> list[Path]:
    """Text files with a byte order mark, as some editors write it."""
    files = []
    for language, side in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
        content = "".join(f"{line}\n" for line in side).encode("utf-8-sig")
        files.append(folder / f"{name}.{language}{'.gz' if packed else ''}")
        files[-1].write_bytes(gzip.compress(content) if packed else content)
    return files


def test_a_folder_is_read_as_it_is_gzipped_or_not(tmp_path: Path) -> None:
    parts = {"train": text(9), "valid": text(3), "test": [("a\u2028b c", "x   y\tz")]}
    for part, pairs in parts.items():
        write_sides(tmp_path, part, pairs, packed=part == "train")
    # Blanks are evened out, and a line separator inside a sentence does not end it.
    assert corpus.read([tmp_path], ("de", "en")) == parts | {"test": [("a b c", "x y z")]}


def test_tatoebas_zip_has_english_first(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "deu-eng.zip", "w") as archive:
        archive.writestr(
            "deu.txt",
            "\ufeff" + "".join(f"Go {i}.\tGeh {i}.\tCC-BY 2.0\n" for i in range(200)) + "broken\n",
        )
        archive.writestr("_about.txt", "about")
    pairs = corpus.read_tatoeba(tmp_path / "deu-eng.zip")
    assert pairs[0] == ("Geh 0.", "Go 0.") and pairs[7] == ("Geh 7.", "Go 7.")
    parts = corpus.read([tmp_path / "deu-eng.zip"], ("de", "en"))
    assert sum(map(len, parts.values())) == 200 and all(parts.values())


def iwslt14(path: Path, talks: int) -> None:
    """The archive's files with their markup."""
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, content: str) -> None:
            member = tarfile.TarInfo(f"de-en/{name}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))

        for language, word in (("de", "Satz"), ("en", "sentence")):
            lines = [
                "<url>http://a.b</url>",
                "<keywords>x</keywords>",
                f"<title> {word} 0 </title>",
            ]
            lines += [f"{word} {i}" for i in range(1, talks)] + [""]
            add(f"train.tags.de-en.{language}", "\n".join(lines))
            for n, test in enumerate(corpus.TESTS):
                second = f'<seg id="2">{word} b{n}</seg>'
                xml = f'<doc><seg id="1"> {word}’s {n} </seg>\n<p>\n{second}</doc>'
                add(f"IWSLT14.{test}.de-en.{language}.xml", xml)


def test_iwslt14_is_split_as_fairseq_splits_it(tmp_path: Path) -> None:
    iwslt14(tmp_path / "de-en.tgz", talks=46)
    parts = corpus.read([tmp_path / "de-en.tgz"], ("de", "en"))
    # awk's NR % 23 == 0 of the 46 lines from 0 to 45.
    assert parts["valid"] == [("Satz 22", "sentence 22"), ("Satz 45", "sentence 45")]
    assert not set(parts["train"]) & set(parts["valid"])
    assert len(parts["train"]) == 44 and parts["train"][0] == ("Satz 0", "sentence 0")
    assert parts["test"][:3] == [
        ("Satz's 0", "sentence's 0"),
        ("Satz b0", "sentence b0"),
        ("Satz's 1", "sentence's 1"),
    ]
    assert len(parts["test"]) == 10


def test_pairs_are_chosen_by_length_and_by_lot() -> None:
    pairs = [(" ".join("a" * s), " ".join("b" * t)) for s in range(8) for t in range(8)]
    selection = Selection(train=5, max_source=6, min_target=3, max_target=5)
    fitting = [(a, b) for a, b in pairs if 1 <= len(a.split()) <= 6 and 3 <= len(b.split()) <= 5]
    chosen = corpus.choose({"train": pairs, "valid": pairs}, selection)
    assert chosen["valid"] == fitting
    assert (
        len(chosen["train"]) == 5
        and set(chosen["train"]) < set(fitting)
        and chosen["train"] != fitting[:5]
    )
    assert chosen["train"] == sorted(chosen["train"], key=fitting.index)  # in the corpus's order
    assert corpus.choose({"train": pairs, "valid": pairs}, selection) == chosen


@pytest.mark.parametrize("pieces", [0, pytest.param(60, marks=pytest.mark.slow)])
def test_prepared_data_are_whole_and_made_once(
    pieces: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = write_sides(tmp_path, "all", text(300), packed=True)
    selection = Selection(
        train=100, valid=5, test=5, pieces=pieces, words=0 if pieces else 50, joined=True
    )
    folder = tmp_path / "new" / "data"
    corpus.prepare(sources, ("de", "en"), selection, False, folder)
    written = json.loads((folder / "corpus.json").read_text())
    assert (
        written["sizes"] == {"train": 100, "valid": 5, "test": 5}
        and written["selection"]["pieces"] == pieces
    )
    dictionary = (folder / "bin" / "dict.de.txt").read_text()
    assert dictionary == (folder / "bin" / "dict.en.txt").read_text()
    if pieces:
        model = (folder / "pieces" / "test.en").read_text().splitlines()
        assert [line.replace(" ", "").replace("▁", " ").strip() for line in model] == (
            folder / "test.en"
        ).read_text().splitlines()
    else:
        # Four special symbols are counted but not written; none is made up to fill a multiple of 8.
        assert len(dictionary.splitlines()) == 46 and "madeupword" not in dictionary
    corpus.prepare(sources, ("de", "en"), selection, False, folder)
    assert f"{folder} is there already" in capsys.readouterr().out
    other = Selection(train=50, valid=5, test=5, pieces=pieces)
    with pytest.raises(
        SystemExit, match="data is of other text or settings; choose another folder, or --force"
    ):
        corpus.prepare(sources, ("de", "en"), other, False, folder)
    corpus.prepare(sources, ("de", "en"), other, False, folder, force=True)
    assert json.loads((folder / "corpus.json").read_text())["sizes"]["train"] == 50


@pytest.mark.parametrize(
    ("symbol", "sides"),
    [("<s>", "en"), ("</s>", "en"), ("<pad>", "de en"), ("madeupword0001", "en"), ("<unk>", "")],
)
@pytest.mark.parametrize("side", ["de", "en"])
def test_symbols_of_a_dictionary_are_no_words(
    symbol: str, sides: str, side: str, tmp_path: Path
) -> None:
    """Also in the last line of the last part; fairseq-preprocess takes all of them."""
    parts = {part: text(3) for part in corpus.PARTS}
    source, target = parts["test"][-1]
    parts["test"][-1] = (
        (f"{source} {symbol} da", target) if side == "de" else (source, f"{target} {symbol} there")
    )
    words = Selection()
    if side in sides:
        with pytest.raises(
            SystemExit, match=rf"^corpus: {symbol} stands as a word in test\.{side}: .*--pieces"
        ):
            corpus.write(parts, ("de", "en"), tmp_path, words)
    else:
        assert corpus.write(parts, ("de", "en"), tmp_path, words)["test"] == 3


def test_a_script_without_blanks_has_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    chinese, english = "我们今天一起去公园散步", "we walk in the park today"
    for share, refused in ((4, False), (7, True)):
        parts = {"train": [(english, chinese)] * share + [(english, english)] * (10 - share)}
        if refused:
            with pytest.raises(
                SystemExit, match=r"^corpus: 70% of the \.zh lines are one word.*--pieces"
            ):
                corpus.check_blanks(parts, ("en", "zh"), Selection())
        else:
            corpus.check_blanks(parts, ("en", "zh"), Selection())
        corpus.check_blanks(parts, ("en", "zh"), Selection(pieces=100))
        assert f"{share}0% of the .zh lines" in capsys.readouterr().out


def test_what_a_profile_leaves_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"train": [("a b", "c d")] * 20 + [("a b", "c")] * 80}
    selection = Selection(min_target=2)
    corpus.say_share(parts, corpus.choose(parts, selection), selection)
    assert "20 of 100 train pairs have 2 to 175 target words" in capsys.readouterr().out


def test_other_given_pieces_are_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later version may bring another subword model or dictionary: what was spelt by the old one
    is not its data.
    """
    given = tmp_path / "examples" / "given"
    given.mkdir(parents=True)
    for name in corpus.GIVEN:
        shutil.copy(corpus.EXAMPLES / "quickstart" / "model" / name, given)
    monkeypatch.setattr(corpus, "EXAMPLES", given.parent)
    sources, folder = write_sides(tmp_path, "all", text(300)), tmp_path / "data"
    selection = Selection(train=100, valid=5, test=5, pieces=3_000, given="given")
    for _ in range(2):
        corpus.prepare(sources, ("de", "en"), selection, False, folder)
    assert f"{folder} is there already" in capsys.readouterr().out
    for name in corpus.GIVEN:
        whole = (given / name).read_bytes()
        (given / name).write_bytes(whole + b"\n")
        with pytest.raises(SystemExit, match="data is of other text or settings"):
            corpus.prepare(sources, ("de", "en"), selection, False, folder)
        (given / name).write_bytes(whole)


def test_other_text_is_prepared_again(tmp_path: Path) -> None:
    """Contents count, whether they are two files or a folder's; other files of a folder do not."""
    settings = {"a": 1}
    sources = write_sides(tmp_path, "train", text(9))
    before = corpus.digest_of([tmp_path], settings), corpus.digest_of(sources, settings)
    (tmp_path / "README.md").write_text("other")
    assert (corpus.digest_of([tmp_path], settings), corpus.digest_of(sources, settings)) == before
    # Of the same length
    sources[0].write_bytes(sources[0].read_bytes().replace(b"Satz 3", b"Satz 4"))
    after = corpus.digest_of([tmp_path], settings), corpus.digest_of(sources, settings)
    assert after[0] != before[0] and after[1] != before[1]
    assert corpus.digest_of(sources, {"a": 2}) != after[1]


def test_an_interrupted_preparation_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = write_sides(tmp_path, "all", text(300))
    monkeypatch.setattr(
        corpus, "preprocess_command", lambda *_: ["fairseq-preprocess", "--nothing"]
    )
    with pytest.raises(SystemExit, match="this failed: fairseq-preprocess --nothing"):
        corpus.prepare(sources, ("de", "en"), Selection(pieces=60), False, tmp_path / "data")
    assert not (tmp_path / "data" / "corpus.json").exists()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["{}/none.de", "{}/none.en"], "there is no .*none.de and no .*none.en"),
        (["{}/all.de"], "is no folder, .zip or .tgz; a text file needs its other side"),
        (
            ["{}/all.de", "{}/short.en"],
            "all.de has 20 lines and .*short.en has 1; they must be parallel",
        ),
        (["{}"], "there is no .*train.de and no train.de.gz; --languages"),
        (["{}/all.de", "{}/all.en", "{}/all.en"], "one folder or archive, or two text files"),
        (["{}/other.tgz"], "has no train.tags.de-en.de; it should be IWSLT14's"),
    ],
)
def test_wrong_sources_are_refused(sources: list[str], message: str, tmp_path: Path) -> None:
    write_sides(tmp_path, "all", text(20))
    write_sides(tmp_path, "short", text(1))
    tarfile.open(tmp_path / "other.tgz", "w:gz").close()
    with pytest.raises(SystemExit, match=f"^corpus: .*{message}"):
        corpus.read([Path(source.format(tmp_path)) for source in sources], ("de", "en"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pieces", "9"], "--pieces must be 0 (words) or lie between"),
        (
            ["--profile", "quickstart", "--pieces", "500"],
            "--profile quickstart brings its own subwords: leave --pieces out",
        ),
        (
            ["--profile", "quickstart", "--pieces", "0"],
            "--profile quickstart brings its own subwords: leave --pieces out",
        ),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = write_sides(tmp_path, "all", text(1))
    monkeypatch.setattr(
        sys,
        "argv",
        ["corpus.py", "translation", *map(str, sources), *flags, "--out", str(tmp_path / "data")],
    )
    with pytest.raises(SystemExit, match=f"^corpus: {re.escape(message)}"):
        corpus.main()


def test_languages_come_from_the_files_or_the_task() -> None:
    def languages(typed: str | None, *sources: str, task: str = "translation") -> list[str]:
        return corpus.languages_of(
            Namespace(languages=typed, sources=[Path(source) for source in sources], task=task)
        )

    assert languages(None, "a.fr.gz", "a.en") == ["fr", "en"]
    assert languages(None, "folder", task="summarization") == list(TASKS["summarization"].languages)
    assert languages("x,y", "a.fr", "a.en") == ["x", "y"]
    for wrong in (("a.de", "b.de"), ("a", "b.de")):
        with pytest.raises(SystemExit, match="two different suffixes"):
            languages(None, *wrong)


def test_tokenising_needs_sacremoses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(SystemExit, match="pip install sacremoses"):
        corpus.tokenised({"train": text(1)}, ("de", "en"))
