"""What a training log says of a batch, as sums that ranks and micro-batches add up."""

from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.batch import Drawn, Expert
from fairseq_erpo.mixture import NAMES, Mixture
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.vocabulary import Vocabulary

EXPERTS = {
    "model": Expert.MODEL,
    "reward": Expert.REWARD,
    "data": Expert.DATA,
    "product": Expert.PRODUCT,
}
SUMS = ("drawn", "drawn_tokens", "words", "in_reference", "reward", "reward_squared", "clipped")


def sums(
    drawn: Drawn | None, target: Tensor, mixture: Mixture, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Sums over the batch on its device; the same keys on every rank and micro-batch, whatever was
    drawn.
    """
    nothing = torch.zeros((), device=target.device)
    log: dict[str, Any] = {
        f"lambda_{name}": getattr(mixture, name) * target.size(0) for name in NAMES
    }
    if drawn is None:
        return (
            log
            | {f"{kind}_{name}": nothing for name in EXPERTS for kind in ("z", "dr")}
            | dict.fromkeys(SUMS, nothing)
        )
    sample = drawn.explored
    for name, expert in EXPERTS.items():
        z = sample.origin.eq(expert)
        log |= {f"z_{name}": z.sum(), f"dr_{name}": sample.delta_r.masked_fill(~z, 0).sum()}
    reference = Reference.from_target(target, vocabulary)
    words = torch.zeros((len(target), vocabulary.size), dtype=torch.bool, device=target.device)
    words = words.scatter(1, torch.where(reference.owner, reference.tokens, vocabulary.pad), True)
    words[:, vocabulary.pad] = False
    known = words.gather(1, sample.tokens.reshape(len(target), -1))
    return log | {
        "drawn": nothing + len(sample.tokens),
        "drawn_tokens": sample.tokens.ne(vocabulary.pad).sum(),
        "words": (sample.tokens.ne(vocabulary.pad) & sample.tokens.ne(vocabulary.eos)).sum(),
        "in_reference": known.sum(),
        "reward": sample.reward.sum(),
        "reward_squared": sample.reward.square().sum(),
        "clipped": sample.clipped.sum(),
    }
