"""The methods of Figure 3 and their relatives, as rows of one table that one engine runs."""

from collections.abc import Mapping
from dataclasses import dataclass

PREFIXES = ("none", "state", "replay")


@dataclass(frozen=True)
class Method:
    """The properties that distinguish one method.  Raises ValueError for a combination that
    contradicts itself.
    """

    summary: str
    use_ppo: bool = True  # False: the policy is only initialised or cloned
    clone: bool = False  # behaviour cloning first
    learned_reward: bool = True  # from a discriminator; False: the environment's
    train_discriminator: bool = True  # the discriminator learns
    # What begins an episode: none: its own reset; state: a recorded state; replay: recorded actions
    prefix: str = "none"
    likelihood: bool = False  # λ_data of the policy's loss is the likelihood of the data
    all_pairs: bool = False  # likelihood on all pairs, however long the prefix is
    # λ_reward of the loss is the likelihood of actions that the discriminator picks
    reward_expert: bool = False
    schedule: str = "none"  # of λ_data, a preset of schedules.py

    def __post_init__(self) -> None:
        if self.prefix not in PREFIXES:
            raise ValueError(f"prefix {self.prefix!r}: known are {', '.join(PREFIXES)}")
        if not self.use_ppo and (self.prefix != "none" or self.likelihood):
            raise ValueError("without PPO there is neither a prefix nor a likelihood to anneal")
        if not self.learned_reward and (self.likelihood or self.clone or self.prefix != "none"):
            raise ValueError("a policy trained on the true reward uses no demonstrations")
        if self.all_pairs and not self.likelihood:
            raise ValueError("`all_pairs` says which pairs the likelihood uses")
        if self.reward_expert and not (self.use_ppo and self.learned_reward):
            raise ValueError("the reward expert picks among a policy's actions by a discriminator")
        if self.schedule == "none" and (self.prefix != "none" or self.likelihood):
            raise ValueError("a row with a prefix or a likelihood needs a schedule of λ_data")

    @property
    def needs_demos(self) -> bool:
        return self.clone or (self.use_ppo and self.learned_reward)


METHODS: Mapping[str, Method] = {
    "random": Method("the policy as it is initialised", use_ppo=False),
    "bc": Method(
        "behaviour cloning: the likelihood of the demonstrations", use_ppo=False, clone=True
    ),
    "gail": Method("generative adversarial imitation (Ho and Ermon, 2016)"),
    "gail_interp": Method(
        "the paper's: λ_data T demonstrated pairs, learned by likelihood, then the policy's, by "
        "GAIL; λ_data falls to 0",
        prefix="state",
        likelihood=True,
        schedule="linear",
    ),
    "gail_interp_reward": Method(
        "gail_interp with the reward expert between: likelihood of the policy's own actions as "
        "the discriminator picks them",
        prefix="state",
        likelihood=True,
        reward_expert=True,
        schedule="by_reward",
    ),
    "gail_mixer": Method(
        "the same with MIXER's schedule (A.1): the prefix loses a tenth of the trajectory at a "
        "time",
        prefix="state",
        likelihood=True,
        schedule="mixer",
    ),
    "gail_resets": Method(
        "control: episodes begin at demonstrated states as in gail_interp, without its likelihood",
        prefix="state",
        schedule="linear",
    ),
    "gail_annealed_loss": Method(
        "λ_data NLL + (1 - λ_data) PPO on all pairs, λ_data halving; no prefix (BC-regularised "
        "GAIL, arXiv 2001.07798)",
        likelihood=True,
        all_pairs=True,
        schedule="halving",
    ),
    "bc_gail": Method("behaviour cloning of the mean action, then GAIL", clone=True),
    "gail_untrained": Method(
        "control: the discriminator never learns, which shows what mere survival earns",
        train_discriminator=False,
    ),
    "expert": Method("PPO on the environment's reward", learned_reward=False),
}
