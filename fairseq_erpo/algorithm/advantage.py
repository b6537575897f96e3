"""Eq. 10: the advantage R - baseline as the weight of what the model drew.

B sentences, S samples of each, N = B·S drawn sequences, T steps.
"""

from dataclasses import dataclass

import torch

from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert
from fairseq_erpo.algorithm.layouts import Point


@dataclass(frozen=True)
class Advantage:
    """Eq. 10: w = R - baseline for tokens that the model drew, `data_weight` for all others."""

    data_weight: float = 1.0
    kl_to_prior: bool = False  # Eq. 1 with a frozen prior: R - α Σ (log p_θ - log p_prior)

    @property
    def point(self) -> Point | None:
        """The KL term to a prior moves the row to another point than its layout's."""
        return Point("reward", "α", "0") if self.kl_to_prior else None

    def __call__(self, batch: Batch, drawn: Drawn) -> Drawn:
        sample = drawn.sample
        baseline = BASELINES[batch.settings.baseline].value(batch, drawn)
        baseline = baseline if baseline.dim() == 2 else baseline[:, None]
        gain = sample.reward[:, None] - baseline
        if self.kl_to_prior:
            ours = batch.model_log_p(sample, drawn.samples)
            prior = batch.log_p(batch.inputs.prior(drawn.samples), sample.tokens)
            # A token answers for the ratio at and behind it, not before.
            gain = gain - (batch.settings.alpha or 0) * (ours - prior).flip(1).cumsum(1).flip(1)
        own = sample.origin.eq(Expert.MODEL)
        real = sample.origin.ne(Expert.NONE)
        return drawn._replace(
            weights=torch.where(own, gain, self.data_weight) * real, advantage=own
        )
