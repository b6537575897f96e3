"""A point of the λ-simplex (section 4): how much of a sequence comes from the model, the task
reward and the data.
"""

import math
from dataclasses import dataclass

# Shares typed by hand, such as .429 + .571, may miss 1 by rounding; they are renormalised.
SUM_TOLERANCE = 1e-3
NAMES = ("model", "reward", "data")


@dataclass(frozen=True)
class Mixture:
    """Section 4: the weights of the three experts (the paper numbers them 1, 2, 3), by name, never
    by position.

    Raises ValueError if a share is negative or not finite, or if they do not sum to one.
    """

    model: float  # p_θ
    reward: float  # exp{c ΔR}
    data: float  # y*

    def __post_init__(self) -> None:
        shares = (self.model, self.reward, self.data)
        if not all(math.isfinite(share) for share in shares):
            raise ValueError(f"λ must be finite: {self}")
        if min(shares) < 0:
            raise ValueError(f"λ must not be negative: {self}")
        # Of quarters, since it has an error for a sum beyond the floats
        total = 4 * math.fsum(share / 4 for share in shares)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"λ must sum to one, and sums to {total:g}: {self}")
        for name, share in zip(NAMES, shares, strict=True):
            object.__setattr__(self, name, share / total)

    def __str__(self) -> str:
        return f"model={self.model:.4g},reward={self.reward:.4g},data={self.data:.4g}"

    def towards(self, end: "Mixture", share: float) -> "Mixture":
        """The point that lies `share` (0..1) of the way from here to `end`."""
        if not 0 <= share <= 1:
            raise ValueError(
                f"share must lie in 0..1, not {share}: the schedule would leave the simplex"
            )
        if share == 1:
            return end
        return Mixture(
            model=self.model + share * (end.model - self.model),
            reward=self.reward + share * (end.reward - self.reward),
            data=self.data + share * (end.data - self.data),
        )

    @classmethod
    def parse(cls, text: str) -> "Mixture":
        """Read `model=.12,reward=.16,data=.72` or `model=3/7,reward=4/7`; a share that is left out
        is 0.  Raises ValueError.
        """
        shares: dict[str, float] = {}
        for part in text.split(","):
            name, equals, number = part.partition("=")
            name = name.strip()
            if name in shares:
                raise ValueError(f"λ has {name} twice: {text!r}")
            if name not in NAMES or not equals:
                raise ValueError(f"λ is written as model=.12,reward=.16,data=.72, not {text!r}")
            try:
                top, slash, bottom = number.partition("/")
                share = int(top) / int(bottom) if slash else float(top)
                if math.isnan(share):
                    raise ValueError
            except (ValueError, ArithmeticError):
                raise ValueError(f"{number!r} in λ = {text!r} is not a number") from None
            shares[name] = share
        return cls(**dict.fromkeys(NAMES, 0.0) | shares)


def parse_path(text: str) -> tuple[Mixture, ...]:
    """Read mixtures that follow one another, `reward=.5,data=.5:model=1`; one alone is a path, too.
    Raises ValueError.
    """
    return tuple(Mixture.parse(point) for point in text.split(":"))


MLE = Mixture(model=0, reward=0, data=1)
# A.3.2: every step of (+.12, +.16, -.28) lies on the line from MLE to this point.
PAPER_END = Mixture(model=3 / 7, reward=4 / 7, data=0)
