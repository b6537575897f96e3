"""Annealing as pure functions of elapsed time: nothing is accumulated, so a resumed run has the
same λ.

`elapsed` is the time since annealing began: epochs or updates for text, the finished share of the
training in gail.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairseq_erpo.mixture import MLE, PAPER_END, Mixture

PAPER_STEP = 0.28  # A.3.2: how much λ_data falls at each step

Shape = Callable[[float], float]  # elapsed -> share of the way from start to end, 0..1


@dataclass(frozen=True)
class Annealer:
    """Section 4: λ as a function of elapsed time, on straight legs from `start` to `end`, each an
    equal share of the way.
    """

    shape: Shape
    start: Mixture = MLE
    end: Mixture = PAPER_END
    through: tuple[Mixture, ...] = ()  # where one leg ends and the next begins

    def __call__(self, elapsed: float) -> Mixture:
        """λ after `elapsed` >= 0.  Raises ValueError if the shape leaves 0..1."""
        points = (self.start, *self.through, self.end)
        way = self.shape(elapsed) * (len(points) - 1)
        # Also of what `towards` will refuse, not-a-number too
        leg = sum(way >= end for end in range(1, len(points) - 1))
        return points[leg].towards(points[leg + 1], way - leg)


def constant() -> Shape:
    """Start and stay at the end point."""
    return lambda elapsed: 1.0


def stairs(every: float, size: float) -> Shape:
    """A.3.2: one step of `size` immediately and another every `every`, up to the end point.

    The paper's third step would leave the simplex, (.48, .64, -.12); the segment's end is (3/7,
    4/7, 0).
    """
    return lambda elapsed: min(1.0, size * (math.floor(elapsed / every) + 1))


def linear(over: float) -> Shape:
    """Move evenly from start to end while `elapsed` goes from 0 to `over`."""
    return lambda elapsed: min(1.0, elapsed / over)


def inverse_sigmoid(k: float) -> Shape:
    """Scheduled sampling's decay (A.3.2): the start's share falls as k / (k + exp(i / k))."""
    # exp overflows beyond 709; the share is 1 to the last bit long before.
    return lambda elapsed: 1 - k / (k + math.exp(min(elapsed / k, 700)))


def falls(scores: Sequence[float], maximize: bool) -> int:
    """Count how often a validation score fell below the best one since the last fall: the clock of
    the plateau schedule.
    """
    count, best = 0, -math.inf
    for score in scores:
        better = score if maximize else -score
        if better < best:
            count, best = count + 1, -math.inf
        else:
            best = better
    return count


# Plateau is the paper's stairs with `falls` as its clock.
SCHEDULES = ("stairs", "linear", "constant", "inverse_sigmoid", "plateau")


def make_annealer(
    schedule: str, end: Mixture, every: float, through: tuple[Mixture, ...] = ()
) -> Annealer:
    """The annealer of a named schedule from (0, 0, 1), along the points `through`, to `end`.

    Raises ValueError for an unknown name, every <= 0, or a constant schedule with points on its
    way.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    if not every > 0:
        raise ValueError(f"annealing needs a positive period, not {every}")
    if schedule == "constant" and through:
        raise ValueError("a constant schedule stays at one mixture and passes no other")
    # A.3.2 states its steps in λ_data; a segment that keeps all data has no step to take.
    fall = MLE.data - end.data
    size = min(1.0, PAPER_STEP / fall) if fall > 0 else 1.0
    shapes = {
        "stairs": stairs(every, size),
        "plateau": stairs(1, size),
        "linear": linear(every / size),
        "constant": constant(),
        "inverse_sigmoid": inverse_sigmoid(every),
    }
    return Annealer(shapes[schedule], MLE, end, through)
