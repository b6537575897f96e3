"""The one engine of the family: how sequences are drawn, and how their tokens are weighted.

B sentences, S samples of each, N = B·S drawn sequences (row b·S + s), T steps, R reference positions, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fairseq_erpo.mixture import Mixture
from fairseq_erpo.noising import Noising, PredrawnSamples, raml_hamming, raml_ngram, raml_weights
from fairseq_erpo.rewards.base import Reference, replay
from fairseq_erpo.sampler import Channel, Expert, Sampler, StepDecoder, length_caps, scattered
from fairseq_erpo.settings import Settings
from fairseq_erpo.uniforms import Draws, uniforms
from fairseq_erpo.vocabulary import Vocabulary

MIXER_DELTA = 3  # Ranzato et al. 2016, section 4: tokens that leave the prefix at each step
MIXER_EPOCHS = 5.0  # their epochs a step
MIXER_DATA_WEIGHT = 0.5  # their weight of the cross-entropy part


class Sources(Protocol):
    """What some rows need besides the batch; made when first asked for."""

    @property
    def noising(self) -> Noising:
        """Eq. 7's g."""

    @property
    def words(self) -> Tensor:
        """The real words.  [W] int64"""

    @property
    def predrawn(self) -> PredrawnSamples | None:
        """RAML's samples from a file."""

    def baseline(self, features: Tensor) -> Tensor:
        """MIXER's learned baseline.  [N, T, D] -> [N, T]"""

    def log_p(self, tokens: Tensor, samples: int, prior: bool) -> Tensor:
        """log p of drawn tokens under the model, or under the frozen prior; 0 at padding.  [N, T] -> [N, T]"""


@dataclass(frozen=True)
class Batch:
    """What a row may draw from: plain tensors, λ, and the model behind `start`."""

    target: Tensor  # [B, T] int64: y* with EOS, padded on the right
    draws: Draws
    mixture: Mixture
    stage: int  # steps of the schedule so far, 1 with the first
    settings: Settings
    vocabulary: Vocabulary
    max_positions: int
    start: Callable[[int], StepDecoder]  # a decoder for so many copies of each sentence, after one encoder pass
    sources: Sources

    def copies(self, samples: int) -> tuple[Tensor, Draws]:
        """The targets and uniforms of S samples of each sentence.  -> [B·S, T], Draws"""
        if samples == 1:
            return self.target, self.draws
        return self.target.repeat_interleave(samples, 0), self.draws.samples(samples)


class Drawn(NamedTuple):
    """One batch of targets.  The sequence y of the paper is `tokens`."""

    tokens: Tensor  # [N, T] int64, padded on the right
    origin: Tensor  # [N, T] int64: Expert, NONE at padding
    delta_r: Tensor  # [N, T] float32: Eq. 3
    reward: Tensor  # [N] float32: Φ(∅) + ΣΔR
    clipped: Tensor  # [N] bool: True where the length cap ended the sentence
    features: Tensor | None = None  # [N, T, D]: the decoder's, where the model drew
    shares: Tensor | None = None  # [N, T, R + 2]: log q of the reward expert, for soft targets
    lift: Tensor | None = None  # [N, T, R + 1]: log of what the product's q weighs more than p_θ, for product targets
    taught: Tensor | None = None  # [N, T] bool: where these are learnt; None stands for where the reward expert drew
    targets: Tensor | None = None  # [N, T] int64: what is learnt, where it is not `tokens`
    weights: Tensor | None = None  # [N, T] float32: w_t; None stands for 1
    size: Tensor | None = None  # scalar: what the loss is divided by; None stands for the number of targets
    samples: int = 1  # S
    sequences: int | None = None  # what --sentence-avg divides by; None stands for N
    greedy: Tensor | None = None  # [B] float32: reward of the greedy output

    @property
    def learnt(self) -> Tensor:
        """The targets.  -> [N, T] int64"""
        return self.tokens if self.targets is None else self.targets

    def previous(self, vocabulary: Vocabulary) -> Tensor:
        """What the decoder reads: EOS, then the tokens before.  -> [N, T] int64"""
        shifted = torch.cat([torch.full_like(self.tokens[:, :1], vocabulary.eos), self.tokens[:, :-1]], 1)
        return shifted.masked_fill(self.tokens.eq(vocabulary.pad), vocabulary.pad)


# How sequences are drawn


def gold(batch: Batch) -> Drawn | None:
    """Eq. 6: q = 1 at y*. Nothing has to be drawn: None stands for the batch as fairseq made it."""
    return None


def noised(batch: Batch) -> Drawn:
    """Eq. 7: q = 1 at g(y*)."""
    return _scored(batch, batch.sources.noising(batch.target, batch.draws), Expert.DELTA, samples=1)


