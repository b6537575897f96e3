"""A point of the λ-simplex (section 4): how much of a sequence comes from model, task reward and data."""

import math
from dataclasses import dataclass
from fractions import Fraction

# Shares typed by hand, such as .429 + .571, may miss 1 by rounding; they are renormalised.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Mixture:
    """Section 4: the weights (λ1, λ2, λ3) of the experts, by name, never by position.

    Raises ValueError if a share is negative or not finite, or if they do not sum to one.
    """

    model: float  # λ1: p_θ
    task: float  # λ2: exp{c ΔR} of the task reward
    delta: float  # λ3: the data, y*

    def __post_init__(self) -> None:
        shares = (self.model, self.task, self.delta)
        if not all(math.isfinite(share) for share in shares):
            raise ValueError(f"λ must be finite: {self}")
        if min(shares) < 0:
            raise ValueError(f"λ must not be negative: {self}")
        total = math.fsum(shares)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"λ must sum to one, and sums to {total:g}: {self}")
        for name, share in zip(("model", "task", "delta"), shares, strict=True):
            object.__setattr__(self, name, share / total)

    def __str__(self) -> str:
        return f"model={self.model:.4g},task={self.task:.4g},delta={self.delta:.4g}"

    def towards(self, end: "Mixture", share: float) -> "Mixture":
        """The point that lies `share` (0..1) of the way from here to `end`."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in 0..1, not {share}: the schedule would leave the simplex")
        if share == 1:
            return end
        return Mixture(
            model=self.model + share * (end.model - self.model),
            task=self.task + share * (end.task - self.task),
            delta=self.delta + share * (end.delta - self.delta),
        )

    @classmethod
    def parse(cls, text: str) -> "Mixture":
        """Read `model=.12,task=.16,delta=.72` or `model=3/7,task=4/7`; what is left out is 0.  Raises ValueError."""
        shares = {"model": 0.0, "task": 0.0, "delta": 0.0}
        for part in text.split(","):
            name, equals, number = part.partition("=")
            if name.strip() not in shares or not equals:
                raise ValueError(f"λ is written as model=.12,task=.16,delta=.72, not {text!r}")
            try:
                shares[name.strip()] = float(Fraction(number.strip()))
            except (ValueError, ZeroDivisionError):
                raise ValueError(f"{number!r} in λ = {text!r} is not a number") from None
        return cls(**shares)


MLE = Mixture(model=0, task=0, delta=1)
# A.3.2: every step of (+.12, +.16, -.28) lies on the line from MLE to this point.
PAPER_END = Mixture(model=3 / 7, task=4 / 7, delta=0)
