"""`python -m fairseq_erpo family`: the table of the family, one row's page, and the paper's Figures
1 and 2 from measurements.
"""

import inspect
import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.family.flags import FLAGS
from fairseq_erpo.files import atomic_write, write_text
from fairseq_erpo.tools.exploration import Reach, reaches
from fairseq_erpo.tools.family_markdown import markdown
from fairseq_erpo.verbs import Option, add_options, dashed

FORMATS = (".png", ".svg")
WIDE = 120  # columns: from here on the whole table has room
ONE = "python -m fairseq_erpo family ROW"
NARROW = f"What a row draws from, its page and flags: {ONE}, or {WIDE} columns"
POINT = f"Drawn from: λ = (model, reward, data). A row's page and flags: {ONE}"


OPTIONS: Mapping[str, Option] = {
    "--plot": ("FILE", str, "measure how far each row explores, and draw it (.png or .svg)"),
    "--markdown": ("FILE", str, "write presets, flags and all pages, as docs/rows.md has them"),
}


def family(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `family`: table, page or picture."""
    one = "show this row's whole page and flags, such as interp or erpo_interp"
    parser.add_argument("row", metavar="ROW", nargs="?", help=one)
    add_options(parser, OPTIONS)
    args = parser.parse_args(argv)
    if args.markdown:
        write_text(args.markdown, markdown(), "--markdown")
        return
    console = Console(highlight=False, emoji=False, markup=False)
    name = (args.row or "").removeprefix("erpo_")
    if name and name not in FAMILY:
        raise ValueError(f"the family has no row {args.row!r}, only {', '.join(FAMILY)}")
    if name and args.plot:
        raise ValueError("--plot draws the whole family; leave the row out")
    if args.plot and Path(args.plot).suffix.lower() not in FORMATS:
        raise ValueError(f"--plot {args.plot} must end in {' or '.join(FORMATS)}")
    if name:
        show_row(FAMILY[name], console)
        return
    rows = (
        tqdm(FAMILY.values(), "measuring", unit="row", disable=None, leave=False)
        if args.plot
        else ()
    )
    measured = {row.name: reaches(row) for row in rows}
    console.print(
        table(FAMILY, measured, console.width),
        "",
        summaries(FAMILY),
        "",
        POINT if console.width >= WIDE else NARROW,
        sep="\n",
    )
    if args.plot:
        from fairseq_erpo.tools import family_figure  # matplotlib takes a second to import

        figure = family_figure.exploration_figure(FAMILY, measured)
        with atomic_write(args.plot, "--plot") as part:
            family_figure.save(figure, part, Path(args.plot).suffix.lower().removeprefix("."))


def summary(row: Row) -> str:
    """The first sentence of the page: up to a full stop in front of a capital."""
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(row.page.split()), maxsplit=1)[0]


def table(family: Mapping[str, Row], measured: Mapping[str, Sequence[Reach]], width: int) -> Table:
    """One line per row, with how far it explores, if that was measured; a narrow one leaves out
    what each row's page has.
    """
    titles = ["criterion", "R", *([] if measured and width < WIDE else ["α", "β"])]
    titles += ["drawn from", "layout"] if width >= WIDE else []
    grid = Table(*titles, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in grid.columns:
        column.no_wrap, column.overflow = column.header not in ("drawn from", "layout"), "fold"
    if measured:
        titles += ["entropy, bits", "not y*"]
        grid.add_column("entropy, bits", justify="right")
        grid.add_column("not y*", justify="right")
    for row in family.values():
        cells = {"criterion": f"erpo_{row.name}", **dict(zip("Rαβ", row.point, strict=True))}
        cells |= {"drawn from": row.source, "layout": row.layout}
        far = measured.get(row.name, ())
        cells["entropy, bits"] = span([f"{reach.entropy:.1f}" for reach in far])
        cells["not y*"] = span([f"{reach.off_sequences:.0%}" for reach in far])
        grid.add_row(*(cells[title] for title in titles))
    return grid


def summaries(family: Mapping[str, Row]) -> Table:
    """One sentence per row."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for row in family.values():
        grid.add_row(f"erpo_{row.name}", summary(row))
    return grid


def span(values: Sequence[str]) -> str:
    """The first and the last of a row's moments, if they differ; nothing of nothing."""
    if not values:
        return ""
    return values[0] if values[0] == values[-1] else f"{values[0]} → {values[-1]}"


def show_row(row: Row, console: Console) -> None:
    """The whole page, the flags with their defaults, and what is fixed."""
    console.print(Text(f"erpo_{row.name}", "bold"))
    point = " · ".join(
        f"{letter} = {value}" for letter, value in zip("Rαβ", row.point, strict=True)
    )
    console.print(f"{point} · drawn from {row.source} · layout: {row.layout}\n")
    for paragraph in inspect.cleandoc(row.page).split("\n\n"):
        console.print(f"{' '.join(paragraph.split())}\n")
    grid = Table("flag", "default", "", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for flag in row.flags:
        grid.add_row(dashed(flag), row.default_text(flag), FLAGS[flag].help)
    console.print(grid)
    fixed = {dashed(name): value for name, value in row.defaults.items() if name not in row.flags}
    if fixed:
        console.print("\nFixed: " + ", ".join(f"{name} {value}" for name, value in fixed.items()))
