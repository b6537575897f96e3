"""From text to what fairseq trains on: read pairs, split, choose, write, binarise.  What all
examples share.

    python examples/corpus.py TASK [--profile laptop] [--out DIR] SOURCE...

SOURCE is one of: two text files, line by line; a folder with {train,valid,test}.LANGUAGE; Tatoeba's
deu-eng.zip; IWSLT14's de-en.tgz. Text files may be gzipped. The profile (recipes.py) says how many
pairs of which length, and which vocabulary. The folder holds the text ({train,valid,test}.LANGUAGE,
which the references are), its pieces, fairseq's data (bin/) and corpus.json; it appears when all is
complete.
"""

import argparse
import hashlib
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import sentencepiece
from recipes import TASKS, Selection, profile_of

from fairseq_erpo.coverage import ENOUGH, NEARLY_ALL, Coverage
from fairseq_erpo.files import read_json, reason_of, text_lines, write_json
from fairseq_erpo.verbs import OneLineParser, Option, add_options

EXAMPLES = Path(__file__).resolve().parent
ROOT = EXAMPLES.parent
PARTS = ("train", "valid", "test")
GIVEN = PIECES, DICTIONARY = "pieces.model", "dict.txt"  # what a profile may bring along
LEAST_PIECES, MOST_PIECES = 10, 1_000_000  # sentencepiece has three for its own marks
VALID_SHARE, TEST_SHARE = 0.04, 0.05

Pair = tuple[str, str]
Parts = dict[str, list[Pair]]


def stop(why: str) -> NoReturn:
    """End the program with one line."""
    raise SystemExit(f"corpus: {why}")


# ---- reading ----


def evened(pairs: Iterable[Sequence[str]]) -> list[Pair]:
    """Blanks of all kinds evened out, among them the rare characters at which fairseq and others
    would end a line.
    """
    return [(" ".join(source.split()), " ".join(target.split())) for source, target in pairs]


def read_files(source: Path, target: Path) -> list[Pair]:
    """Two text files, line by line."""
    try:
        sides = text_lines(source), text_lines(target)
    except ValueError as error:
        stop(f"{error}")
    if len(sides[0]) != len(sides[1]):
        lines = f"{source} has {len(sides[0])} lines and {target} has {len(sides[1])}"
        stop(f"{lines}; they must be parallel")
    return evened(zip(*sides, strict=True))


def read_folder(folder: Path, languages: Sequence[str]) -> Parts:
    """{train,valid,test}.LANGUAGE, each gzipped or not."""
    return {
        part: read_files(*(beside(folder / f"{part}.{language}") for language in languages))
        for part in PARTS
    }


def beside(path: Path) -> Path:
    """The file, or its gzipped form."""
    for found in (path, path.with_name(path.name + ".gz")):
        if found.is_file():
            return found
    stop(f"there is no {path} and no {path.name}.gz; --languages names the two suffixes.")


def read_tatoeba(archive: Path) -> list[Pair]:
    """ManyThings' deu-eng.zip: a line of deu.txt is English, tab, German, tab, attribution."""
    try:
        with zipfile.ZipFile(archive) as opened:
            rows = [
                line.split("\t") for line in opened.read("deu.txt").decode("utf-8-sig").split("\n")
            ]
    except (zipfile.BadZipFile, KeyError, ValueError, zlib.error) as error:
        stop(f"{archive} is not ManyThings' deu-eng.zip: {reason_of(error)}")
    return evened((row[1], row[0]) for row in rows if len(row) >= 2)


