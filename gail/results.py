"""The results of a sweep as arrays, and bands over seeds.

Letters: C cells (environment × number of demonstrations) that are averaged, S seeds.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gail.demos import Floats
from gail.logs import read_table

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """One finished run."""

    env: str
    method: str
    n: int
    seed: int
    last10: float  # mean return of the last 10 evaluations
    best: float
    expert: float  # mean return of the demonstrations
    folder: Path

    def curve(self) -> tuple[Floats, Floats]:
        """Environment steps and mean returns of the evaluations during training; empty where there
        are none.
        """
        table = self.folder / "evaluations.csv"
        rows = read_table(table) if table.is_file() else []
        return np.array([float(row["timesteps"]) for row in rows]), np.array(
            [float(row["return"]) for row in rows]
        )


def read_results(out: Path) -> list[Row]:
    """results.csv of a sweep.  Raises ValueError if there is none, or if it has no row."""
    table = out / "results.csv"
    if not table.is_file():
        raise ValueError(f"there is no {table}; `python -m gail sweep --out {out}` makes it")
    with table.open(newline="", encoding="utf-8") as source:
        rows = [
            Row(
                row["env"],
                row["method"],
                int(row["n"]),
                int(row["seed"]),
                float(row["return_last10"]),
                float(row["return_best"]),
                float(row["expert_return"]),
                out / row["env"] / row["method"] / f"n{row['n']}" / f"seed{row['seed']}",
            )
            for row in csv.DictReader(source)
        ]
    if not rows:
        raise ValueError(f"{table} has no finished run yet")
    return rows


def of_cell(rows: Sequence[Row], env: str, n: int, method: str) -> list[Row]:
    """The seeds of one method with so many demonstrations."""
    return [row for row in rows if (row.env, row.n, row.method) == (env, n, method)]


def last10(rows: Sequence[Row], env: str, n: int, method: str) -> Floats:
    """Their returns, the mean of the last ten evaluations each.  -> [S]"""
    return np.array([row.last10 for row in of_cell(rows, env, n, method)])


def cells_of(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """(environment, demonstrations), few demonstrations first."""
    return [*dict.fromkeys((row.env, row.n) for row in sorted(rows, key=lambda r: (r.env, r.n)))]


def verdict(rows: Sequence[Row], best: str = "gail_interp", other: str = "gail") -> str:
    """A sentence for each cell in which both methods ran."""
    lines = []
    for env, n in cells_of(rows):
        ours, theirs = (last10(rows, env, n, method) for method in (best, other))
        if len(ours) and len(theirs):
            expert = next(row.expert for row in rows if row.env == env)
            seeds = "one seed each" if len(ours) == len(theirs) == 1 else "means over seeds"
            lines.append(
                f"{env}, {n} demonstration{'s' if n > 1 else ''}: {best} returns "
                f"{mean(ours):.0f}, {other} {mean(theirs):.0f}, the expert {expert:.0f} ({seeds})."
            )
    return "\n".join(lines)


def aligned(table: str) -> str:
    """A Markdown table for a terminal: columns padded, no pipes."""
    lines = [
        line.removeprefix("| ").removesuffix(" |").split(" | ")
        for line in table.splitlines()
        if line.startswith("|")
    ]
    cells = [
        [cell.replace("`", "").strip() for cell in line] for line in lines if set(line) != {"---"}
    ]
    width = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = (
        "  ".join(cell.ljust(most) for cell, most in zip(line, width, strict=True)).rstrip()
        for line in cells
    )
    return "\n".join(padded) + "\n"


def normalised(score: float, random: float, expert: float) -> float:
    """(return - random) / (expert - random): 0 as good as random, 1 as good as the expert."""
    return (score - random) / (expert - random)


def random_return(rows: Sequence[Row], env: str) -> float | None:
    """Return an untrained policy's mean return; None if the sweep has no such run."""
    found = np.array([row.last10 for row in rows if row.env == env and row.method == "random"])
    return mean(found) if len(found) else None


def markdown(rows: Sequence[Row]) -> str:
    """A table with a line for each environment, number of demonstrations and method: mean over
    seeds, range, and score.

    The mean of all evaluations shows how soon a method was good, that of the last ten how good it
    became.
    """
    lines = [
        "| environment | n | method | seeds | last 10 (least .. largest) | all | best | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for env, n, method in dict.fromkeys(
        (row.env, row.n, row.method) for row in sorted(rows, key=lambda row: (row.env, row.n))
    ):
        cell = of_cell(rows, env, n, method)
        last, best = (np.array([getattr(row, name) for row in cell]) for name in ("last10", "best"))
        random = random_return(rows, env)
        score = "" if random is None else f"{normalised(mean(last), random, cell[0].expert):.2f}"
        spread = f" ({last.min():.0f} .. {last.max():.0f})" if len(cell) > 1 else ""
        curves = [returns for row in cell if len(returns := row.curve()[1])]
        every = f"{mean(np.array([mean(returns) for returns in curves])):.0f}" if curves else "-"
        figures = f"{mean(last):.0f}{spread} | {every} | {mean(best):.0f} | {score}"
        lines.append(f"| {env} | {n or '-'} | `{method}` | {len(cell)} | {figures} |")
    return "\n".join(lines) + "\n"


