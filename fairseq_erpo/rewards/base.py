"""Eq. 3, the task reward token by token: ΔR of the whole vocabulary at once, without a
vocabulary-sized tensor.

Only tokens of the reference y* can raise a match count, so ΔR takes at most r + 2 values a step:
one for each reference position, one that all other tokens share (the miss), one for EOS.

B sentences, R reference positions without EOS, T drawn tokens, V words.
"""

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad as fill

from fairseq_erpo.vocabulary import Vocabulary


class Reference(NamedTuple):
    """References as tensors, made once per batch."""

    tokens: Tensor  # [B, R] int64: y* without EOS, padded on the right
    length: Tensor  # [B] int64: r, UNK counted
    real: Tensor  # [B, R] bool: True where j < r
    matchable: Tensor  # [B, R] bool: True where real and not UNK
    # [B, R] int64: the first position that holds the same matchable token; j itself where not
    # matchable
    first: Tensor
    owner: Tensor  # [B, R] bool: True at the first position of each distinct matchable token
    # [B, R] int64: y*, -1 where nothing can match, so that `keys == w` finds the matches of w
    keys: Tensor

    @classmethod
    def from_target(cls, target: Tensor, vocabulary: Vocabulary) -> "Reference":
        """From right-padded targets with or without EOS.  [B, R or R + 1] int64 -> Reference

        UNK, ids that must never be drawn and an EOS that is not the last token are counted in r and
        match nothing.
        """
        length = target.ne(vocabulary.pad).sum(1)
        last = target.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
        length = length - last.eq(vocabulary.eos).long()
        position = torch.arange(target.size(1), device=target.device)
        real = position < length[:, None]
        tokens = target.masked_fill(~real, vocabulary.pad)
        matchable = real & tokens.ne(vocabulary.unk) & tokens.ne(vocabulary.eos)
        for never in vocabulary.never:
            matchable = matchable & tokens.ne(never)
        same = (
            tokens[:, :, None].eq(tokens[:, None, :])
            & matchable[:, :, None]
            & matchable[:, None, :]
        )
        first = torch.where(matchable, same.int().argmax(2), position)
        keys = tokens.masked_fill(~matchable, -1)
        return cls(tokens, length, real, matchable, first, matchable & first.eq(position), keys)

    def roomy(self, rows: int, width: int, pad: int) -> "Reference":
        """The same with empty references behind and padding on the right.

        [B, R] -> [rows, width]
        """
        more = (0, width - self.tokens.size(1), 0, rows - len(self.tokens))
        position = torch.arange(width, device=self.tokens.device)
        real = fill(self.real, more)
        matchable = fill(self.matchable, more)
        first = fill(self.first, more)
        return Reference(
            tokens=fill(self.tokens, more, value=pad),
            length=fill(self.length, more[2:]),
            real=real,
            matchable=matchable,
            first=torch.where(matchable, first, position),
            owner=fill(self.owner, more),
            keys=fill(self.keys, more, value=-1),
        )


class Gains(NamedTuple):
    """Eq. 3: ΔR(w | y*, y_<t) of every w: `hit[j]` if w = y*_j, `eos` if w is EOS, `miss`
    otherwise.  float32
    """

    hit: Tensor  # [B, R]: equal at equal tokens; `miss` where the reference is not matchable
    miss: Tensor  # [B]
    eos: Tensor  # [B]

    def at(self, token: Tensor, reference: Reference, vocabulary: Vocabulary) -> Tensor:
        """Eq. 3 for one token of each sentence.  [B] int64 -> [B]"""
        here = reference.keys.eq(token[:, None])
        # All hits are equal, so their maximum is each of them, and -inf says that there is none.
        hit = self.hit.masked_fill(~here, -torch.inf).amax(1)
        return torch.where(
            token.eq(vocabulary.eos), self.eos, torch.where(here.any(1), hit, self.miss)
        )


State = TypeVar("State")


class Reward(ABC, Generic[State]):
    """A task reward R(y | y*) as an incremental ΔR.  Φ(∅) + ΣΔR, EOS included, is the sentence
    metric.

    All methods are pure functions of tensors, batched, on the tensors' device, without
    synchronisation. `State` is a NamedTuple of tensors whose first dimension is B.
    """

    @abstractmethod
    def start(self, reference: Reference) -> State:
        """The state of the empty prefix."""

    @abstractmethod
    def value(self, state: State) -> Tensor:
        """Φ of the prefix (higher is better).  -> [B] float32"""

    @abstractmethod
    def gains(self, state: State) -> Gains:
        """Eq. 3 for every next token."""

    @abstractmethod
    def advance(self, state: State, token: Tensor, live: Tensor) -> State:
        """The state after `token` [B] int64 where `live` [B] is True; unchanged elsewhere.  A live
        token is never EOS.
        """

    def total(self, reference: Reference, tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
        """R of whole sequences, as `replay` has it.  [B, T] int64 -> [B] float32"""
        return replay(self, reference, tokens, vocabulary).total


class Replay(NamedTuple):
    """Eq. 3 along drawn sequences."""

    delta_r: Tensor  # [B, T] float32: ΔR of each drawn token, 0 behind the end
    # [B] float32: Φ(∅) + ΣΔR, the sentence metric where EOS was drawn and Φ elsewhere
    total: Tensor


def replay(
    reward: Reward[Any], reference: Reference, tokens: Tensor, vocabulary: Vocabulary
) -> Replay:
    """Eq. 3 for sequences that are drawn already, closed by EOS or not, padded on the right.  [B,
    T] int64 -> Replay
    """
    state = reward.start(reference)
    total = reward.value(state)
    live = torch.ones_like(total, dtype=torch.bool)
    drawn = []
    for token in tokens.unbind(1):
        gains = reward.gains(state)
        live = live & token.ne(vocabulary.pad)
        drawn.append(gains.at(token, reference, vocabulary).masked_fill(~live, 0))
        # In order of time, so that rounding does not depend on the batch's length
        total = total + drawn[-1]
        live = live & token.ne(vocabulary.eos)
        state = reward.advance(state, token, live)
    return Replay(torch.stack(drawn, 1), total)


def any_equal(bits: Tensor, first: Tensor) -> Tensor:
    """1 where a bit is set at any reference position that holds the same token.  [B, M, R] bool,
    [B, R] -> [B, M, R] int64
    """
    index = first[:, None].expand_as(bits)
    owners = torch.zeros_like(bits, dtype=torch.long).scatter_reduce(2, index, bits.long(), "amax")
    return owners.gather(2, index)
