"""A row's settings as plain values, resolved once from flags (`fairseq_erpo.family.flags`)."""

from dataclasses import dataclass
from typing import Any

from fairseq_erpo.algorithm.estep import ExpertSettings
from fairseq_erpo.algorithm.schedule import Schedule
from fairseq_erpo.rewards.base import Reward

REWARD_TARGETS = ("hard", "soft", "product")
ADVANTAGES = ("plain", "group", "batch")
CANDIDATES = ("samples", "beam")


@dataclass(frozen=True)
class Settings:
    """How a row draws and weighs.  Raises ValueError, naming the flags, for values that contradict
    each other.
    """

    teacher: Reward[Any]  # ΔR of the next token
    reward: Reward[Any] | str  # pays whole sequences; a string names a reward of text
    experts: ExpertSettings
    schedule: Schedule
    label_smoothing: float
    samples: int
    layout: str  # a key of layouts.LAYOUTS: of the rows that have --erpo-layout
    model_targets: str  # a key of weigh.MODEL_TARGETS
    reward_targets: str  # one of REWARD_TARGETS
    baseline: str  # a key of baselines.BASELINES
    advantage: str  # one of ADVANTAGES
    clip: float  # the largest |advantage|
    sharpness: float  # of expected risk's q
    candidates: str  # one of CANDIDATES
    alpha: float | None
    bang_bang: float | None
    prior: str | None
    payoff: str  # a key of neighbours.PAYOFFS
    tau: float
    samples_file: str | None
    noise: str  # a key of noising.SCHEMES
    gamma: float

    def __post_init__(self) -> None:
        if self.baseline in ("leave_one_out", "group") and self.samples < 2:
            raise ValueError(
                f"--erpo-baseline {self.baseline} needs --erpo-samples 2 or more, or --erpo-baseline none"
            )
        if self.baseline != "none" and self.model_targets != "policy":
            raise ValueError(
                f"--erpo-baseline {self.baseline} needs --erpo-model-targets policy; or use --erpo-baseline none"
            )
        if self.advantage == "group" and self.baseline not in ("leave_one_out", "group"):
            # With another baseline samples that agree would have an advantage, divided by a
            # deviation of 0.
            raise ValueError(
                "--erpo-advantage group needs --erpo-baseline group or leave_one_out; or use --erpo-advantage batch"
            )
        if self.model_targets == "risk" and self.samples < 2:
            raise ValueError(
                "expected risk compares the candidates of one source: give --erpo-samples 2 or more"
            )
        if self.model_targets == "risk" and self.reward_targets != "hard":
            raise ValueError(
                f"--erpo-reward-targets {self.reward_targets} would change nothing: expected risk weighs what was drawn, whoever "
                "drew it; use --erpo-reward-targets hard"
            )
        if self.model_targets == "reward" and self.reward_targets == "hard":
            raise ValueError(
                "--erpo-model-targets reward needs --erpo-reward-targets soft or product"
            )
        if self.reward_targets == "product" and self.alpha is None:
            raise ValueError("--erpo-reward-targets product needs --erpo-alpha")
