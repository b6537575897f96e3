"""`python -m fairseq_erpo evaluate`: systems, each of one or several seeds, decoded, scored and
compared with a baseline.
"""

import math
import statistics
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from tqdm import tqdm

from fairseq_erpo.coverage import ENOUGH, Coverage
from fairseq_erpo.files import reason_of, text_lines, write_json
from fairseq_erpo.scores import TEST, bleu_signature, measures, p_values, tokeniser
from fairseq_erpo.tools.generate import Decoding, Output, output_of
from fairseq_erpo.tools.score_table import compared, example_text, table, verdict
from fairseq_erpo.verbs import Option, add_options

COLUMNS = ("bleu", "rouge1", "rouge2", "rougeL", "length_ratio", "repetition")
UNKNOWN = "<<unk>>"  # in fairseq-generate's references
WIDTH = 100  # of the verdict, as wide as the table
KEPT = 6  # sentences in the JSON file
Systems = Mapping[str, Sequence[Sequence[str]]]  # name -> for each seed its hypotheses


class Outputs(NamedTuple):
    """What all runs made of one test set."""

    systems: Systems
    references: Sequence[str]
    sources: Sequence[str]  # empty where no output has them
    settings: Mapping[str, Any] | None  # how they were decoded, if known and the same for all


OPTIONS: Mapping[str, Option] = {
    "--baseline": ("NAME", str, "compare all others with this system"),
    "--data": ("DIR", str, "folder of fairseq-preprocess (default: the one trained on)"),
    "--split": ("SPLIT", "test", "train, valid or test"),
    "--reference": (
        "FILE",
        str,
        "references, one a line (default: the data's, whose unknown words are lost)",
    ),
    "--beam": ("N", 5, "width of the beam"),
    "--greedy": ("", False, "decode by greedy search, too: one more column"),
    "--lenpen": ("X", 0.6, "divide log p by length^X"),
    "--remove-bpe": ("KIND", str, "sentencepiece, or a mark such as '@@ ' (default: as validated)"),
    "--tokenize": ("NAME", "13a", "sacreBLEU's tokeniser; none for tokenised text"),
    "--columns": ("NAMES", ",".join(COLUMNS), f"of {', '.join(measures())}"),
    "--user-dir": ("DIR", str, "plugin with the runs' own models"),
    "--markdown": ("", False, "print the table in Markdown"),
    "--json": ("FILE", str, "write all scores as well"),
    "--examples": (
        "N",
        0,
        "print N sentences with each system's output: half where the last system gains most on the "
        "baseline, half where it loses most",
    ),
}


