"""RAML's neighbours of y*, Eq. 8: sequences drawn around the data without a model, and their
weights exp{R/τ}.

Targets are right-padded and close with EOS, which stays where it is. Everything runs on the
target's device without synchronisation; the only randomness comes from a `Draws`.

B sentences, S samples of each, T positions with EOS, r = |y*| tokens without EOS, W real words.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.algorithm.noising import real_tokens
from fairseq_erpo.algorithm.uniforms import Channel, Draws
from fairseq_erpo.vocabulary import Vocabulary

LONGEST_NGRAM = 4  # Ma et al. 2017; A.3.2 takes over their sampling


def real_words(vocabulary: Vocabulary) -> Tensor:
    """The ids that RAML puts in: drawable, neither EOS nor UNK.  -> [W] int64, ascending.  Make it
    once, keep it on the device.

    Raises ValueError if there are fewer than two.
    """
    words = sorted(
        set(range(vocabulary.size)) - {*vocabulary.never, vocabulary.eos, vocabulary.unk}
    )
    if len(words) < 2:
        raise ValueError(f"{vocabulary} has no two real words to exchange")
    return torch.tensor(words)


def raml_ngram(
    target: Tensor, words: Tensor, samples: int, draws: Draws, vocabulary: Vocabulary
) -> Tensor:
    """A.3.2, n-gram replacement (Ma et al. 2017): one n-gram of y* becomes random words, n ~
    U{1..min(r-1, 4)}.

    Row b·S + s is sample s of sentence b; s = 0 is the truth. The start is uniform; the last token
    is never replaced, so a one-token target has the truth S times. A random word may be the word it
    replaces.  [B, T], [W] -> [B·S, T] int64
    """
    draws, target = draws.samples(samples), target.repeat_interleave(samples, 0)
    width = target.size(1)
    r = real_tokens(target, vocabulary.pad, vocabulary.eos).sum(1)
    u = draws(Channel.NGRAM, 2, torch.float64)
    n = 1 + _integer(u.select(1, 0), (r - 1).clamp(1, LONGEST_NGRAM))
    start = _integer(u.select(1, 1), (r - n).clamp(min=1))
    changes = (torch.arange(len(target), device=target.device) % samples > 0) & (r > 1)
    position = torch.arange(width, device=target.device)
    site = (
        (position >= start.unsqueeze(1))
        & (position < (start + n).unsqueeze(1))
        & changes.unsqueeze(1)
    )
    word = words.take(_integer(draws(Channel.NGRAM_TOKEN, width, torch.float64), len(words)))
    return torch.where(site, word, target)


def raml_hamming(
    target: Tensor, words: Tensor, samples: int, tau: float, draws: Draws, vocabulary: Vocabulary
) -> Tensor:
    """Eq. 8 with R = -Hamming distance (Norouzi et al. 2016): S exact draws a sentence.  [B, T],
    [W] -> [B·S, T] int64

    First e, the number of replaced tokens, of weight C(r, e) exp(-e/τ) (W-1)^{e - e/τ}; then e
    positions without replacement; each gets a uniform other word. (W-1)^{-e/τ} is Norouzi et al.'s
    scaling of τ, without which every token would be replaced. The payoff is in the draws, the truth
    among them: their weights are equal, do not apply `raml_weights`. Raises ValueError unless τ >
    0.
    """
    _check_tau(tau)
    draws, target = draws.samples(samples), target.repeat_interleave(samples, 0)
    width = target.size(1)
    tokens = real_tokens(target, vocabulary.pad, vocabulary.eos)
    edits = _edits(tokens.sum(1), len(words), tau, width, draws(Channel.EDITS, 1, torch.float64))
    # A uniform permutation of the tokens, padding behind: any e positions are equally likely to
    # hold the numbers below e.
    permutation = torch.where(tokens, draws(Channel.EDIT_SITE, width, torch.float64), 1.0).argsort(
        dim=1, stable=True
    )
    site = permutation < edits.unsqueeze(1)
    at = torch.searchsorted(words, target).clamp(max=len(words) - 1)
    is_word = words.take(at).eq(target)
    choice = _integer(draws(Channel.EDIT_TOKEN, width, torch.float64), len(words) - is_word.long())
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
    """Eq. 8: exp(R/τ), normalised over the S samples of one sentence; a sample drawn twice counts
    twice.  [B·S] -> [B·S]

    Raises ValueError unless τ > 0.
    """
    _check_tau(tau)
    return (reward.view(-1, samples) / tau).softmax(1).flatten()


def _check_tau(tau: float) -> None:
    if not tau > 0:
        raise ValueError(f"the temperature τ = {tau} must be positive")


def _integer(u: Tensor, n: Tensor | int) -> Tensor:
    """Uniform on 0..n-1: the product with u < 1 rounds to less than n.  float64 -> int64"""
    return (u * n).long()


class Payoff(NamedTuple):
    """One way to draw RAML's neighbours."""

    draw: Callable[[Tensor, Tensor, int, float, Draws, Vocabulary], Tensor]
    weighted: bool  # True: the draws still have to be weighted by exp{R/τ}
    tau: float  # the default temperature


# τ: Ma et al. 2017, and Norouzi et al. 2016's best. With .4 the Hamming payoff would leave nearly
# every sentence as it is.
PAYOFFS: Mapping[str, Payoff] = {
    "ngram": Payoff(
        lambda target, words, samples, tau, draws, vocabulary: raml_ngram(
            target, words, samples, draws, vocabulary
        ),
        weighted=True,
        tau=0.4,
    ),
    "hamming": Payoff(raml_hamming, weighted=False, tau=0.85),
}
