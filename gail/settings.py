"""The settings of a training run: every number that its result depends on.  Defaults are stated
here and nowhere else.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fairseq_erpo.verbs import dashed
from gail.demos import PAIRS
from gail.discriminator import DiscriminatorSettings
from gail.methods import METHODS, PREFIXES, Method
from gail.prefix_length import PREFIX_LENGTHS
from gail.schedules import parse_schedule


@dataclass(frozen=True)
class PPOSettings:
    """SB3's arguments by SB3's names; the batch is larger than its 64, which doubles the speed on
    small networks.
    """

    learning_rate: float = 3e-4
    n_epochs: int = 10
    batch_size: int = 256
    gamma: float = 0.995  # SB3 has 0.99, by which a fall costs 100 steps of reward (docs/gail.md)
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    log_std_init: float = 0.0

    def __post_init__(self) -> None:
        if (
            min(self.learning_rate, self.n_epochs, self.clip_range, self.max_grad_norm) <= 0
            or self.batch_size < 2
        ):
            raise ValueError(
                "learning_rate, n_epochs, clip_range, max_grad_norm > 0 and batch_size > 1 are "
                f"needed: {self}"
            )
        if self.learning_rate > 1 or abs(self.log_std_init) > 10:
            raise ValueError(
                f"--ppo learning_rate must be at most 1, log_std_init between -10 and 10: {self}"
            )
        for name in ("gamma", "gae_lambda", "clip_range"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"--ppo {name} must lie between 0 and 1, and is {getattr(self, name):g}"
                )
        for name, most in (("ent_coef", 10), ("vf_coef", 100)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"--ppo {name} must lie between 0 and {most}, and is {getattr(self, name):g}"
                )


@dataclass(frozen=True)
class RunSettings:
    """The settings of one run.  Raises ValueError that names the flag."""

    env: str
    method: str
    demos: str | None = None  # an .npz of archive.py
    n: int | None = None  # trajectories of it; None: all
    pairs: int = PAIRS  # of each trajectory; 0: all of them
    seed: int = 1
    iterations: int = 1000  # section 5.3
    steps: int = 2048  # section 5.3: policy pairs in an iteration; those of the prefix come on top
    envs: int = 8
    schedule: str | None = None  # a preset or a number; None: the method's
    until: float = 0.5  # share of the training after which no data is left
    prefix: str | None = None  # None: the method's
    prefix_length: str = "fixed"  # a key of PREFIX_LENGTHS
    # A debugging switch: the environment's reward instead of the discriminator's
    true_reward: bool = False
    bc_steps: int = 2000
    eval_every: int = 10  # iterations
    eval_episodes: int = 5  # during training; at the end there are evaluate.EPISODES
    ppo: PPOSettings = field(default_factory=PPOSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"--method {self.method}: known are {', '.join(METHODS)}")
        if self.row.needs_demos and self.demos is None:
            raise ValueError(
                f"--method {self.method} needs --demos FILE.npz; `python -m gail record --help` "
                "makes one"
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed {self.seed}: must lie between 0 and 2^31 - 1")
        if self.prefix_length not in PREFIX_LENGTHS:
            raise ValueError(
                f"--prefix-length {self.prefix_length}: known are {', '.join(PREFIX_LENGTHS)}"
            )
        if self.prefix is not None and (
            self.prefix not in PREFIXES or METHODS[self.method].prefix == "none"
        ):
            raise ValueError(
                f"--prefix {self.prefix}: known are {', '.join(PREFIXES)}, for methods that begin "
                "with data"
            )
        if self.prefix == "replay" and self.pairs:
            raise ValueError(
                "--prefix replay takes every recorded action, so it needs --pairs 0 (all of them)"
            )
        if (
            min(self.iterations, self.envs, self.eval_every, self.eval_episodes) < 1
            or self.bc_steps < 0
            or self.pairs < 0
        ):
            raise ValueError(
                "--iterations, --envs, --eval-every and --eval-episodes must be positive, "
                "--bc-steps and --pairs not negative"
            )
        if self.steps < max(self.envs, 2) or self.steps % self.envs:
            raise ValueError(
                f"--steps {self.steps}: must be a multiple of --envs {self.envs}, and at least 2"
            )
        parse_schedule(self.schedule_name, self.until)

    @property
    def row(self) -> Method:
        """The method, with --prefix in place of its own prefix if one was given."""
        row = METHODS[self.method]
        return row if self.prefix is None else replace(row, prefix=self.prefix)

    @property
    def schedule_name(self) -> str:
        return METHODS[self.method].schedule if self.schedule is None else self.schedule

    @property
    def total_timesteps(self) -> int:
        return self.iterations * self.steps

    def differences(self, other: dict[str, Any]) -> list[str]:
        """List the flags that differ from those of a run on disk, which `asdict` wrote."""
        before = typed(other)
        return [
            f"{flag} is {value!r}, was {before.get(flag)!r}"
            for flag, value in typed(asdict(self)).items()
            if value != before.get(flag)
        ]


def typed(settings: dict[str, Any]) -> dict[str, Any]:
    """Values by flag, those of a record one by one: {"ppo": {"gamma": 0.99}} -> {"--ppo gamma":
    0.99}.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= (
            {f"{dashed(name)} {key}": one for key, one in value.items()}
            if isinstance(value, dict)
            else {dashed(name): value}
        )
    return found
