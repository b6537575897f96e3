"""The records that the steps of the algorithm hand to each other: Batch -> Sample -> Drawn.

B sentences, S samples of each, N = B·S drawn sequences (row b·S + s), T steps, R reference
positions, D features, V words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import StepDecoder
from fairseq_erpo.algorithm.noising import Noising
from fairseq_erpo.algorithm.predrawn import PredrawnSamples
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.vocabulary import Vocabulary


class Expert(IntEnum):
    """z of Algorithm 1, and two more origins of a token."""

    NONE = -1  # padding
    MODEL = 0  # p_θ^c
    REWARD = 1  # exp{c ΔR}
    DATA = 2  # y*
    PRODUCT = 3  # p_θ exp{ΔR / α}, Eq. 4 with β = 0
    GREEDY = 4  # arg max p_θ, self-critic's baseline


def asks_model(origin: Tensor) -> Tensor:
    """True where the model has to answer: z is MODEL, PRODUCT or GREEDY.  Expert -> bool"""
    return origin.eq(Expert.MODEL) | origin.ge(Expert.PRODUCT)


class RowInputs(Protocol):
    """Inputs that only some rows need besides the batch; they are made when first asked for."""

    @property
    def noising(self) -> Noising:
        """g of Eq. 7."""

    @property
    def words(self) -> Tensor:
        """The real words.  [W] int64"""

    @property
    def predrawn(self) -> PredrawnSamples | None:
        """RAML's samples from a file."""

    def text_reward(self, tokens: Tensor, samples: int) -> Tensor:
        """The reward of text that --erpo-reward names.  [B·S, T] -> [B·S] float32"""

    def beam(self, samples: int) -> Tensor:
        """The S best outputs of the model's beam search, padded on the right.  -> [B·S, T] int64"""

    def baseline(self, features: Tensor) -> Tensor:
        """MIXER's learned baseline.  [N, T, D] -> [N, T]"""

    def prior(self, samples: int) -> StepDecoder:
        """The frozen prior, for S copies of each sentence."""


class Recorder(Protocol):
    """Draws as `sampler.Sampler.draw` does, from what it has recorded: `graphs.Graphs`."""

    def draw(self, sampler: Any, *request: Any) -> "Sample":
        """The sampler, and the arguments of its `draw`."""


@dataclass(frozen=True)
class Batch:
    """Everything that a row may draw from: plain tensors, λ, and the model behind `start`."""

    target: Tensor  # [B, T] int64: y* with EOS, padded on the right
    draws: Draws
    mixture: Mixture
    stage: int  # steps of the schedule so far, 1 with the first
    settings: Settings
    vocabulary: Vocabulary
    max_positions: int
    # A decoder for so many copies of each sentence, after one encoder pass
    start: Callable[[int], StepDecoder]
    inputs: RowInputs
    recorder: "Recorder | None" = None  # of a GPU's draws

    def copies(self, samples: int) -> tuple[Tensor, Draws]:
        """The targets and uniforms of S samples of each sentence.  -> [B·S, T], Draws"""
        if samples == 1:
            return self.target, self.draws
        return self.target.repeat_interleave(samples, 0), self.draws.samples(samples)

    def log_p(self, decoder: StepDecoder, tokens: Tensor) -> Tensor:
        """log p of drawn tokens, 0 at padding.  [B·S, T] -> [B·S, T] float32"""
        features = decoder.teacher_forced(previous_tokens(tokens, self.vocabulary))
        log_p = decoder.log_probs(features.flatten(0, 1)).unflatten(0, tokens.shape)
        return (
            log_p.gather(2, tokens[:, :, None])[:, :, 0]
            .float()
            .masked_fill(tokens.eq(self.vocabulary.pad), 0)
        )

    def model_log_p(self, sample: "Sample", samples: int) -> Tensor:
        """log p_θ of drawn tokens, 0 at padding: as kept while drawing, and one pass for the
        sequences that the model was not asked for throughout.  S samples of each sentence -> [B·S,
        T] float32"""
        if sample.log_p is None:
            return self.log_p(self.start(samples), sample.tokens)
        known = sample.log_p.masked_fill(sample.tokens.eq(self.vocabulary.pad), 0)
        rows = known.isnan().any(1).nonzero()[:, 0]
        if not len(rows):
            return known
        decoder = self.start(samples)
        decoder.keep(rows)
        return known.index_copy(0, rows, self.log_p(decoder, sample.tokens[rows]))