MARKUP = re.compile(r"</?(title|description)>")
UNUSED = ("<url>", "<talkid>", "<keywords>")
SEGMENT = re.compile(r'<seg id="\d+">\s*(.*?)\s*</seg>')
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def read_iwslt14(archive: Path, languages: Sequence[str]) -> Parts:
    """The split of fairseq's prepare-iwslt14.sh: every 23rd pair is valid, five older test sets
    together are the test.
    """
    with tarfile.open(archive) as opened:
        names = {
            Path(member.name).name: member for member in opened.getmembers() if member.isfile()
        }

        def text(name: str) -> list[str]:
            file = opened.extractfile(names[name]) if name in names else None
            if file is None:
                stop(f"{archive} has no {name}; it should be IWSLT14's de-en.tgz.")
            return file.read().decode("utf-8").split("\n")

        talks, tests = [], []
        for language in languages:
            kept = [
                line
                for line in text(f"train.tags.de-en.{language}")
                if not any(mark in line for mark in UNUSED)
            ]
            talks.append([MARKUP.sub("", line) for line in kept])
            xml = [line for test in TESTS for line in text(f"IWSLT14.{test}.de-en.{language}.xml")]
            tests.append(
                [match[1].replace("’", "'") for line in xml if (match := SEGMENT.search(line))]
            )
    pairs = [pair for pair in evened(zip(*talks, strict=True)) if all(pair)]
    return {
        "train": [pair for n, pair in enumerate(pairs, 1) if n % 23],
        "valid": [pair for n, pair in enumerate(pairs, 1) if n % 23 == 0],
        "test": evened(zip(*tests, strict=True)),
    }


def read(sources: Sequence[Path], languages: Sequence[str]) -> Parts:
    """Whatever SOURCE is; what has no parts yet is split."""
    missing = [str(path) for path in sources if not path.exists()]
    if missing:
        stop(f"there is no {' and no '.join(missing)}.")
    if len(sources) == 2:
        return split(read_files(*sources))
    if len(sources) != 1:
        stop("give one folder or archive, or two text files.")
    (source,) = sources
    if source.is_dir():
        return read_folder(source, languages)
    if source.suffix == ".zip":
        return split(read_tatoeba(source))
    if source.name.endswith((".tgz", ".tar.gz")):
        try:
            return read_iwslt14(source, languages)
        except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
            stop(f"{source} is not IWSLT14's de-en.tgz: {reason_of(error)}")
    stop(f"{source} is no folder, .zip or .tgz; a text file needs its other side.")


# ---- splitting and choosing ----


