"""`python -m fairseq_erpo evaluate`: systems, each of one or several seeds, decoded, scored and
compared with a baseline.
"""

import math
import statistics
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from tabulate import tabulate
from tqdm import tqdm

from fairseq_erpo.coverage import ENOUGH, NEARLY_ALL, Coverage
from fairseq_erpo.files import reason_of, text_lines, write_json
from fairseq_erpo.scores import ROUGE, TEST, bleu_signature, measures, p_values, tokeniser
from fairseq_erpo.tools.generate import Decoding, output_of

COLUMNS = ("bleu", "rouge1", "rouge2", "rougeL", "length_ratio", "repetition")
STARS = ((0.01, "**"), (0.05, "*"))
# Points: a smaller difference is nobody's gain, however sure; near a score of 0 any is
# "significant"
LEAST = 0.1
HIGH_CHRF = 50
UNKNOWN = "<<unk>>"  # in fairseq-generate's references
Systems = Mapping[str, Sequence[Sequence[str]]]  # name -> for each seed its hypotheses


def evaluate(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `evaluate`."""
    parser.add_argument(
        "systems",
        metavar="NAME=PATH[,PATH...]",
        nargs="+",
        help="a system and its runs, one for each seed: folders with a checkpoint_best.pt, checkpoints, outputs of "
        "fairseq-generate, or texts of one hypothesis a line; NAME= may be left out",
    )
    parser.add_argument("--baseline", metavar="NAME", help="compare all others with this system")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of fairseq-preprocess (default: the one trained on)"
    )
    parser.add_argument("--split", default="test", help="train, valid or test (default: test)")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="references, one a line (default: the data's, whose unknown words are lost)",
    )
    parser.add_argument(
        "--beam", type=int, default=5, metavar="N", help="width of the beam (default: 5)"
    )
    parser.add_argument(
        "--lenpen",
        type=float,
        default=0.6,
        metavar="X",
        help="divide log p by length^X (default: .6)",
    )
    parser.add_argument(
        "--remove-bpe",
        metavar="KIND",
        help="sentencepiece, or a mark such as '@@ ' (default: as validated)",
    )
    parser.add_argument(
        "--tokenize",
        default="13a",
        metavar="NAME",
        help="sacreBLEU's tokeniser; none for tokenised text",
    )
    parser.add_argument(
        "--columns",
        default=",".join(COLUMNS),
        help=f"of {', '.join(measures())} (default: %(default)s)",
    )
    parser.add_argument("--user-dir", metavar="DIR", help="plugin with the runs' own models")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--json", metavar="FILE", help="write all scores as well")
    parser.add_argument(
        "--examples",
        type=int,
        default=0,
        metavar="N",
        help="print N sentences with each system's output",
    )
    args = parser.parse_args(argv)
    columns = args.columns.split(",")
    _refuse(args, columns)
    decoding = Decoding(
        args.data, args.split, args.beam, args.lenpen, args.remove_bpe, args.user_dir
    )
    paths = parse_systems(args.systems, args.baseline)
    systems, references, settings = collect(paths, decoding, args.reference)
    result = compare(systems, references, args.baseline, args.tokenize)
    result["paths"], result["columns"] = paths, columns
    result |= {"decoding": settings} if settings else {}
    print(table(result, columns, "github" if args.markdown else "simple"))
    if args.examples:
        print(f"\n{examples(systems, references, args.examples)}")
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
            raise ValueError(
                f"two systems are called {name!r}; seeds of one system go into one word, {name}=PATH,PATH"
            )
        check_distinct(listed, word)
        paths[name] = listed
    if baseline is not None and baseline not in paths:
        raise ValueError(
            f"--baseline {baseline} is not among the systems, which are {', '.join(paths)}"
        )
    return paths


def collect(
    paths: Mapping[str, Sequence[str]], decoding: Decoding, reference: str | None
) -> tuple[Systems, Sequence[str], Mapping[str, Any] | None]:
    """All hypotheses, the references that they share, and how they were decoded, if that is known
    and the same for all.

    Raises ValueError where they do not belong together.
    """
    references: Sequence[str] | None = None
    origin = "--reference"
    if reference is not None:
        if not Path(reference).is_file():
            raise ValueError(f"--reference: there is no file {reference}")
        references = text_lines(reference)
    systems: dict[str, list[Sequence[str]]] = {}
    settings = []
    runs = [(name, path) for name, listed in paths.items() for path in listed]
    for name, path in tqdm(runs, "systems", unit="run", disable=None, leave=False):
        output = output_of(path, decoding)
        if reference is None and output.references is None:
            raise ValueError(f"{path} has no references in it; give them with --reference FILE")
        if references is None:
            references, origin = output.references, path
        elif reference is None and list(references) != list(output.references or ()):
            raise ValueError(
                f"{path} and {origin} were decoded from different data; decode both with one --data and --split"
            )
        if len(output.hypotheses) != len(references or ()):
            raise ValueError(
                f"{path} has {len(output.hypotheses)} hypotheses for the {len(references or ())} references of {origin}"
            )
        systems.setdefault(name, []).append(output.hypotheses)
        settings.append(output.settings)
    if not references:
        raise ValueError(f"{origin} has no sentence")
    filled = sum(map(bool, map(str.strip, references))) / len(references)
    if filled < ENOUGH:
        raise ValueError(f"{origin}: {1 - filled:.0%} of its references are empty")
    return systems, references, settings[0] if all(one == settings[0] for one in settings) else None


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


def examples(systems: Systems, references: Sequence[str], count: int) -> str:
    """`count` references of middle length, spread evenly over the data, each with the output of
    every system's first run.
    """
    middling = [n for n, text in enumerate(references) if 6 <= len(text.split()) <= 14] or list(
        range(len(references))
    )
    chosen = middling[:: max(1, len(middling) // count)][:count]
    width = max(map(len, ("reference", *systems)))
    return "\n\n".join(
        "\n".join(
            f"  {name:{width}}  {text}"
            for name, text in [
                ("reference", references[n]),
                *((name, runs[0][n]) for name, runs in systems.items()),
            ]
        )
        for n in chosen
    )


# ---- the table ----


def rows(result: Mapping[str, Any], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the table.  The first tested column also has its difference from the
    baseline.
    """
    known = measures()
    lead = next((key for key in columns if known[key].tested), None) if result["baseline"] else None
    titles = ["system", *(known[key].title for key in columns)]
    titles += [f"Δ {known[lead].title}", "p"] if lead else []
    lines = []
    for name, system in result["systems"].items():
        cells = [cell(system["scores"][key], known[key].digits) for key in columns]
        if lead:
            score = system["scores"][lead]
            compared = "p" in score
            cells += [f"{score['difference']:+.2f}", f"{score['p']:.3f}"] if compared else ["", ""]
        lines.append([name, *cells])
    return titles, lines


def cell(score: Mapping[str, Any], digits: int) -> str:
    """`12.34 ± 0.12*`: mean, standard deviation if there are several seeds, and stars."""
    text = f"{score['mean']:.{digits}f}"
    if score["std"] is not None:
        text += f" ± {score['std']:.{digits}f}"
    return text + stars(score)


def stars(score: Mapping[str, Any]) -> str:
    """How sure a difference is, if it is one."""
    if abs(score.get("difference", 0)) < LEAST:
        return ""
    return next((star for limit, star in STARS if score["p"] < limit), "")


def legend(result: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The lines below a table of these columns: what its numbers are."""
    seeds = sorted({system["runs"] for system in result["systems"].values()})
    lines = [f"sacreBLEU {result['signature']}, {result['sentences']} sentences"]
    if "decoding" in result:
        known = result["decoding"]
        penalty = (
            f", length penalty {known['lenpen']:g} (fairseq's: log p / length^x)"
            if "lenpen" in known
            else ""
        )
        lines.append(f"{known['split']}, beam {known['beam']}{penalty}")
    if seeds != [1]:
        lines.append(f"mean ± standard deviation over {' or '.join(map(str, seeds))} seeds")
    if result["baseline"]:
        lines.append(f"against {result['baseline']}, {result['test']}: * p < .05, ** p < .01,")
        lines.append(f"no star for a difference below {LEAST:g}")
    if "repetition" in columns:
        natural = result["references"]["repetition"]
        lines.append(
            f"repeats: share of bigrams already seen in that output, in percent (references {natural:.2f})"
        )
    return [*lines, *hints(result, columns)]


def hints(result: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    """A line for each score that does not see all of the text, with the flag that helps."""
    if "usable" not in result:
        return
    share = result["usable"]
    titles = ", ".join(measures()[key].title for key in columns if key in ROUGE)
    if titles and share["rouge"] < NEARLY_ALL:
        verdict = f"{titles} say nothing here, use" if share["rouge"] < ENOUGH else "compare also"
        kept = f"{share['rouge']:.1%} of the references' letters and digits"
        yield f"rouge-score counts a-z and 0-9 only, {kept}: {verdict} BLEU or chrF"
    if share["known"] < NEARLY_ALL:
        yield f"{1 - share['known']:.0%} of the references' words are not in the dictionary, and match nothing: give --reference"
    if share["words"] < NEARLY_ALL:
        yield f"{1 - share['words']:.0%} of the texts are in subword pieces: decode with --remove-bpe sentencepiece, or '@@ '"
    if share["bleu"] < NEARLY_ALL:
        better = "char" if share["better"] == "char" else f"{share['better']} or char"
        yield (
            f"{1 - share['bleu']:.0%} of the references are one word to --tokenize {share['tokenize']}, since their script has "
            f"no blanks: a nearly right output has 0 BLEU; use --tokenize {better}"
        )
    elif share["words"] >= NEARLY_ALL and any(
        letters_agree(system["scores"]) for system in result["systems"].values()
    ):
        yield "BLEU is near 0 where chrF is high: outputs and references differ in how words are divided; try --tokenize char"


def letters_agree(scores: Mapping[str, Any]) -> bool:
    """Whether outputs are right by their letters and wrong by their words."""
    bleu, chrf = (scores[name]["mean"] for name in ("bleu", "chrf"))
    return chrf >= HIGH_CHRF and bleu < chrf / 10


def table(result: Mapping[str, Any], columns: Sequence[str], style: str = "simple") -> str:
    """As text; `style` is one of tabulate's."""
    titles, lines = rows(result, columns)
    align = ["left", *["right"] * (len(titles) - 1)]
    text = tabulate(lines, titles, tablefmt=style, colalign=align, disable_numparse=True)
    return "\n".join([text, "", *legend(result, columns)])
