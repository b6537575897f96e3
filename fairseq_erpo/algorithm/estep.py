"""The reward expert of Algorithm 1, z = reward: exp{c ΔR} over the vocabulary, without a
vocabulary-sized tensor.

N sentences, R reference positions, R + 2 candidates (the reference tokens, EOS, all other tokens as
one).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from fairseq_erpo.rewards.base import Gains, Reference
from fairseq_erpo.vocabulary import Vocabulary

MIN_LENGTH = 1  # the reward expert does not end a sentence before this many tokens


MOST_C = 1e6  # beyond it exp{c ΔR} is an arg max, which `inf` says


@dataclass(frozen=True)
class InverseTemperature:
    """c of Algorithm 1's exp{c ΔR}: a number, `inf` (arg max), or `auto:EPS`.

    `auto:EPS` leaves about EPS of the mass to tokens that are neither best nor in y*, whatever
    metric, step and V: c = ln(M (1-ε) / (ε K_best)) / (ΔR_best - ΔR_miss) with M other tokens and
    K_best best ones.
    """

    number: float = math.inf
    eps: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `auto:.1`, `50` or `inf`.  Raises ValueError."""
        auto, colon, rest = text.strip().partition(":")
        try:
            if auto == "auto":
                eps = float(rest) if colon else 0.1
                if not 0 < eps < 1:
                    raise ValueError
                return cls(eps=eps)
            number = float(text)
            if not (0 <= number <= MOST_C or number == math.inf):
                raise ValueError
            return cls(number=number)
        except ValueError:
            raise ValueError(
                f"c must be a number from 0 to {MOST_C:g}, inf, or auto:EPS with 0 < EPS < 1, not "
                f"{text!r}"
            ) from None


@dataclass(frozen=True)
class ExpertSettings:
    """How sharply the experts of Algorithm 1 draw.

    Departs from the paper: it has one c; here the model's c is 1 unless told otherwise, and the
    reward has its own.
    """

    c_reward: InverseTemperature = InverseTemperature(eps=0.1)
    c_model: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.c_model <= MOST_C:
            raise ValueError(
                f"c of the model must be positive and at most {MOST_C:g}, not {self.c_model}"
            )


class Candidates(NamedTuple):
    """The tokens that the reward expert tells apart; made once per batch."""

    reference: Reference
    ids: Tensor  # [N, R + 1] int64: reference tokens, then EOS
    misses: Tensor  # [N] float32: M, how many other drawable tokens there are
    # [N, R + 2] bool: the reference tokens, each once; EOS; whether there is any other token
    drawable: Tensor
    # [N, R + F] int64: sorted excluded ids minus their rank, which maps 0..M-1 past them
    shift: Tensor
    never: Tensor  # [F - 1] int64: ids that no expert draws

    @classmethod
    def from_reference(cls, reference: Reference, vocabulary: Vocabulary) -> Self:
        outside = torch.tensor([vocabulary.eos, *vocabulary.never], device=reference.tokens.device)
        fixed = outside.expand(reference.tokens.size(0), -1)
        width = reference.tokens.size(1) + fixed.size(1)
        beyond = vocabulary.size + width  # stays beyond every id after subtracting its rank
        excluded = (
            torch.cat([reference.tokens.masked_fill(~reference.owner, beyond), fixed], 1)
            .sort(1)
            .values
        )
        misses = (vocabulary.drawable - 1 - reference.owner.sum(1)).float()
        eos = torch.ones_like(misses[:, None], dtype=torch.bool)
        return cls(
            reference=reference,
            ids=torch.cat([reference.tokens, fixed[:, :1]], 1),
            misses=misses,
            drawable=torch.cat([reference.owner, eos, misses[:, None] > 0], 1),
            shift=excluded - torch.arange(width, device=excluded.device),
            never=outside[1:],
        )

    def miss(self, u: Tensor) -> Tensor:
        """A uniform draw among the M other tokens.  [N] in (0, 1) -> [N] int64"""
        rank = torch.minimum((u * self.misses).long(), self.misses.long() - 1)
        return rank + torch.searchsorted(self.shift, rank[:, None], right=True)[:, 0]


def reward_log_weights(
    gains: Gains, candidates: Candidates, c_reward: InverseTemperature, t: int
) -> Tensor:
    """Algorithm 1, z = reward: log weights of exp{c ΔR} for reference tokens, EOS, and all other
    tokens together.

    Where nothing can be gained (best = miss), auto:EPS lets all drawable tokens weigh the same.
    -> [N, R + 2] float32, unnormalised
    """
    misses, drawable = candidates.misses[:, None], candidates.drawable
    if t < MIN_LENGTH:
        eos = torch.arange(drawable.size(1), device=drawable.device) == drawable.size(1) - 2
        drawable = drawable & ~eos
    value = torch.cat([gains.hit, gains.eos[:, None], gains.miss[:, None]], 1)
    best = value.masked_fill(~drawable, -torch.inf).amax(1, keepdim=True)
    is_best = drawable & value.eq(best)
    if c_reward.eps is None:
        c = torch.full_like(best, c_reward.number)
    else:
        k_best = is_best[:, :-1].sum(1, keepdim=True)
        odds = misses.clamp(min=1) * (1 - c_reward.eps) / (c_reward.eps * k_best.clamp(min=1))
        # With nothing to gain the gap is 0; c = 0 then lets all weigh the same.
        c = odds.clamp(min=1).log() / (best - gains.miss[:, None]).clamp(
            min=torch.finfo(best.dtype).tiny
        )
        c = c.masked_fill(best.le(gains.miss[:, None]), 0)
    # A value that equals the best weighs 1 even at c = inf, where 0 · inf would be nan.
    energy = torch.where(is_best, 0.0, c * (value - best))
    return torch.cat([energy[:, :-1], energy[:, -1:] + misses.log()], 1).masked_fill(
        ~drawable, -torch.inf
    )
