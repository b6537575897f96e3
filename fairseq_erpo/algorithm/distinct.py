"""Samples of one source that coincide are learnt once.

B sentences, S samples of each, N = B·S sequences, T steps.
"""

import torch

from fairseq_erpo.algorithm.batch import Drawn


def distinct(drawn: Drawn) -> Drawn:
    """Let the first of equal samples of a source have the weights of all, which leaves the gradient
    as it is, up to rounding and to dropout.

    Equal are the same tokens from the same experts.  Where every token weighs 1, where a whole
    distribution is learnt or the targets are not the tokens, nothing changes.
    """
    sample = drawn.sample
    others = (sample.reward_log_q, drawn.targets)
    if drawn.weights is None or drawn.samples == 1 or any(part is not None for part in others):
        return drawn
    drawn_as = torch.stack([sample.tokens, sample.origin], 2).unflatten(0, (-1, drawn.samples))
    equal = drawn_as[:, :, None].eq(drawn_as[:, None]).flatten(3).all(3)  # [B, S, S]
    first = equal.int().argmax(2)  # [B, S]: the first of those that equal it
    source = torch.arange(len(first), device=first.device)[:, None]
    stands_for_it = (source * drawn.samples + first).flatten()
    weights = torch.zeros_like(drawn.weights).index_add_(0, stands_for_it, drawn.weights)
    times = torch.zeros_like(stands_for_it).index_add_(
        0, stands_for_it, torch.ones_like(stands_for_it)
    )
    return drawn._replace(weights=weights, times=times)
