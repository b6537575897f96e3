"""`python -m fairseq_erpo family`: the table of the family, one row's page, and the paper's Figures 1 and 2 from measurements."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairseq_erpo.exploration import Reach, reaches
from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.files import whole
from fairseq_erpo.settings import FLAGS, PRESETS

FORMATS = (".png", ".svg")
POINT = "Drawn from: λ = (model, task, delta). A row's page and flags: python -m fairseq_erpo family ROW"


def family(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `family`: table, page or picture."""
    parser.add_argument(
        "row", metavar="ROW", nargs="?", help="show this row's whole page and flags, such as interp or erpo_interp"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="measure how far each row explores on a toy task, and draw it (.png or .svg)"
    )
    args = parser.parse_args(argv)
    console = Console(highlight=False, emoji=False, markup=False)
    name = (args.row or "").removeprefix("erpo_")
    if name and name not in FAMILY:
        raise SystemExit(f"erpo: the family has no row {args.row!r}, only {', '.join(FAMILY)}")
    if name and args.plot:
        raise SystemExit("erpo: --plot draws the whole family; leave the row out")
    if args.plot and Path(args.plot).suffix.lower() not in FORMATS:
        raise SystemExit(f"erpo: --plot {args.plot} must end in {' or '.join(FORMATS)}")
    if name:
        show_row(FAMILY[name], console)
        return
    measured = {row.name: reaches(row) for row in FAMILY.values()} if args.plot else {}
    console.print(table(FAMILY, measured), "", summaries(FAMILY), "", POINT, sep="\n")
    if args.plot:
        from fairseq_erpo import pictures  # matplotlib takes a second to import

        with whole("--plot", args.plot) as part:
            pictures.save(pictures.exploration_figure(FAMILY, measured), part, Path(args.plot).suffix.lower().removeprefix("."))


def summary(row: Row) -> str:
    """The first sentence of the page: up to a full stop in front of a capital."""
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(row.page.split()), maxsplit=1)[0]


def table(family: Mapping[str, Row], measured: Mapping[str, Sequence[Reach]]) -> Table:
    """One line a row; with how far each explores, if that was measured."""
    grid = Table("criterion", "R", "α", "β", "drawn from", "layout", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.columns[0].no_wrap = True
    for column in grid.columns[1:]:
        column.overflow = "fold"
    if measured:
        grid.add_column("entropy, bits", justify="right")
        grid.add_column("not y*", justify="right")
    for row in family.values():
        cells = [f"erpo_{row.name}", row.reward, row.alpha, row.beta, row.point, row.layout]
        if measured:
            far = measured[row.name]
            cells += [span([f"{reach.entropy:.1f}" for reach in far]), span([f"{reach.off_sequences:.0%}" for reach in far])]
        grid.add_row(*cells)
    return grid


def summaries(family: Mapping[str, Row]) -> Table:
    """What each row is, in a sentence."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for row in family.values():
        grid.add_row(f"erpo_{row.name}", summary(row))
    return grid


def span(values: Sequence[str]) -> str:
    """The first and the last of a row's moments, if they differ."""
    return values[0] if values[0] == values[-1] else f"{values[0]} → {values[-1]}"


def show_row(row: Row, console: Console) -> None:
    """The whole page, the flags with their defaults, and what is fixed."""
    console.print(Text(f"erpo_{row.name}", "bold"))
    console.print(f"R = {row.reward} · α = {row.alpha} · β = {row.beta} · drawn from {row.point} · layout: {row.layout}\n")
    console.print(f"{inspect.cleandoc(row.page)}\n", soft_wrap=True)
    grid = Table("flag", "default", "", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for flag in row.flags:
        grid.add_row(dashed(flag), default(row, flag), FLAGS[flag].help)
    console.print(grid)
    fixed = {dashed(name): value for name, value in row.defaults.items() if name not in row.flags}
    if fixed:
        console.print("\nFixed: " + ", ".join(f"{name} {value}" for name, value in fixed.items()))


def default(row: Row, flag: str) -> str:
    value = row.defaults.get(flag, FLAGS[flag].default)
    if value is None:
        return "the preset's" if flag in PRESETS["paper"] else "-"
    return str(value)


def dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
