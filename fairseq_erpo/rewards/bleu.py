"""Eq. 3 for sentence BLEU of a growing prefix."""

import torch
from torch import Tensor

from fairseq_erpo.rewards.overlap import Overlap, OverlapReward

ORDERS = 4


class Bleu(OverlapReward):
    """Sentence BLEU-4 with one added to the matches and the n-grams of every order, so that no precision is 0.

    Φ(y_1:t) = (Π_n (m_n + 1)/(p_n + 1))^¼; an order that the prefix is too short for contributes 1, and Φ(∅) = 1.
    ΔR(EOS) is the brevity penalty, -1 at t = 0 and 0 from t = r on; Φ(∅) + ΣΔR is sentence BLEU.

    Departs from the paper: it does not say where the brevity penalty goes.  On a prefix it is a factor of all ΔR alike,
    1e-8 at t = 0, which hides every difference between tokens.  `prefix_penalty` puts it there: Φ(∅) is then 0 and EOS free.
    """

    prior = 1.0

    def __init__(self, prefix_penalty: bool = False) -> None:
        super().__init__(orders=ORDERS, subsequence=False)
        self.prefix_penalty = prefix_penalty

    def phi(self, counts: Tensor, drawn: Tensor, length: Tensor) -> Tensor:
        # p_n + 1 = max(t - (n - 1), 0) + 1
        fewer = torch.arange(-1, ORDERS - 1, device=drawn.device)
        bleu = (counts / (drawn[:, :, None] - fewer).clamp(min=1)).prod(2).sqrt().sqrt()
        return bleu * log_brevity_penalty(drawn, length).exp() if self.prefix_penalty else bleu

    def closing(self, state: Overlap, value: Tensor) -> Tensor:
        if self.prefix_penalty:
            return super().closing(state, value)
        return value * log_brevity_penalty(state.drawn[:, -1:], state.length).expm1()[:, 0]


def log_brevity_penalty(drawn: Tensor, length: Tensor) -> Tensor:
    """1 - r/t where t < r, else 0; -inf, or as good as that, at t = 0 < r.  [B, K], [B] float32 -> [B, K] float32"""
    wanted = length[:, None]
    return ((drawn - wanted) / drawn.clamp(min=torch.finfo(drawn.dtype).tiny)).clamp(max=0)
