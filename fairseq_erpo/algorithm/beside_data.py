"""λ as a mixture of sequences: y* is learnt beside the samples.

B sentences, S samples of each, N = B·S drawn sequences, T steps.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert, Sample, data_sample


def beside_data(batch: Batch, drawn: Drawn) -> Drawn:
    """Eq. 2's mixture over sequences: y* of weight λ_data, not drawn but always there, and S
    samples that share the rest.

    y* weighs S λ_data, each sample 1 - λ_data, in the loss and in what the loss is divided by.
    λ_data = 1 is MLE, and λ_data = 0 leaves the samples alone. y* becomes the last sample of its
    sentence.
    """
    share, samples, sample = batch.mixture.data, drawn.samples, drawn.sample
    gold = data_sample(batch.target, batch.vocabulary)
    fill = Sample(batch.vocabulary.pad, int(Expert.NONE), 0, 0, 0, 0, 0, 0)  # type: ignore[arg-type]
    steps = max(sample.tokens.size(1), batch.target.size(1))
    fields = zip(sample, gold, fill, strict=True)
    both = Sample(*(_joined(*parts, samples, steps) for parts in fields))  # type: ignore[arg-type]
    real = sample.origin.ne(Expert.NONE)
    weights = (real.float() if drawn.weights is None else drawn.weights) * (1 - share)
    size = real.sum() if drawn.size is None else drawn.size
    gold_weights = gold.origin.ne(Expert.NONE) * (share * samples)
    return drawn._replace(
        sample=both,
        samples=samples + 1,
        weights=_joined(weights, gold_weights, 0, samples, steps),
        advantage=None
        if drawn.advantage is None
        else _joined(drawn.advantage, None, False, samples, steps),
        size=size * (1 - share) + gold_weights.sum(),
        sequences=len(batch.target) * samples,
        with_data=True,
    )


def _joined(
    drawn: Tensor | None, gold: Tensor | None, fill: float, samples: int, steps: int
) -> Tensor | None:
    """A part of the samples, and that of y* behind each sentence's; what has steps is filled up to
    so many.  [B·S, T], [B, T']
    """
    if drawn is None:
        return None
    drawn = drawn.unflatten(0, (-1, samples))
    if gold is None:
        gold = torch.full_like(drawn[:, 0], fill)
    both = [drawn, gold[:, None].to(drawn.dtype)]
    if drawn.dim() > 2:  # [B, S, T, ...]
        behind = (0, 0) * (drawn.dim() - 3)
        both = [pad(part, (*behind, 0, steps - part.size(2)), value=fill) for part in both]
    return torch.cat(both, 1).flatten(0, 1)
