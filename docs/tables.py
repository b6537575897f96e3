"""The cells of the pages' tables that docs/results/*.json knows: `python docs/tables.py` writes
them anew.

Which table is which shows in its header, and which system a line is in its first cell; all other
cells stay as they are.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

# Before docs/gail, which is no package
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fairseq_erpo.files import read_json
from fairseq_erpo.scores import ROUGE, measures
from fairseq_erpo.tools.score_table import cell, stars

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("results", "choose"))]
TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
TITLES = {measure.title: key for key, measure in measures().items()}
NO_PENALTY = "no brevity penalty"
# README's columns: the task, and the measure that leads there
SHORT = {
    "BLEU (translation)": ("translation", "bleu"),
    "ROUGE-1 (summaries)": ("summarization", "rouge1"),
}
# A difference in running words: ROUGE-2 -.59\*
DIFFERENCE = re.compile(r"(?:(?P<label>ROUGE-[12L]) )?[+-]\d*\.\d\d(?:\\\*)*")
# Rows of the paper, as its ordering names them.
PHRASES = {
    "continued MLE": "mle",
    "self-critic": "self_critic",
    "RAML": "raml",
    "scheduled sampling": "scheduled_sampling",
    "MIXER": "mixer",
    "MIXER-alike": "mixer_alike",
}
Scores = Mapping[str, Any]


def results_file(name: str) -> Path:
    return ROOT / "docs" / "results" / f"{name}.json"


def results(name: str) -> dict[str, Scores]:
    """System -> measure -> values, mean, std, difference and p, of docs/results/`name`.json."""
    systems = read_json(results_file(name))["systems"]
    return {system: found["scores"] for system, found in systems.items()}


def run_of(label: str) -> tuple[str, str]:
    """What a line's first cell names: the file's suffix and the system in it."""
    if re.search(r"\brisk`", label):
        return "-risk", "interp_risk"
    (name, *_) = re.findall(r"`(\w+)", label)
    return "", "interp" if name == "corpus" else name


def scores_of(task: str, label: str, kind: str = "") -> Scores:
    """All scores of a line's system; `kind` is -greedy or nothing."""
    suffix, system = run_of(label)
    return results(f"{task}{suffix}{kind}")[system]


def escaped(text: str) -> str:
    return text.replace("*", "\\*")


def difference(score: Scores, sign: int = 1) -> str:
    """`+.57*`"""
    return f"{sign * score['difference']:+.2f}".replace("0.", ".", 1) + stars(score)


# ---- one kind of table after the other: (header, cells of a line) -> cells ----


def score_cell(task: str, label: str, title: str, old: str) -> str:
    """A cell of a table of scores.  What no file knows, such as minutes, stays."""
    scores = scores_of(task, label)
    lead = "rouge1" if task == "summarization" else "bleu"
    if title == "Δ":
        found = scores[lead]
        return f"{found['difference']:+.2f} (p = {found['p']:.3f})" if "p" in found else ""
    if title.startswith("seed "):
        values = scores[lead]["values"]
        return f"{values[int(title[5:]) - 1]:.2f}" if len(values) > 1 else ""
    if title == NO_PENALTY:
        pairs = zip(scores["bleu"]["values"], scores["length_ratio"]["values"], strict=True)
        return f"{fmean(bleu / math.exp(min(0, 1 - 1 / length)) for bleu, length in pairs):.2f}"
    if title == "by `rouge==0.2.1`":
        return "/".join(cell({**scores[f"{name}_021"], "std": None}, 2) for name in ROUGE)
    if title.startswith("greedy "):
        return cell(scores_of(task, label, "-greedy")[TITLES[title.removeprefix("greedy ")]], 2)
    key = TITLES.get(title)
    if key is None:
        return old
    found = scores[key]
    return cell(found if measures()[key].tested else {**found, "std": None}, measures()[key].digits)


def scored(header: Sequence[str], cells: Sequence[str]) -> list[str]:
    task = (
        "demo" if "seed 1" in header else "summarization" if "ROUGE-1" in header else "translation"
    )
    return [
        cells[0],
        *(
            escaped(score_cell(task, cells[0], *pair))
            for pair in zip(header[1:], cells[1:], strict=True)
        ),
    ]


def in_short(header: Sequence[str], cells: Sequence[str]) -> list[str]:
    """README's table: the leading score of each task, a dash where a row was not run."""
    return [cells[0], *(leading_score(title, cells[0]) for title in header[1:])]


