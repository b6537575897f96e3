"""Eq. 3 for sentence BLEU of a growing prefix."""

import torch
from torch import Tensor

from fairseq_erpo.rewards.overlap import Overlap, OverlapReward

ORDERS = 4


class Bleu(OverlapReward):
    """Sentence BLEU-4 with one added to the matches and the n-grams of every order, so that no
    precision is 0.

    Φ(y_1:t) = (Π_n (m_n + 1)/(p_n + 1))^¼; an order that the prefix is too short for contributes 1,
    and Φ(∅) = 1. ΔR(EOS) is the brevity penalty, -1 at t = 0 and 0 from t = r on; Φ(∅) + ΣΔR is
    sentence BLEU.

    Departs from the paper: it does not say where the brevity penalty goes.  On a prefix it would
    multiply all ΔR alike, by 1e-8 at t = 0, which hides every difference between tokens; here EOS
    pays it.
    """

    prior = 1.0

    def __init__(self) -> None:
        super().__init__(orders=ORDERS, subsequence=False, worth=(1.0,) * ORDERS)

    def sizes(self, length: Tensor) -> Tensor:
        # p_n + 1 with p_n = max(t - (n - 1), 0); where t < n - 1 this is below 1, and counts as 1.
        return torch.arange(1, 1 - ORDERS, -1, device=length.device, dtype=length.dtype).expand(
            len(length), -1
        )

    def combine(self, shares: Tensor, state: Overlap) -> Tensor:
        return shares.prod(2).sqrt().sqrt()

    def closing(self, state: Overlap, value: Tensor) -> Tensor:
        return value * log_brevity_penalty(state)[:, -1].expm1()


def log_brevity_penalty(state: Overlap) -> Tensor:
    """1 - r/t where t < r, else 0; -inf, or as good as that, at t = 0 < r.  -> [B, K] float32"""
    drawn = state.sizes[:, :, 0] - 1
    return ((drawn - state.length[:, None]) / drawn.clamp(min=torch.finfo(drawn.dtype).tiny)).clamp(
        max=0
    )
