"""A table of drawn sequences: the source, y*, y with who drew each token, and its reward.

It is printed, and appended to completions.jsonl in the run's folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairseq_erpo.algorithm.batch import Expert
from fairseq_erpo.huggingface.engine import Record

FILE = "completions.jsonl"
MOST = 8  # rows of the table
COLOURS = {Expert.MODEL: "blue", Expert.REWARD: "green", Expert.DATA: "bright_black"}


class Completion(NamedTuple):
    """One drawn sequence."""

    source: str
    reference: str
    tokens: Sequence[str]
    drawn_by: Sequence[str]
    reward: float


def completions(record: Record, tokenizer: Any) -> list[Completion]:
    """The first sample of each of the first sources."""
    sample, sources, target = record.drawn.explored, record.sources, record.target
    each = len(sample.tokens) // len(target)
    found = []
    for number in range(min(MOST, len(target))):
        row = number * each
        real = sample.origin[row].ne(Expert.NONE)
        found.append(
            Completion(
                source=tokenizer.decode(sources[number], skip_special_tokens=True),
                reference=tokenizer.decode(target[number], skip_special_tokens=True),
                tokens=tokenizer.convert_ids_to_tokens(sample.tokens[row][real].tolist()),
                drawn_by=[Expert(z).name.lower() for z in sample.origin[row][real].tolist()],
                reward=float(sample.reward[row]),
            )
        )
    return found


def write(found: Sequence[Completion], folder: str, update: int) -> None:
    """Append them to the run's file."""
    with (Path(folder) / FILE).open("a", encoding="utf-8") as file:
        for one in found:
            file.write(json.dumps({"step": update, **one._asdict()}, ensure_ascii=False) + "\n")


def show(found: Sequence[Completion], update: int) -> None:
    """Print them."""
    names = ", ".join(f"[{colour}]{z.name.lower()}[/]" for z, colour in COLOURS.items())
    table = Table(title=f"update {update}; drawn by {names}", show_lines=True)
    for name in ("source", "y*", "y", "reward"):
        table.add_column(name)
    for one in found:
        pairs = zip(one.tokens, one.drawn_by, strict=True)
        coloured = [
            f"[{COLOURS.get(Expert[z.upper()], 'red')}]{escape(token)}[/]" for token, z in pairs
        ]
        shown = (escape(one.source), escape(one.reference), " ".join(coloured))
        table.add_row(*shown, f"{one.reward:.3f}")
    Console().print(table)
