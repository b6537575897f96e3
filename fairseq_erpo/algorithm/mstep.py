"""The M-step: max E_q log p_θ, as the one loss of the family.

N drawn sequences, T steps, V words; m positions of the N·T that are not padding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_erpo.algorithm.batch import Drawn, Expert
from fairseq_erpo.algorithm.estep import Candidates
from fairseq_erpo.algorithm.targets import hard_targets, soft_targets, unsmoothed
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.vocabulary import Vocabulary

BASELINE_WEIGHT = 0.01  # Ranzato et al. 2016: of the baseline's squared error


class _Expected(torch.autograd.Function):
    """Σ_v weight(v) log p(v), row by row, with one vocabulary-sized gradient however many words are
    named.
    """

    @staticmethod
    def forward(
        ctx: Any, log_p: Tensor, ids: Tensor, weight: Tensor, uniform_weight: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(ids, weight, uniform_weight)
        ctx.words = log_p.size(1)
        found = (log_p.gather(1, ids) * weight).sum(1)
        return found if uniform_weight is None else found + log_p.sum(1) * uniform_weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        ids, weight, uniform_weight = ctx.saved_tensors
        # Filled, not repeated, where it can be: that takes half the time
        dense = gradient.new_zeros(len(ids), ctx.words)
        if uniform_weight is not None:
            dense += (gradient * uniform_weight)[:, None]
        return (
            dense.scatter_add_(1, ids, (gradient[:, None] * weight).to(dense.dtype)),
            None,
            None,
            None,
        )


def total_loss(
    log_p: Tensor,
    drawn: Drawn,
    at: Tensor,
    target: Tensor,
    vocabulary: Vocabulary,
    smoothing: float,
) -> tuple[Tensor, Tensor]:
    """The weighted loss of what was drawn for the references `target` [B, T], and the plain - Σ log
    p_θ of the same tokens.

    [m, V] at the positions `at` of the flattened batch -> scalar, scalar
    """
    nll = _plain(log_p, drawn, at, vocabulary.pad)
    soft = drawn.sample.reward_log_q is not None
    if drawn.weights is None and not soft and not smoothing:
        return nll, nll
    candidates = None
    if soft:
        gold = target.repeat_interleave(drawn.samples, 0)
        candidates = Candidates.from_reference(Reference.from_target(gold, vocabulary), vocabulary)
    return drawn_losses(log_p, drawn, at, candidates, smoothing).sum(), nll.detach()


def _plain(log_p: Tensor, drawn: Drawn, at: Tensor, pad: int) -> Tensor:
    """- Σ log p_θ of the targets, each sequence as often as it was drawn.  [m, V] -> scalar"""
    target = drawn.learnt.flatten()[at]
    if drawn.times is None:
        return gold_loss(log_p, target, pad, reduce=True)
    each = gold_loss(log_p.detach(), target, pad, reduce=False)
    return (each * drawn.times[at // drawn.learnt.size(1)]).sum()


def drawn_losses(
    log_p: Tensor, drawn: Drawn, at: Tensor, candidates: Candidates | None, smoothing: float
) -> Tensor:
    """- w_t Σ_v weight(v) log p_θ(v | inputs_<t) at the positions `at` of the flattened batch
      (`packing`).  [m, V] -> [m]

    `candidates` are needed where a whole distribution is learnt.
    """
    sample = drawn.sample
    targets = hard_targets(log_p, drawn.learnt.flatten()[at], smoothing)
    if smoothing and drawn.advantage is not None:
        targets = unsmoothed(targets, drawn.advantage.flatten()[at])
    if sample.reward_log_q is not None:
        assert candidates is not None
        where = sample.origin.eq(Expert.REWARD).flatten()[at]
        log_q = sample.reward_log_q.flatten(0, 1)[at]
        sentence = at // sample.origin.size(1)
        targets = soft_targets(targets, where, log_q, sentence, candidates)
    loss = -_Expected.apply(log_p, *targets)
    return loss if drawn.weights is None else loss * drawn.weights.flatten()[at]


def gold_loss(log_p: Tensor, target: Tensor, pad: int, reduce: bool) -> Tensor:
    """Eq. 5 by the same operations as fairseq's cross_entropy, so that it is equal to the last bit.
    [..., V], [...] -> scalar
    """
    flat = log_p.view(-1, log_p.size(-1))
    return F.nll_loss(
        flat, target.view(-1), ignore_index=pad, reduction="sum" if reduce else "none"
    )


def baseline_loss(baseline: Tensor, drawn: Drawn) -> Tensor:
    """The learned baseline's squared error against the reward, where the model drew.  [N, T] ->
    scalar
    """
    error = (baseline[:, : drawn.sample.tokens.size(1)] - drawn.sample.reward[:, None]).square()
    return BASELINE_WEIGHT * error.masked_fill(drawn.sample.origin.ne(Expert.MODEL), 0).sum()
