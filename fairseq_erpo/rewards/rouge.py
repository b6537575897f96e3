"""Eq. 3 for ROUGE of a growing prefix."""

import torch
from torch import Tensor

from fairseq_erpo.rewards.overlap import Overlap, OverlapReward


class Rouge(OverlapReward):
    """The sum of the F1 of ROUGE-n for each n of `ngrams` and, with `subsequence`, of ROUGE-L, as
    `rouge-score` counts.

    Token ids are the words and counts are clipped.  Φ(∅) = 0 and ΔR(EOS) = 0.  ROUGE-n is 0 while
    either side is shorter than n.

    The best tokens are those whose ΔR has the same float32 bits. Of exactly equal fractions that
    are added up in another order the bits can differ: in 24 of 7,144 prefixes the arg max missed a
    token that is as good. It matters at c = inf only.
    """

    def __init__(self, ngrams: tuple[int, ...] = (), subsequence: bool = False) -> None:
        orders = max(ngrams, default=0)
        # F1, the harmonic mean of matches/drawn and matches/wanted, is 2 · matches / (drawn +
        # wanted); others count 0.
        worth = [2.0 if n in ngrams else 0.0 for n in range(1, orders + 1)] + [2.0] * subsequence
        super().__init__(orders, subsequence, tuple(worth))

    def sizes(self, length: Tensor) -> Tensor:
        # t - n + 1 n-grams of the prefix and r - n + 1 of y*; where there is a match this is at
        # least 1.
        fewer = torch.arange(0, 2 * self.orders, 2, device=length.device)
        if self.subsequence:
            fewer = torch.cat([fewer, fewer.new_zeros(1)])
        return length[:, None] - fewer

    def combine(self, shares: Tensor, state: Overlap) -> Tensor:
        return shares.sum(2)
