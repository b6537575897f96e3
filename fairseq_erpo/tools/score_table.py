"""What is printed of the scores of `evaluate`, and shown in a report: the table, the lines that say
what its numbers are, a verdict, and sentences.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from fairseq_erpo.coverage import ENOUGH, NEARLY_ALL
from fairseq_erpo.scores import ROUGE, measures

Result = Mapping[str, Any]  # of `evaluate.compare`, as --json writes it

STARS = ((0.01, "**"), (0.05, "*"))
# Points: a smaller difference is nobody's gain, however sure; near a score of 0 any is
# "significant"
LEAST = 0.1
HIGH_CHRF = 50
SURE = ((0.01, "beyond noise"), (0.05, "probably beyond noise"), (0.1, "at the edge of noise"))


def lead_of(result: Result, columns: Sequence[str]) -> str | None:
    """The first column that is a quality; None where no system is compared with another."""
    known = measures()
    tested = [key for key in columns if known[key].tested]
    return tested[0] if tested and result["baseline"] else None


def compared(systems: Sequence[str], baseline: str | None) -> str | None:
    """The system that verdict and sentences are about: the last one beside the baseline."""
    others = [name for name in systems if name != baseline]
    return others[-1] if others and baseline else None


# ---- the table ----


def rows(result: Result, columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the table.  The first tested column also has its difference from the
    baseline, and the first of all the score by greedy search if that is known.
    """
    known = measures()
    lead = lead_of(result, columns)
    titles = ["system", *(known[key].title for key in columns)]
    titles += [f"Δ {known[lead].title}", "p"] if lead else []
    titles += [f"greedy {known[columns[0]].title}"] if "greedy" in result else []
    lines = []
    for name, system in result["systems"].items():
        cells = [cell(system["scores"][key], known[key].digits) for key in columns]
        cells += difference_cells(system["scores"][lead]) if lead else []
        if "greedy" in result:
            greedy = result["greedy"]["systems"][name]["scores"][columns[0]]
            cells.append(cell(greedy, known[columns[0]].digits))
        lines.append([name, *cells])
    return titles, lines


def difference_cells(score: Mapping[str, Any]) -> list[str]:
    """Difference from the baseline and p; of the baseline itself nothing."""
    return [f"{score['difference']:+.2f}", f"{score['p']:.3f}"] if "p" in score else ["", ""]


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


def table(result: Result, columns: Sequence[str], style: str = "simple") -> str:
    """As text; `style` is one of tabulate's."""
    titles, lines = rows(result, columns)
    align = ["left", *["right"] * (len(titles) - 1)]
    text = tabulate(lines, titles, tablefmt=style, colalign=align, disable_numparse=True)
    return "\n".join([text, "", *legend(result, columns)])


# ---- what its numbers are ----


def legend(result: Result, columns: Sequence[str]) -> list[str]:
    """The lines below a table of these columns: what its numbers are."""
    seeds = sorted({system["runs"] for system in result["systems"].values()})
    lines = [f"sacreBLEU {result['signature']}, {result['sentences']} sentences"]
    if known := result.get("decoding"):
        penalty = ""
        if "lenpen" in known:
            penalty = f", length penalty {known['lenpen']:g} (fairseq's: log p / length^x)"
        lines.append(f"{known['split']}, beam {known['beam']}{penalty}")
    if seeds != [1]:
        lines.append(f"mean ± standard deviation over {' or '.join(map(str, seeds))} seeds")
    if result["baseline"]:
        lines.append(f"against {result['baseline']}, {result['test']}: * p < .05, ** p < .01,")
        lines.append(f"no star for a difference below {LEAST:g}")
    if "repetition" in columns:
        natural = f"(references {result['references']['repetition']:.2f})"
        lines.append(f"repeats: share of bigrams already seen in that output, in percent {natural}")
    return [*lines, *hints(result, columns)]


