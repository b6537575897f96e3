"""The report's pictures: figures of training by update, as PNG files and as SVG that takes the
colours of the page.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairseq_erpo.tools.family_figure import GRID, INK, QUIET
from fairseq_erpo.tools.training_log import History

Groups = Mapping[str, Sequence[History]]  # a name and its seeds

SIZE = (4.6, 3.4)  # inches: a phone's width at the size of the text
# Okabe and Ito 2008: apart for colour-blind eyes, on light and dark; line styles and markers differ
# too.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8a8a8a",
    "#b8a900",
    "#7a5cc2",
    "#a0522d",
)
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vP*X<>"
EXPERTS = {"model": "#0072B2", "reward": "#D55E00", "data": "#8a8a8a", "product": "#009E73"}


class Panel(NamedTuple):
    """One picture: its file's stem, what it shows, and the figure."""

    stem: str
    title: str
    figure: Figure


class Curves(NamedTuple):
    """One figure of all groups in one panel."""

    stem: str
    title: str
    name: str  # fairseq's name of the figure in training


class Look(NamedTuple):
    """A name's colour, line and marker, the same in every picture of a page."""

    colour: str
    line: str
    marker: str


Looks = Mapping[str, Look]

TOGETHER = (
    Curves("loss", "training loss, each row's own", "loss"),
    Curves("reward", "reward of the drawn sequences, each row's own", "seq_reward"),
    Curves("length", "length of the drawn sequences, with EOS", "sampled_length"),
    Curves("clipped", "share of drawn sequences that reached the cap", "clipped"),
)


