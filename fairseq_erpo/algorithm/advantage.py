"""Eq. 10: the advantage R - baseline as the weight of what the model drew.

B sentences, S samples of each, N = B·S drawn sequences, T steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert
from fairseq_erpo.algorithm.layouts import Point

LEAST_SPREAD = 1e-4  # of rewards, as the field has it: below it samples count as equal


def scaled(gain: Tensor, batch: Batch, drawn: Drawn) -> Tensor:
    """The advantage A of Eq. 10 on the scale that --erpo-advantage asks for, within ± --erpo-clip.
    [N, 1 or T] -> the same

    plain: A = R - baseline. group: A / σ, with σ the deviation of R over the samples of its source
    (GRPO, Shao et al. 2024). batch: (A - Ā) / σ over all samples of the batch, which makes the loss
    depend on how sentences are batched; a sample counts once, with its mean over the tokens that
    the model drew. Samples that do not differ have A = 0.
    """
    settings, reward = batch.settings, drawn.sample.reward
    if settings.advantage == "group":
        spread = (
            reward.unflatten(0, (-1, drawn.samples))
            .std(1, correction=0)
            .repeat_interleave(drawn.samples)
        )
        gain = gain / (spread[:, None] + LEAST_SPREAD)
    elif settings.advantage == "batch":
        mean, spread = _over_samples(gain, drawn.sample.origin.eq(Expert.MODEL))
        gain = (gain - mean) / (spread + LEAST_SPREAD)
    return gain.clamp(-settings.clip, settings.clip)


def _over_samples(gain: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the samples that have a counted token, each at its mean over those.

    [N, 1 or T], [N, T] bool: True where the token counts -> scalar, scalar
    """
    tokens = counted.sum(1)
    each = (gain * counted).sum(1) / tokens.clamp(min=1)
    has = tokens.gt(0)
    samples = has.sum()
    mean = (each * has).sum() / samples
    return mean, (((each - mean).square() * has).sum() / samples).sqrt()


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
        gain = scaled(gain, batch, drawn)
        own = sample.origin.eq(Expert.MODEL)
        real = sample.origin.ne(Expert.NONE)
        return drawn._replace(
            weights=torch.where(own, gain, self.data_weight) * real, advantage=own
        )
