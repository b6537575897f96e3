"""How a row draws its sequences: whole ones around y*, or token by token from the experts
(Algorithm 1).

B sentences, S samples of each, N = B·S drawn sequences (row b·S + s), T steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert, Sample, without_last
from fairseq_erpo.algorithm.layouts import LAYOUTS, Layout, Point
from fairseq_erpo.algorithm.neighbours import PAYOFFS
from fairseq_erpo.algorithm.sampler import Sampler, length_caps
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.uniforms import Channel, Draws
from fairseq_erpo.rewards.base import Reference, replay


@dataclass(frozen=True)
class WholeSequences:
    """Sequences that are drawn without the model, and the words of the family's table for them."""

    draw: Callable[[Batch], Drawn | None]  # None stands for the batch as fairseq made it
    text: str
    source: str
    point: Point

    def __call__(self, batch: Batch) -> Drawn | None:
        return self.draw(batch)


def _noised(batch: Batch) -> Drawn:
    """Eq. 7: q = 1 at g(y*)."""
    return Drawn(score(batch, batch.inputs.noising(batch.target, batch.draws), Expert.DATA))


def _neighbours(batch: Batch) -> Drawn:
    """Eq. 8: neighbours of y*, S of each, drawn here or read from a file."""
    settings, inputs = batch.settings, batch.inputs
    if inputs.predrawn is not None:
        tokens, reward = inputs.predrawn.read(batch.draws.ids.tolist())
        tokens, reward = tokens.to(batch.target.device), reward.to(batch.target.device)
        samples = len(tokens) // len(batch.target)
        return Drawn(score(batch, tokens, Expert.REWARD, samples)._replace(reward=reward), samples)
    draw = PAYOFFS[settings.payoff].draw
    tokens = draw(
        batch.target, inputs.words, settings.samples, settings.tau, batch.draws, batch.vocabulary
    )
    sample = score(batch, tokens, Expert.REWARD, settings.samples)
    return Drawn(pay(batch, sample, settings.samples), settings.samples)


def _candidates(batch: Batch) -> Drawn:
    """The model's best outputs, by beam search: a set to choose from."""
    samples = batch.settings.samples
    sample = score(batch, batch.inputs.beam(samples), Expert.MODEL, samples)
    return Drawn(pay(batch, sample, samples), samples)


def score(batch: Batch, tokens: Tensor, origin: Expert, samples: int = 1) -> Sample:
    """Whole sequences of one expert, with the teacher's ΔR and its sum as their reward.  [B·S, T]
    -> Sample
    """
    target, _ = batch.copies(samples)
    scores = replay(
        batch.settings.teacher,
        Reference.from_target(target, batch.vocabulary),
        tokens,
        batch.vocabulary,
    )
    padding = tokens.eq(batch.vocabulary.pad)
    return Sample(
        tokens=tokens,
        origin=torch.full_like(tokens, int(origin)).masked_fill(padding, int(Expert.NONE)),
        delta_r=scores.delta_r,
        reward=scores.total,
        clipped=torch.zeros_like(padding[:, 0]),
    )


def pay(batch: Batch, sample: Sample, samples: int) -> Sample:
    """R of whole sequences by --erpo-reward, whatever --erpo-teacher said about each next token: the
    sum of the sample's own ΔR, or the score of the text.  S samples of each sentence
    """
    settings = batch.settings
    if settings.reward is settings.teacher:
        return sample
    if isinstance(settings.reward, str):
        return sample._replace(reward=batch.inputs.text_reward(sample.tokens, samples))
    reference = Reference.from_target(batch.copies(samples)[0], batch.vocabulary)
    return sample._replace(reward=settings.reward.total(reference, sample.tokens, batch.vocabulary))


def gold(batch: Batch) -> Drawn:
    """Eq. 6 as a draw: y* itself, for callers without a framework batch to fall back on."""
    return Drawn(score(batch, batch.target, Expert.DATA))