def same(text: str) -> str:
    """Two texts are the same text when they differ in case and punctuation only."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


def split(pairs: Iterable[Pair]) -> Parts:
    """Train, valid and test that share no source and no target.

    Pairs that share a side, directly or through other pairs, form a component; a component goes to
    one part as a whole, chosen by the hash of its first text, so that the split depends neither on
    order nor on a random generator.
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
    parts: Parts = {part: [] for part in PARTS}
    for a, b in ordered:
        digest = hashlib.sha256(root((0, same(a)))[1].encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        parts[part_at(share)].append((a, b))
    return parts


def part_at(share: float) -> str:
    """Which part has what lies at this share, 0..1, of all texts."""
    if share < TEST_SHARE:
        return "test"
    return "valid" if share < TEST_SHARE + VALID_SHARE else "train"


def choose(parts: Parts, selection: Selection) -> Parts:
    """Pairs of the right length, and of these a sample that does not depend on the machine, in the
    corpus's order.
    """

    def fits(pair: Pair) -> bool:
        source, target = (len(side.split()) for side in pair)
        return (
            1 <= source <= selection.max_source
            and selection.min_target <= target <= selection.max_target
        )

    chosen = {}
    for part, pairs in parts.items():
        fitting = [pair for pair in pairs if fits(pair)]
        limit = getattr(selection, part)
        if limit and len(fitting) > limit:
            drawn = sorted(random.Random(1).sample(range(len(fitting)), limit))
            fitting = [fitting[i] for i in drawn]
        chosen[part] = fitting
    return chosen


def say_share(parts: Parts, chosen: Parts, selection: Selection) -> None:
    """Say what share of the training pairs the selection leaves, where that is not nearly all."""
    whole, left = len(parts["train"]), len(chosen["train"])
    if whole and left < NEARLY_ALL * whole and left != selection.train:
        target = f"{selection.min_target} to {selection.max_target} target words"
        source = f"1 to {selection.max_source} source words"
        print(f"corpus: {left} of {whole} train pairs have {target} and {source}; they are taken")


def check_blanks(parts: Parts, languages: Sequence[str], selection: Selection) -> None:
    """Ends the program with one line where words are wanted, and most sentences of a side have no
    blanks between theirs.
    """
    for language, side in zip(languages, zip(*parts["train"], strict=True), strict=False):
        share = Coverage.of(side).bleu
        lost = f"{1 - share:.0%} of the .{language} lines are one word"
        said = f"{lost}, since their script has no blanks"
        if share < ENOUGH and not selection.pieces:
            stop(f"{said}: take subwords by --pieces N, or put blanks between the words first")
        if share < NEARLY_ALL:
            print(f"corpus: {said}; the lengths that the profile takes are in words")


def tokenised(parts: Parts, languages: Sequence[str]) -> Parts:
    """Moses tokenisation and lower case, as the paper's data have them."""
    try:
        from sacremoses import MosesTokenizer
    except ImportError:
        stop("a vocabulary of words needs tokenised text: pip install sacremoses")
    tokenise = [MosesTokenizer(lang=language).tokenize for language in languages]

    def both(pair: Pair) -> Pair:
        source, target = (
            one(side, return_str=True).lower() for one, side in zip(tokenise, pair, strict=True)
        )
        return source, target

    return {part: [both(pair) for pair in pairs] for part, pairs in parts.items()}


# ---- writing ----

# What fairseq's dictionaries keep for themselves; <unk> is unknown
NO_WORDS = re.compile(r"<s>|<pad>|</s>|madeupword\d{4}")


def check_symbols(name: str, lines: Iterable[str], target: bool) -> None:
    """Ends the program with one line for a symbol as a word, at which fairseq would end a target,
    or mask a source.

    An encoder reads <s> and </s> like any other word.
    """
    for text in lines:
        for word in text.split():
            if NO_WORDS.fullmatch(word) and (target or word == "<pad>"):
                why = "fairseq keeps this symbol for itself: write it otherwise, or take subwords"
                where = f"{word} stands as a word in {name}: {text[:60]!r}"
                stop(f"{where}; {why} by --pieces N, which spell it")


def write(
    parts: Parts, languages: Sequence[str], folder: Path, selection: Selection
) -> dict[str, int]:
    """Write {train,valid,test}.LANGUAGE (text) and, if the vocabulary is of pieces, a joint subword
    model and the same files in pieces under pieces/; return the sizes.
    """
    empty = [name for name, part in parts.items() if not part]
    if empty:
        stop(f"no usable pair is left for {' and '.join(empty)}; give more text.")
    (folder / "pieces").mkdir(parents=True)
    for name, part in parts.items():
        for language, side in zip(languages, zip(*part, strict=True), strict=True):
            if not selection.pieces:
                check_symbols(f"{name}.{language}", side, target=language == languages[1])
            (folder / f"{name}.{language}").write_text("\n".join(side) + "\n", "utf-8")
    if selection.pieces:
        model = pieces_of(parts, folder / "pieces" / "model", selection)
        for name, part in parts.items():
            for language, side in zip(languages, zip(*part, strict=True), strict=True):
                spelt = "".join(" ".join(model.encode(line, out_type=str)) + "\n" for line in side)
                (folder / "pieces" / f"{name}.{language}").write_text(spelt, "utf-8")
    return {name: len(part) for name, part in parts.items()}


def pieces_of(
    parts: Parts, prefix: Path, selection: Selection
) -> sentencepiece.SentencePieceProcessor:
    """The subword model that the selection gives, or one that is learnt from the training part."""
    if not selection.given:
        return train_pieces(
            (text for both in parts["train"] for text in both), prefix, selection.pieces
        )
    shutil.copyfile(EXAMPLES / selection.given / PIECES, f"{prefix}.model")
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def train_pieces(
    texts: Iterator[str], prefix: Path, size: int
) -> sentencepiece.SentencePieceProcessor:
    """A subword model of at most `size` pieces, also written to PREFIX.model."""
    written = BytesIO()  # sentencepiece itself does not notice a full disk
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=written,
        vocab_size=size,
        hard_vocab_limit=False,  # a small corpus may not hold so many
        character_coverage=1.0,
        minloglevel=2,
    )
    Path(f"{prefix}.model").write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def preprocess_command(folder: Path, languages: Sequence[str], selection: Selection) -> list[str]:
    """fairseq-preprocess on what `write` wrote."""
    text = folder / "pieces" if selection.pieces else folder
    command = ["fairseq-preprocess", "--source-lang", languages[0], "--target-lang", languages[1]]
    for part in PARTS:
        command += [f"--{part}pref", str(text / part)]
    if selection.words:
        # fairseq would fill the dictionary up to a multiple of 8 with words that are none.
        words = str(selection.words)
        command += ["--nwordssrc", words, "--nwordstgt", words, "--padding-factor", "1"]
    if selection.joined:
        command.append("--joined-dictionary")
    if selection.given:
        command += ["--srcdict", str(EXAMPLES / selection.given / DICTIONARY)]
    return [*command, "--destdir", str(folder / "bin"), "--workers", "1"]


