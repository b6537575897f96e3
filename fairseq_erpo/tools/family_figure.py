"""The paper's Figures 1 and 2 drawn from measurements: rows from restricted to broad exploration."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fairseq_erpo.family import Row
from fairseq_erpo.tools.exploration import Reach

INK, QUIET, GRID = "#1c2024", "#5c656e", "#d8dde2"
# Okabe and Ito 2008: apart for colour-blind eyes; the shapes differ too.
FIXED, MOVING = "#0072B2", "#D55E00"
# Inches: the figure, a row, and what lies above and below the panels
WIDTH, ROW, ABOVE, BELOW = 16.0, 0.62, 1.0, 1.3
PANELS = ((0.40, 0.29), (0.705, 0.28))  # left edge and width, of the figure
COLUMNS = {"criterion": 0.012, "R": 0.152, "α": 0.262, "β": 0.330}  # left edges, of the figure
APART = 0.065  # of the axis: labels closer than this would overlap
NOTE = (
    "Labels: a schedule's λ_data; MIXER's step k; SPG's α. The large square is where a row ends; its entropy orders the rows.\n"
    "Measured on the engine's own draws: four words, y* of three tokens, a model that gives each right token p = .47; "
    "--erpo-preset paper."
)


def exploration_figure(
    family: Mapping[str, Row], measured: Mapping[str, Sequence[Reach]]
) -> Figure:
    """Each row at the entropy of its draws, and beside it at the share of them that are not the
    data.
    """
    # A stable sort: ties stay in the table's order
    order = sorted(family, key=lambda name: measured[name][-1].entropy)
    high = ABOVE + ROW * len(order) + BELOW
    figure = Figure(figsize=(WIDTH, high), facecolor="white")
    entropy, share = (
        figure.add_axes((left, BELOW / high, width, ROW * len(order) / high))
        for left, width in PANELS
    )
    _panel(entropy, {name: [reach.entropy for reach in measured[name]] for name in order}, measured)
    _panel(
        share, {name: [reach.off_sequences for reach in measured[name]] for name in order}, measured
    )
    entropy.set_xlabel(
        "entropy of the drawn sequences, bits (Miller-Madow)", color=INK, fontsize=11
    )
    share.set_xlabel("drawn sequences that are not y*", color=INK, fontsize=11)
    share.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    for y, name in enumerate(order):
        share.plot([measured[name][-1].off_tokens], [y], "|", color=INK, ms=11, mew=1.6, zorder=4)
        _line(figure, (BELOW + ROW * (len(order) - 0.5 - y)) / high, family[name])
    _heading(figure, entropy, 1 - 0.72 / high)
    marks = [
        Line2D([], [], color=FIXED, marker="o", ls="", ms=9, label="anneals nothing"),
        Line2D(
            [],
            [],
            color=MOVING,
            marker="s",
            mec=MOVING,
            ls="-",
            ms=9,
            label="the steps of a schedule, or α",
        ),
        Line2D(
            [],
            [],
            color=INK,
            marker="|",
            ls="",
            ms=11,
            mew=1.6,
            label="tokens that are not y*_t, where the row ends",
        ),
    ]
    figure.legend(
        handles=marks,
        loc="lower right",
        bbox_to_anchor=(0.99, 0.06 / high),
        frameon=False,
        fontsize=10,
    )
    figure.text(0.012, 0.2 / high, NOTE, color=QUIET, fontsize=10, va="bottom", linespacing=1.5)
    return figure


def save(figure: Figure, file: Path, kind: str) -> None:
    """As png or svg, the same file each time."""
    with rc_context({"svg.hashsalt": "fairseq_erpo"}):
        figure.savefig(
            file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None
        )


def _heading(figure: Figure, entropy: Axes, y: float) -> None:
    """The columns' titles, and the arrow of Figure 1."""
    for title, x in COLUMNS.items():
        figure.text(x, y, title, va="center", color=QUIET, fontsize=10.5)
    (left, wide), _ = PANELS
    figure.text(left, y, "restricted exploration", va="center", color=QUIET, fontsize=11)
    figure.text(
        left + wide, y, "broader exploration", va="center", ha="right", color=QUIET, fontsize=11
    )
    entropy.annotate(
        "",
        xy=(left + wide - 0.105, y),
        xytext=(left + 0.115, y),
        xycoords="figure fraction",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": QUIET, "lw": 1.4},
    )


def _line(figure: Figure, y: float, row: Row) -> None:
    """The row's text."""
    texts = (f"erpo_{row.name}", *row.point)
    for text, (title, x) in zip(texts, COLUMNS.items(), strict=True):
        weight = "bold" if title == "criterion" else "normal"
        figure.text(
            x, y, text, va="center", color=INK, fontsize=10.5, weight=weight, parse_math=False
        )


def _panel(
    axes: Axes, values: Mapping[str, Sequence[float]], measured: Mapping[str, Sequence[Reach]]
) -> None:
    """A line for each row, the first on top."""
    widest = max(max(row) for row in values.values()) or 1.0
    axes.set_xlim(-0.035 * widest, 1.06 * widest)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=QUIET, labelsize=10)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    for y, (name, row) in enumerate(values.items()):
        axes.axhline(y + 0.5, color=GRID, lw=0.6)
        if len(row) == 1:
            axes.plot(row, [y], "o", color=FIXED, ms=10, zorder=3)
            continue
        axes.plot(row, [y] * len(row), "-", color=MOVING, lw=1.6, zorder=2)
        axes.plot(
            row[:-1], [y] * (len(row) - 1), "s", color="white", mec=MOVING, mew=1.6, ms=6, zorder=3
        )
        axes.plot(row[-1:], [y], "s", color=MOVING, ms=10, zorder=3)
        for x, reach in zip(*_apart(row, measured[name], APART * widest), strict=True):
            axes.text(x, y - 0.21, reach.label, ha="center", va="bottom", color=INK, fontsize=8.5)


def _apart(
    row: Sequence[float], labelled: Sequence[Reach], least: float
) -> tuple[list[float], list[Reach]]:
    """What can be labelled without overlap, the last first of all."""
    kept: list[int] = []
    for i in (len(row) - 1, *range(len(row) - 1)):
        if all(abs(row[i] - row[j]) >= least for j in kept):
            kept.append(i)
    return [row[i] for i in kept], [labelled[i] for i in kept]
