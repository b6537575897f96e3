"""Eq. 3 for ROUGE of a growing prefix."""

from torch import Tensor

from fairseq_erpo.rewards.overlap import OverlapReward


class Rouge(OverlapReward):
    """The sum of the F1 of ROUGE-n for each n of `ngrams` and, with `subsequence`, of ROUGE-L, as `rouge-score` counts.

    Token ids are the words and counts are clipped.  Φ(∅) = 0 and ΔR(EOS) = 0.  ROUGE-n is 0 while either side is
    shorter than n.
    """

    def __init__(self, ngrams: tuple[int, ...] = (), subsequence: bool = False) -> None:
        super().__init__(orders=max(ngrams, default=0), subsequence=subsequence)
        self.parts = ngrams

    def phi(self, counts: Tensor, drawn: Tensor, length: Tensor) -> Tensor:
        parts = [f1(counts[..., n - 1], drawn - n + 1, length - n + 1) for n in self.parts]
        if self.subsequence:
            parts.append(f1(counts[..., -1], drawn, length))
        return sum(parts[1:], start=parts[0])


def f1(matches: Tensor, drawn: Tensor, wanted: Tensor) -> Tensor:
    """Harmonic mean of matches/drawn and matches/wanted, 0 without matches.  [B, K], [B, K], [B] -> [B, K] float32"""
    # Where there is a match both numbers are positive; elsewhere any divisor gives 0.
    return 2 * matches / (drawn + wanted[:, None]).clamp(min=1)
