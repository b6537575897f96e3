"""A row's settings as plain values, resolved once from flags (`fairseq_erpo.family.flags`)."""

from dataclasses import dataclass
from typing import Any

from fairseq_erpo.algorithm.estep import ExpertSettings
from fairseq_erpo.algorithm.schedule import Schedule
from fairseq_erpo.rewards.base import Reward

REWARD_TARGETS = ("hard", "soft", "product")
SAMPLERS = ("cached", "parallel")


@dataclass(frozen=True)
class Settings:
    """How a row draws and weighs.  Raises ValueError, naming the flags, for values that contradict each other."""

    reward: Reward[Any]
    experts: ExpertSettings
    schedule: Schedule
    label_smoothing: float
    sampler: str  # cached: step by step; parallel: whole passes to a fixed point, the same tokens
    samples: int
    model_targets: str  # a key of weigh.MODEL_TARGETS
    reward_targets: str  # one of REWARD_TARGETS
    baseline: str  # a key of baselines.BASELINES
    alpha: float | None
    bang_bang: float | None
    prior: str | None
    payoff: str  # a key of neighbours.PAYOFFS
    tau: float
    samples_file: str | None
    noise: str  # a key of noising.SCHEMES
    gamma: float

    def __post_init__(self) -> None:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError("--erpo-baseline leave_one_out needs --erpo-samples 2 or more, or --erpo-baseline none")
        if self.baseline != "none" and self.model_targets != "policy":
            raise ValueError(f"--erpo-baseline {self.baseline} needs --erpo-model-targets policy; or use --erpo-baseline none")
        if self.model_targets == "reward" and self.reward_targets == "hard":
            raise ValueError("--erpo-model-targets reward needs --erpo-reward-targets soft or product")
        if self.reward_targets == "product" and self.alpha is None:
            raise ValueError("--erpo-reward-targets product needs --erpo-alpha")