def evaluate(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `evaluate`."""
    parser.add_argument(
        "systems",
        metavar="NAME=PATH[,PATH...]",
        nargs="+",
        help="a system and its runs, one for each seed: folders with a checkpoint_best.pt, "
        "checkpoints, outputs of fairseq-generate, or texts of one hypothesis a line; NAME= may be "
        "left out",
    )
    add_options(parser, OPTIONS)
    args = parser.parse_args(argv)
    columns = args.columns.split(",")
    _refuse(args, columns)
    decoding = Decoding(
        args.data, args.split, args.beam, args.lenpen, args.remove_bpe, args.user_dir
    )
    paths = parse_systems(args.systems, args.baseline)
    outputs = collect(paths, decoding, args.reference)
    result = compare(outputs.systems, outputs.references, args.baseline, args.tokenize)
    result["paths"], result["columns"] = paths, columns
    result["examples"] = examples(outputs, args.baseline, args.examples or KEPT)
    if outputs.settings:
        result["decoding"] = outputs.settings
    if args.greedy:
        greedy = collect(paths, decoding._replace(beam=1), args.reference)
        if greedy.settings is None or greedy.settings["beam"] != 1:
            raise ValueError("--greedy decodes once more: name checkpoints, not their outputs")
        result["greedy"] = compare(greedy.systems, outputs.references, args.baseline, args.tokenize)
    print(table(result, columns, "github" if args.markdown else "simple"))
    if words := verdict(result, columns):
        print(f"\n{fill(words, WIDTH)}")
    if args.examples:
        print("\nSentences, each output with its chrF:")
        print("".join(f"\n{example_text(one)}\n" for one in result["examples"]), end="")
    if args.json:
        write_json(args.json, result, "--json")


def _refuse(args: Any, columns: Sequence[str]) -> None:
    """Check the flags by themselves.  Raises ValueError naming the flag."""
    unknown = [name for name in columns if name not in measures()]
    if unknown:
        raise ValueError(
            f"--columns has no {', '.join(unknown)}; there are {', '.join(measures())}"
        )
    if args.tokenize not in BLEU.TOKENIZERS:
        raise ValueError(
            f"--tokenize must be one of {', '.join(BLEU.TOKENIZERS)}, not {args.tokenize!r}"
        )
    try:
        bleu_signature(args.tokenize)
    except (RuntimeError, ImportError) as error:  # a library is missing
        raise ValueError(f"--tokenize {args.tokenize}: {' '.join(str(error).split())}") from None
    except (OSError, SystemExit) as error:
        here = ", ".join(
            name
            for name in BLEU.TOKENIZERS
            if name not in SPM_MODELS and not name.endswith("-mecab")
        )
        why = f"could not be downloaded ({reason_of(error)})"
        raise ValueError(
            f"--tokenize {args.tokenize}: its model {why}; these need no download: {here}"
        ) from None
    if args.beam < 1:
        raise ValueError(f"--beam must be at least 1, not {args.beam}")
    if not math.isfinite(args.lenpen):
        raise ValueError(f"--lenpen must be a finite number, not {args.lenpen}")


# ---- from the command line to sentences ----


def check_distinct(paths: Sequence[str | Path], words: str) -> None:
    """Raises ValueError, which shows what was typed, where two paths are one run."""
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"{words!r} names one run twice; seeds of one system are different runs")


def parse_systems(words: Sequence[str], baseline: str | None) -> dict[str, list[str]]:
    """NAME=PATH,PATH -> paths by name.  Raises ValueError naming what is wrong."""
    paths: dict[str, list[str]] = {}
    for word in words:
        name, mark, rest = word.partition("=")
        listed = [path for path in (rest if mark else word).split(",") if path]
        name = name if mark else (Path(listed[0]).name if listed else "")
        if not name or not listed:
            raise ValueError(f"{word!r} is not NAME=PATH or NAME=PATH,PATH")
        if name in paths:
            fix = f"seeds of one system go into one word, {name}=PATH,PATH"
            raise ValueError(f"two systems are called {name!r}; {fix}")
        check_distinct(listed, word)
        paths[name] = listed
    if baseline is not None and baseline not in paths:
        raise ValueError(
            f"--baseline {baseline} is not among the systems, which are {', '.join(paths)}"
        )
    return paths


def collect(
    paths: Mapping[str, Sequence[str]], decoding: Decoding, reference: str | None
) -> Outputs:
    """All hypotheses, and what they share.  Raises ValueError where they do not belong together."""
    references: Sequence[str] | None = None
    origin = "--reference"
    if reference is not None:
        if not Path(reference).is_file():
            raise ValueError(f"--reference: there is no file {reference}")
        references = text_lines(reference)
    systems: dict[str, list[Sequence[str]]] = {}
    settings: list[Mapping[str, Any] | None] = []
    sources: Sequence[str] = ()
    runs = [(name, path) for name, listed in paths.items() for path in listed]
    for name, path in tqdm(runs, "systems", unit="run", disable=None, leave=False):
        output = output_of(path, decoding)
        if references is None:
            references, origin = output.references, path
        check_belongs(path, output, references, origin, reference is not None)
        systems.setdefault(name, []).append(output.hypotheses)
        settings.append(output.settings)
        sources = sources or output.sources
    if not references:
        raise ValueError(f"{origin} has no sentence")
    filled = sum(bool(text.strip()) for text in references) / len(references)
    if filled < ENOUGH:
        raise ValueError(f"{origin}: {1 - filled:.0%} of its references are empty")
    shared = settings[0] if all(one == settings[0] for one in settings) else None
    return Outputs(systems, references, sources, shared)


def check_belongs(
    path: str, output: Output, references: Sequence[str] | None, origin: str, given: bool
) -> None:
    """Raises ValueError where the output is not one of these references, which --reference gave
    (`given`) or the output of `origin` holds.
    """
    if references is None or (not given and output.references is None):
        raise ValueError(f"{path} has no references in it; give them with --reference FILE")
    if not given and list(references) != list(output.references or ()):
        other = "were decoded from different data; decode both with one --data and --split"
        raise ValueError(f"{path} and {origin} {other}")
    if len(output.hypotheses) != len(references):
        lengths = f"{len(output.hypotheses)} hypotheses for the {len(references)} references"
        raise ValueError(f"{path} has {lengths} of {origin}")


# ---- scores ----


def compare(
    systems: Systems, references: Sequence[str], baseline: str | None, tokenize: str = "13a"
) -> dict[str, Any]:
    """Scores of every run, mean and sample standard deviation over seeds, and differences from the
    baseline with their p.

    The result is plain data, as it goes into the JSON file; `test` says how p was obtained.
    """
    result: dict[str, Any] = {
        "baseline": baseline,
        "sentences": len(references),
        "signature": bleu_signature(tokenize),
    }
    scored: dict[str, dict[str, Any]] = {
        name: {"runs": len(runs), "scores": {}} for name, runs in systems.items()
    }
    result |= {"systems": scored, "references": {}, "usable": usable(systems, references, tokenize)}
    result |= {"test": TEST} if baseline is not None else {}
    for key, measure in measures(tokenize).items():
        counts = {
            name: [measure.counts(run, references) for run in runs]
            for name, runs in systems.items()
        }
        for name, runs in counts.items():
            values = [float(measure.score(run.sum(0))) for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else None
            scored[name]["scores"][key] = {
                "values": values,
                "mean": statistics.fmean(values),
                "std": spread,
            }
        if not measure.tested:
            result["references"][key] = float(
                measure.score(measure.counts(references, references).sum(0))
            )
        elif baseline is not None:
            pooled = {name: np.sum(runs, 0) for name, runs in counts.items()}
            found = p_values(measure, pooled.pop(baseline), pooled)
            for name, p in found.items():
                ours, theirs = scored[name]["scores"][key], scored[baseline]["scores"][key]
                ours |= {"difference": ours["mean"] - theirs["mean"], "p": p}
    return result


def usable(systems: Systems, references: Sequence[str], tokenize: str) -> dict[str, Any]:
    """What share of the references BLEU and ROUGE can use, the tokeniser that would do, and the
    share of outputs in words.
    """
    found = Coverage.of(references, tokeniser(tokenize))
    shares: dict[str, Any] = {
        "tokenize": tokenize,
        "better": found.tokeniser,
        "bleu": found.bleu,
        "rouge": found.rouge,
    }
    in_words = [Coverage.of(run).words for runs in systems.values() for run in runs]
    unknown = sum(text.count(UNKNOWN) for text in references)
    known = 1 - unknown / max(1, sum(len(text.split()) for text in references))
    return shares | {"words": min([found.words, *in_words]), "known": known}


# ---- sentences ----


def examples(outputs: Outputs, baseline: str | None, count: int) -> list[dict[str, Any]]:
    """`count` sentences of middle length with the output of every system's first run.

    Without a baseline they are spread over the data; else half is of the tenth of them where the
    last system gains most on it by chrF, and half of the tenth where it loses most.
    """
    references = outputs.references
    middling = [n for n, text in enumerate(references) if 6 <= len(text.split()) <= 14]
    middling = middling or list(range(len(references)))
    system = compared([*outputs.systems], baseline)
    if system is None or baseline is None:
        return [example(outputs, n) for n in spread(middling, count)]
    ours, theirs = (chrf(outputs, name, middling) for name in (system, baseline))
    gain = {n: ours[n] - theirs[n] for n in middling}
    worst_first = sorted(middling, key=gain.__getitem__)
    tenth = max(1, len(middling) // 10)
    gains = [n for n in reversed(worst_first) if gain[n] > 0][:tenth]
    losses = [n for n in worst_first if gain[n] < 0][:tenth]
    return [
        *(example(outputs, n, f"{system} gains") for n in spread(gains, (count + 1) // 2)),
        *(example(outputs, n, f"{system} loses") for n in spread(losses, count // 2)),
    ]


def spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of them, evenly; all where they are fewer."""
    middles = ((2 * part + 1) * len(items) // (2 * count) for part in range(count if items else 0))
    return [items[middle] for middle in dict.fromkeys(middles)]


def chrf(outputs: Outputs, name: str, chosen: Sequence[int]) -> dict[int, float]:
    """Of each of these sentences by a system's first run."""
    measure, run = measures()["chrf"], outputs.systems[name][0]
    counts = measure.counts([run[n] for n in chosen], [outputs.references[n] for n in chosen])
    return {n: measure.score(sums) for n, sums in zip(chosen, counts, strict=True)}


def example(outputs: Outputs, number: int, kind: str = "") -> dict[str, Any]:
    """One sentence as it goes into the JSON file."""
    made = {
        name: {"text": runs[0][number], "chrf": chrf(outputs, name, [number])[number]}
        for name, runs in outputs.systems.items()
    }
    source = outputs.sources[number] if outputs.sources else ""
    shared = {"source": source, "reference": outputs.references[number]}
    return {"sentence": number, "kind": kind, **shared, "outputs": made}