def digest_of(sources: Sequence[Path], settings: Mapping[str, object]) -> str:
    """Of what the folder is made of: the sources' contents, and the settings."""
    contents = []
    for source in sources:
        for path in sorted(source.glob("*.*")) if source.is_dir() else [source]:
            if path == source or path.name.split(".")[0] in PARTS:
                with path.open("rb") as file:
                    contents.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return hashlib.sha256(json.dumps([contents, settings], sort_keys=True).encode()).hexdigest()


def corpus_of(file: Path) -> dict[str, Any]:
    """What corpus.json says.  Ends the program with one line if it is damaged."""
    try:
        found: dict[str, Any] = read_json(file)
        source, target = found["languages"]
        texts = (found["digest"], source, target)
        numbers, flags = [found["selection"]["pieces"]], [found["moses"]]
        kinds = {str: texts, list: [found["languages"]], int: numbers, bool: flags}
        if not all(isinstance(value, kind) for kind, values in kinds.items() for value in values):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        stop(f"{file} is damaged; choose another folder, or move it away")
    return found


def check_own(folder: Path, languages: Sequence[str]) -> None:
    """Ends the program with one line if the folder, which is to be replaced, holds more than a
    corpus.
    """
    texts = {f"{part}.{language}" for part in PARTS for language in languages}
    own = {"bin", "pieces", "corpus.json", *texts}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if foreign:
        stop(f"{folder} also holds {', '.join(foreign)}; move that away, or choose another --out")


def prepare(
    sources: Sequence[Path],
    languages: Sequence[str],
    selection: Selection,
    moses: bool,
    folder: Path,
    force: bool = False,
) -> None:
    """Everything above, unless it was done with the same settings; with `force` in place of what
    was done with others.
    """
    settings = {"languages": list(languages), "selection": asdict(selection), "moses": moses}
    done = folder / "corpus.json"
    given = [EXAMPLES / selection.given / name for name in GIVEN] if selection.given else []
    digest = digest_of([path for path in (*sources, *given) if path.exists()], settings)
    if done.is_file() and corpus_of(done)["digest"] == digest:
        print(f"corpus: {folder} is there already")
        return
    if folder.exists() and not done.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        stop(f"{folder} is there and holds no corpus; choose another --out, or move it away")
    if done.is_file():
        if not force:
            fix = "choose another folder, or --force replaces it"
            stop(f"{folder} is of other text or settings; {fix}")
        check_own(folder, corpus_of(done)["languages"])
    read_parts = read(sources, languages)
    check_blanks(read_parts, languages, selection)
    parts = choose(tokenised(read_parts, languages) if moses else read_parts, selection)
    say_share(read_parts, parts, selection)
    try:
        sizes = place(parts, languages, selection, folder, {"digest": digest, **settings})
    except OSError as error:
        stop(f"{folder} cannot be written: {error.strerror or reason_of(error)}")
    listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
    print(f"corpus: {folder}: {listed} pairs")