def leading_score(title: str, label: str) -> str:
    task, key = SHORT[title]
    suffix, system = run_of(label)
    if not results_file(f"{task}{suffix}").is_file():
        return "-"
    return escaped(cell(results(f"{task}{suffix}")[system][key], 2))


def trials(task: str, label: str, cells: Sequence[str]) -> list[str]:
    """Scores on validation, trial by trial, the best in bold."""
    suffix, system = run_of(label)
    key = "rouge1" if task == "summarization" else "bleu"
    found = results(f"{task}{suffix}-trials")
    values = [found[f"{system}.{n}"][key]["mean"] for n, text in enumerate(cells, 1) if text]
    texts = [f"**{value:.2f}**" if value == max(values) else f"{value:.2f}" for value in values]
    return texts + [""] * (len(cells) - len(values))


def tried(header: Sequence[str], cells: Sequence[str]) -> list[str]:
    return [
        cells[0],
        *trials("summarization" if len(header) == 5 else "translation", cells[0], cells[1:]),
    ]


def compared(header: Sequence[str], cells: Sequence[str]) -> list[str]:
    """Differences from continued MLE, beam and greedy."""
    columns = {
        "translation, BLEU": [("translation", "", "bleu")],
        "summaries, ROUGE-1 by `rouge-score`": [("summarization", "", "rouge1")],
        "by `rouge==0.2.1`": [("summarization", "", "rouge1_021")],
        "greedy, BLEU; ROUGE-1": [
            ("translation", "-greedy", "bleu"),
            ("summarization", "-greedy", "rouge1"),
        ],
    }
    new = list(cells)
    for n, title in enumerate(header):
        if title in columns:
            parts = zip(cells[n].split("; ", len(columns[title]) - 1), columns[title], strict=True)
            new[n] = "; ".join(compared_to_mle(text, cells[0], *column) for text, column in parts)
    return new


def compared_to_mle(text: str, label: str, task: str, kind: str, key: str) -> str:
    # "not read"
    return differences(text, key, scores_of(task, label, kind)) if DIFFERENCE.search(text) else text


def differences(text: str, key: str, scores: Scores, sign: int = 1) -> str:
    """Words with each difference in them as it is, of the measure named before it or of `key`."""

    def found(match: re.Match[str]) -> str:
        label = match["label"]
        name = (
            TITLES[label] + key.removeprefix("rouge1")
            if label and key != "bleu"
            else TITLES.get(label, key)
        )
        return (f"{label} " if label else "") + escaped(difference(scores[name], sign))

    return DIFFERENCE.sub(found, text)


def ordered(header: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The interpolation minus another row."""
    system = PHRASES.get(re.sub(r"^it beats | \(.*", "", cells[0]))
    if system is None:
        return list(cells)
    translated, summarized = (
        results(f"{task}-against-interp")[system] for task in ("translation", "summarization")
    )
    columns = [("bleu", translated), ("rouge1", summarized), ("rouge1_021", summarized)]
    return [
        cells[0],
        *(differences(text, *column, -1) for text, column in zip(cells[1:], columns, strict=True)),
    ]


def by_preset(lines: Sequence[list[str]]) -> list[list[str]]:
    """Trials of both tasks in one table; a line that names a larger rate begins a task."""
    task, new = "", []
    for cells in lines:
        task = (
            "translation"
            if "BLEU" in cells[0]
            else "summarization"
            if "ROUGE-1" in cells[0]
            else task
        )
        new.append([cells[0], *trials(task, cells[0].rpartition(": ")[2], cells[1:])])
    return new


def table(text: str) -> str:
    """One table, its cells made anew."""
    head, rule, *lines = (
        [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()
    )
    kind: Callable[..., list[str]] | None = None
    if "larger rate" in head:
        lines = by_preset(lines)
    elif head[0] == "the paper":
        kind = ordered
    elif "time, MLE = 1" in head:
        kind = compared
    elif set(head[1:]) == SHORT.keys():
        kind = in_short
    elif head[0] == "row":
        kind = tried if head[1].startswith("`--lr") else scored
    if kind:
        lines = [kind(head, cells) for cells in lines]
    return "".join(
        "|" + "".join(f" {part} |" if part else " |" for part in cells) + "\n"
        for cells in [head, rule, *lines]
    )


def made_anew(text: str) -> str:
    """A page, its tables made anew."""
    return TABLE.sub(lambda match: table(match[0]), text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(made_anew(page.read_text("utf-8")), "utf-8")