def score_cells(rows: Sequence[Row]) -> dict[str, dict[tuple[str, int], Floats]]:
    """Normalised scores [S] of each method in each of its cells (environment, demonstrations);
    empty if one has no random run.
    """
    found: dict[str, dict[tuple[str, int], Floats]] = {}
    for env, n, method in dict.fromkeys((row.env, row.n, row.method) for row in rows if row.n):
        random = random_return(rows, env)
        if random is None:
            return {}
        scores = [
            normalised(row.last10, random, row.expert) for row in of_cell(rows, env, n, method)
        ]
        found.setdefault(method, {})[env, n] = np.array(scores)
    return found


def comparison(rows: Sequence[Row], best: str = "gail_interp") -> str:
    """A table with a line for each method: interquartile mean of the normalised scores, and how
    probably `best` is better.

    Both as Agarwal et al. (2021) define them, over the cells that two methods share, with 95 %
    bands; empty without random runs.
    """
    cells = score_cells(rows)
    lines = [
        f"| method | cells | score | `{best}` is better with probability |",
        "| --- | --- | --- | --- |",
    ]
    for method, scores in cells.items():
        low, high = stratified_bootstrap(list(scores.values()), interquartile_mean)
        middle = interquartile_mean(np.concatenate(list(scores.values())))
        shared = [
            (cells[best][cell], scores[cell]) for cell in scores if cell in cells.get(best, {})
        ]
        better = "-"
        if shared and method != best:
            chance, least, most = probability_of_improvement(shared)
            better = f"{chance:.2f} ({least:.2f} .. {most:.2f})"
        lines.append(
            f"| `{method}` | {len(scores)} | {middle:.2f} ({low:.2f} .. {high:.2f}) | {better} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def by_cell(rows: Sequence[Row], best: str = "gail_interp", other: str = "gail") -> str:
    """A table with a line for each cell and a column for each method: last 10 (least .. largest),
    and `best` minus `other`.

    The 95 % band of the difference redraws seeds within each of the two.  Empty where only `random`
    was run.
    """
    methods = list(dict.fromkeys(row.method for row in rows if row.n))
    titles = ["environment", "n", *(f"`{method}`" for method in methods), f"`{best}` - `{other}`"]
    lines = [titles, ["---"] * len(titles)]
    for env, n in cells_of([row for row in rows if row.n]):
        last = {method: last10(rows, env, n, method) for method in (*methods, best, other)}
        cells = [
            f"{mean(found):.0f} ({found.min():.0f} .. {found.max():.0f})"
            if len(found := last[name])
            else ""
            for name in methods
        ]
        apart = ""
        if len(last[best]) and len(last[other]):
            middle, low, high = difference(last[best], last[other])
            apart = f"{middle:+.0f} ({low:+.0f} .. {high:+.0f})"
        lines.append([env, str(n), *cells, apart])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" if methods else ""


def difference(ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """Mean of `ours` [S] minus that of `theirs` [S'], and its band, low and high; seeds are redrawn
    within each.
    """

    def apart(scores: Floats) -> float:
        return mean(scores[: len(ours)]) - mean(scores[len(ours) :])

    return apart(np.concatenate([ours, theirs])), *stratified_bootstrap([ours, theirs], apart)


def probability_of_improvement(
    pairs: Sequence[tuple[Floats, Floats]], seed: int = 0
) -> tuple[float, float, float]:
    """P(x > y) + P(x = y) / 2 for a run of each of two methods in a cell, mean over the cells [x,
    y]; and its band, low and high.

    Seeds are redrawn within each cell and method (Agarwal et al., 2021, section 4.3).
    """
    rng = np.random.default_rng(seed)

    def wins(x: Floats, y: Floats) -> Floats:
        """[..., S], [..., S'] -> [...]"""
        difference = x[..., :, None] - y[..., None, :]
        return np.asarray((np.sign(difference) + 1).mean((-2, -1)) / 2)

    def redrawn(scores: Floats) -> Floats:
        return scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))]

    draws = np.mean([wins(redrawn(x), redrawn(y)) for x, y in pairs], axis=0)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.mean([wins(x, y) for x, y in pairs])), float(low), float(high)


def stratified_bootstrap(
    cells: Sequence[Floats], statistic: Callable[[Floats], float], seed: int = 0
) -> tuple[float, float]:
    """A confidence band of `statistic` of all scores, [low, high]: seeds are redrawn within each
    cell, never across them.

    `cells`: the scores [S] of each of C cells, whose numbers of seeds may differ (Agarwal et al.,
    2021, section 4.1). With three seeds such a band is narrow rather than wide: it knows no value
    outside those seen.
    """
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [cell[rng.integers(len(cell), size=(RESAMPLES, len(cell)))] for cell in cells], axis=1
    )
    found = np.array([statistic(draw) for draw in draws])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean(scores: Floats) -> float:
    return float(scores.mean())


def interquartile_mean(scores: Floats) -> float:
    """Mean of the middle half of the scores; a quarter is cut from each end, rounded down."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())
