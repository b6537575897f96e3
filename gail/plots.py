"""Figure 3 (return over demonstrations), Figure 4 (learning curves), the normalised score of a
sweep, and its table.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from fairseq_erpo.files import atomic_write
from gail.methods import METHODS
from gail.results import (
    Row,
    aligned,
    by_cell,
    comparison,
    interquartile_mean,
    last10,
    markdown,
    mean,
    random_return,
    read_results,
    score_cells,
    stratified_bootstrap,
    verdict,
)

# One look a method in every figure; Okabe and Ito's colours and a brown, which the colour-blind can
# tell apart.
COLOURS = dict(
    zip(
        [name for name in METHODS if name not in ("random", "expert")],
        (
            "#7f7f7f",
            "#0072b2",
            "#d55e00",
            "#8c510a",
            "#cc79a7",
            "#009e73",
            "#56b4e9",
            "#e69f00",
            "#000000",
        ),
        strict=True,
    )
)
MARKS = dict(zip(COLOURS, "sovPD^<>x", strict=True))
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "gail",
    }
)


def plot(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: draw the finished runs."""
    parser.add_argument("sweep", type=Path, metavar="FOLDER", help="--out of `sweep`")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the figures; default: the sweep's folder"
    )
    parser.add_argument(
        "--method",
        nargs="+",
        choices=[*COLOURS],
        metavar="METHOD",
        help="only these; default: all that were run",
    )
    args = parser.parse_args(argv)
    rows = read_results(args.sweep)
    if args.method:
        if not {row.method for row in rows} & {*args.method}:
            raise ValueError(f"--method: {args.sweep} has no run of {', '.join(args.method)}")
        # Which scores are relative to
        rows = [row for row in rows if row.method in {*args.method, "random"}]
    out = args.out or args.sweep
    tables = [part for part in (markdown(rows), comparison(rows), by_cell(rows)) if part]
    table = "\n".join(tables)
    print("\n".join(map(aligned, tables)))
    print(verdict(rows) or "gail_interp and gail were not both run: there is nothing to compare.")
    print("\nwritten:")
    with atomic_write(out / "table.md") as part:
        part.write_text(table, "utf-8")
    print(out / "table.md")
    figures = {"figure3": demonstrations(rows), "figure4": learning(rows), "score": scores(rows)}
    for name, figure in figures.items():
        if figure is not None:
            for suffix in ("svg", "png"):
                with atomic_write(out / f"{name}.{suffix}") as part:
                    figure.savefig(
                        part,
                        format=suffix,
                        dpi=150,
                        metadata={"Date": None} if suffix == "svg" else None,
                    )
                print(out / f"{name}.{suffix}")
            plt.close(figure)


def values_of(rows: Sequence[Row], field: str) -> list[Any]:
    """List the values of a field: environments in order of appearance, numbers sorted."""
    found = list(dict.fromkeys(getattr(row, field) for row in rows))
    return found if field == "env" else sorted(found)


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Methods that see demonstrations, in the table's order."""
    there = {row.method for row in rows}
    return [name for name in COLOURS if name in there]


def bands(cells: Sequence[Any]) -> tuple[list[float], list[float], list[float]]:
    """Mean and confidence band of each cell's seeds."""
    limits = [stratified_bootstrap([cell], mean) for cell in cells]
    return [mean(cell) for cell in cells], [low for low, _ in limits], [high for _, high in limits]


def demonstrations(rows: Sequence[Row]) -> Any:
    """Figure 3: mean of the last 10 evaluations over the number of demonstrations; expert and
    random as lines.
    """
    envs = values_of(rows, "env")
    figure, axes = plt.subplots(
        1, len(envs), figsize=(3.6 * len(envs) + 1.6, 3.2), squeeze=False, layout="constrained"
    )
    for axis, env in zip(axes[0], envs, strict=True):
        of_env = [row for row in rows if row.env == env]
        counts = [n for n in values_of(of_env, "n") if n]
        for i, method in enumerate(methods_of(of_env)):
            cells = {n: last10(rows, env, n, method) for n in counts}
            there = [n for n in counts if len(cells[n])]
            middle, low, high = bands([cells[n] for n in there])
            # Side by side, since the bands of several methods meet.
            x = np.array([counts.index(n) for n in there]) + 0.06 * (
                i - (len(methods_of(of_env)) - 1) / 2
            )
            axis.vlines(x, low, high, color=COLOURS[method], lw=2, alpha=0.5)
            axis.plot(x, middle, marker=MARKS[method], ms=5, color=COLOURS[method], label=method)
        axis.set_xticks(range(len(counts)), [str(n) for n in counts])
        axis.set_xlim(-0.5, len(counts) - 0.5)
        axis.axhline(of_env[0].expert, color="black", lw=1, ls="--", label="expert")
        random = random_return(rows, env)
        if random is not None:
            axis.axhline(random, color="black", lw=1, ls=":", label="random")
        axis.set(title=env, xlabel="demonstrations")
    axes[0][0].set_ylabel("return, mean of the last 10 evaluations")
    return with_legend(figure, axes)