class Sample(NamedTuple):
    """Drawn sequences.  They are padded on the right; EOS closes every sentence that was not
    clipped.
    """

    tokens: Tensor  # [N, T] int64: y of the paper
    origin: Tensor  # [N, T] int64: Expert, NONE at padding
    delta_r: Tensor  # [N, T] float32: Eq. 3 of the drawn tokens, 0 at padding
    reward: Tensor  # [N] float32: Φ(∅) + ΣΔR
    clipped: Tensor  # [N] bool: True where the length cap ended the sentence, without EOS
    # [N, T, D]: the decoder's, where the model was asked; 0 elsewhere
    features: Tensor | None = None
    # [N, T] float32: log p_θ of the drawn token; not a number where the model was not asked
    log_p: Tensor | None = None
    # [N, T, R + 2] float32: the reward expert's distribution, `estep.reward_log_weights`
    reward_log_q: Tensor | None = None


class Drawn(NamedTuple):
    """A sample, and what is learnt from it.  `weigh` fills the weights in."""

    sample: Sample
    samples: int = 1  # S
    targets: Tensor | None = None  # [N, T] int64: the targets, if they are not the drawn tokens
    weights: Tensor | None = None  # [N, T] float32: w_t; None stands for 1
    # Scalar: what the loss is divided by; None stands for the number of targets
    size: Tensor | None = None
    sequences: int | None = None  # what --sentence-avg divides by; None stands for N
    greedy: Tensor | None = None  # [B] float32: reward of the greedy output
    # [N, T] bool: True where the weight is an advantage, which may be negative; None: nowhere
    advantage: Tensor | None = None
    with_data: bool = False  # the last of each sentence's samples is y* itself
    # [N] int64: how many equal samples of its source a sequence stands for; 0 where another one
    # stands for it, so that the model does not read it.  None: all stand for themselves
    times: Tensor | None = None

    @property
    def learnt(self) -> Tensor:
        """The targets.  -> [N, T] int64"""
        return self.sample.tokens if self.targets is None else self.targets

    def read(self, pad: int) -> Tensor:
        """The targets of the sequences that the model has to read; padding alone elsewhere."""
        if self.times is None:
            return self.learnt
        return self.learnt.masked_fill(self.times.eq(0)[:, None], pad)

    @property
    def explored(self) -> Sample:
        """The sample without the copies of y* that are learnt beside it."""
        return without_last(self.sample, self.samples) if self.with_data else self.sample


def data_sample(target: Tensor, vocabulary: Vocabulary) -> Sample:
    """Eq. 6: y* itself, without ΔR and reward, which nobody asks for.  [B, T] int64"""
    padding = target.eq(vocabulary.pad)
    return Sample(
        tokens=target,
        origin=torch.full_like(target, int(Expert.DATA)).masked_fill(padding, int(Expert.NONE)),
        delta_r=torch.zeros_like(target, dtype=torch.float32),
        reward=torch.zeros_like(target[:, 0], dtype=torch.float32),
        clipped=torch.zeros_like(padding[:, 0]),
    )


def without_last(sample: Sample, samples: int) -> Sample:
    """All but the last of each sentence's samples.  [B·S, ...] -> [B·(S - 1), ...]"""
    parts = (
        None if part is None else part.unflatten(0, (-1, samples))[:, :-1].flatten(0, 1)
        for part in sample
    )
    return Sample(*parts)  # type: ignore[arg-type]


def previous_tokens(tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The decoder's inputs for teacher forcing: EOS, then the tokens shifted by one; padding stays.
    [N, T] -> [N, T] int64
    """
    shifted = torch.cat([torch.full_like(tokens[:, :1], vocabulary.eos), tokens[:, :-1]], 1)
    return shifted.masked_fill(tokens.eq(vocabulary.pad), vocabulary.pad)