def place(
    parts: Parts,
    languages: Sequence[str],
    selection: Selection,
    folder: Path,
    manifest: Mapping[str, object],
) -> dict[str, int]:
    """Write and binarise beside the folder, and put it in the folder's place at once; return the
    sizes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as temporary:
        unfinished = Path(temporary) / folder.name
        sizes = write(parts, languages, unfinished, selection)
        command = preprocess_command(unfinished, languages, selection)
        ran = subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            last = (ran.stderr.strip() or "no output").splitlines()[-1]
            stop(f"this failed: {shlex.join(command)}\n  {last}")
        write_json(unfinished / "corpus.json", {"sizes": sizes, **manifest})
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    return sizes


OPTIONS: Mapping[str, Option] = {
    "--profile": ("NAME", "laptop", "paper, laptop or, for translation, quickstart"),
    "--languages": (
        "A,B",
        str,
        "suffixes of source and target (default: of the text files, or the task's)",
    ),
    "--pieces": (
        "N",
        int,
        "size of a joint subword vocabulary, 0 for words (default: the profile's)",
    ),
    "--moses": ("", False, "tokenise and lower-case by sacremoses"),
    "--out": ("DIR", Path, "default: runs/TASK/PROFILE/data"),
    "--force": ("", False, "replace a corpus of other text or settings in that folder"),
}


def arguments() -> argparse.Namespace:
    parser = OneLineParser(prog="corpus", description="Prepare a corpus for examples/*/table.sh.")
    parser.add_argument("task", choices=TASKS)
    sources = "two texts, a folder, deu-eng.zip or de-en.tgz"
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help=sources)
    add_options(parser, OPTIONS)
    return parser.parse_args()


def languages_of(args: argparse.Namespace) -> list[str]:
    """Typed, or the suffixes of two text files, or the task's."""
    if args.languages:
        found = args.languages.split(",")
    elif len(args.sources) == 2:
        found = [Path(path.name.removesuffix(".gz")).suffix[1:] for path in args.sources]
    else:
        found = list(TASKS[args.task].languages)
    named = {name for name in found if re.fullmatch(r"[\w-]+", name)}
    if len(found) != 2 or len(named) != 2:
        ways = "text.de text.en, or --languages de,en"
        stop(f"two different suffixes are needed, which name the sides: {ways}")
    return found


def main() -> None:
    args = arguments()
    if args.pieces and not LEAST_PIECES <= args.pieces <= MOST_PIECES:
        stop(f"--pieces must be 0 (words) or lie between {LEAST_PIECES} and {MOST_PIECES}")
    profile = profile_of(args.task, args.profile)
    selection = profile.selection
    if args.pieces is not None and selection.given:
        fix = "leave --pieces out, or take another profile"
        stop(f"--profile {args.profile} brings its own subwords: {fix}")
    if args.pieces is not None:
        selection = replace(
            selection, pieces=args.pieces, words=0 if args.pieces else selection.words
        )
    folder = args.out or ROOT / "runs" / args.task / args.profile / "data"
    prepare(args.sources, languages_of(args), selection, args.moses, folder, args.force)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        stop(reason_of(error))
    except KeyboardInterrupt:
        raise SystemExit("\ncorpus: interrupted") from None
