"""From the training clock (epoch, update, validations) to λ: pure functions, so that a resumed run
has the same λ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from fairseq_erpo.annealers import Annealer
from fairseq_erpo.mixture import MLE, Mixture

UNITS = {"e": "epoch", "u": "update", "%": "share"}
LEAST, MOST = 1e-6, 1e12


@dataclass(frozen=True)
class Duration:
    """A time with its unit: `4e` (epochs), `60u` (updates) or `8%` (of the run)."""

    number: float
    unit: str  # epoch, update or share

    def __str__(self) -> str:
        return f"{self.number:g}{next(key for key, unit in UNITS.items() if unit == self.unit)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `4e`, `60u` or `8%`.  Raises ValueError."""
        text = text.strip()
        try:
            number = float(text[:-1] if text[-1:] in UNITS else text)
        except ValueError:
            raise ValueError(
                f"{text!r} is not a duration: write 4e (epochs), 60u (updates) or 8% (of the run)"
            ) from None
        if text[-1:] not in UNITS:
            raise ValueError(
                f"{text} has no unit: write {text}e (epochs), {text}u (updates) or {text}% (of "
                "the run)"
            )
        if number != 0 and not LEAST <= number <= MOST:
            raise ValueError(f"{text} must be 0, or lie between {LEAST:g} and {MOST:g}")
        return cls(number, UNITS[text[-1]])


class Run(NamedTuple):
    """How long the run is that a share is a share of."""

    updates: float  # in all
    per_epoch: float = math.inf


class Now(NamedTuple):
    """A moment of training."""

    epoch: int = 1  # from 1
    update: int = 0  # from 0
    falls: int = 0  # of the validation score, `annealers.falls`
    run: Run | None = None  # needed where a duration is a share


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
        if self.pretrain.unit == "share" or self.pretrain.number != int(self.pretrain.number):
            raise ValueError(
                f"--erpo-pretrain {self.pretrain} must be a whole number of epochs (20e) or "
                "updates (5000u)"
            )
        if self.pretrain.number and self.every.unit not in (self.pretrain.unit, "share"):
            raise ValueError(
                f"--erpo-pretrain {self.pretrain} and --erpo-anneal-every {self.every} must be of "
                "one unit: both e, or both u"
            )

    @property
    def by_share(self) -> bool:
        """Whether the length of the run has to be known."""
        return self.every.unit == "share" and not self.plateau

    def elapsed(self, now: Now) -> float | None:
        """Time since annealing began in the unit of `every`, None before.

        A share is one of what is left of the run behind the pretraining, in percent.
        """
        pretrain = int(self.pretrain.number)
        by_epochs = (self.pretrain if pretrain else self.every).unit == "epoch"
        elapsed = (now.epoch - 1 if by_epochs else now.update) - pretrain
        if elapsed < 0:
            return None
        if self.plateau:
            return now.falls
        return self._share(now, pretrain, by_epochs) if self.by_share else elapsed

    def _share(self, now: Now, pretrain: int, by_epochs: bool) -> float:
        assert now.run is not None
        start = pretrain * now.run.per_epoch if pretrain and by_epochs else pretrain
        return 100 * max(now.update - start, 0) / max(now.run.updates - start, 1)

    def mixture(self, now: Now) -> Mixture:
        """λ at that time."""
        elapsed = self.elapsed(now)
        return MLE if elapsed is None else self.annealer(elapsed)

    def stage(self, now: Now) -> int:
        """How many steps of the schedule have been taken, 1 with the first."""
        elapsed = self.elapsed(now)
        if elapsed is None:
            return 0
        return 1 + int(elapsed if self.plateau else elapsed / self.every.number)

    def passed(self) -> Sequence[Mixture]:
        """The ends of the path's legs, without its start where the first step is the last."""
        ends = (*self.annealer.through, self.annealer.end)
        return ends if self.annealer(0) == self.annealer.end else (self.annealer.start, *ends)
