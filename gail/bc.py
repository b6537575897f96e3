"""Behaviour cloning: the likelihood of demonstrated actions, by itself or as the data term of an
annealed update.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LEARNING_RATE = 1e-3
BATCH = 128
# Below exp(-2.5) = .08 the likelihood of 50 pairs has nothing left to gain but its own collapse:
# exploration ends, and PPO's ratios explode.
LOG_STD_FLOOR = -2.5


def negative_log_likelihood(
    policy: Any, observations: Tensor, actions: Tensor, weights: Tensor
) -> Tensor:
    """-Σ w log π(a|s) / Σ w of normalised observations [B, D], clipped actions [B, A] and weights
    [B]; a scalar.

    A.1 of the paper equates this with the data's part of MIXER's objective.
    """
    return weighted_nll(policy.get_distribution(observations).log_prob(actions), weights)


def weighted_nll(log_p: Tensor, weights: Tensor) -> Tensor:
    """-Σ w log p / Σ w, of [B] each."""
    return -(weights * log_p).sum() / weights.sum()


def log_prob_of_mean(distribution: Any, start: int, actions: Tensor) -> Tensor:
    """log π(a|s) [B] of B rows from `start` on, with gradients for the mean alone and none for the
    deviation.

    Departs from the paper: it is silent. 50 pairs are soon learnt by heart, and their likelihood
    then shrinks the deviation to a tenth: exploration ends while PPO still has half of the training
    before it, and the discriminator wins.
    """
    normal, rows = distribution.distribution, slice(start, start + len(actions))
    mean_only = torch.distributions.Normal(
        normal.mean[rows], normal.stddev[rows].detach(), validate_args=False
    )
    log_p: Tensor = mean_only.log_prob(actions)
    return log_p.sum(1)


@torch.no_grad()
def floor_deviation(policy: Any, floor: float = LOG_STD_FLOOR) -> None:
    """Raise every deviation below exp(floor) to it, after a step on the likelihood."""
    policy.log_std.clamp_(min=floor)


def clone(
    policy: Any,
    observations: Tensor,
    actions: Tensor,
    steps: int,
    seed: int,
    mean_only: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Fit the policy to pairs (normalised [B, D], clipped [B, A]) by Adam; return the last loss.
    `on_step` gets step and loss.

    With `mean_only` the deviation stays what it was (see `log_prob_of_mean`): a policy that
    explores afterwards needs it. Batches use their own generator, so that cloning first does not
    change PPO's random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    actor = [
        parameter
        for name, parameter in policy.named_parameters()
        if not name.startswith(("value_net", "mlp_extractor.value"))
    ]
    optimizer = torch.optim.Adam(actor, LEARNING_RATE)
    weights = torch.ones(min(BATCH, len(observations)))
    value = float("nan")
    for step in range(steps):
        rows = torch.randperm(len(observations), generator=rng)[:BATCH]
        if mean_only:
            loss = weighted_nll(
                log_prob_of_mean(policy.get_distribution(observations[rows]), 0, actions[rows]),
                weights,
            )
        else:
            loss = negative_log_likelihood(policy, observations[rows], actions[rows], weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(actor, 1.0)
        optimizer.step()
        floor_deviation(policy)
        value = loss.item()
        if on_step is not None:
            on_step(step, value)
    return value
