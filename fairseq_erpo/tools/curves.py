"""The report's pictures: figures of training by update, as PNG files and as SVG that takes the
colours of the page.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import chain
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairseq_erpo.tools.family_figure import GRID, INK, QUIET
from fairseq_erpo.tools.training_log import History

Groups = Mapping[str, Sequence[History]]  # a name and its seeds

SIZE = (4.6, 3.0)  # inches: a phone's width at the size of the text
# Okabe and Ito 2008: apart for colour-blind eyes, on light and dark; line styles and markers differ
# too.
# fmt: off
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
    "#56B4E9", "#8a8a8a", "#b8a900", "#7a5cc2", "#a0522d",
)
# fmt: on
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vP*X<>"
EXPERTS = {"model": "#0072B2", "reward": "#D55E00", "data": "#8a8a8a", "product": "#009E73"}


class Panel(NamedTuple):
    """One picture: its file's stem, its title, what it says to a reader, and the figure."""

    stem: str
    title: str
    caption: str
    figure: Figure


class Look(NamedTuple):
    """A name's colour, line and marker, the same in every picture of a page."""

    colour: str
    line: str
    marker: str


Looks = Mapping[str, Look]
Curve = Mapping[int, float]  # a figure by update

SHARES = (
    "Lines: λ, the share of each expert as scheduled. Marks: z, the share of the drawn tokens that "
    "it really drew."
)
GAINS = (
    "By how much one token changed the reward (--erpo-teacher's), averaged over the tokens that "
    "each expert drew. The model's tokens should rise while it learns."
)
VALID = (
    "On the validation set, after each epoch. It chose checkpoint_best.pt, and it is the curve to "
    "judge a row by."
)
VALID_LOSS = (
    "Cross-entropy of the references, in bits. A row that learns from its own samples may lose "
    "here while its outputs improve: do not choose by it."
)
# fairseq's name of a figure in training: its file's stem, title and caption
TOGETHER = {
    "loss": (
        "loss",
        "training loss, each row's own",
        "What each row minimises. Rows minimise different things, and with policy gradient 0 is no "
        "goal: compare a curve with itself only.",
    ),
    "seq_reward": (
        "reward",
        "reward of the drawn sequences, each row's own",
        "Mean reward of the sequences that training drew (seq_reward). It falls while λ moves from "
        "the data to the model: what is drawn from the references is right by itself, what the "
        "model draws is not. Once λ stands still, it should rise.",
    ),
    "sampled_length": (
        "length",
        "length of the drawn sequences, with EOS",
        "Tokens a sequence. Towards 1, the model learns to stop at once; towards the cap, never.",
    ),
    "clipped": (
        "clipped",
        "share of drawn sequences that reached the cap",
        "Sequences without an end. More than a few percent, and climbing: take a smaller rate.",
    ),
}
BAND = " Lines are means over the seeds, bands their range."


