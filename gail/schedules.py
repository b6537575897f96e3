"""λ_data over a run: presets of the text tasks' annealers, whose clock is the finished share of the
training, 0 .. 1.

(stable-baselines3's own schedules run from 1 to 0.)
"""

import math
from collections.abc import Callable, Mapping

from fairseq_erpo.annealers import (
    Annealer,
    Shape,
    constant,
    inverse_sigmoid,
    linear,
    make_annealer,
    stairs,
)
from fairseq_erpo.mixture import MLE, Mixture

# λ_model and λ_reward are one for most methods: PPO brings the reward to the policy, so both sample
# from the policy.
POLICY = Mixture(model=1, reward=0, data=0)
# Halfway, of gail_interp_reward. λ_data falls as in `linear`, so that the two differ in nothing
# else.
BETWEEN = Mixture(model=0.25, reward=0.25, data=0.5)
MIXER_STEPS = 10  # A.1 shortens the prefix by a whole number of steps at a time
HALVINGS = 10  # within `until`; the likelihood's weight is then a thousandth
SIGMOID_K = 12  # the clock in percent of `until`: half of the data is left at k ln k = 30 percent


def halving(every: float) -> Shape:
    """Halve the data's share at the end of each period."""
    # 1e-9: a tenth of a share, summed up in binary, may miss a period's end by a rounding.
    return lambda elapsed: 1 - 0.5 ** math.floor(elapsed / every + 1e-9)


def percent(until: float) -> Shape:
    shape = inverse_sigmoid(SIGMOID_K)
    return lambda elapsed: shape(100 * elapsed / until)


# name -> annealer that has no data left (halving and inverse_sigmoid: almost none) when `until` of
# the training is done
PRESETS: Mapping[str, Callable[[float], Annealer]] = {
    "linear": lambda until: Annealer(linear(until), MLE, POLICY),
    "by_reward": lambda until: Annealer(linear(until), MLE, POLICY, (BETWEEN,)),
    "paper": lambda until: make_annealer("stairs", POLICY, until / 3),  # A.3.2: .72, .44, .16, 0
    "mixer": lambda until: Annealer(
        stairs(until / (MIXER_STEPS - 1), 1 / MIXER_STEPS), MLE, POLICY
    ),
    "halving": lambda until: Annealer(halving(until / HALVINGS), MLE, POLICY),
    "inverse_sigmoid": lambda until: Annealer(percent(until), MLE, POLICY),
    "none": lambda until: Annealer(constant(), MLE, POLICY),
}


def make_schedule(name: str, until: float = 0.5) -> Annealer:
    """Return the annealer of a preset.  Raises ValueError for an unknown name or `until` outside
    (0, 1].
    """
    if name not in PRESETS:
        raise ValueError(
            f"--schedule {name}: known are {', '.join(PRESETS)}, and a number for a constant λ_data"
        )
    if not 0 < until <= 1:
        raise ValueError(f"--until {until}: must be a share of the training, above 0 and at most 1")
    return PRESETS[name](until)


def constant_schedule(share: float) -> Annealer:
    """Keep λ_data at `share`; 0 is plain GAIL."""
    if not 0 <= share <= 1:
        raise ValueError(f"--schedule {share}: a constant λ_data lies in 0 .. 1")
    return Annealer(constant(), MLE, Mixture(model=1 - share, reward=0, data=share))


def parse_schedule(text: str, until: float) -> Annealer:
    """Read --schedule: a preset's name, or a number."""
    try:
        share = float(text)
    except ValueError:
        return make_schedule(text, until)
    return constant_schedule(share)