def learning(rows: Sequence[Row]) -> Any:
    """Figure 4: return of the mean action during training; None if no run has a curve."""
    cells = [
        (env, n)
        for env in values_of(rows, "env")
        for n in values_of(rows, "n")
        if any(curves(rows, env, n))
    ]
    if not cells:
        return None
    across = max(sum(env == one for one, _ in cells) for env, _ in cells)
    envs = list(dict.fromkeys(env for env, _ in cells))
    figure, axes = plt.subplots(
        len(envs),
        across,
        figsize=(3.6 * across + 1.6, 2.8 * len(envs)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for env, line in zip(envs, axes, strict=True):
        for (_, n), axis in zip([cell for cell in cells if cell[0] == env], line, strict=False):
            axis.set_visible(True)
            for method, steps, returns in curves(rows, env, n):
                middle, low, high = bands(list(returns.T))
                axis.plot(steps / 1e3, middle, color=COLOURS[method], lw=1.5, label=method)
                axis.fill_between(steps / 1e3, low, high, color=COLOURS[method], alpha=0.2, lw=0)
            cloned = last10(rows, env, n, "bc")
            if len(cloned):  # it has no curve: nothing is learnt in the environment
                axis.axhline(mean(cloned), color=COLOURS["bc"], lw=1.5, ls="-.", label="bc")
            axis.axhline(
                next(row.expert for row in rows if row.env == env),
                color="black",
                lw=1,
                ls="--",
                label="expert",
            )
            axis.set(title=f"{env}, {n} demonstration{'s' if n > 1 else ''}")
        line[0].set_ylabel("return")
    for column in axes.T:  # under the lowest panel of each
        lowest = [axis for axis in column if axis.get_visible()][-1]
        lowest.set_xlabel("environment steps of the policy, thousands")
    return with_legend(figure, axes)


def curves(rows: Sequence[Row], env: str, n: int) -> Iterator[tuple[str, Any, Any]]:
    """(method, steps [E], returns [S, E]) of the methods that have curves, as far as all
    seeds go.
    """
    for method in methods_of(rows):
        found = [row.curve() for row in rows if (row.env, row.n, row.method) == (env, n, method)]
        shortest = min((len(steps) for steps, _ in found), default=0)
        if shortest:
            yield (
                method,
                found[0][0][:shortest],
                np.stack([returns[:shortest] for _, returns in found]),
            )


def scores(rows: Sequence[Row]) -> Any:
    """Normalised scores over all environments and numbers of demonstrations, interquartile mean;
    None without random runs.
    """
    found = score_cells(rows)
    methods = [method for method in methods_of(rows) if method in found]
    if not methods:
        return None
    figure, axis = plt.subplots(figsize=(5.2, 0.45 * len(methods) + 1.2), layout="constrained")
    for place, method in enumerate(reversed(methods)):
        cells = list(found[method].values())
        low, high = stratified_bootstrap(cells, interquartile_mean)
        middle = interquartile_mean(np.concatenate(cells))
        axis.barh(place, high - low, left=low, height=0.5, color=COLOURS[method], alpha=0.4, lw=0)
        axis.plot([middle, middle], [place - 0.25, place + 0.25], color=COLOURS[method], lw=2.5)
        # Above the band, where no line of 0 or 1 crosses it.
        axis.annotate(
            f"{middle:.2f}",
            (middle, place),
            xytext=(0, 14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(methods)), list(reversed(methods)))
    axis.axvline(1, color="black", lw=1, ls="--")
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    axis.set(xlabel="normalised score (0: random, 1: expert)\ninterquartile mean and 95 % band")
    return figure


def with_legend(figure: Any, axes: Any) -> Any:
    """One legend for all panels, beside them."""
    entries = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", frameon=False)
    return figure
