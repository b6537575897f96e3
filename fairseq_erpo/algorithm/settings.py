"""A row's settings as plain values, resolved once from flags (`fairseq_erpo.family.flags`)."""

from dataclasses import dataclass
from typing import Any

from fairseq_erpo.algorithm.estep import ExpertSettings
from fairseq_erpo.algorithm.schedule import Schedule
from fairseq_erpo.rewards.base import Reward

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
    targets: str  # a key of weigh.TARGETS
    baseline: str  # a key of baselines.BASELINES
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
                f"--erpo-baseline {self.baseline} needs --erpo-samples 2 or more, or "
                "--erpo-baseline none"
            )
        if self.baseline != "none" and self.targets != "policy":
            raise ValueError(
                f"--erpo-baseline {self.baseline} needs --erpo-targets policy; or use "
                "--erpo-baseline none"
            )
        if self.targets == "risk" and self.samples < 2:
            raise ValueError(
                "expected risk compares the candidates of one source: give --erpo-samples 2 or more"
            )

    def drawn_by(self, expert: str) -> bool:
        """Whether λ ever gives this expert (model, reward or data) a share."""
        return any(getattr(mixture, expert) > 0 for mixture in self.schedule.passed())

    @property
    def learns_whole_reward(self) -> bool:
        """Whether the reward expert's whole distribution is learnt where it drew."""
        return self.targets in ("policy", "reward") and self.drawn_by("reward")
