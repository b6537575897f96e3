"""How drawn tokens are weighed: w_t of loss = - Σ_t w_t log p_θ(target_t | inputs_<t).

N drawn sequences, T steps.
"""

from collections.abc import Callable, Mapping

import torch

from fairseq_erpo.algorithm.advantage import Advantage
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert
from fairseq_erpo.algorithm.beside_data import beside_data
from fairseq_erpo.algorithm.neighbours import PAYOFFS, raml_weights
from fairseq_erpo.algorithm.risk import Risk

MIXER_DATA_WEIGHT = 0.5  # Ranzato et al. 2016: the weight of the cross-entropy part

Weigh = Callable[[Batch, Drawn], Drawn]


def as_drawn(batch: Batch, drawn: Drawn) -> Drawn:
    """Weight 1 for every target, the model's own too: the paper's words."""
    return drawn


def _without_model(batch: Batch, drawn: Drawn) -> Drawn:
    """Weight 0 for the model's own tokens, whose expected gradient E_p[∇ log p] is 0; weight 1 for
    all others.
    """
    origin = drawn.sample.origin
    weights = (origin.ne(Expert.MODEL) & origin.ne(Expert.NONE)).float()
    return drawn._replace(weights=weights, size=weights.sum())


# --erpo-targets: what is learnt.
TARGETS: Mapping[str, Weigh] = {
    "drawn": as_drawn,
    "reward": _without_model,
    "policy": Advantage(),
    "risk": Risk(),
}
PAYING = ("policy", "risk")  # the targets that ask what a sequence is worth


def by_targets(batch: Batch, drawn: Drawn) -> Drawn:
    """As --erpo-targets says, and y* beside it where --erpo-layout says so."""
    drawn = TARGETS[batch.settings.targets](batch, drawn)
    return (
        beside_data(batch, drawn)
        if batch.settings.layout == "sentence" and batch.mixture.data > 0
        else drawn
    )


def by_payoff(batch: Batch, drawn: Drawn) -> Drawn:
    """Eq. 8: w = exp{R/τ}, normalised over the samples of one sentence."""
    if PAYOFFS[batch.settings.payoff].weighted or batch.inputs.predrawn is not None:
        share = raml_weights(drawn.sample.reward, drawn.samples, batch.settings.tau)
    else:
        share = torch.full_like(drawn.sample.reward, 1 / drawn.samples)
    weights = drawn.sample.origin.ne(Expert.NONE) * share[:, None]
    return drawn._replace(weights=weights, size=weights.sum(), sequences=len(batch.target))
