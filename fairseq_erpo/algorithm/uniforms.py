"""Counter-based random numbers (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
as pure tensor functions.

A draw belongs to a sentence, not to a batch. A `torch.Generator` hands out numbers in the order in
which they are asked for, so that a sentence's draw depends on its neighbours, on the padding, on
the micro-batch and on the rank. Here the uniform at (seed, update, id, channel, position) is a hash
of exactly these numbers: one big batch draws what several accumulated ones or several ranks draw,
and a resumed update draws what it drew before the crash. There is no state to save.

The hash is the finaliser of splitmix64 (Steele et al. 2014, constants in the public domain), once
per number hashed.

B sentences, S samples of each.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

WORD = (1 << 64) - 1
WEYL = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the increment of splitmix64
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
# (bits + .5) / 2^BITS fills the significand: exact, and never 0 or 1
BITS = {torch.float32: 23, torch.float64: 52}
SAMPLE_BITS = 40  # sentence ids stay below 2^40, the sample's index lies above


class Channel(IntEnum):
    """The purpose of a uniform: each channel is an independent stream."""

    ORIGIN = 0  # Algorithm 1's z
    MODEL = 1
    REWARD = 2
    MISS = 3  # which of the tokens outside y*
    SITE, PROPOSAL = 16, 17  # data noising: which positions, which tokens
    NGRAM, NGRAM_TOKEN = 18, 19  # n-gram replacement: length and start, tokens
    EDITS, EDIT_SITE, EDIT_TOKEN = 20, 21, 22  # Hamming payoff: how many, where, which tokens


def uniforms(
    ids: Tensor,
    seed: int,
    update: int,
    channel: int,
    length: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The uniforms of sentences `ids` at positions 0..length-1.  [B] int64 -> [B, length] strictly
    inside (0, 1)

    A longer `length` leaves the first uniforms of every sentence as they are. float64 continues the
    bits of float32, for draws among very many things; read a channel with one of the two.
    """
    key = seed
    for number in (update, channel):
        key = _mix_int(_mix_int(key) + number * WEYL)
    position = torch.arange(1, length + 1, device=ids.device)
    sentence = _mix(ids * _signed(WEYL) + _signed(key))
    word = _mix(sentence.unsqueeze(1) + position * _signed(WEYL))
    return (_shift(word, 64 - BITS[dtype]).to(dtype) + 0.5) * 2.0 ** -BITS[dtype]


def sample_ids(ids: Tensor, samples: int) -> Tensor:
    """Ids for S independent samples of each sentence: row b·S + s is sample s of sentence b.  [B]
    int64 -> [B·S] int64

    Sample 0 keeps the sentence's own id. Distinct for ids in 0..2^40-1.
    """
    return (ids.unsqueeze(1) + (torch.arange(samples, device=ids.device) << SAMPLE_BITS)).flatten()


class Draws(NamedTuple):
    """The uniforms of a batch, a pure function of (seed, update, sentence id)."""

    ids: Tensor  # [B] int64
    seed: int
    update: int

    def __call__(self, channel: int, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """-> [B, length] strictly inside (0, 1)"""
        return uniforms(self.ids, self.seed, self.update, channel, length, dtype)

    def samples(self, samples: int) -> "Draws":
        """The same for S independent samples of each sentence, rows of one sentence adjacent.  ->
        ids [B·S]
        """
        return self._replace(ids=sample_ids(self.ids, samples))


def _signed(word: int) -> int:
    """The int64 with the same 64 bits: Python's integers do not wrap around, tensors do."""
    word &= WORD
    return word - (1 << 64) if word >> 63 else word


def _shift(word: Tensor, by: int) -> Tensor:
    """Logical right shift: the shift of an int64 copies the sign, the mask removes the copies."""
    return (word >> by) & ((1 << (64 - by)) - 1)


def _mix(word: Tensor) -> Tensor:
    """splitmix64's finaliser, a bijection of the 64-bit words.  int64 -> int64"""
    word = (word ^ _shift(word, SHIFTS[0])) * _signed(MULTIPLIERS[0])
    word = (word ^ _shift(word, SHIFTS[1])) * _signed(MULTIPLIERS[1])
    return word ^ _shift(word, SHIFTS[2])


def _mix_int(word: int) -> int:
    """`_mix` on the host, where seed, update and channel live."""
    word &= WORD
    word = ((word ^ (word >> SHIFTS[0])) * MULTIPLIERS[0]) & WORD
    word = ((word ^ (word >> SHIFTS[1])) * MULTIPLIERS[1]) & WORD
    return word ^ (word >> SHIFTS[2])