def replaced(batch: Batch) -> Drawn:
    """Eq. 8: neighbours of y*, S of each, drawn in the batch or read from a file."""
    settings, sources = batch.settings, batch.sources
    if sources.predrawn is not None:
        tokens, reward = sources.predrawn.read(batch.draws.ids.tolist())
        tokens, reward = tokens.to(batch.target.device), reward.to(batch.target.device)
        drawn = _scored(batch, tokens, Expert.TASK, samples=len(tokens) // len(batch.target))
        return drawn._replace(reward=reward)
    draw = PAYOFFS[settings.payoff].draw
    tokens = draw(batch.target, sources.words, settings.samples, batch)
    return _scored(batch, tokens, Expert.TASK, samples=settings.samples)


def _scored(batch: Batch, tokens: Tensor, origin: Expert, samples: int) -> Drawn:
    """Whole sequences from one expert, with their ΔR."""
    target, _ = batch.copies(samples)
    scores = replay(batch.settings.reward, Reference.of(target, batch.vocabulary), tokens, batch.vocabulary)
    padding = tokens.eq(batch.vocabulary.pad)
    return Drawn(
        tokens=tokens,
        origin=torch.full_like(tokens, int(origin)).masked_fill(padding, int(Expert.NONE)),
        delta_r=scores.delta_r,
        reward=scores.total,
        clipped=torch.zeros_like(padding[:, 0]),
        samples=samples,
    )


class Payoff(NamedTuple):
    """One way to draw RAML's neighbours, and whether they still have to be weighted by exp{R/τ}."""

    draw: Callable[[Tensor, Tensor, int, Batch], Tensor]
    weighted: bool


PAYOFFS: Mapping[str, Payoff] = {
    "ngram": Payoff(lambda y, words, s, batch: raml_ngram(y, words, s, batch.draws, batch.vocabulary), weighted=True),
    "hamming": Payoff(
        lambda y, words, s, batch: raml_hamming(y, words, s, batch.settings.tau, batch.draws, batch.vocabulary), weighted=False
    ),
}

Layout = Callable[[Batch, Reference, Tensor], Tensor]


def scatter(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """Algorithm 1: z for each token of each sentence.  [N, T] uniforms -> [N, T] Expert"""
    if not batch.settings.shared_z:
        return scattered(batch.mixture, u)
    # Parity with the authors' older code: one z a step for the whole batch, and gold first.
    ids, seed, update = batch.draws
    origin = scattered(batch.mixture, uniforms(torch.zeros_like(ids[:1]), seed, update, Channel.ORIGIN, u.size(1))).repeat(
        len(u), 1
    )
    return origin.index_fill(1, torch.zeros_like(ids[:1]), int(Expert.DELTA))


def prefix(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """Section 5.1, MIXER-alike: data for t < round(λ_delta r), then model and reward in λ's proportion."""
    rest = Mixture(batch.mixture.model / (1 - batch.mixture.delta), batch.mixture.task / (1 - batch.mixture.delta), 0)
    m = (batch.mixture.delta * reference.length).round()
    return _data_before(m, scattered(rest, u))


def falling_prefix(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """A.1, MIXER: data for the first T - 3k of the T = r + 1 tokens, then the model."""
    m = (reference.length + 1 - MIXER_DELTA * batch.stage).clamp(min=0)
    return _data_before(m, torch.full_like(u, int(Expert.MODEL), dtype=torch.int64))


def _data_before(m: Tensor, origin: Tensor) -> Tensor:
    return origin.masked_fill(torch.arange(origin.size(1), device=m.device) < m[:, None], int(Expert.DELTA))


def product(batch: Batch, reference: Reference, u: Tensor) -> Tensor:
    """Softmax policy gradient: the product everywhere; in the bang-bang form the model alone with probability p_drop."""
    origin = torch.full_like(u, int(Expert.PRODUCT), dtype=torch.int64)
    return origin.masked_fill(u < (batch.settings.bang_bang or 0), int(Expert.MODEL))


@dataclass(frozen=True)
class FromExperts:
    """Algorithm 1 and what it contains: each token from the expert that the layout names."""

    layout: Layout = scatter
    as_inputs: bool = False  # the drawn tokens are read, y* is learnt (scheduled sampling)

    def __call__(self, batch: Batch) -> Drawn | None:
        settings, vocabulary = batch.settings, batch.vocabulary
        if batch.mixture.delta == 1:
            return gold(batch)
        baseline = BASELINES[settings.baseline]
        rows = settings.samples + baseline.greedy
        target, draws = batch.copies(rows)
        reference = Reference.of(target, vocabulary)
        if self.as_inputs:
            caps = reference.length + 1
            steps = target.size(1)
        else:
            caps = length_caps(reference, batch.max_positions)
            steps = min(batch.max_positions, target.size(1) * 3 // 2 + 5)
        origin = self.layout(batch, reference, draws(Channel.ORIGIN, steps))
        if baseline.greedy:
            last = torch.arange(len(target), device=target.device).remainder(rows).eq(rows - 1)
            origin = origin.masked_fill(last[:, None], int(Expert.GREEDY))
        sampler = Sampler(
            reward=settings.reward,
            experts=settings.experts,
            vocabulary=vocabulary,
            through_eos=self.as_inputs,
            keep_features=baseline.learned,
            keep_shares=settings.task_targets == "soft",
            keep_lift=settings.task_targets == "product",
            alpha=settings.alpha,
            parallel=settings.parallel,
        )
        drawn = Drawn(*sampler.draw(reference, origin, caps, draws, partial(batch.start, rows)), samples=rows)
        if self.as_inputs:
            return drawn._replace(targets=target[:, : drawn.tokens.size(1)])
        return _without_greedy(drawn) if baseline.greedy else drawn


def _without_greedy(drawn: Drawn) -> Drawn:
    """Take the greedy outputs, each sentence's last row, out of the targets; keep their rewards."""
    rows = drawn.samples

    def keep(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.unflatten(0, (-1, rows))[:, :-1].flatten(0, 1)

    kept = Drawn(*(keep(part) for part in drawn[:8]))  # type: ignore[arg-type]
    return kept._replace(samples=rows - 1, greedy=drawn.reward.unflatten(0, (-1, rows))[:, -1])


# How tokens are weighted


def as_drawn(batch: Batch, drawn: Drawn) -> Drawn:
    """Weight 1 for every target. The model's own tokens may weigh 0, E_p[∇ log p] = 0; their advantage; or be taught by the
    reward's q."""
    if batch.settings.model_targets == "keep":
        return drawn
    if batch.settings.model_targets == "policy":
        return Advantage()(batch, drawn)
    if batch.settings.model_targets == "task":
        return drawn._replace(taught=drawn.origin.eq(Expert.MODEL) | drawn.origin.eq(Expert.TASK))
    weights = (drawn.origin.ne(Expert.MODEL) & drawn.origin.ne(Expert.NONE)).float()
    return drawn._replace(weights=weights, size=weights.sum())


def by_payoff(batch: Batch, drawn: Drawn) -> Drawn:
    """Eq. 8: exp{R/τ}, normalised over the samples of one sentence."""
    if PAYOFFS[batch.settings.payoff].weighted or batch.sources.predrawn is not None:
        share = raml_weights(drawn.reward, drawn.samples, batch.settings.tau)
    else:
        share = torch.full_like(drawn.reward, 1 / drawn.samples)
    weights = drawn.origin.ne(Expert.NONE) * share[:, None]
    return drawn._replace(weights=weights, size=weights.sum(), sequences=len(batch.target))


class Baseline(NamedTuple):
    """What is subtracted from the reward: [N] or [N, T], and what has to be drawn or kept for it."""

    value: Callable[[Batch, Drawn], Tensor]
    greedy: bool = False
    learned: bool = False


def _others(batch: Batch, drawn: Drawn) -> Tensor:
    """The mean reward of the other samples of the same sentence.  -> [N]"""
    reward = drawn.reward.unflatten(0, (-1, drawn.samples))
    return ((reward.sum(1, keepdim=True) - reward) / (drawn.samples - 1)).flatten()


def _greedy(batch: Batch, drawn: Drawn) -> Tensor:
    """The reward of the greedy output.  -> [N]"""
    assert drawn.greedy is not None
    return drawn.greedy.repeat_interleave(drawn.samples)


def _learned(batch: Batch, drawn: Drawn) -> Tensor:
    """MIXER: linear in the features of each time step.  -> [N, T]"""
    if drawn.features is None:  # the model drew nothing
        return torch.zeros_like(drawn.delta_r)
    return batch.sources.baseline(drawn.features)[:, : drawn.tokens.size(1)]


BASELINES: Mapping[str, Baseline] = {
    "none": Baseline(lambda batch, drawn: torch.zeros_like(drawn.reward)),
    "greedy": Baseline(_greedy, greedy=True),
    "leave_one_out": Baseline(_others),
    "learned": Baseline(_learned, learned=True),
}


@dataclass(frozen=True)
class Advantage:
    """Eq. 10: R - baseline for tokens that the model drew, `data_weight` for all others."""

    data_weight: float = 1.0
    kl_to_prior: bool = False  # Eq. 1 with a frozen prior: R - α Σ (log p_θ - log p_prior)

    def __call__(self, batch: Batch, drawn: Drawn) -> Drawn:
        baseline = BASELINES[batch.settings.baseline].value(batch, drawn)
        baseline = baseline if baseline.dim() == 2 else baseline[:, None]
        gain = drawn.reward[:, None] - baseline
        if self.kl_to_prior:
            log_ratio = batch.sources.log_p(drawn.tokens, drawn.samples, prior=False) - batch.sources.log_p(
                drawn.tokens, drawn.samples, prior=True
            )
            # A token answers for the ratio at and behind it, not before.
            gain = gain - (batch.settings.alpha or 0) * log_ratio.flip(1).cumsum(1).flip(1)
        weights = torch.where(drawn.origin.eq(Expert.MODEL), gain, self.data_weight)
        real = drawn.origin.ne(Expert.NONE)
        return drawn._replace(weights=weights * real, size=real.sum())
