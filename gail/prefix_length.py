"""Distributions of the prefix's length m: how many of a trajectory's T steps come from a
demonstration, given λ_data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gail.demos import Floats, Ints


@dataclass(frozen=True)
class PrefixLength:
    """A distribution of m in 0 .. T, and the probability with which it reaches each pair, the
    likelihood's weight.
    """

    draw: Callable[[np.random.Generator, float, int], int]  # (rng, λ_data, T) -> m
    reach: Callable[
        [Floats | Ints, float, Floats | Ints], Floats
    ]  # (t [N], λ_data, T [N]) -> P(m > t) [N]: the pair at t is in the prefix


def fixed_reach(t: Floats | Ints, share: float, length: Floats | Ints) -> Floats:
    return (t < np.round(share * length)).astype(float)


def uniform_draw(rng: np.random.Generator, share: float, length: int) -> int:
    return int(rng.integers(0, round(share * length) + 1))


def uniform_reach(t: Floats | Ints, share: float, length: Floats | Ints) -> Floats:
    most = np.round(share * length)
    return np.clip((most - t) / (most + 1), 0, 1)


def geometric_draw(rng: np.random.Generator, share: float, length: int) -> int:
    return length if share >= 1 else min(length, int(rng.geometric(1 - share)) - 1)


def geometric_reach(t: Floats | Ints, share: float, length: Floats | Ints) -> Floats:
    return np.power(float(share), t + 1.0)


# fixed      m = round(λ_data T): λ_data is the share of the trajectory that is data.
# uniform    m in 0 .. round(λ_data T): as much data at most, and the policy begins all over it.
# geometric  an expert is drawn for each step, data first, as section 4 reads literally: λ_data =
#            .72 is a prefix of 2.6 steps.
# Departs from the paper: it draws each step's expert; a simulator cannot follow data again once the
# policy has acted, and the geometric prefix that remains is too short to be the gradual annealing
# that section 5.3 describes. Hence `fixed`.
PREFIX_LENGTHS: Mapping[str, PrefixLength] = {
    "fixed": PrefixLength(lambda rng, share, length: round(share * length), fixed_reach),
    "uniform": PrefixLength(uniform_draw, uniform_reach),
    "geometric": PrefixLength(geometric_draw, geometric_reach),
}
