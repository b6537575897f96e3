"""Logs of a run: CSV tables, TensorBoard, a progress bar.  All of them continue where a checkpoint
does.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fairseq_erpo.files import atomic_write

PROGRESS = (
    "iteration",
    "timesteps",
    "lambda_data",
    "return",
    "length",
    "episodes",
    "policy_pairs",
    "data_pairs",
    "seconds",
    "reward/mean",
    "reward/std",
    "discriminator/accuracy_expert",
    "discriminator/accuracy_policy",
    "discriminator/logit_expert",
    "discriminator/logit_policy",
    "train/nll",
    "train/approx_kl",
    "train/clip_fraction",
    "train/value_loss",
    "train/entropy",
    "train/std",
)
EVALUATIONS = ("iteration", "timesteps", "return", "return_std", "length", "episodes")


class Table:
    """A CSV with a row per iteration.  Reopening drops the rows after the checkpoint: they will be
    written again.
    """

    def __init__(self, path: Path, columns: Sequence[str], iteration: int) -> None:
        self.columns = columns
        rows = (
            [row for row in read_table(path) if int(row["iteration"]) <= iteration]
            if path.exists()
            else []
        )
        with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as sink:
            writer = csv.DictWriter(sink, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self.file = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns, extrasaction="ignore")

    def add(self, row: Mapping[str, float]) -> None:
        """A column without a value stays empty."""
        self.writer.writerow({name: f"{value:.8g}" for name, value in row.items()})
        self.file.flush()


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the complete rows; a killed process may have left half of one.  Raises ValueError naming
    the file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as source:
            rows = [
                row
                for row in csv.DictReader(source)
                if None not in row.values() and row.get("iteration")
            ]
        for row in rows:
            int(row["iteration"])
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}); start anew in another folder") from None
    return rows


class Logs:
    """Tables, TensorBoard and progress bar of a run that is at `iteration` of `total`."""

    def __init__(self, folder: Path, iteration: int, total: int, title: str, quiet: bool) -> None:
        self.progress = Table(folder / "progress.csv", PROGRESS, iteration)
        self.evaluations = Table(folder / "evaluations.csv", EVALUATIONS, iteration)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)
        self.bar = tqdm(
            total=total, initial=iteration, desc=title, unit="it", disable=True if quiet else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        self.board.close()
        self.progress.file.close()
        self.evaluations.file.close()

    def iteration(self, row: Mapping[str, float]) -> None:
        self.progress.add(row)
        self.write("progress", row)
        self.bar.set_postfix(
            {name: f"{row[name]:.3g}" for name in ("lambda_data", "return") if name in row},
            refresh=False,
        )
        self.bar.update()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.bar.disable:
            self.bar.write(f"gail: {text}", file=sys.stderr)

    def evaluation(self, row: Mapping[str, float]) -> None:
        self.evaluations.add(row)
        self.write("evaluation", row)

    def write(self, group: str, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "iteration":
                self.board.add_scalar(
                    name if "/" in name else f"{group}/{name}", value, int(row["iteration"])
                )
