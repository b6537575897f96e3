"""Data noising, Eq. 7: g(y*), the data with tokens replaced at random (Xie et al. 2017).

Targets are right-padded and close with EOS, which stays where it is (a target that was cut off has
none, and gets none). Everything runs on the target's device without synchronisation; the only
randomness comes from a `Draws`, so that a sentence's draw depends neither on its batch nor on its
padding.

B sentences, T positions with EOS, V ids.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairseq_erpo.algorithm.uniforms import Channel, Draws
from fairseq_erpo.vocabulary import Vocabulary

GAMMA = 0.2  # Xie et al.'s own command (`--delta 0.2`, README of stanfordmlgroup/nlm-noising)
CHUNK = 1 << 20  # tokens counted at once


@dataclass(frozen=True, eq=False)
class NoiseStatistics:
    """Counts over the target side of the training data, EOS before and after every sentence.
    int64
    """

    unigram: Tensor  # [V]: c(x)
    continuations_before: Tensor  # [V]: N1+(•, x), how many distinct tokens x follows
    continuations_after: Tensor  # [V]: N1+(x, •), how many distinct tokens follow x

    def __post_init__(self) -> None:
        if (
            not self.unigram.shape
            == self.continuations_before.shape
            == self.continuations_after.shape
        ):
            raise ValueError("the three counts are of different vocabularies")
        if bool(
            (self.continuations_after > self.unigram).any()
            or (self.continuations_before > self.unigram).any()
        ):
            raise ValueError("a token has more distinct neighbours than occurrences")

    @classmethod
    def count(
        cls, sentences: Iterable[Sequence[int] | np.ndarray | Tensor], size: int, eos: int
    ) -> "NoiseStatistics":
        """One pass over sentences of ids with or without closing EOS; memory grows with the
        distinct bigrams only.

        Raises ValueError where an id lies outside 0..size-1.
        """
        unigram = np.zeros(size, np.int64)
        bigrams = np.zeros(0, np.int64)
        chunk: list[np.ndarray] = []
        waiting = 0
        for sentence in sentences:
            ids = np.asarray(sentence, dtype=np.int64)
            if ids.size == 0 or ids[-1] != eos:
                ids = np.append(ids, eos)
            if ids.min() < 0 or ids.max() >= size:
                raise ValueError(f"the sentence {ids.tolist()} holds an id outside 0..{size - 1}")
            chunk.append(ids)
            waiting += ids.size
            # Merging costs as much as what is there already: letting the chunk grow with it keeps
            # the pass linear.
            if waiting >= max(CHUNK, bigrams.size):
                unigram, bigrams = _merge(chunk, unigram, bigrams, eos)
                chunk, waiting = [], 0
        unigram, bigrams = _merge(chunk, unigram, bigrams, eos)
        before, after = (
            np.bincount(bigrams % size, minlength=size),
            np.bincount(bigrams // size, minlength=size),
        )
        return cls(*(torch.from_numpy(counts) for counts in (unigram, before, after)))


def _merge(
    chunk: list[np.ndarray], unigram: np.ndarray, bigrams: np.ndarray, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """The counts with a chunk added. A bigram is coded as first · V + second."""
    # Every sentence closes with EOS, so end to end they also open with one.
    text = np.concatenate([[eos], *chunk])
    unigram = unigram + np.bincount(text[1:], minlength=unigram.size)
    return unigram, np.union1d(bigrams, text[:-1] * unigram.size + text[1:])


@dataclass(frozen=True, eq=False)
class Noising:
    """Eq. 7: g(y*), each token replaced on its own.  A scheme of Xie et al. (Table 1) is one row
    (rate, proposal).

    Departs from the paper: Xie et al. noise the inputs of a language model, and under Kneser-Ney
    also the prediction that follows a noised input, by another draw. Here y = g(y*) is one
    sequence, inputs and targets alike.
    """

    rate: Tensor  # [V] float32: gamma(x), how likely x is replaced
    cdf: Tensor  # [V] float64: cumulated q(x), the tokens that come instead; the last entry is 1
    pad: int
    eos: int

    @classmethod
    def from_statistics(
        cls, scheme: str, statistics: NoiseStatistics, vocabulary: Vocabulary, gamma: float = GAMMA
    ) -> "Noising":
        """A scheme by name: unigram, blank or kneser_ney. EOS and what must never be drawn are not
        proposed.

        Raises ValueError for an unknown scheme, gamma outside [0, 1], counts of another vocabulary,
        and counts without a word.
        """
        if scheme not in SCHEMES:
            raise ValueError(f"no noising scheme {scheme!r}, only {', '.join(SCHEMES)}")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma = {gamma} is not a probability")
        if len(statistics.unigram) != vocabulary.size:
            raise ValueError(
                f"counts of {len(statistics.unigram)} ids for a vocabulary of {vocabulary.size}"
            )
        rate, proposal = SCHEMES[scheme](statistics, vocabulary)
        proposal = proposal.to(torch.float64, copy=True)
        proposal[[vocabulary.eos, *vocabulary.never]] = 0
        cdf = proposal.cumsum(0)
        if cdf[-1] == 0:
            raise ValueError(f"the counts leave {scheme} no token to propose")
        return cls((gamma * rate).float(), cdf / cdf[-1], vocabulary.pad, vocabulary.eos)

    def to(self, device: torch.device | str) -> "Noising":
        return Noising(self.rate.to(device), self.cdf.to(device), self.pad, self.eos)

    def __call__(self, target: Tensor, draws: Draws) -> Tensor:
        """Eq. 7: one noised y* a row, same lengths, EOS in place.  [B, T] int64 -> [B, T] int64"""
        width = target.size(1)
        site = (draws(Channel.SITE, width) < self.rate.take(target)) & real_tokens(
            target, self.pad, self.eos
        )
        # cdf[i-1] <= u < cdf[i]: an id without mass is never met.
        proposal = torch.searchsorted(
            self.cdf, draws(Channel.PROPOSAL, width, torch.float64), right=True
        )
        return torch.where(site, proposal, target)


def _unigram(statistics: NoiseStatistics, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """gamma(x) = gamma0, q(x) ∝ c(x): the analogue of linear interpolation."""
    return torch.ones(vocabulary.size), statistics.unigram


def _blank(statistics: NoiseStatistics, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """gamma(x) = gamma0, q(UNK) = 1: UNK serves as Xie et al.'s blank."""
    return torch.ones(vocabulary.size), torch.arange(vocabulary.size) == vocabulary.unk


def _kneser_ney(statistics: NoiseStatistics, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """gamma(x) = gamma0 N1+(x, •) / c(x), q(x) ∝ N1+(•, x): a token that predicts its successor
    well is seldom replaced.

    A token that was never seen is replaced like one seen once.
    """
    rate = statistics.continuations_after / statistics.unigram.clamp(min=1)
    return torch.where(statistics.unigram > 0, rate, 1.0), statistics.continuations_before


def real_tokens(target: Tensor, pad: int, eos: int) -> Tensor:
    """True at the r tokens of y*, False at a closing EOS and after it.  [B, T] -> [B, T] bool"""
    real = target.ne(pad)
    end = real.sum(1, keepdim=True)
    return (
        torch.arange(target.size(1), device=target.device)
        < end - target.gather(1, (end - 1).clamp(min=0)).eq(eos).long()
    )


SCHEMES = {"unigram": _unigram, "blank": _blank, "kneser_ney": _kneser_ney}
