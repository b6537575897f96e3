"""The E-step by token: Eq. 4 (a product) and the experts of Algorithm 1 (a mixture).  They agree at the corners only.

N sentences, R reference positions, C = R + 2 candidates (reference tokens, EOS, all other tokens as one), V words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.mixture import Mixture
from fairseq_erpo.rewards.base import Gains, Reference
from fairseq_erpo.vocabulary import Vocabulary

TIES = ("uniform", "position", "model")
MIN_LENGTH = 1  # the reward expert ends no sentence before this many tokens


def log_q(log_p: Tensor, delta_r: Tensor, alpha: float, beta: float) -> Tensor:
    """Eq. 4: log q ∝ (α log p_θ + ΔR) / (α + β), normalised over V.  [N, V], [N, V] -> [N, V]"""
    if min(alpha, beta) < 0 or alpha + beta == 0:
        raise ValueError(f"q is undefined at alpha={alpha}, beta={beta}")
    # Words of zero probability have log p = -inf, and 0 · -inf would be nan.
    energy = delta_r if alpha == 0 else alpha * log_p + delta_r
    return (energy / (alpha + beta)).log_softmax(-1)


@dataclass(frozen=True)
class InverseTemperature:
    """c of Algorithm 1's exp{c ΔR}: a number, `inf` (arg max), or `auto:EPS`.

    `auto:EPS` gives tokens that are neither best nor in y* about EPS of the mass, whatever metric, step and V:
    c = ln(M (1-ε) / (ε K_best)) / (ΔR_best - ΔR_miss) with M other tokens and K_best best ones.
    """

    number: float = math.inf
    eps: float | None = None

    @classmethod
    def parse(cls, text: str) -> InverseTemperature:
        """Read `auto:.1`, `50` or `inf`.  Raises ValueError."""
        auto, colon, rest = text.strip().partition(":")
        try:
            if auto == "auto":
                eps = float(rest) if colon else 0.1
                if not 0 < eps < 1:
                    raise ValueError
                return cls(eps=eps)
            number = float(text)
            if not number >= 0:
                raise ValueError
            return cls(number=number)
        except ValueError:
            raise ValueError(f"c must be a number >= 0, inf, or auto:EPS with 0 < EPS < 1, not {text!r}") from None


@dataclass(frozen=True)
class Experts:
    """How the experts of Algorithm 1 draw: everything but the reward itself and λ.

    Departs from the paper: it has one c; here the model's c is 1 unless told otherwise and the reward has its own.
    """

    c_task: InverseTemperature = InverseTemperature(eps=0.1)
    c_model: float = 1.0
    ties: str = "uniform"

    def __post_init__(self) -> None:
        if self.ties not in TIES:
            raise ValueError(f"unknown way to break ties {self.ties!r}; known: {', '.join(TIES)}")
        if not (self.c_model > 0 and math.isfinite(self.c_model)):
            raise ValueError(f"c of the model must be positive, not {self.c_model}")


class Candidates(NamedTuple):
    """The tokens that the reward expert tells apart; made once a batch."""

    reference: Reference
    ids: Tensor  # [N, R + 1] int64: reference tokens, then EOS
    misses: Tensor  # [N] float32: M, how many other drawable tokens there are
    shift: Tensor  # [N, R + F] int64: sorted excluded ids minus their rank, which maps 0..M-1 past them
    never: Tensor  # [F - 1] int64: ids that no expert draws

    @classmethod
    def of(cls, reference: Reference, vocabulary: Vocabulary) -> Candidates:
        outside = torch.tensor([vocabulary.eos, *vocabulary.never], device=reference.tokens.device)
        fixed = outside.expand(reference.tokens.size(0), -1)
        width = reference.tokens.size(1) + fixed.size(1)
        beyond = vocabulary.size + width  # stays beyond every id after subtracting its rank
        excluded = torch.cat([reference.tokens.masked_fill(~reference.owner, beyond), fixed], 1).sort(1).values
        return cls(
            reference=reference,
            ids=torch.cat([reference.tokens, fixed[:, :1]], 1),
            misses=(vocabulary.drawable - 1 - reference.owner.sum(1)).float(),
            shift=excluded - torch.arange(width, device=excluded.device),
            never=outside[1:],
        )

    def miss(self, u: Tensor) -> Tensor:
        """A uniform draw among the M other tokens.  [N] in (0, 1) -> [N] int64"""
        rank = torch.minimum((u * self.misses).long(), self.misses.long() - 1)
        return rank + torch.searchsorted(self.shift, rank[:, None], right=True)[:, 0]


def task_log_weights(gains: Gains, candidates: Candidates, experts: Experts, t: int, log_p: Tensor | None = None) -> Tensor:
    """Algorithm 1, z = task: log weights of exp{c ΔR} for reference tokens, EOS, and all other tokens together.

    Where nothing can be gained (best = miss), auto:EPS lets all drawable tokens weigh the same. `ties` says how the
    best tokens share their common mass: equally; all to the one nearest to position t (0-based); or as the model's
    `log_p` [N, R + 1] of `candidates.ids` says.  -> [N, R + 2] float32, unnormalised
    """
    reference, misses = candidates.reference, candidates.misses[:, None]
    ends = torch.full_like(reference.owner[:, :1], t >= MIN_LENGTH)
    drawable = torch.cat([reference.owner, ends, misses > 0], 1)
    value = torch.cat([gains.hit, gains.eos[:, None], gains.miss[:, None]], 1)
    best = value.masked_fill(~drawable, -torch.inf).amax(1, keepdim=True)
    is_best = drawable & value.eq(best)
    k_best = is_best[:, :-1].sum(1, keepdim=True)

    if experts.c_task.eps is None:
        c = torch.full_like(best, experts.c_task.number)
    else:
        eps = experts.c_task.eps
        odds = misses.clamp(min=1) * (1 - eps) / (eps * k_best.clamp(min=1))
        # With nothing to gain the gap is 0; c = 0 then lets all weigh the same.
        c = odds.clamp(min=1).log() / (best - gains.miss[:, None]).clamp(min=torch.finfo(best.dtype).tiny)
        c = c.masked_fill(best.le(gains.miss[:, None]), 0)
    # What equals the best weighs 1 even at c = inf, where 0 · inf would be nan.
    energy = torch.where(is_best, 0.0, c * (value - best))
    if experts.ties != "uniform":
        own = _break_ties(is_best[:, :-1], gains, best, candidates, experts, t, log_p)
        own = torch.where(is_best[:, :-1] & k_best.gt(1), own + k_best.log(), energy[:, :-1])
        energy = torch.cat([own, energy[:, -1:]], 1)
    return torch.cat([energy[:, :-1], energy[:, -1:] + misses.log()], 1).masked_fill(~drawable, -torch.inf)


def _break_ties(
    is_best: Tensor, gains: Gains, best: Tensor, candidates: Candidates, experts: Experts, t: int, log_p: Tensor | None
) -> Tensor:
    """How the best tokens share their mass: log shares that sum to one.  -> [N, R + 1]"""
    reference = candidates.reference
    if experts.ties == "model":
        if log_p is None:
            raise ValueError("ties by model need the model's log probabilities")
        return log_p.float().masked_fill(~is_best, -torch.inf).log_softmax(1)
    # Every position of a best token counts, not only its first; the token ahead wins over the one behind. EOS stands at r.
    column = torch.arange(is_best.size(1), device=is_best.device).expand_as(is_best)
    position = torch.cat([column[:, :-1], reference.length[:, None]], 1)
    distance = 2 * (position - t).abs() + position.lt(t)
    eligible = torch.cat([reference.matchable & gains.hit.eq(best), is_best[:, -1:]], 1)
    nearest = distance.masked_fill(~eligible, torch.iinfo(distance.dtype).max).argmin(1, keepdim=True)
    owner = torch.cat([reference.first, column[:, -1:]], 1).gather(1, nearest)
    return torch.full_like(gains.hit[:, :1], -torch.inf).expand_as(is_best).scatter(1, owner, 0.0)


def task_q(log_weights: Tensor, candidates: Candidates, vocabulary: Vocabulary) -> Tensor:
    """The reward expert over the whole vocabulary, from `task_log_weights`.  [N, R + 2] -> [N, V]"""
    share = log_weights.softmax(1)
    others = share[:, -1:] / candidates.misses.clamp(min=1)[:, None]
    q = others.repeat(1, vocabulary.size)
    q[:, list(vocabulary.never)] = 0
    owner = torch.where(candidates.reference.owner, candidates.reference.tokens, vocabulary.pad)
    q = q.scatter(1, owner, share[:, :-2])
    q[:, vocabulary.pad] = 0
    q[:, vocabulary.eos] = share[:, -2]
    return q


def model_q(log_p: Tensor, c: float, vocabulary: Vocabulary) -> Tensor:
    """Algorithm 1, z = model: p_θ^c over the drawable tokens, in float32.  [N, V] -> [N, V]"""
    log_p = c * log_p.float()
    log_p[:, list(vocabulary.never)] = -torch.inf
    return log_p.softmax(1)


def mixture_q(mixture: Mixture, model: Tensor, task: Tensor, y_t: Tensor) -> Tensor:
    """Algorithm 1: q = λ_model p_θ^c + λ_task exp{c ΔR}/Z + λ_delta [w = y*_t].  [N, V], [N, V], [N] -> [N, V]

    Departs from the paper: section 4's log(λ1 p + λ2 e^R + λ3 e^Rδ) has unnormalised experts; Algorithm 1 normalises each.
    """
    q = mixture.model * model + mixture.task * task
    return q.scatter_add(1, y_t[:, None], torch.full_like(q[:, :1], mixture.delta))
