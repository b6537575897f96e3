"""The M-step: max E_q log p_θ, as the one loss of the family.

N drawn sequences, T steps, R reference positions, V words; m positions of the N·T that are no padding, F words never drawn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_erpo.engine import Drawn
from fairseq_erpo.estep import Candidates
from fairseq_erpo.sampler import Expert

BASELINE_WEIGHT = 0.01  # Ranzato et al. 2016: of the baseline's squared error


class Spread(NamedTuple):
    """What each position is to learn, as weights of words: `share[k]` more for each word `ids[k]`, and `each` for all words.

    Sparse and constant parts are enough for a drawn token, for label smoothing and for the reward expert's whole q.
    """

    ids: Tensor  # [m, K] int64; a word may stand there several times
    share: Tensor  # [m, K]
    each: Tensor | None = None  # [m]; None stands for 0


def hard_targets(log_p: Tensor, target: Tensor, smoothing: float) -> Spread:
    """The drawn token, label-smoothed as fairseq does it.  [m, V], [m] int64 -> Spread with K = 1"""
    each = smoothing / (log_p.size(1) - 1)
    share = log_p.new_full((len(target), 1), 1 - smoothing - each if smoothing else 1.0)
    return Spread(target[:, None], share, torch.full_like(share[:, 0], each) if smoothing else None)


def soft_targets(hard: Spread, where: Tensor, shares: Tensor, sentence: Tensor, candidates: Candidates) -> Spread:
    """The reward expert's whole q `where` it drew, Rao-Blackwell instead of its draw; `hard` elsewhere.

    [m] bool, [m, R + 2] log shares, [m] int64 rows of `candidates` -> Spread with K = 1 + R + 1 + F
    """
    owner = candidates.reference.owner
    counted = torch.cat([owner, torch.ones_like(owner[:, :1])], 1)[sentence]
    q = shares.exp()
    other = q[:, -1] / candidates.misses.clamp(min=1)[sentence]  # of each word that is neither in y* nor EOS
    never = candidates.never.expand(len(other), -1)
    soft = torch.cat([(q[:, :-1] - other[:, None]) * counted, -other[:, None].expand_as(never)], 1)
    return Spread(
        ids=torch.cat([hard.ids, candidates.ids[sentence], never], 1),
        share=torch.cat([hard.share * ~where[:, None], soft * where[:, None]], 1),
        each=torch.where(where, other, 0.0 if hard.each is None else hard.each),
    )


def product_targets(log_p: Tensor, hard: Spread, where: Tensor, lift: Tensor, sentence: Tensor, candidates: Candidates) -> Spread:
    """Eq. 4 with β = 0, q = p exp{ΔR/α} / Z, `where` the reward teaches; `hard` elsewhere.

    Its gradient is that of log Z = log Σ_v p(v) exp{ΔR(v)/α}: α → 0 raises the sum of the best tokens' probabilities, with data
    as prefixes their likelihood; α → ∞ the expected ΔR, all actions of the policy gradient at once.  Up to a factor, all words
    that are no candidates weigh as they do in p, and E_p[∇ log p] = 0 takes that part of q away: what stays is sparse.

    [m, V], [m] bool, [m, R + 1] `product_lift`, [m] int64 rows of `candidates` -> Spread with K = 1 + R + 1
    """
    owner = candidates.reference.owner
    counted = torch.cat([owner, torch.ones_like(owner[:, :1])], 1)[sentence]
    ids = candidates.ids[sentence]
    # All relative to the largest exp{ΔR/α}, which overflows at a small α.
    highest = lift.amax(1, keepdim=True).clamp(min=0)
    one = (-highest).exp()
    surplus = log_p.detach().gather(1, ids).float().exp() * ((lift - highest).exp() - one) * counted
    # Z is one + Σ surplus; rounding must not make it nothing where the model is sure of what the reward forbids.
    share = surplus / (one + surplus.sum(1, keepdim=True)).clamp(min=(one * 1e-6).clamp(min=torch.finfo(one.dtype).tiny))
    return Spread(
        ids=torch.cat([hard.ids, ids], 1),
        share=torch.cat([hard.share * ~where[:, None], share.to(hard.share.dtype) * where[:, None]], 1),
        each=None if hard.each is None else hard.each * ~where,
    )


class _Expected(torch.autograd.Function):
    """Σ_v weight(v) log p(v), row by row, with one vocabulary-sized gradient however many words are named."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, ids: Tensor, share: Tensor, each: Tensor | None) -> Tensor:
        ctx.save_for_backward(ids, share, each)
        ctx.words = log_p.size(1)
        found = (log_p.gather(1, ids) * share).sum(1)
        return found if each is None else found + log_p.sum(1) * each

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        ids, share, each = ctx.saved_tensors
        dense = gradient.new_zeros(len(ids)) if each is None else (gradient * each).to(gradient.dtype)
        dense = dense[:, None].repeat(1, ctx.words)
        return dense.scatter_add_(1, ids, (gradient[:, None] * share).to(dense.dtype)), None, None, None


def drawn_losses(log_p: Tensor, drawn: Drawn, at: Tensor, candidates: Candidates | None, smoothing: float) -> Tensor:
    """- w_t Σ_v weight(v) log p_θ(v | inputs_<t) at the positions `at` of the flattened batch (`packing`).  [m, V] -> [m]

    `candidates` are needed where a whole distribution is learnt.
    """
    spread = hard_targets(log_p, drawn.learnt.flatten()[at], smoothing)
    if candidates is not None:
        taught = drawn.origin.eq(Expert.TASK) if drawn.taught is None else drawn.taught
        where, sentence = taught.flatten()[at], at // drawn.origin.size(1)
        if drawn.shares is not None:
            spread = soft_targets(spread, where, drawn.shares.flatten(0, 1)[at], sentence, candidates)
        if drawn.lift is not None:
            spread = product_targets(log_p, spread, where, drawn.lift.flatten(0, 1)[at], sentence, candidates)
    loss = -_Expected.apply(log_p, *spread)
    return loss if drawn.weights is None else loss * drawn.weights.flatten()[at]


def gold_loss(log_p: Tensor, target: Tensor, pad: int, reduce: bool) -> Tensor:
    """Eq. 5, in the very operations of fairseq's cross_entropy: equal to the last bit.  [..., V], [...] -> scalar"""
    flat = log_p.view(-1, log_p.size(-1))
    return F.nll_loss(flat, target.view(-1), ignore_index=pad, reduction="sum" if reduce else "none")


def baseline_loss(baseline: Tensor, drawn: Drawn) -> Tensor:
    """The learned baseline's squared error against the reward, where the model drew.  [N, T] -> scalar"""
    error = (baseline[:, : drawn.tokens.size(1)] - drawn.reward[:, None]).square()
    return BASELINE_WEIGHT * error.masked_fill(drawn.origin.ne(Expert.MODEL), 0).sum()