# Eq. 6: q = 1 at y*. Nothing has to be drawn.
GOLD = WholeSequences(lambda batch: None, "-", "(0, 0, 1)", Point("R_δ", "→ 0", "1"))
NOISED = WholeSequences(_noised, "-", "(0, 0, 1) on g(y*)", Point("R_δ at g(y*)", "→ 0", "1"))
NEIGHBOURS = WholeSequences(
    _neighbours, "whole sequences", "(0, 1, 0), c = 1/τ", Point("reward", "→ 0", "τ")
)


class Plan(NamedTuple):
    """A draw that is ready to run: everything but the model's answers."""

    sampler: Sampler[Any]
    reference: Reference
    origin: Tensor  # [N, T] Expert
    caps: Tensor  # [N]
    draws: Draws
    rows: int  # sequences of each source, the greedy one included

    def run(self, batch: Batch) -> Sample:
        """Draw."""
        start = partial(batch.start, self.rows)
        return self.sampler.draw(
            self.reference, self.origin, self.caps, self.draws, start, batch.recorder
        )


@dataclass(frozen=True)
class FromExperts:
    """Algorithm 1 and its special cases: each token comes from the expert that the layout names."""

    layout: Layout | None = None  # None: as --erpo-layout says
    as_inputs: bool = False  # the drawn tokens are read, y* is learnt (scheduled sampling)

    def resolved(self, settings: Settings) -> Self:
        """The same with its layout."""
        return replace(self, layout=self.layout or LAYOUTS[settings.layout])

    @property
    def text(self) -> str:
        assert self.layout is not None
        return self.layout.text

    @property
    def source(self) -> str:
        assert self.layout is not None
        return "(ε, 0, 1 - ε), gold targets" if self.as_inputs else self.layout.source

    @property
    def point(self) -> Point:
        assert self.layout is not None
        # Scheduled sampling lies outside the space
        return Point("-", "-", "-") if self.as_inputs else self.layout.point

    def __call__(self, batch: Batch) -> Drawn | None:
        """None where λ_data = 1: the batch as fairseq made it."""
        if batch.mixture.data == 1:
            return None
        if batch.settings.candidates == "beam":
            return _candidates(batch)
        plan = self.plan(batch)
        return self.finish(batch, plan.run(batch), plan.rows)

    def plan(self, batch: Batch) -> Plan:
        """Draw z of every token, and set the sampler up."""
        settings, vocabulary = batch.settings, batch.vocabulary
        baseline = BASELINES[settings.baseline]
        rows = settings.samples + baseline.greedy
        target, draws = batch.copies(rows)
        reference = Reference.from_target(target, vocabulary)
        if self.as_inputs:
            caps = reference.length + 1
            steps = target.size(1)
        else:
            caps = length_caps(reference, batch.max_positions)
            steps = min(batch.max_positions, target.size(1) * 3 // 2 + 5)
        layout = self.layout or LAYOUTS[settings.layout]
        origin = layout.place(batch, reference, draws(Channel.ORIGIN, steps))
        if baseline.greedy:
            last = torch.arange(len(target), device=target.device).remainder(rows).eq(rows - 1)
            origin = origin.masked_fill(last[:, None], int(Expert.GREEDY))
        sampler = Sampler(
            reward=settings.teacher,
            experts=settings.experts,
            vocabulary=vocabulary,
            through_eos=self.as_inputs,
            keep_features=baseline.learned,
            keep_log_p=settings.targets == "risk" or settings.prior is not None,
            keep_reward_q=settings.learns_whole_reward,
            alpha=settings.alpha,
        )
        return Plan(sampler, reference, origin, caps, draws, rows)

    def finish(self, batch: Batch, sample: Sample, rows: int) -> Drawn:
        """The targets of a sample with so many sequences of each source."""
        if self.as_inputs:
            return Drawn(sample, rows, targets=batch.copies(rows)[0][:, : sample.tokens.size(1)])
        sample = pay(batch, sample, rows)
        if BASELINES[batch.settings.baseline].greedy:
            greedy = sample.reward.unflatten(0, (-1, rows))[:, -1]
            return Drawn(without_last(sample, rows), rows - 1, greedy=greedy)
        return Drawn(sample, rows)
