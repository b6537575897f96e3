"""How drawn tokens are weighed: w_t of loss = - Σ_t w_t log p_θ(target_t | inputs_<t).

N drawn sequences, T steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert
from fairseq_erpo.algorithm.layouts import Point
from fairseq_erpo.algorithm.neighbours import PAYOFFS, raml_weights

MIXER_DATA_WEIGHT = 0.5  # Ranzato et al. 2016: the weight of the cross-entropy part

Weigh = Callable[[Batch, Drawn], Drawn]


def as_drawn(batch: Batch, drawn: Drawn) -> Drawn:
    """Weight 1 for every target, the model's own too: the paper's words."""
    return drawn


def _without_model(batch: Batch, drawn: Drawn) -> Drawn:
    """Weight 0 for the model's own tokens, whose expected gradient E_p[∇ log p] is 0; weight 1 for all others."""
    origin = drawn.sample.origin
    weights = (origin.ne(Expert.MODEL) & origin.ne(Expert.NONE)).float()
    return drawn._replace(weights=weights, size=weights.sum())


def _taught_by_reward(batch: Batch, drawn: Drawn) -> Drawn:
    """Learn the reward's distribution where the model drew, as where the reward drew: it says what should have come."""
    return drawn._replace(soft=drawn.sample.origin.eq(Expert.MODEL) | drawn.sample.origin.eq(Expert.REWARD))


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
        sample, inputs = drawn.sample, batch.inputs
        baseline = BASELINES[batch.settings.baseline].value(batch, drawn)
        baseline = baseline if baseline.dim() == 2 else baseline[:, None]
        gain = sample.reward[:, None] - baseline
        if self.kl_to_prior:
            ours, prior = (inputs.log_p(sample.tokens, drawn.samples, prior=prior) for prior in (False, True))
            # A token answers for the ratio at and behind it, not before.
            gain = gain - (batch.settings.alpha or 0) * (ours - prior).flip(1).cumsum(1).flip(1)
        weights = torch.where(sample.origin.eq(Expert.MODEL), gain, self.data_weight)
        real = sample.origin.ne(Expert.NONE)
        return drawn._replace(weights=weights * real, size=real.sum(), by_advantage=True)


# --erpo-model-targets: what is learnt where the model drew.
MODEL_TARGETS: Mapping[str, Weigh] = {
    "keep": as_drawn,
    "drop": _without_model,
    "reward": _taught_by_reward,
    "policy": Advantage(),
}


def by_model_targets(batch: Batch, drawn: Drawn) -> Drawn:
    """As --erpo-model-targets says."""
    return MODEL_TARGETS[batch.settings.model_targets](batch, drawn)


def by_payoff(batch: Batch, drawn: Drawn) -> Drawn:
    """Eq. 8: w = exp{R/τ}, normalised over the samples of one sentence."""
    if PAYOFFS[batch.settings.payoff].weighted or batch.inputs.predrawn is not None:
        share = raml_weights(drawn.sample.reward, drawn.samples, batch.settings.tau)
    else:
        share = torch.full_like(drawn.sample.reward, 1 / drawn.samples)
    weights = drawn.sample.origin.ne(Expert.NONE) * share[:, None]
    return drawn._replace(weights=weights, size=weights.sum(), sequences=len(batch.target))
