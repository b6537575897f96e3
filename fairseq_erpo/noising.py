"""Whole sequences drawn around y* without a model: data noising (Eq. 7, Xie et al. 2017) and RAML's samples (Eq. 8).

Targets are right-padded and close with EOS, which stays where it is (a target that was cut off has none, and gets none). A
draw has the width of its target. Everything runs on the target's device without synchronisation; the only randomness comes
from a `Draws`, so that a sentence's draw depends neither on its batch nor on its padding.

B sentences, S samples of each, T positions with EOS, r = |y*| tokens without EOS, V ids, W real words.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairseq_erpo.uniforms import Draws
from fairseq_erpo.vocabulary import Vocabulary

# Channels of the counter-based random numbers; those below 16 belong to the sampler.
SITE, PROPOSAL = 16, 17  # data noising: which positions, which tokens
NGRAM, NGRAM_TOKEN = 18, 19  # n-gram replacement: length and start, tokens
EDITS, EDIT_SITE, EDIT_TOKEN = 20, 21, 22  # Hamming payoff: how many, where, which tokens

GAMMA = 0.2  # Xie et al.'s own command (`--delta 0.2`, README of stanfordmlgroup/nlm-noising)
LONGEST_NGRAM = 4  # Ma et al. 2017; A.3.2 takes over their sampling
CHUNK = 1 << 20  # tokens counted at once


@dataclass(frozen=True, eq=False)
class NoiseStatistics:
    """Counts over the target side of the training data, EOS before and after every sentence.  int64"""

    unigram: Tensor  # [V]: c(x)
    continuations_before: Tensor  # [V]: N1+(•, x), how many distinct tokens x follows
    continuations_after: Tensor  # [V]: N1+(x, •), how many distinct tokens follow x

    def __post_init__(self) -> None:
        if not self.unigram.shape == self.continuations_before.shape == self.continuations_after.shape:
            raise ValueError("the three counts are of different vocabularies")
        if bool((self.continuations_after > self.unigram).any() or (self.continuations_before > self.unigram).any()):
            raise ValueError("a token has more distinct neighbours than occurrences")

    @classmethod
    def count(cls, sentences: Iterable[Sequence[int] | np.ndarray | Tensor], size: int, eos: int) -> "NoiseStatistics":
        """One pass over sentences of ids with or without closing EOS; memory grows with the distinct bigrams only.

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
            # Merging costs as much as what is there already: letting the chunk grow with it keeps the pass linear.
            if waiting >= max(CHUNK, bigrams.size):
                unigram, bigrams = _merge(chunk, unigram, bigrams, eos)
                chunk, waiting = [], 0
        unigram, bigrams = _merge(chunk, unigram, bigrams, eos)
        before, after = np.bincount(bigrams % size, minlength=size), np.bincount(bigrams // size, minlength=size)
        return cls(*(torch.from_numpy(counts) for counts in (unigram, before, after)))


def _merge(chunk: list[np.ndarray], unigram: np.ndarray, bigrams: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """The counts with a chunk added. A bigram is coded as first · V + second."""
    # Every sentence closes with EOS, so end to end they also open with one.
    text = np.concatenate([[eos], *chunk])
    unigram = unigram + np.bincount(text[1:], minlength=unigram.size)
    return unigram, np.union1d(bigrams, text[:-1] * unigram.size + text[1:])


@dataclass(frozen=True, eq=False)
class Noising:
    """Eq. 7: g(y*), each token replaced on its own.  A scheme of Xie et al. (Table 1) is one row (rate, proposal).

    Departs from the paper: Xie et al. noise the inputs of a language model, and under Kneser-Ney also the prediction that
    follows a noised input, by another draw. Here y = g(y*) is one sequence, inputs and targets alike.
    """

    rate: Tensor  # [V] float32: gamma(x), how likely x is replaced
    cdf: Tensor  # [V] float64: cumulated q(x), the tokens that come instead; the last entry is 1
    pad: int
    eos: int

    @classmethod
    def of(cls, scheme: str, statistics: NoiseStatistics, vocabulary: Vocabulary, gamma: float = GAMMA) -> "Noising":
        """A scheme by name: unigram, blank or kneser_ney. EOS and what must never be drawn are not proposed.

        Raises ValueError for an unknown scheme, gamma outside [0, 1], counts of another vocabulary, and counts without a word.
        """
        if scheme not in SCHEMES:
            raise ValueError(f"no noising scheme {scheme!r}, only {', '.join(SCHEMES)}")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma = {gamma} is not a probability")
        if len(statistics.unigram) != vocabulary.size:
            raise ValueError(f"counts of {len(statistics.unigram)} ids for a vocabulary of {vocabulary.size}")
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
        site = (draws(SITE, width) < self.rate.take(target)) & _tokens(target, self.pad, self.eos)
        # cdf[i-1] <= u < cdf[i]: an id without mass is never met.
        proposal = torch.searchsorted(self.cdf, draws(PROPOSAL, width, torch.float64), right=True)
        return torch.where(site, proposal, target)


def _unigram(statistics: NoiseStatistics, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """gamma(x) = gamma0, q(x) ∝ c(x): the analogue of linear interpolation."""
    return torch.ones(vocabulary.size), statistics.unigram


def _blank(statistics: NoiseStatistics, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """gamma(x) = gamma0, q(UNK) = 1: UNK serves as Xie et al.'s blank."""
    return torch.ones(vocabulary.size), torch.arange(vocabulary.size) == vocabulary.unk


def _kneser_ney(statistics: NoiseStatistics, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """gamma(x) = gamma0 N1+(x, •) / c(x), q(x) ∝ N1+(•, x): a token that predicts its successor well is seldom replaced.

    A token that was never seen is replaced like one seen once.
    """
    rate = statistics.continuations_after / statistics.unigram.clamp(min=1)
    return torch.where(statistics.unigram > 0, rate, 1.0), statistics.continuations_before


SCHEMES = {"unigram": _unigram, "blank": _blank, "kneser_ney": _kneser_ney}


def real_words(vocabulary: Vocabulary) -> Tensor:
    """The ids that RAML puts in: drawable, neither EOS nor UNK.  -> [W] int64, ascending.  Make it once, keep it on the device.

    Raises ValueError if there are fewer than two.
    """
    words = sorted(set(range(vocabulary.size)) - {*vocabulary.never, vocabulary.eos, vocabulary.unk})
    if len(words) < 2:
        raise ValueError(f"{vocabulary} has no two real words to exchange")
    return torch.tensor(words)


def raml_ngram(target: Tensor, words: Tensor, samples: int, draws: Draws, vocabulary: Vocabulary) -> Tensor:
    """A.3.2, n-gram replacement (Ma et al. 2017): one n-gram of y* becomes random words, n ~ U{1..min(r-1, 4)}.

    Row b·S + s is sample s of sentence b; s = 0 is the truth. The start is uniform; the last token is never replaced, so a
    one-token target has the truth S times. A random word may be the word it replaces.  [B, T], [W] -> [B·S, T] int64
    """
    draws, target = draws.samples(samples), target.repeat_interleave(samples, 0)
    width = target.size(1)
    r = _tokens(target, vocabulary.pad, vocabulary.eos).sum(1)
    u = draws(NGRAM, 2, torch.float64)
    n = 1 + _integer(u.select(1, 0), (r - 1).clamp(1, LONGEST_NGRAM))
    start = _integer(u.select(1, 1), (r - n).clamp(min=1))
    changes = (torch.arange(len(target), device=target.device) % samples > 0) & (r > 1)
    position = torch.arange(width, device=target.device)
    site = (position >= start.unsqueeze(1)) & (position < (start + n).unsqueeze(1)) & changes.unsqueeze(1)
    word = words.take(_integer(draws(NGRAM_TOKEN, width, torch.float64), len(words)))
    return torch.where(site, word, target)


def raml_hamming(target: Tensor, words: Tensor, samples: int, tau: float, draws: Draws, vocabulary: Vocabulary) -> Tensor:
    """Eq. 8 with R = -Hamming distance (Norouzi et al. 2016): S exact draws a sentence.  [B, T], [W] -> [B·S, T] int64

    First e, the number of replaced tokens, of weight C(r, e) exp(-e/τ) (W-1)^{e - e/τ}; then e positions without replacement;
    each gets a uniform other word. (W-1)^{-e/τ} is Norouzi et al.'s scaling of τ, without which every token would be
    replaced. The payoff is in the draws, the truth among them: their weights are equal, do not apply `raml_weights`.
    Raises ValueError unless τ > 0.
    """
    _check_tau(tau)
    draws, target = draws.samples(samples), target.repeat_interleave(samples, 0)
    width = target.size(1)
    tokens = _tokens(target, vocabulary.pad, vocabulary.eos)
    edits = _edits(tokens.sum(1), len(words), tau, width, draws(EDITS, 1, torch.float64))
    # A uniform permutation of the tokens, padding behind: any e positions are equally likely to hold the numbers below e.
    permutation = torch.where(tokens, draws(EDIT_SITE, width, torch.float64), 1.0).argsort(dim=1, stable=True)
    site = permutation < edits.unsqueeze(1)
    at = torch.searchsorted(words, target).clamp(max=len(words) - 1)
    is_word = words.take(at).eq(target)
    choice = _integer(draws(EDIT_TOKEN, width, torch.float64), len(words) - is_word.long())
    return torch.where(site, words.take(choice + (is_word & (choice >= at)).long()), target)


def _edits(r: Tensor, words: int, tau: float, width: int, u: Tensor) -> Tensor:
    """e of `raml_hamming` by inverse CDF, in log space.  r [N], u [N, 1] -> [N] int64 in 0..r"""
    e = torch.arange(width + 1, device=r.device, dtype=torch.float64)
    rest = r.unsqueeze(1) - e
    # log C(r, e) but for lgamma(r + 1), which all e share.
    log_choose = -torch.lgamma(e + 1) - torch.lgamma(rest.clamp(min=0) + 1)
    log_weight = log_choose - e / tau + (e - e / tau) * math.log(words - 1)
    cdf = log_weight.masked_fill(rest < 0, -torch.inf).softmax(1).cumsum(1)
    # Rounding may leave the last entry below u.
    return torch.minimum((cdf <= u).sum(1), r)


def raml_weights(reward: Tensor, samples: int, tau: float) -> Tensor:
    """Eq. 8: exp(R/τ), normalised over the S samples of one sentence; a sample drawn twice counts twice.  [B·S] -> [B·S]

    Raises ValueError unless τ > 0.
    """
    _check_tau(tau)
    return (reward.view(-1, samples) / tau).softmax(1).flatten()


def _check_tau(tau: float) -> None:
    if not tau > 0:
        raise ValueError(f"the temperature τ = {tau} must be positive")


def _tokens(target: Tensor, pad: int, eos: int) -> Tensor:
    """True at the r tokens of y*, False at a closing EOS and after it.  [B, T] -> [B, T] bool"""
    real = target.ne(pad)
    end = real.sum(1, keepdim=True)
    return torch.arange(target.size(1), device=target.device) < end - target.gather(1, (end - 1).clamp(min=0)).eq(eos).long()


def _integer(u: Tensor, n: Tensor | int) -> Tensor:
    """Uniform on 0..n-1: the product with u < 1 rounds to less than n.  float64 -> int64"""
    return (u * n).long()


class PredrawnSamples:
    """RAML samples drawn beforehand, from a text file with one sample a line (UTF-8):

        index <TAB> reward <TAB> tokens

    `index` is the sentence's id in the training data; the lines of a sentence are adjacent, S for each sentence. The file is
    checked and indexed in one pass; its samples are read when they are asked for.
    """

    def __init__(self, path: str | Path, encode: Callable[[str], Sequence[int]], vocabulary: Vocabulary) -> None:
        """`encode` turns the third field into ids, without EOS.  Raises ValueError naming path:line."""
        self.path, self.encode, self.vocabulary = Path(path), encode, vocabulary
        indices, offsets, offset, samples, number = array("q"), array("q"), 0, array("q"), 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                index, _, _ = self._parse(line, number)
                if not indices or indices[-1] != index:
                    self._check_group(samples, number)
                    indices.append(index)
                    offsets.append(offset)
                    samples.append(0)
                samples[-1] += 1
                offset += len(line)
        if not indices:
            raise ValueError(f"{self.path}: no samples")
        self._check_group(samples, number + 1)
        self.samples: int = samples[0]
        self._order = np.argsort(np.asarray(indices), kind="stable")
        self._indices, self._offsets = np.asarray(indices)[self._order], np.asarray(offsets)[self._order]
        again = np.flatnonzero(self._indices[1:] == self._indices[:-1])
        if again.size:
            line = self._order[again[0] + 1] * self.samples + 1
            raise ValueError(f"{self.path}:{line}: sentence {self._indices[again[0]]} occurs before, not adjacent")

    def read(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The samples of sentences `ids`, closed by EOS, and their rewards, on the CPU.  -> [B·S, T] int64, [B·S] float32

        Raises ValueError for a sentence that the file does not have.
        """
        rows, rewards = [], []
        with self.path.open("rb") as lines:
            for index in ids:
                at = int(np.searchsorted(self._indices, index))
                if at == len(self._indices) or self._indices[at] != index:
                    raise ValueError(f"{self.path}: no samples of sentence {index}")
                lines.seek(self._offsets[at])
                for s in range(self.samples):
                    _, reward, text = self._parse(lines.readline(), int(self._order[at]) * self.samples + s + 1)
                    rows.append(torch.tensor([*self.encode(text), self.vocabulary.eos]))
                    rewards.append(reward)
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.vocabulary.pad)
        return tokens, torch.tensor(rewards)

    def _parse(self, line: bytes, number: int) -> tuple[int, float, str]:
        """A line's three fields."""
        try:
            index, reward, tokens = line.decode("utf-8").rstrip("\r\n").split("\t")
            parsed = int(index), float(reward), tokens
        except ValueError as error:
            raise ValueError(f"{self.path}:{number}: expected index, reward and tokens between tabs ({error})") from None
        if parsed[0] < 0 or not math.isfinite(parsed[1]):
            raise ValueError(f"{self.path}:{number}: the index must not be negative, the reward must be finite")
        return parsed

    def _check_group(self, samples: Sequence[int], next_line: int) -> None:
        """Refuses a sentence that has ended with another number of samples than the first."""
        if samples and samples[-1] != samples[0]:
            raise ValueError(f"{self.path}:{next_line - 1}: {samples[-1]} samples end here, the first sentence has {samples[0]}")
