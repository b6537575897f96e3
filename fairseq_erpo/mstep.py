"""The M-step: max E_q log p_θ, as the one loss of the family.

N drawn sequences, T steps, R reference positions, V words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_erpo.engine import Drawn
from fairseq_erpo.estep import Candidates
from fairseq_erpo.sampler import Expert
from fairseq_erpo.vocabulary import Vocabulary

BASELINE_WEIGHT = 0.01  # Ranzato et al. 2016: of the baseline's squared error


def token_losses(log_p: Tensor, target: Tensor, smoothing: float, pad: int) -> Tensor:
    """- log p_θ(target), label-smoothed as fairseq does it; 0 at padding.  [N, T, V], [N, T] -> [N, T]"""
    loss = -log_p.gather(2, target[:, :, None])[:, :, 0]
    if smoothing:
        each = smoothing / (log_p.size(2) - 1)
        loss = (1 - smoothing - each) * loss - each * log_p.sum(2)
    return loss.masked_fill(target.eq(pad), 0)


def soft_losses(log_p: Tensor, shares: Tensor, candidates: Candidates) -> Tensor:
    """- E_q log p_θ under the reward expert's whole q: Rao-Blackwell instead of its draw.  [N, T, V], [N, T, R + 2] -> [N, T]

    One gather of R + 1 ids and one sum over V, like label smoothing.
    """
    q = shares.exp()
    own = log_p.gather(2, candidates.ids[:, None].expand(-1, log_p.size(1), -1))
    counted = torch.cat([candidates.reference.owner, torch.ones_like(candidates.reference.owner[:, :1])], 1)
    others = log_p.sum(2) - log_p.index_select(2, candidates.never).sum(2) - (own * counted[:, None]).sum(2)
    return -(q[:, :, :-1] * own).sum(2) - q[:, :, -1] * others / candidates.misses.clamp(min=1)[:, None]


def drawn_losses(log_p: Tensor, drawn: Drawn, candidates: Candidates | None, smoothing: float, vocabulary: Vocabulary) -> Tensor:
    """- Σ w_t log p_θ(target_t | inputs_<t), token by token.  [N, T, V] -> [N, T]

    `candidates` are needed for soft targets only.
    """
    target = drawn.tokens if drawn.targets is None else drawn.targets
    loss = token_losses(log_p, target, smoothing, vocabulary.pad)
    if drawn.shares is not None and candidates is not None:
        soft = soft_losses(log_p, drawn.shares, candidates)
        loss = torch.where(drawn.origin.eq(Expert.TASK), soft, loss)
    return loss if drawn.weights is None else loss * drawn.weights


def gold_loss(log_p: Tensor, target: Tensor, pad: int, reduce: bool) -> Tensor:
    """Eq. 5, in the very operations of fairseq's cross_entropy: equal to the last bit.  [N, T, V], [N, T] -> scalar"""
    flat = log_p.view(-1, log_p.size(-1))
    return F.nll_loss(flat, target.view(-1), ignore_index=pad, reduction="sum" if reduce else "none")


def baseline_loss(baseline: Tensor, drawn: Drawn) -> Tensor:
    """The learned baseline's squared error against the reward, where the model drew.  [N, T] -> scalar"""
    error = (baseline[:, : drawn.tokens.size(1)] - drawn.reward[:, None]).square()
    return BASELINE_WEIGHT * error.masked_fill(drawn.origin.ne(Expert.MODEL), 0).sum()
