"""Baselines of policy gradient: what is subtracted from a sentence's reward (Eq. 10), by name.

B sentences, S samples of each, N = B·S drawn sequences, T steps, D features.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fairseq_erpo.algorithm.batch import Batch, Drawn

MAX_STEPS = 256  # later time steps share the learned baseline of the last


class Baseline(NamedTuple):
    """A baseline, [N] or [N, T], and what the sampler has to draw or keep for it."""

    value: Callable[[Batch, Drawn], Tensor]
    greedy: bool = False
    learned: bool = False


def _none(batch: Batch, drawn: Drawn) -> Tensor:
    return torch.zeros_like(drawn.sample.reward)


def _greedy(batch: Batch, drawn: Drawn) -> Tensor:
    """Rennie et al. 2017: the reward of the greedy output.  -> [N]"""
    assert drawn.greedy is not None
    return drawn.greedy.repeat_interleave(drawn.samples)


def _leave_one_out(batch: Batch, drawn: Drawn) -> Tensor:
    """The mean reward of the other samples of the same sentence.  -> [N]"""
    reward = drawn.sample.reward.unflatten(0, (-1, drawn.samples))
    return ((reward.sum(1, keepdim=True) - reward) / (drawn.samples - 1)).flatten()


def _group(batch: Batch, drawn: Drawn) -> Tensor:
    """The mean reward of all samples of the same sentence, its own too (Shao et al. 2024, GRPO).
    -> [N]

    R minus it is (S - 1)/S of what leave_one_out gives: the same direction, a little smaller.
    """
    reward = drawn.sample.reward.unflatten(0, (-1, drawn.samples))
    return reward.mean(1).repeat_interleave(drawn.samples)


def _learned(batch: Batch, drawn: Drawn) -> Tensor:
    """MIXER: linear in the features of each time step.  -> [N, T]"""
    if drawn.sample.features is None:  # the model drew nothing
        return torch.zeros_like(drawn.sample.delta_r)
    return batch.inputs.baseline(drawn.sample.features)[:, : drawn.sample.tokens.size(1)]


BASELINES: Mapping[str, Baseline] = {
    "none": Baseline(_none),
    "greedy": Baseline(_greedy, greedy=True),
    "leave_one_out": Baseline(_leave_one_out),
    "group": Baseline(_group),
    "learned": Baseline(_learned, learned=True),
}


class StepBaseline(nn.Module):
    """MIXER's baseline (A.1): one linear function of the decoder's features for each time step."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(MAX_STEPS, features + 1))

    def forward(self, features: Tensor) -> Tensor:
        """[N, T, D] -> [N, T] float32; no gradient into the features"""
        step = torch.arange(features.size(1), device=features.device).clamp(max=MAX_STEPS - 1)
        weight = self.weight[step].float()
        return (features.detach().float() * weight[:, :-1]).sum(-1) + weight[:, -1]
