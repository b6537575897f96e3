"""Algorithm 1 at one position: draw y_t from the expert that z names.  Pure tensor functions, no
synchronisation.

N sentences, m of which ask the model, R reference positions, V words.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import Answer
from fairseq_erpo.algorithm.batch import Expert, asks_model
from fairseq_erpo.algorithm.estep import Candidates, ExpertSettings, reward_log_weights
from fairseq_erpo.rewards.base import Gains, Reference
from fairseq_erpo.vocabulary import Vocabulary


class Step(NamedTuple):
    """Everything that one step draws from, for all sentences at once."""

    t: int
    origin: Tensor  # [N] Expert
    gains: Gains
    u_model: Tensor  # [N]
    u_reward: Tensor  # [N]
    u_miss: Tensor  # [N]
    # [N, R + 1]: `product_tilt`; None where no token is drawn from the product
    tilt: Tensor | None = None
    greedy: bool = True  # some token is the model's best; False spares the search for it
    reward: bool = True  # the reward expert's distribution is needed; False spares it


def draw_step(
    step: Step,
    candidates: Candidates,
    experts: ExpertSettings,
    vocabulary: Vocabulary,
    answer: Answer | None,
) -> tuple[Tensor, Tensor | None]:
    """Algorithm 1, lines 6-12, at one step.

    -> the tokens [N] int64, and the reward expert's log weights [N, R + 2] where they are needed
    """
    reference = candidates.reference
    if step.t < reference.tokens.size(1):
        token = torch.where(reference.real[:, step.t], reference.tokens[:, step.t], vocabulary.eos)
    else:
        token = torch.full_like(step.origin, vocabulary.eos)
    weights = None
    if step.reward:
        weights = reward_log_weights(step.gains, candidates, experts.c_reward, step.t)
        column = inverse_cdf(weights.softmax(1), step.u_reward)
        choice = torch.cat([candidates.ids, candidates.miss(step.u_miss)[:, None]], 1)
        token = torch.where(
            step.origin.eq(Expert.REWARD), choice.gather(1, column[:, None])[:, 0], token
        )
    if answer is not None:
        q = model_weights(answer, step, candidates, experts, vocabulary)
        own = inverse_cdf(q, answer.of(step.u_model))
        if step.greedy:
            own = torch.where(answer.of(step.origin).eq(Expert.GREEDY), q.argmax(1), own)
        token = answer.into(token, own, asks_model(step.origin))
    return token, weights


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The column at which the cumulative weight passes the share u of the total.  [N, C] >= 0, [N]
    -> [N] int64

    Common random numbers: the same u draws the same column from nearly the same weights.
    """
    cdf = weights.cumsum(1)
    # Scaling u by the rounded total keeps columns of weight 0 out of reach at both ends.
    return torch.searchsorted(cdf, u[:, None] * cdf[:, -1:])[:, 0].clamp(max=weights.size(1) - 1)


def model_weights(
    answer: Answer,
    step: Step,
    candidates: Candidates,
    experts: ExpertSettings,
    vocabulary: Vocabulary,
) -> Tensor:
    """p_θ^c, or p_θ exp{ΔR / α} (Eq. 4, β = 0) where the origin is PRODUCT; unnormalised.  -> [m,
    V] float32
    """
    weights = answer.log_p.float()
    if experts.c_model != 1:
        weights = (
            weights
            * torch.where(answer.of(step.origin).eq(Expert.PRODUCT), 1.0, experts.c_model)[:, None]
        )
    if step.tilt is not None:
        tilt = step.tilt * step.origin.eq(Expert.PRODUCT)[:, None]
        columns = torch.where(
            candidates.reference.owner, candidates.reference.tokens, vocabulary.pad
        )
        columns = torch.cat([columns, torch.full_like(columns[:, :1], vocabulary.eos)], 1)
        weights = weights.scatter_add(1, answer.of(columns), answer.of(tilt))
    if experts.c_model != 1 or step.tilt is not None:
        # exp would overflow at a small α, and underflow everywhere at a large c.
        weights = weights - weights.amax(1, keepdim=True)
    return weights.exp().index_fill_(1, candidates.never, 0)


def product_tilt(gains: Gains, reference: Reference, alpha: float) -> Tensor:
    """(ΔR(w) - ΔR_miss) / α for the reference tokens and EOS; it is 0 for all other tokens.  -> [N,
    R + 1]
    """
    hit = torch.where(reference.owner, gains.hit - gains.miss[:, None], 0.0)
    return torch.cat([hit, (gains.eos - gains.miss)[:, None]], 1) / alpha