def looks(names: Iterable[str]) -> Looks:
    """By the order of the names."""
    return {
        name: Look(COLOURS[i % len(COLOURS)], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def panels(groups: Groups, looks: Looks) -> dict[str, list[Panel]]:
    """All pictures by section; what was not logged is left out."""
    together = [_together(groups, name, looks) for name in TOGETHER]
    found = {
        "Validation": [*metric_panels(groups, looks), *loss_panel(groups, looks)],
        "λ and realised shares z": list(_each(groups, "lambda", SHARES, share_panel)),
        "Reward by expert, ΔR": list(_each(groups, "gain", GAINS, gain_panel)),
        "What was drawn and learnt": [panel for panel in together if panel],
    }
    return {section: made for section, made in found.items() if made}


def metric_panels(groups: Groups, looks: Looks) -> Iterator[Panel]:
    """The validation score, one panel for each metric."""
    validated = [run for run in chain.from_iterable(groups.values()) if run.valid]
    for metric in sorted({run.metric for run in validated}):
        curves = {
            name: [run.scores() for run in runs if run in validated and run.metric == metric]
            for name, runs in groups.items()
        }
        title = f"validation {'ROUGE-1 + 2 + L' if metric == 'rouge' else metric.upper()}"
        yield _compared(f"valid-{metric}", title, VALID, curves, looks)


def loss_panel(groups: Groups, looks: Looks) -> Iterator[Panel]:
    """Cross-entropy on the validation set, which is comparable whatever a row trains; where it is
    not the metric itself.
    """
    curves = {
        name: [run.validation("loss") for run in runs if run.metric != "loss"]
        for name, runs in groups.items()
    }
    if _longest(curves):
        title = "validation loss, bits per token"
        yield _compared("valid-loss", title, VALID_LOSS, curves, looks)


def _together(groups: Groups, name: str, looks: Looks) -> Panel | None:
    curves = {group: [run.curve(name) for run in runs] for group, runs in groups.items()}
    return _compared(*TOGETHER[name], curves, looks) if _longest(curves) else None


def _longest(curves: Mapping[str, Sequence[Curve]]) -> int:
    """How many values the longest curve has."""
    return max(map(len, chain.from_iterable(curves.values())), default=0)


def _compared(
    stem: str, title: str, caption: str, curves: Mapping[str, Sequence[Curve]], looks: Looks
) -> Panel:
    """A line for each group; where no run has a second value, which makes no curve, dots."""
    if _longest(curves) == 1:
        only: dict[str, list[float]] = {}
        for name, seeds in curves.items():
            only[name] = list(chain.from_iterable(curve.values() for curve in seeds))
        return dots(stem, title, caption, only, looks)
    figure, axes = _axes(title)
    for name, seeds in curves.items():
        values = gathered(seeds)
        if not values:
            continue
        look = looks[name]
        axes.plot(
            *_means(values), look.line, color=look.colour, marker=look.marker, ms=4.5, label=name
        )
        if len(seeds) > 1:
            low, high = ([edge(values[at]) for at in sorted(values)] for edge in (min, max))
            axes.fill_between(sorted(values), low, high, color=look.colour, alpha=0.18, lw=0)
    several = any(len(seeds) > 1 for seeds in curves.values())
    return _finished(stem, title, caption + BAND * several, figure, axes)


def dots(
    stem: str,
    title: str,
    caption: str,
    values: Mapping[str, Sequence[float]],
    looks: Looks,
    baseline: str | None = None,
) -> Panel:
    """A row for each group: a small mark per seed, a large one for the mean; a dotted line through
    the baseline's mean.
    """
    shown = {name: seeds for name, seeds in values.items() if seeds}
    line = f"; dotted line: {baseline}" if baseline else ""
    figure, axes = _axes(title, f"each seed, and the mean{line}")
    for i, (name, seeds) in enumerate(shown.items()):
        colour = looks[name].colour
        axes.plot(seeds, [i] * len(seeds), "|", color=colour, ms=8, mew=1.4)
        axes.plot(sum(seeds) / len(seeds), i, "o", color=colour, ms=6)
        if name == baseline:
            axes.axvline(sum(seeds) / len(seeds), color=colour, lw=1, ls=":")
    axes.set_yticks(range(len(shown)), list(shown), color=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    return _finished(stem, title, caption, figure, axes)


def gathered(seeds: Sequence[Curve]) -> dict[int, list[float]]:
    """Values of all seeds by update.  Epochs of different seeds may differ by some updates: the
    n-th of each belong together.
    """
    curves = [sorted(seed.items()) for seed in seeds if seed]
    found: dict[int, list[float]] = {}
    for n in range(max(map(len, curves), default=0)):
        points = [curve[n] for curve in curves if n < len(curve)]
        middle = round(sum(update for update, _ in points) / len(points))
        found[middle] = [value for _, value in points]
    return found


def _each(
    groups: Groups, stem: str, caption: str, draw: Callable[[Axes, Sequence[History]], bool]
) -> Iterator[Panel]:
    """A panel for each group that has something to show."""
    for name, runs in groups.items():
        figure, axes = _axes(name)
        if draw(axes, runs):
            yield _finished(f"{stem}-{name}", name, caption, figure, axes)


def share_panel(axes: Axes, runs: Sequence[History]) -> bool:
    """λ as lines, the realised shares z of the drawn tokens as marks."""
    shown = False
    for name, colour in EXPERTS.items():
        wanted = gathered([run.curve(f"lambda_{name}") for run in runs])
        drawn = gathered([run.curve(f"z_{name}") for run in runs])
        if any(chain.from_iterable(drawn.values())):
            shown = True
            axes.plot(*_means(drawn), "o", color=colour, ms=4, label=f"z {name}")
        if wanted:
            style = "-" if len(wanted) > 1 else "_"  # one value is no line
            label, steps = f"λ {name}", "steps-mid"
            axes.plot(*_means(wanted), style, color=colour, lw=1.4, drawstyle=steps, label=label)
    axes.set_ylim(-0.03, 1.03)
    return shown


def gain_panel(axes: Axes, runs: Sequence[History]) -> bool:
    """Mean ΔR (Eq. 3) of the tokens that each expert drew."""
    shown = False
    for name, colour in EXPERTS.items():
        drew = gathered([_where_it_drew(run, name) for run in runs])
        if drew:
            shown = True
            axes.plot(*_means(drew), "o-", color=colour, ms=4, lw=1.4, label=name)
    return shown


def _where_it_drew(run: History, expert: str) -> Curve:
    """Mean ΔR of an expert's tokens; where it drew nothing, 0 is logged, which is left out."""
    share = run.curve(f"z_{expert}")
    return {at: gain for at, gain in run.curve(f"dr_{expert}").items() if share.get(at)}


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


def _finished(stem: str, title: str, caption: str, figure: Figure, axes: Axes) -> Panel:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        # Outside: inside it would hide what it names.
        columns = min(len(handles), 3)
        legend = figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=columns)
        for text in legend.get_texts():
            text.set_color(INK)
    return Panel(re.sub(r"[^\w.-]", "_", stem), title, caption, figure)


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
    fonts = ["system-ui", "DejaVu Sans"]
    look = {"svg.hashsalt": panel.stem, "svg.fonttype": "none", "font.sans-serif": fonts}
    with rc_context(look):  # type: ignore[arg-type]
        nothing = {"Date": None, "Creator": None}
        panel.figure.savefig(sink, format="svg", facecolor="none", metadata=nothing)
    text = sink.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    opening, rest = text[: text.index(">")], text[text.index(">") :]
    opening = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", opening)
    opening = opening.replace("<svg", f'<svg role="img" aria-label="{escape(panel.title)}"')
    text = (opening + rest).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{panel.stem}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{panel.stem}-", text)
    for colour, variable in ((INK, "currentColor"), (QUIET, "var(--quiet)"), (GRID, "var(--line)")):
        text = text.replace(colour, variable)
    return text
