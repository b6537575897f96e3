"""Behaviour cloning: the likelihood of demonstrated actions, alone or as the data's part of an annealed update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LEARNING_RATE = 1e-3
BATCH = 128
# Below exp(-2.5) = .08 the likelihood of 50 pairs has nothing left to gain but its own collapse: exploration ends, and PPO's
# ratios explode.
LOG_STD_FLOOR = -2.5


def negative_log_likelihood(policy: Any, observations: Tensor, actions: Tensor, weights: Tensor) -> Tensor:
    """-Σ w log π(a|s) / Σ w of normalised observations [B, D], clipped actions [B, A] and weights [B]; a scalar.

    A.1 of the paper equates this with the data's part of MIXER's objective.
    """
    return weighted_nll(policy.get_distribution(observations).log_prob(actions), weights)


def weighted_nll(log_p: Tensor, weights: Tensor) -> Tensor:
    """-Σ w log p / Σ w, of [B] each."""
    return -(weights * log_p).sum() / weights.sum()


def of_the_mean(distribution: Any, start: int, actions: Tensor) -> Tensor:
    """log π(a|s) of the rows from `start` on, for the mean to learn and not the deviation.  [B, A] -> [B]

    Departs from the paper: it is silent. 50 pairs are soon learnt by heart, and their likelihood then shrinks the deviation to a
    tenth: exploration ends while PPO still has half of the training before it, and the discriminator wins.
    """
    normal = distribution.distribution
    log_p: Tensor = torch.distributions.Normal(normal.mean[start:], normal.stddev[start:].detach()).log_prob(actions)
    return log_p.sum(1)


@torch.no_grad()
def keep_exploring(policy: Any, floor: float = LOG_STD_FLOOR) -> None:
    """After a step on the likelihood: no deviation below exp(floor)."""
    policy.log_std.clamp_(min=floor)


def clone(
    policy: Any, observations: Tensor, actions: Tensor, steps: int, seed: int, told: Callable[[int, float], None] | None = None
) -> float:
    """Fit the policy to pairs (normalised [B, D], clipped [B, A]) by Adam; the last loss.  `told` hears of each step.

    Batches come from a generator of their own, so that cloning first leaves PPO's random numbers as they were.
    """
    numbers = torch.Generator().manual_seed(seed)
    actor = [
        parameter for name, parameter in policy.named_parameters() if not name.startswith(("value_net", "mlp_extractor.value"))
    ]
    optimizer = torch.optim.Adam(actor, LEARNING_RATE)
    weights = torch.ones(min(BATCH, len(observations)))
    value = float("nan")
    for step in range(steps):
        rows = torch.randperm(len(observations), generator=numbers)[:BATCH]
        loss = negative_log_likelihood(policy, observations[rows], actions[rows], weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(actor, 1.0)
        optimizer.step()
        keep_exploring(policy)
        value = loss.item()
        if told is not None:
            told(step, value)
    return value