def hints(result: Result, columns: Sequence[str]) -> Iterator[str]:
    """A line for each score that does not see all of the text, with the flag that helps."""
    if "usable" not in result:
        return
    share = result["usable"]
    lost = {name: f"{1 - share[name]:.0%} of the" for name in ("known", "words", "bleu")}
    titles = ", ".join(measures()[key].title for key in columns if key in ROUGE)
    if titles and share["rouge"] < NEARLY_ALL:
        advice = f"{titles} say nothing here, use" if share["rouge"] < ENOUGH else "compare also"
        kept = f"{share['rouge']:.1%} of the references' letters and digits"
        yield f"rouge-score counts a-z and 0-9 only, {kept}: {advice} BLEU or chrF"
    if share["known"] < NEARLY_ALL:
        why = "are not in the dictionary, and match nothing: give --reference"
        yield f"{lost['known']} references' words {why}"
    if share["words"] < NEARLY_ALL:
        fix = "decode with --remove-bpe sentencepiece, or '@@ '"
        yield f"{lost['words']} texts are in subword pieces: {fix}"
    if share["bleu"] < NEARLY_ALL:
        better = "char" if share["better"] == "char" else f"{share['better']} or char"
        why = "since their script has no blanks: a nearly right output has 0 BLEU"
        unseen = f"{lost['bleu']} references are one word to --tokenize {share['tokenize']}"
        yield f"{unseen}, {why}; use --tokenize {better}"
    elif share["words"] >= NEARLY_ALL and letters_agree(result):
        why = "outputs and references differ in how words are divided"
        yield f"BLEU is near 0 where chrF is high: {why}; try --tokenize char"


def letters_agree(result: Result) -> bool:
    """Whether outputs of a system are right by their letters and wrong by their words."""
    for system in result["systems"].values():
        bleu, chrf = (system["scores"][name]["mean"] for name in ("bleu", "chrf"))
        if chrf >= HIGH_CHRF and bleu < chrf / 10:
            return True
    return False


# ---- in words ----


def verdict(result: Result, columns: Sequence[str]) -> str:
    """How the last system compares with the baseline by the first tested column, with a beam and by
    greedy search; nothing where there is nothing to compare.
    """
    lead, name = lead_of(result, columns), compared([*result["systems"]], result["baseline"])
    if lead is None or name is None:
        return ""
    title, baseline = measures()[lead].title, result["baseline"]
    found = [result["systems"][name]["scores"][lead]]
    text = f"{name} is {standing(found[0], title, baseline)}"
    if "decoding" in result:
        text = f"With beam {result['decoding']['beam']}, {text}"
    if "greedy" in result:
        found.append(result["greedy"]["systems"][name]["scores"][lead])
        text += f"; by greedy search it is {standing(found[1], title, baseline)}"
    sentences = [f"{text}.", consequence(found, title)]
    if result["systems"][name]["runs"] == 1:
        sentences.append("This is one seed; another one moves these numbers.")
    return " ".join(filter(None, sentences))


def standing(score: Mapping[str, Any], title: str, baseline: str) -> str:
    """`0.70 BLEU above mle (at the edge of noise)`, or `level with mle`."""
    difference = score["difference"]
    if abs(difference) < LEAST:
        return f"level with {baseline}"
    where = "above" if difference > 0 else "below"
    sure = next((words for limit, words in SURE if score["p"] < limit), "within noise")
    return f"{abs(difference):.2f} {title} {where} {baseline} ({sure})"


def consequence(found: Sequence[Mapping[str, Any]], title: str) -> str:
    """What to make of one difference, or of two by different searches."""
    if not any(map(stars, found)):
        return f"No difference in {title} is beyond noise."
    signs = {score["difference"] > 0 for score in found if abs(score["difference"]) >= LEAST}
    return "Go by the search that you will use." if len(signs) > 1 else ""


def example_text(example: Mapping[str, Any]) -> str:
    """A sentence with every system's output, and the chrF of each."""
    outputs = example["outputs"]
    width = max(map(len, ("reference", *outputs)))
    kind = f", {example['kind']}" if example["kind"] else ""
    lines = [f"sentence {example['sentence']}{kind}"]
    for side in ("source", "reference"):
        if example[side]:
            lines.append(f"  {side:{width}}        {example[side]}")
    for name, output in outputs.items():
        lines.append(f"  {name:{width}} {output['chrf']:6.1f} {output['text']}")
    return "\n".join(lines)