def looks(names: Iterable[str]) -> Looks:
    """By the order of the names."""
    return {
        name: Look(COLOURS[i % len(COLOURS)], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def panels(groups: Groups, looks: Looks) -> dict[str, list[Panel]]:
    """All pictures by section; what was not logged is left out."""
    found = {
        "Validation": [*metric_panels(groups, looks), *loss_panel(groups, looks)],
        "λ and realised shares z": list(_each(groups, "lambda", share_panel)),
        "Reward by expert, ΔR": list(_each(groups, "gain", gain_panel)),
        "Loss, reward, length and clipped share": [
            panel for curves in TOGETHER for panel in _together(groups, curves, looks)
        ],
    }
    return {section: made for section, made in found.items() if made}


def metric_panels(groups: Groups, looks: Looks) -> Iterator[Panel]:
    """Mean over seeds of the validation score, and the range of the seeds; one panel for each
    metric.
    """
    metrics = sorted(
        {history.metric for runs in groups.values() for history in runs if history.valid}
    )
    for metric in metrics:
        curves = {
            name: [
                history.scores() for history in runs if history.valid and history.metric == metric
            ]
            for name, runs in groups.items()
        }
        title = f"validation {'ROUGE-1 + 2 + L' if metric == 'rouge' else metric.upper()}"
        if max(len(scores) for seeds in curves.values() for scores in seeds) > 1:
            yield _compared(f"valid-{metric}", title, curves, looks)
        else:  # one epoch is no curve
            last = {
                name: [next(iter(scores.values())) for scores in seeds if scores]
                for name, seeds in curves.items()
            }
            yield dots(f"valid-{metric}", title, last, looks)


def loss_panel(groups: Groups, looks: Looks) -> Iterator[Panel]:
    """Cross-entropy on the validation set, which is comparable whatever a row trains; where it is
    not the metric itself.
    """
    curves = {
        name: [
            {
                update: figures["loss"]
                for update, figures in history.valid.items()
                if "loss" in figures and history.metric != "loss"
            }
            for history in runs
        ]
        for name, runs in groups.items()
    }
    if max((len(loss) for seeds in curves.values() for loss in seeds), default=0) > 1:
        yield _compared("valid-loss", "validation loss, bits per token", curves, looks)


def _together(groups: Groups, wanted: Curves, looks: Looks) -> Iterator[Panel]:
    curves = {
        name: [history.curve(wanted.name) for history in runs] for name, runs in groups.items()
    }
    if any(any(each) for each in curves.values()):
        yield _compared(wanted.stem, wanted.title, curves, looks)


def _compared(
    stem: str, title: str, curves: Mapping[str, Sequence[Mapping[int, float]]], looks: Looks
) -> Panel:
    """A line for each group."""
    figure, axes = _axes(title)
    for name, seeds in curves.items():
        values = gathered(seeds)
        if not values:
            continue
        updates = sorted(values)
        look = looks[name]
        means = [sum(values[update]) / len(values[update]) for update in updates]
        axes.plot(
            updates,
            means,
            look.line,
            color=look.colour,
            marker=look.marker,
            ms=4.5,
            lw=1.6,
            label=name,
        )
        if len(seeds) > 1:
            low, high = ([edge(values[update]) for update in updates] for edge in (min, max))
            axes.fill_between(updates, low, high, color=look.colour, alpha=0.18, lw=0)
    return _finished(stem, title, figure, axes)


def dots(
    stem: str,
    title: str,
    values: Mapping[str, Sequence[float]],
    looks: Looks,
    baseline: str | None = None,
) -> Panel:
    """A row for each group: a small mark per seed, a large one for the mean; a dotted line through
    the baseline's mean.
    """
    shown = {name: seeds for name, seeds in values.items() if seeds}
    figure, axes = _axes(
        title, f"each seed, and the mean{f'; dotted line: {baseline}' if baseline else ''}"
    )
    for i, (name, seeds) in enumerate(shown.items()):
        colour = looks[name].colour
        axes.plot(seeds, [i] * len(seeds), "|", color=colour, ms=8, mew=1.4)
        axes.plot(sum(seeds) / len(seeds), i, "o", color=colour, ms=6)
        if name == baseline:
            axes.axvline(sum(seeds) / len(seeds), color=colour, lw=1, ls=":")
    axes.set_yticks(range(len(shown)), list(shown), color=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    return _finished(stem, title, figure, axes)


def gathered(seeds: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    """Values of all seeds by update.  Epochs of different seeds may differ by some updates: the
    n-th of each belong together.
    """
    curves = [sorted(seed.items()) for seed in seeds if seed]
    found: dict[int, list[float]] = {}
    for n in range(max(map(len, curves), default=0)):
        points = [curve[n] for curve in curves if n < len(curve)]
        found[round(sum(update for update, _ in points) / len(points))] = [
            value for _, value in points
        ]
    return found


def _each(
    groups: Groups, stem: str, draw: Callable[[Axes, Sequence[History]], bool]
) -> Iterator[Panel]:
    """A panel for each group that has something to show."""
    for name, runs in groups.items():
        figure, axes = _axes(name)
        if draw(axes, runs):
            yield _finished(f"{stem}-{name}", name, figure, axes)


def share_panel(axes: Axes, runs: Sequence[History]) -> bool:
    """λ as lines, the realised shares z of the drawn tokens as marks."""
    shown = False
    for name, colour in EXPERTS.items():
        wanted = gathered([history.curve(f"lambda_{name}") for history in runs])
        drawn = gathered([history.curve(f"z_{name}") for history in runs])
        if any(value for values in drawn.values() for value in values):
            shown = True
            axes.plot(*_means(drawn), "o", color=colour, ms=4, label=f"z {name}")
        if wanted:
            axes.plot(
                *_means(wanted), "-", color=colour, lw=1.4, drawstyle="steps-mid", label=f"λ {name}"
            )
    axes.set_ylim(-0.03, 1.03)
    return shown


def gain_panel(axes: Axes, runs: Sequence[History]) -> bool:
    """Mean ΔR (Eq. 3) of the tokens that each expert drew."""
    shown = False
    for name, colour in EXPERTS.items():
        gains, shares = (
            [history.curve(f"{kind}_{name}") for history in runs] for kind in ("dr", "z")
        )
        # Where an expert drew nothing its mean is logged as 0.
        drew = [
            {at: value for at, value in gain.items() if share.get(at)}
            for gain, share in zip(gains, shares, strict=True)
        ]
        if any(drew):
            shown = True
            axes.plot(*_means(gathered(drew)), "o-", color=colour, ms=4, lw=1.4, label=name)
    return shown


def _means(values: Mapping[int, Sequence[float]]) -> tuple[list[int], list[float]]:
    updates = sorted(values)
    return updates, [sum(values[update]) / len(values[update]) for update in updates]


# ---- how they look ----


def _axes(title: str, below: str = "updates of the run") -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, color=INK, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(below, color=QUIET, fontsize=9)
    axes.tick_params(colors=QUIET, labelsize=8.5)
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    return figure, axes


def _finished(stem: str, title: str, figure: Figure, axes: Axes) -> Panel:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        # Outside: inside it would hide what it names.
        figure.legend(
            loc="outside lower center",
            fontsize=8,
            frameon=False,
            labelcolor=INK,
            ncols=min(len(handles), 3),
        )
    return Panel(re.sub(r"[^\w.-]", "_", stem), title, figure)


def png(panel: Panel) -> bytes:
    """On white."""
    sink = io.BytesIO()
    panel.figure.savefig(sink, format="png", dpi=200, facecolor="white")
    return sink.getvalue()


def svg(panel: Panel) -> str:
    """To stand inside a page: its text and lines in the page's colours, its names apart from other
    panels', no address in it.
    """
    sink = io.StringIO()
    with rc_context(
        {
            "svg.hashsalt": panel.stem,
            "svg.fonttype": "none",
            "font.sans-serif": ["system-ui", "DejaVu Sans"],
        }
    ):
        panel.figure.savefig(
            sink, format="svg", facecolor="none", metadata={"Date": None, "Creator": None}
        )
    text = sink.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = (
        re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", text[: text.index(">")])
        + text[text.index(">") :]
    )
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{panel.stem}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{panel.stem}-", text)
    for colour, variable in ((INK, "currentColor"), (QUIET, "var(--quiet)"), (GRID, "var(--line)")):
        text = text.replace(colour, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(panel.title)}"', 1)
