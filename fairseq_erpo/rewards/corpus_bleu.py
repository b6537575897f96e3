"""Eq. 3 for a sentence's share of corpus BLEU: the corpus score, linearised at the model's own
statistics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.rewards.overlap import Overlap, OverlapReward
from fairseq_erpo.vocabulary import Vocabulary

ORDERS = 4
# Over how much of the length ratio the brevity penalty's slope falls from all to nothing
KINK = 0.02


@dataclass(frozen=True)
class CorpusStatistics:
    """What corpus BLEU is a function of, summed over the outputs for N sentences.

    Raises ValueError where the linearisation would divide by 0.
    """

    matches: tuple[float, ...]  # m_n, n = 1..4, clipped sentence by sentence
    ngrams: tuple[float, ...]  # t_n
    length: float  # H, of the outputs, in tokens without EOS
    wanted: float  # L, of the references
    sentences: float  # N

    def __post_init__(self) -> None:
        numbers = [*self.matches, *self.ngrams, self.length, self.wanted, self.sentences]
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"corpus BLEU cannot be linearised at {self}")

    @property
    def bleu(self) -> float:
        """B, 0..1."""
        precisions = (math.log(m / t) for m, t in zip(self.matches, self.ngrams, strict=True))
        return math.exp(sum(precisions) / ORDERS + min(0.0, 1 - self.wanted / self.length))

    @classmethod
    def from_plain(cls, found: Mapping[str, Any]) -> Self:
        """From numbers by name, as JSON has them; other names are left out.  Raises ValueError,
        TypeError or KeyError.
        """
        matches, ngrams = (tuple(map(float, found[name])) for name in ("matches", "ngrams"))
        if len(matches) != ORDERS or len(ngrams) != ORDERS:
            raise ValueError(f"{ORDERS} orders of n-grams are needed")
        return cls(
            matches, ngrams, *(float(found[name]) for name in ("length", "wanted", "sentences"))
        )

    @classmethod
    def from_counts(cls, counts: Tensor) -> Self:
        """From `CorpusBleu.counts` of many sentences; an order without a match counts as half a
        match.  [N, 10] -> statistics
        """
        sums = counts.double().sum(0).clamp(min=0.5).tolist()
        return cls(
            tuple(sums[:ORDERS]),
            tuple(sums[ORDERS : 2 * ORDERS]),
            sums[-2],
            sums[-1],
            float(len(counts)),
        )


# Where no model has been heard yet: a system of BLEU .27 whose outputs are as long as the
# references, 12 tokens a sentence.
UNHEARD = CorpusStatistics((7.2, 3.9, 2.2, 1.3), (12.0, 11.0, 10.0, 9.0), 12.0, 12.0, 1.0)


class CorpusBleu(OverlapReward):
    """The first-order change of corpus BLEU when one of its N outputs is y:

        R(y) = B N (Σ_n ¼ (m_n(y)/m_n - t_n(y)/t_n) + s (L/H) |y|/H), s = 1/(1 + exp{(1 - L/H) /
        .02})

    with B the corpus's BLEU, m_n and t_n its matches and n-grams, H and L the lengths of outputs
    and references. It is a sum over tokens, so that ΔR is exact and telescopes; Φ(∅) = 0 and EOS
    costs nothing. Where outputs are too short, each token earns its part of the brevity penalty,
    which a sentence's BLEU does not see. The slope of the penalty is 1 where L > H and 0 elsewhere;
    s smooths that step, since a model that stands at it would be pushed to and fro.

    The statistics have to follow the model: in training they are counted anew every 50 updates. m_n
    and t_n are of samples, which are what is paid: at the statistics of better outputs nearly all
    samples would lose by every token, and the shortest would win. H is of greedy outputs, which are
    what is read.

    Departs from the paper, whose rewards are of one sentence.
    """

    def __init__(self, statistics: CorpusStatistics = UNHEARD) -> None:
        scale = statistics.bleu * statistics.sentences
        super().__init__(
            ORDERS, subsequence=False, worth=tuple(scale / (ORDERS * m) for m in statistics.matches)
        )
        self.statistics = statistics
        self.costs = [scale / (ORDERS * t) for t in statistics.ngrams]
        ratio = statistics.wanted / statistics.length
        self.costs[0] -= (
            scale * ratio / statistics.length / (1 + math.exp(min((1 - ratio) / KINK, 700)))
        )

    def sizes(self, length: Tensor) -> Tensor:
        # t - n + 1 n-grams of a prefix of t tokens, negative where there is none.
        return torch.arange(0, -ORDERS, -1, device=length.device, dtype=length.dtype).expand(
            len(length), -1
        )

    def combine(self, shares: Tensor, state: Overlap) -> Tensor:
        ngrams = state.sizes.clamp(min=0).unbind(2)
        return state.counts.sum(2) - sum(
            n * cost for n, cost in zip(ngrams, self.costs, strict=True)
        )

    def counts(self, reference: Reference, tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
        """m_1..4, t_1..4, |y| and |y*| of outputs, closed by EOS or not, padded on the right.  [B,
        T] int64 -> [B, 10] float32
        """
        matches, length = self.matches(reference, tokens, vocabulary)
        ngrams = (length[:, None] - torch.arange(ORDERS, device=tokens.device)).clamp(min=0)
        return torch.cat([matches, ngrams, length[:, None], reference.length.float()[:, None]], 1)
