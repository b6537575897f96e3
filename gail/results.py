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
        """Environment steps and mean returns of the evaluations during training; empty for runs without."""
        rows = read_table(self.folder / "evaluations.csv")
        return np.array([float(row["timesteps"]) for row in rows]), np.array([float(row["return"]) for row in rows])


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


def normalised(score: float, random: float, expert: float) -> float:
    """(return - random) / (expert - random): 0 as good as random, 1 as good as the expert."""
    return (score - random) / (expert - random)


def random_return(rows: Sequence[Row], env: str) -> float | None:
    """Return an untrained policy's mean return; None if the sweep has no such run."""
    found = np.array([row.last10 for row in rows if row.env == env and row.method == "random"])
    return mean(found) if len(found) else None


def markdown(rows: Sequence[Row]) -> str:
    """A table with a line for each environment, number of demonstrations and method: mean over seeds, range, and score.

    The mean of all evaluations shows how soon a method was good, that of the last ten how good it became.
    """
    lines = [
        "| environment | n | method | seeds | last 10 (least .. largest) | all | best | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for env, n, method in dict.fromkeys((row.env, row.n, row.method) for row in sorted(rows, key=lambda row: (row.env, row.n))):
        cell = [row for row in rows if (row.env, row.n, row.method) == (env, n, method)]
        last, best = (np.array([getattr(row, name) for row in cell]) for name in ("last10", "best"))
        random = random_return(rows, env)
        score = "" if random is None else f"{normalised(mean(last), random, cell[0].expert):.2f}"
        spread = f" ({last.min():.0f} .. {last.max():.0f})" if len(cell) > 1 else ""
        curves = [returns for row in cell if len(returns := row.curve()[1])]
        every = f"{mean(np.array([mean(returns) for returns in curves])):.0f}" if curves else "-"
        figures = f"{mean(last):.0f}{spread} | {every} | {mean(best):.0f} | {score}"
        lines.append(f"| {env} | {n or '-'} | `{method}` | {len(cell)} | {figures} |")
    return "\n".join(lines) + "\n"


def stratified_bootstrap(cells: Sequence[Floats], statistic: Callable[[Floats], float], seed: int = 0) -> tuple[float, float]:
    """A confidence band of `statistic` of all scores, [low, high]: seeds are redrawn within each cell, never across them.

    `cells`: the scores [S] of each of C cells, whose numbers of seeds may differ (Agarwal et al., 2021, section 4.1). With three
    seeds such a band is narrow rather than wide: it knows no value outside those seen.
    """
    rng = np.random.default_rng(seed)
    draws = np.concatenate([cell[rng.integers(len(cell), size=(RESAMPLES, len(cell)))] for cell in cells], axis=1)
    found = np.array([statistic(draw) for draw in draws])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean(scores: Floats) -> float:
    return float(scores.mean())


def interquartile_mean(scores: Floats) -> float:
    """Mean of the middle half of the scores; a quarter is cut from each end, rounded down."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())
