"""Eq. 3 from match counts: the n-grams and the longest subsequence that a prefix shares with y*,
for every next token.

A token adds at most 1 to each of these counts, so its ΔR depends on M bits δ(w) alone: δ_n for the
n-grams of n = 1..N and, where asked for, δ_L for the longest common subsequence (LCS).  Tokens
outside y* have no bit set.

The sampler calls this at every step, so few and small operations matter: the M numbers of a
position are packed into one int64, 15 bits each (a lane), and are added and compared together. The
highest bit of a lane is a flag, the lower 14 bits count.

B sentences, R reference positions without EOS, N orders, S = 1 if the LCS is counted and 0 if not,
M = N + S <= 4 lanes.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fairseq_erpo.rewards.base import Gains, Reference, Reward
from fairseq_erpo.vocabulary import Vocabulary

LANE = 15
COUNT = LANE - 1  # bits that count: at most 16,383 positions
MOST_LANES = 4
# Moves the highest bits of lanes 0..3, at 14, 29, 44 and 59, to 59, 60, 61 and 62, and nothing else
# there.
TO_CODE = sum(1 << (45 - 14 * lane) for lane in range(MOST_LANES))
CODE_AT = 59


def each_lane(lanes: int, number: int) -> int:
    """An int with the same number in each of its first lanes."""
    return sum(number << (LANE * lane) for lane in range(lanes))


class Overlap(NamedTuple):
    """Match counts of a prefix y_1:t with y*."""

    keys: Tensor  # [B, R] int64: Reference.keys
    first: Tensor  # [B, R] int64: Reference.first
    length: Tensor  # [B] float32: r
    # [B, K, M] float32: the divisors of `counts`, for t tokens in the last row and t + 1 in the
    # others
    sizes: Tensor
    # [B, R] int64: the flag of lane n - 1 is set if the n - 1 tokens before j are the end of the
    # prefix
    behind: Tensor
    # [B, R] int64: lane n - 1 counts the copies in y* of the n-gram ending at j that the prefix
    # left
    unclaimed: Tensor
    # [B, R] int64: lane n - 1 holds δ_n(j), lane N holds δ_L(j): 1 where emitting y*_j adds a match
    adds: Tensor
    lcs: Tensor  # [B, S, R + 1] int64: LCS of the prefix and y*_1:j
    counts: (
        # [B, K, M] float32, K = 2^M + 1: the counts after a token with bits 0, 1, 2, ..., and last
        # those of the prefix
        Tensor
    )


class OverlapReward(Reward[Overlap]):
    """Eq. 3 for a metric that is a function of match counts and the two lengths."""

    prior = 0.0  # added to every count

    def __init__(self, orders: int, subsequence: bool, worth: tuple[float, ...]) -> None:
        """`worth`: the value of one match, n-grams first, the LCS last."""
        lanes = orders + subsequence
        if lanes > MOST_LANES:
            raise ValueError(f"at most {MOST_LANES} counts fit, not {lanes}")
        self.orders = orders
        self.subsequence = subsequence
        self.worth = worth
        # Zero-dimensional tensors combine with tensors on any device; Python numbers would be
        # converted at every call.
        self.shift, self.lane, self.to_code, self.code_at = (
            torch.tensor(n) for n in (COUNT, LANE, TO_CODE, CODE_AT)
        )
        self.unigram = torch.tensor(1 << COUNT)
        # Adding this to packed counts sets the flag of every lane whose count is not 0.
        self.carry_ngrams = torch.tensor(each_lane(orders, (1 << COUNT) - 1))
        self.carry = torch.tensor(each_lane(lanes, (1 << COUNT) - 1))
        self.flags = torch.tensor(each_lane(lanes, 1 << COUNT))
        self.lcs_flag = torch.tensor(1 << (LANE * orders + COUNT) if subsequence else 0)

    @abstractmethod
    def sizes(self, length: Tensor) -> Tensor:
        """Divisors of the counts for the empty prefix; each token adds one, and a divisor below 1
        counts as 1.

        [B] float32 -> [B, M]
        """

    @abstractmethod
    def combine(self, shares: Tensor, state: Overlap) -> Tensor:
        """Φ from counts / sizes.  [B, K, M] float32 -> [B, K]"""

    def closing(self, state: Overlap, value: Tensor) -> Tensor:
        """ΔR(EOS) of prefixes with Φ = `value`.  [B] -> [B] float32"""
        return torch.zeros_like(value)

    def start(self, reference: Reference) -> Overlap:
        keys = reference.keys
        batch, positions = keys.shape
        if positions >> COUNT:
            raise ValueError(
                f"references of more than {(1 << COUNT) - 1} tokens are not supported, "
                f"this batch has {positions}"
            )
        equal = keys[:, :, None].eq(keys[:, None, :]) & reference.matchable[:, :, None]
        copies = torch.zeros_like(keys)
        ending = equal
        for n in range(self.orders):
            copies = copies + (ending.sum(2) << LANE * n)
            # Two n-grams are equal if their last tokens are and so are the (n - 1)-grams before
            # these.
            ending = equal & pad(ending[:, :-1, :-1], (1, 0, 1, 0))
        codes = torch.arange(2 ** len(self.worth), device=keys.device)
        matches = [(codes >> lane & 1) * worth for lane, worth in enumerate(self.worth)]
        counts = pad(torch.stack(matches, 1), (0, 0, 0, 1)) + self.prior
        one_more = torch.ones_like(counts).index_fill(0, codes[-1:] + 1, 0)
        length = reference.length.float()
        behind = torch.zeros_like(keys) | self.unigram
        lcs = keys.new_zeros((batch, int(self.subsequence), positions + 1))
        return Overlap(
            keys=keys,
            first=reference.first,
            length=length,
            sizes=self.sizes(length)[:, None] + one_more,
            behind=behind,
            unclaimed=copies,
            adds=self._adds(keys, behind, copies, lcs),
            lcs=lcs,
            counts=counts.repeat(batch, 1, 1),
        )

    def value(self, state: Overlap) -> Tensor:
        return self._phi(state)[:, -1]

    def _phi(self, state: Overlap) -> Tensor:
        return self.combine(state.counts / state.sizes.clamp(min=1), state)

    def gains(self, state: Overlap) -> Gains:
        # Equal tokens stand at several places and add what any of these does.
        adds = (
            torch.zeros_like(state.adds)
            .scatter_add(1, state.first, state.adds)
            .gather(1, state.first)
        )
        phi = self._phi(state)
        value = phi[:, -1]
        # Hits are looked up in one table, so that tokens with equal bits have equal floats, and
        # ties between them are exact.
        table = phi - value[:, None]
        return Gains(table.gather(1, self._code(adds)), table[:, 0], self.closing(state, value))

    def advance(self, state: Overlap, token: Tensor, live: Tensor) -> Overlap:
        alive = live[:, None]
        here = (state.keys.eq(token[:, None]) & alive).long()
        claimed = state.adds * here
        code = self._code(claimed.sum(1))[:, None, None].expand(-1, 1, state.counts.size(2))
        lcs = state.lcs
        if self.subsequence:
            longer = (lcs[..., :-1] + 1) * here[:, None]
            lcs = torch.maximum(lcs, pad(longer, (1, 0))).cummax(2).values
            claimed = claimed & self.carry_ngrams
        # A lane moves up where its n-gram goes on; no token stands behind position 0, whose column
        # never changes.
        further = ((state.behind << self.lane) * here)[:, :-1] | self.unigram
        behind = torch.where(alive, torch.cat([state.behind[:, :1], further], 1), state.behind)
        # Positions where δ_n is set and y*_j = w end the same n-gram: all of them lose the one copy
        # that w claims.
        unclaimed = state.unclaimed - claimed
        return Overlap(
            keys=state.keys,
            first=state.first,
            length=state.length,
            sizes=state.sizes + alive[:, None],
            behind=behind,
            unclaimed=unclaimed,
            adds=self._adds(state.keys, behind, unclaimed, lcs),
            lcs=lcs,
            counts=state.counts + (state.counts.gather(1, code) - state.counts[:, -1:]),
        )

    def total(self, reference: Reference, tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
        """As `Reward.total`, from the counts at the end, where these need no walk along the
        sequence.
        """
        if self.subsequence:
            return super().total(reference, tokens, vocabulary)
        matches, drawn = self.matches(reference, tokens, vocabulary)
        # Number by number: a tensor of them would have to come from the host.
        worth = torch.stack(
            [found * each for found, each in zip(matches.unbind(1), self.worth, strict=True)], 1
        )
        length = reference.length.float()
        unread = reference.keys
        end = Overlap(
            keys=unread,
            first=unread,
            length=length,
            sizes=(self.sizes(length) + drawn[:, None])[:, None],
            behind=unread,
            unclaimed=unread,
            adds=unread,
            lcs=unread,
            counts=(worth + self.prior)[:, None],
        )
        value = self.value(end)
        closed = tokens.eq(vocabulary.eos).any(1)
        return value + self.closing(end, value).masked_fill(~closed, 0)

    def matches(
        self, reference: Reference, tokens: Tensor, vocabulary: Vocabulary
    ) -> tuple[Tensor, Tensor]:
        """Matches of n = 1..N, clipped, and tokens without EOS.  [B, T] int64 -> [B, N], [B]
        float32

        The k-th copy of an n-gram is a match if y* has at least k of it.
        """
        ended = tokens.eq(vocabulary.eos).cumsum(1) > 0
        word = tokens.ne(vocabulary.pad) & ~ended
        words = tokens.masked_fill(~word, -2)  # which y* has nowhere
        in_reference = words[:, :, None].eq(reference.keys[:, None])  # [B, T, R]
        again = words[:, :, None].eq(words[:, None]) & word[:, :, None]  # [B, T, T]
        ending, repeated, found = in_reference, again, []
        for _ in range(self.orders):
            before = repeated.tril(-1).sum(2)
            found.append(before.lt(ending.sum(2)).sum(1))
            ending = in_reference & pad(ending[:, :-1, :-1], (1, 0, 1, 0))
            repeated = again & pad(repeated[:, :-1, :-1], (1, 0, 1, 0))
        return torch.stack(found, 1).float(), word.sum(1).float()

    def _adds(self, keys: Tensor, behind: Tensor, unclaimed: Tensor, lcs: Tensor) -> Tensor:
        """δ_n wants the n - 1 tokens before j at the end of the prefix and an unclaimed copy; δ_L
        wants y*_1:j-1 to hold as long a subsequence as the whole of y*.  -> [B, R] int64"""
        adds = (unclaimed + self.carry_ngrams) & behind
        if self.subsequence:
            extends = lcs[:, 0, :-1].eq(lcs[:, 0, -1:]) & keys.ge(0)
            adds = adds | extends * self.lcs_flag
        return adds >> self.shift

    def _code(self, adds: Tensor) -> Tensor:
        """The row of `counts` for the lanes that are not 0.  int64 -> int64 in 0..2^M - 1"""
        return ((adds + self.carry) & self.flags) * self.to_code >> self.code_at
