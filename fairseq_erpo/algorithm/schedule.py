"""From the training clock (epoch, update, validations) to λ: pure functions, so that a resumed run
has the same λ.
"""

from dataclasses import dataclass
from typing import Self

from fairseq_erpo.annealers import Annealer
from fairseq_erpo.mixture import MLE, Mixture

UNITS = {"e": "epoch", "u": "update"}
LEAST, MOST = 1e-6, 1e12


@dataclass(frozen=True)
class Duration:
    """A time with its unit, written `4e` (epochs) or `60u` (updates)."""

    number: float
    unit: str  # epoch or update

    def __str__(self) -> str:
        return f"{self.number:g}{self.unit[0]}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `4e` or `60u`.  Raises ValueError."""
        text = text.strip()
        try:
            number = float(text[:-1] if text[-1:] in UNITS else text)
        except ValueError:
            raise ValueError(
                f"{text!r} is not a duration: write 4e (epochs) or 60u (updates)"
            ) from None
        if text[-1:] not in UNITS:
            raise ValueError(f"{text} has no unit: write {text}e (epochs) or {text}u (updates)")
        if number != 0 and not LEAST <= number <= MOST:
            raise ValueError(f"{text} must be 0, or lie between {LEAST:g} and {MOST:g}")
        return cls(number, UNITS[text[-1]])


@dataclass(frozen=True)
class Schedule:
    """When annealing starts, how fast it runs, and on which clock.

    Raises ValueError if the two durations have different units, or pretraining is not a whole
    number.
    """

    annealer: Annealer
    every: Duration  # period of the annealer
    pretrain: Duration = Duration(0, "epoch")  # of MLE before annealing starts
    plateau: bool = False  # falls of the validation score are the clock, instead of time

    def __post_init__(self) -> None:
        if self.pretrain.number and self.pretrain.unit != self.every.unit:
            raise ValueError(
                f"--erpo-pretrain {self.pretrain} and --erpo-anneal-every {self.every} must be of one unit: both e, or both u"
            )
        if self.pretrain.number != int(self.pretrain.number):
            raise ValueError(f"--erpo-pretrain {self.pretrain} must be a whole number")

    def elapsed(self, epoch: int, update: int, falls: int) -> float | None:
        """Time since annealing began, None before.  `epoch` counts from 1, `update` from 0."""
        elapsed = (epoch - 1 if self.every.unit == "epoch" else update) - int(self.pretrain.number)
        if elapsed < 0:
            return None
        return falls if self.plateau else elapsed

    def mixture(self, epoch: int, update: int, falls: int) -> Mixture:
        """λ at that time."""
        elapsed = self.elapsed(epoch, update, falls)
        return MLE if elapsed is None else self.annealer(elapsed)

    def stage(self, epoch: int, update: int, falls: int) -> int:
        """How many steps of the schedule have been taken, 1 with the first."""
        elapsed = self.elapsed(epoch, update, falls)
        return (
            0
            if elapsed is None
            else 1 + int(elapsed if self.plateau else elapsed / self.every.number)
        )
