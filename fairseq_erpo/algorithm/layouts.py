"""Layouts: which expert draws each position of a sentence.

N sequences, T steps.  Each layout also says which point (R, α, β) of Eq. 2 a row has that draws so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.algorithm.batch import Batch, Expert
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.rewards.base import Reference

MIXER_FALL = 3  # Ranzato et al. 2016, section 4: tokens that leave the prefix at each step


class Point(NamedTuple):
    """A point (R, α, β) of Eq. 2, as the family's table prints it."""

    reward: str
    alpha: str
    beta: str


@dataclass(frozen=True)
class Layout:
    """One layout: (batch, references, uniforms [N, T]) -> [N, T] Expert, and its words in the
    table.
    """

    place: Callable[[Batch, Reference, Tensor], Tensor]
    text: str
    source: str  # (λ_model, λ_reward, λ_data) that tokens are drawn from
    point: Point


def draw_experts(mixture: Mixture, u: Tensor) -> Tensor:
    """Algorithm 1, line 5: z ~ (λ_model, λ_reward, λ_data), for each token of each sentence.  [N,
    T] -> [N, T] Expert
    """
    z = torch.full_like(u, int(Expert.MODEL), dtype=torch.int64)
    z = (
        z.masked_fill(u < mixture.data + mixture.reward, int(Expert.REWARD))
        if mixture.reward
        else z
    )
    return z.masked_fill(u < mixture.data, int(Expert.DATA))


def _per_token(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    return draw_experts(batch.mixture, u)


def _model_only(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    return torch.full_like(u, int(Expert.MODEL), dtype=torch.int64)


def _without_data(mixture: Mixture) -> Mixture:
    """Model and reward in λ's proportion."""
    return Mixture(mixture.model / (1 - mixture.data), mixture.reward / (1 - mixture.data), 0)


def _prefix(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """Section 5.1, MIXER-alike: data for t < round(λ_data r), then model and reward in λ's
    proportion.
    """
    m = (batch.mixture.data * reference.length).round()
    return _data_before(m, draw_experts(_without_data(batch.mixture), u))


def _by_sentence(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """Model and reward in λ's proportion; y* is learnt beside the samples (`weigh.beside_data`)."""
    return draw_experts(_without_data(batch.mixture), u)


def _falling_prefix(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """A.1, MIXER: data for the first T - 3k of the T = r + 1 tokens, then the model."""
    m = reference.length + 1 - MIXER_FALL * batch.stage
    return _data_before(m, _model_only(batch, reference, u))


def _data_before(m: Tensor, origin: Tensor) -> Tensor:
    return origin.masked_fill(
        torch.arange(origin.size(1), device=m.device) < m[:, None], int(Expert.DATA)
    )


def _product(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """Softmax policy gradient: the product everywhere; in the bang-bang form the model alone with
    probability p_drop.
    """
    origin = torch.full_like(u, int(Expert.PRODUCT), dtype=torch.int64)
    return origin.masked_fill(u < (batch.settings.bang_bang or 0), int(Expert.MODEL))


ANNEALED = Point("R_δ → reward", "annealed", "annealed")
PER_TOKEN = Layout(_per_token, "per token", "(λ_model, λ_reward, λ_data)", ANNEALED)
PREFIX = Layout(
    _prefix, "prefix, m = round(λ_data r)", "(0, 0, 1), then (λ_model, λ_reward, 0)", ANNEALED
)
SENTENCE = Layout(
    _by_sentence,
    "y* of weight λ_data, samples of 1 - λ_data",
    "(λ_model, λ_reward, 0), and y*",
    ANNEALED,
)
MODEL_ONLY = Layout(
    _model_only, "every token", "(1, 0, 0) as proposal", Point("log R_PG", "1", "0")
)
FALLING_PREFIX = Layout(
    _falling_prefix,
    "prefix, m = T - 3k",
    "(0, 0, 1), then (1, 0, 0)",
    Point("R_δ, then log R_PG", "0, then 1", "1, then 0"),
)
PRODUCT = Layout(_product, "every token", "p · exp{ΔR/α}", Point("reward", "α", "0"))

# --erpo-layout: where in the sentence, or beside it, the data come.
LAYOUTS: Mapping[str, Layout] = {"token": PER_TOKEN, "prefix": PREFIX, "sentence": SENTENCE}
