"""The reward expert of section 4 among actions: of K that the policy proposes, the discriminator
picks one.

    q(a | s) ∝ π(a | s) exp{R(s, a) / τ},    R = log D - log(1 - D),    τ = 1,

where R is the discriminator's logit, drawn by importance resampling. Its picks are learnt by
likelihood, as the reward expert's tokens are in text.
"""

from typing import Any

import torch
from torch import Tensor

from gail.discriminator import Discriminator

PROPOSALS = 8  # K


@torch.no_grad()
def picked(
    policy: Any,
    discriminator: Discriminator,
    normalised: Tensor,
    raw: Tensor,
    box: tuple[Tensor, Tensor],
    rng: torch.Generator,
) -> Tensor:
    """Return an action [M, A], within the box, for each state: normalised for the policy and raw
    for D, [M, D] each.
    """
    normal = policy.get_distribution(normalised).distribution
    noise = torch.randn((PROPOSALS, *normal.mean.shape), generator=rng)
    proposals = (normal.mean + normal.stddev * noise).clamp(*box)  # [K, M, A]
    logits = discriminator(raw.repeat(PROPOSALS, 1), proposals.flatten(0, 1)).view(
        PROPOSALS, len(raw)
    )
    chosen = torch.multinomial(logits.softmax(0).T, 1, generator=rng).squeeze(1)
    return proposals[chosen, torch.arange(len(raw))]
