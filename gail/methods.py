"""The rows of Figure 3 and their relatives, as points of one table that one engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREFIXES = ("none", "state", "replay")


@dataclass(frozen=True)
class Method:
    """What distinguishes one row.  Raises ValueError for a row that would not do what it says."""

    summary: str
    reinforce: bool = True  # PPO on the reward; False: the policy stays as it began
    clone: bool = False  # behaviour cloning first
    imitate: bool = True  # rewards come from a discriminator; False: from the environment
    discern: bool = True  # the discriminator learns
    prefix: str = "none"  # what begins an episode: none: its own reset; state: a recorded state; replay: recorded actions
    likelihood: bool = False  # λ3 of the policy's loss is the likelihood of the data
    whole: bool = False  # likelihood on all pairs, however long the prefix is
    schedule: str = "none"  # of λ3, a preset of schedules.py

    def __post_init__(self) -> None:
        if self.prefix not in PREFIXES:
            raise ValueError(f"prefix {self.prefix!r}: known are {', '.join(PREFIXES)}")
        if not self.reinforce and (self.prefix != "none" or self.likelihood):
            raise ValueError("without PPO there is neither a prefix nor a likelihood to anneal")
        if not self.imitate and (self.likelihood or self.clone or self.prefix != "none"):
            raise ValueError("a policy trained on the true reward uses no demonstrations")
        if self.whole and not self.likelihood:
            raise ValueError("`whole` says which pairs the likelihood uses")
        if self.schedule == "none" and (self.prefix != "none" or self.likelihood):
            raise ValueError("a row with a prefix or a likelihood needs a schedule of λ3")

    @property
    def needs_demos(self) -> bool:
        return self.clone or (self.reinforce and self.imitate)


METHODS: Mapping[str, Method] = {
    "random": Method("the policy as it is initialised", reinforce=False),
    "bc": Method("behaviour cloning: the likelihood of the demonstrations", reinforce=False, clone=True),
    "gail": Method("generative adversarial imitation (Ho and Ermon, 2016)"),
    "gail_interp": Method(
        "the paper's: an episode begins with λ3 T pairs of data, by likelihood, and the rest is GAIL's; λ3 falls to 0",
        prefix="state", likelihood=True, schedule="linear",
    ),
    "gail_mixer": Method(
        "the same with MIXER's schedule (A.1): the prefix loses a tenth of the trajectory at a time",
        prefix="state", likelihood=True, schedule="mixer",
    ),
    "gail_resets": Method(
        "control: episodes begin at demonstrated states as in gail_interp, without its likelihood",
        prefix="state", schedule="linear",
    ),
    "gail_annealed_loss": Method(
        "λ3 NLL + (1 - λ3) PPO on all pairs, λ3 halving; no prefix (BC-regularised GAIL, arXiv 2001.07798)",
        likelihood=True, whole=True, schedule="halving",
    ),
    "bc_gail": Method("behaviour cloning, then GAIL", clone=True),
    "gail_untrained": Method("control: the discriminator never learns, which shows what mere survival earns", discern=False),
    "expert": Method("PPO on the environment's reward", imitate=False),
}  # fmt: skip
