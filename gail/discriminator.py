"""The discriminator D(s, a): the probability that a pair comes from the expert.

Convention: logits are high for the expert, D = σ(logit), the label of an expert pair is one. (Ho
and Ermon write D for the policy's probability; with theirs every sign here turns.) Letters: B pairs
of the expert, M of the policy, D size of an observation, A of an action.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

HIDDEN = 128  # section 5.3: two hidden layers of 128, tanh
CLIP = 10.0  # standard deviations

# From logits_expert_is_high [M] to rewards [M]. gail: -log(1 - D) = softplus(logit) > 0, which
# rewards long life; log_d: log D < 0, which rewards its end; airl: log D - log(1 - D) = logit.
REWARDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gail": softplus,
    "log_d": logsigmoid,
    "airl": lambda logits_expert_is_high: logits_expert_is_high,
}


@dataclass(frozen=True)
class DiscriminatorSettings:
    """How the discriminator learns.  Raises ValueError for a value out of range."""

    learning_rate: float = 3e-4
    # Steps of Adam in an iteration, which share the policy's pairs: together they cost one
    # full-batch step. Earlier code has 1, for 1000 iterations and more; in shorter runs the policy
    # then settles on what merely survives (Hopper, 4 demonstrations, 60 iterations, one seed: 1009
    # standing still, 1419 with 5).
    steps: int = 5
    entropy: float = 0.0  # bonus on the entropy of D; Ho and Ermon have 1e-3
    # On (|∇D's logit| - 1)² between expert and policy (Gulrajani et al., 2017)
    gradient_penalty: float = 0.0
    spectral_norm: bool = False
    reward: str = "gail"

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"reward {self.reward!r}: known are {', '.join(REWARDS)}")
        if min(self.learning_rate, self.entropy, self.gradient_penalty) < 0 or self.steps < 1:
            raise ValueError(
                f"numbers of the discriminator must not be negative, and steps at least 1: {self}"
            )
        for name, most in (
            ("learning_rate", 1),
            ("entropy", 10),
            ("gradient_penalty", 1000),
            ("steps", 10_000),
        ):
            if getattr(self, name) > most:
                raise ValueError(
                    f"--discriminator {name} must be at most {most}, and is {getattr(self, name):g}"
                )


class RunningNorm(nn.Module):
    """Mean and variance of all observations so far (Welford's formula, batch by batch)."""

    mean: Tensor
    square: Tensor  # sum of squared distances from the mean
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))
        self.register_buffer("count", torch.zeros(()))

    def update(self, batch: Tensor) -> None:
        """[B, D]"""
        count = self.count + len(batch)
        delta = batch.mean(0) - self.mean
        self.square += (
            batch.var(0, correction=0) * len(batch)
            + delta.square() * self.count * len(batch) / count
        )
        self.mean += delta * len(batch) / count
        self.count.copy_(count)

    def forward(self, x: Tensor) -> Tensor:
        variance = self.square / self.count.clamp(min=1)
        # A coordinate that never moves stays as it is, and does not explode.
        return ((x - self.mean) / variance.sqrt().clamp(min=1e-3)).clamp(-CLIP, CLIP)


class Discriminator(nn.Module):
    """D of raw observations, which it normalises itself, and of clipped actions, for the expert and
    the policy alike.
    """

    def __init__(
        self, observation_size: int, action_size: int, settings: DiscriminatorSettings, seed: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.norm = RunningNorm(observation_size)
        sizes = (observation_size + action_size, HIDDEN, HIDDEN, 1)
        # Its own random numbers, so that the policy's are those of plain PPO.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            linear: list[nn.Module] = [nn.Linear(a, b) for a, b in pairwise(sizes)]
            if settings.spectral_norm:
                linear = [nn.utils.parametrizations.spectral_norm(layer) for layer in linear]
        self.layers = nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])
        self.optimizer = torch.optim.Adam(self.parameters(), settings.learning_rate)
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """logits_expert_is_high [M] of raw observations [M, D] and clipped actions [M, A]."""
        return self.layers(torch.cat([self.norm(observations), actions], 1)).squeeze(1)

    def learn(self, expert: tuple[Tensor, Tensor], policy: tuple[Tensor, Tensor]) -> None:
        """Take the steps of an iteration: each on all of the expert's pairs [B, .] and on its part
        of the policy's [M, .].

        At most M steps, so that each has a pair.
        """
        self.norm.update(torch.cat([expert[0], policy[0]]))
        steps = min(self.settings.steps, len(policy[0]))
        for rows in torch.randperm(len(policy[0]), generator=self.generator).tensor_split(steps):
            self.optimizer.zero_grad()
            self.loss(expert, (policy[0][rows], policy[1][rows])).backward()
            self.optimizer.step()

    @torch.no_grad()
    def report(self, expert: tuple[Tensor, Tensor], low: Tensor) -> dict[str, float]:
        """Return accuracies and mean logits to log, given the logits [M] of the policy's pairs."""
        high = self(*expert)
        return {
            "accuracy_expert": (high > 0).float().mean().item(),
            "accuracy_policy": (low < 0).float().mean().item(),
            "logit_expert": high.mean().item(),
            "logit_policy": low.mean().item(),
        }

    def loss(self, expert: tuple[Tensor, Tensor], policy: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy with equal weight for both sides, however many pairs each has, plus the
        regularisers.
        """
        high, low = self(*expert), self(*policy)
        loss = (softplus(-high).mean() + softplus(low).mean()) / 2
        if self.settings.entropy:
            loss = (
                loss
                - self.settings.entropy
                * (bernoulli_entropy(high).mean() + bernoulli_entropy(low).mean())
                / 2
            )
        if self.settings.gradient_penalty:
            loss = loss + self.settings.gradient_penalty * self.penalty(expert, policy)
        return loss

    def penalty(self, expert: tuple[Tensor, Tensor], policy: tuple[Tensor, Tensor]) -> Tensor:
        """Mean (|∇ logit| - 1)² at random points between pairs of expert and policy."""
        picks = torch.randint(len(policy[0]), (len(expert[0]),), generator=self.generator)
        share = torch.rand(len(picks), 1, generator=self.generator)
        pairs = zip(
            (self.norm(expert[0]), expert[1]), (self.norm(policy[0]), policy[1]), strict=True
        )
        between = torch.cat(
            [share * a + (1 - share) * b[picks] for a, b in pairs], 1
        ).requires_grad_()
        (slope,) = torch.autograd.grad(self.layers(between).sum(), between, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """H(σ(logit)) = softplus(logit) - logit σ(logit)"""
    return softplus(logits) - logits * torch.sigmoid(logits)
