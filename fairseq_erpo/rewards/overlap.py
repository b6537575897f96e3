"""Eq. 3 from match counts: n-grams and the longest subsequence that a prefix shares with y*, and what each next token adds.

A token adds at most 1 to each of these counts, so its ΔR depends on M bits δ(w) alone: δ_n for the n-grams of n = 1..N and,
where asked for, δ_L for the longest common subsequence (LCS).  Tokens outside y* have no bit set.

B sentences, R reference positions without EOS, N orders, S = 1 if the LCS is counted and 0 if not, M = N + S.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fairseq_erpo.rewards.base import Gains, Reference, Reward, any_equal


class Overlap(NamedTuple):
    """What a prefix y_1:t shares with y*."""

    keys: Tensor  # [B, R] int64: Reference.keys
    first: Tensor  # [B, R] int64: Reference.first
    length: Tensor  # [B] int64: r
    drawn: Tensor  # [B] int64: t
    suffix: Tensor  # [B, R] int64: how many tokens just before position j equal the end of the prefix
    unclaimed: Tensor  # [B, N, R] int64: copies in y* of the n-gram ending at j that the prefix has not claimed
    lcs: Tensor  # [B, S, R + 1] int64: LCS of the prefix and y*_1:j
    counts: Tensor  # [B, 2^M, M] int64: the counts after a token with bits 0, 1, 2, ...; [:, 0] are those of the prefix

    def bits(self) -> Tensor:
        """δ_n(j), then δ_L(j), True where emitting y*_j adds a match.  -> [B, M, R] bool

        δ_n wants the n - 1 tokens before j at the end of the prefix (`suffix` is at most j, so there are that many) and an
        unclaimed copy; δ_L wants y*_1:j-1 to hold as long a subsequence as the whole of y*.
        """
        before = torch.arange(self.unclaimed.size(1), device=self.suffix.device)[:, None]
        claims = self.suffix[:, None].ge(before) & self.unclaimed.gt(0)
        extends = self.lcs[..., :-1].eq(self.lcs[..., -1:]) & self.keys.ge(0)[:, None]
        return torch.cat([claims, extends], 1)

    def outcome(self) -> Tensor:
        """The row of `counts` that emitting y*_j leads to, one for equal tokens.  -> [B, R] int64"""
        bits = any_equal(self.bits(), self.first)
        return (bits << torch.arange(bits.size(1), device=bits.device)[:, None]).sum(1)


class OverlapReward(Reward[Overlap]):
    """Eq. 3 for a metric that is a function of match counts and the two lengths."""

    def __init__(self, orders: int, subsequence: bool) -> None:
        self.orders = orders
        self.subsequence = subsequence

    @abstractmethod
    def phi(self, counts: Tensor, drawn: Tensor, length: Tensor) -> Tensor:
        """Φ of prefixes of `drawn` tokens with such counts.  [B, K, M], [B], [B] -> [B, K] float32"""

    def closing(self, state: Overlap) -> Tensor:
        """ΔR(EOS).  -> [B] float32"""
        return torch.zeros_like(state.drawn, dtype=torch.float32)

    def start(self, reference: Reference) -> Overlap:
        keys = reference.keys
        batch, positions = keys.shape
        equal = keys[:, :, None].eq(keys[:, None, :]) & reference.matchable[:, :, None]
        copies = keys.new_zeros((batch, self.orders, positions))
        ending = equal
        for n in range(self.orders):
            copies[:, n] = ending.sum(2)
            # Two n-grams are equal if their last tokens are and so are the (n - 1)-grams before these.
            ending = equal & pad(ending[:, :-1, :-1], (1, 0, 1, 0))
        bits = torch.arange(self.orders + self.subsequence, device=keys.device)
        codes = torch.arange(2 ** bits.size(0), device=keys.device)
        return Overlap(
            keys=keys,
            first=reference.first,
            length=reference.length,
            drawn=torch.zeros_like(reference.length),
            suffix=torch.zeros_like(keys),
            unclaimed=copies,
            lcs=keys.new_zeros((batch, int(self.subsequence), positions + 1)),
            counts=(codes[:, None] >> bits & 1).repeat(batch, 1, 1),
        )

    def value(self, state: Overlap) -> Tensor:
        return self.phi(state.counts[:, :1], state.drawn, state.length)[:, 0]

    def gains(self, state: Overlap) -> Gains:
        # Hits are looked up, not computed one by one: equal bits are then equal to the last float bit, and ties are exact.
        table = self.phi(state.counts, state.drawn + 1, state.length) - self.value(state)[:, None]
        return Gains(table.gather(1, state.outcome()), table[:, 0], self.closing(state))

    def advance(self, state: Overlap, token: Tensor, live: Tensor) -> Overlap:
        here = state.keys.eq(token[:, None]) & live[:, None]
        # Positions where δ_n is set and y*_j = w end the same n-gram: all of them lose the one copy that w claims.
        claimed = state.bits() & here[:, None]
        suffix = torch.where(here, state.suffix + 1, 0)
        longer = torch.where(here[:, None], state.lcs[..., :-1] + 1, 0)
        return state._replace(
            drawn=state.drawn + live,
            suffix=torch.where(live[:, None], pad(suffix[:, :-1], (1, 0)), state.suffix),
            unclaimed=state.unclaimed - claimed[:, : self.orders].long(),
            lcs=torch.maximum(state.lcs, pad(longer, (1, 0))).cummax(2).values,
            counts=state.counts + claimed.any(2)[:, None],
        )
