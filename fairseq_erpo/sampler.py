"""Algorithm 1, batched: which expert draws each token, and the drawing.

N sentences, T steps, R reference positions, V words. The model is asked only where it has to answer: its decoder runs on the
sentences that still have such a position ahead, its vocabulary projection at these positions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, NamedTuple, Protocol

import torch
from torch import Tensor

from fairseq_erpo.estep import Candidates, Experts, task_log_weights
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.rewards.base import Gains, Reference, Reward, State
from fairseq_erpo.uniforms import Draws
from fairseq_erpo.vocabulary import Vocabulary


class Expert(IntEnum):
    """z of Algorithm 1, and the product of Eq. 4."""

    NONE = -1  # padding
    MODEL = 0  # p_θ^c
    TASK = 1  # exp{c ΔR}
    DELTA = 2  # y*
    PRODUCT = 3  # p_θ exp{ΔR / α}
    GREEDY = 4  # arg max p_θ, self-critic's baseline


class Channel(IntEnum):
    """What a uniform is for: each channel is an independent stream (`uniforms`)."""

    ORIGIN = 0
    MODEL = 1
    TASK = 2
    MISS = 3


class StepDecoder(Protocol):
    """What the sampler needs of a model: one step for all kept sentences, the vocabulary for some of them."""

    def step(self, previous: Tensor) -> Tensor:
        """Features of the next position.  [n, t + 1] int64, EOS first -> [n, D]"""

    def log_probs(self, features: Tensor) -> Tensor:
        """log p_θ.  [m, D] -> [m, V]"""

    def keep(self, rows: Tensor) -> None:
        """Forget all but these of the kept sentences.  [k] int64, increasing"""

    def teacher_forced(self, previous: Tensor) -> Tensor:
        """Features of all positions at once, without the memory that `step` builds.  [n, T] int64, EOS first -> [n, T, D]"""


class Sample(NamedTuple):
    """What was drawn. Padded on the right; EOS closes every sentence that was not clipped."""

    tokens: Tensor  # [N, T] int64
    origin: Tensor  # [N, T] int64: Expert
    delta_r: Tensor  # [N, T] float32: Eq. 3 of the drawn tokens, 0 at padding
    reward: Tensor  # [N] float32: Φ(∅) + ΣΔR
    clipped: Tensor  # [N] bool: True where the length cap ended the sentence, without EOS
    features: Tensor | None = None  # [N, T, D]: the decoder's, where the model was asked; 0 elsewhere
    shares: Tensor | None = None  # [N, T, R + 2] float32: the reward expert's whole distribution (`task_log_weights`)
    lift: Tensor | None = None  # [N, T, R + 1] float32: what the product adds to log p_θ (`product_lift`)


@contextmanager
def models_own() -> Iterator[None]:
    """The model's part of a draw: no gradient, but no inference mode. Models keep masks and positions for the loss."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def length_caps(reference: Reference, max_positions: int) -> Tensor:
    """The most tokens a sentence may have, EOS included: min(max positions, ⌊1.5 r⌋ + 5).  -> [N] int64"""
    return (reference.length * 3 // 2 + 5).clamp(max=max_positions)


def scattered(mixture: Mixture, u: Tensor) -> Tensor:
    """Algorithm 1, line 5: z ~ (λ_model, λ_task, λ_delta), for each token of each sentence.  [N, T] -> [N, T] Expert"""
    z = torch.full_like(u, int(Expert.MODEL), dtype=torch.int64)
    z = z.masked_fill(u < mixture.delta + mixture.task, int(Expert.TASK)) if mixture.task else z
    return z.masked_fill(u < mixture.delta, int(Expert.DELTA))


def needs_model(origin: Tensor, experts: Experts) -> Tensor:
    """Where the model must answer.  [N, T] Expert -> [N, T] bool"""
    asks = origin.eq(Expert.MODEL) | origin.eq(Expert.PRODUCT) | origin.eq(Expert.GREEDY)
    return asks | origin.eq(Expert.TASK) if experts.ties == "model" else asks


class Answer(NamedTuple):
    """What the model says at one step, to those who asked it."""

    at: Tensor  # [m] int64: which sentences
    log_p: Tensor  # [m, V]
    features: Tensor  # [m, D]


class Step(NamedTuple):
    """What one step draws from, all sentences at once."""

    t: int
    origin: Tensor  # [N] Expert
    gains: Gains
    u_model: Tensor  # [N]
    u_task: Tensor  # [N]
    u_miss: Tensor  # [N]
    lift: Tensor | None = None  # [N, R + 1]: what the product adds to log p_θ; None where nobody draws from it


def draw_step(
    step: Step, candidates: Candidates, experts: Experts, vocabulary: Vocabulary, answer: Answer | None
) -> tuple[Tensor, Tensor]:
    """Algorithm 1, lines 6-12, at one step: pure, on the tensors' device, without synchronisation.

    -> the tokens [N] int64, and the reward expert's log weights [N, R + 2]
    """
    reference = candidates.reference
    if step.t < reference.tokens.size(1):
        token = torch.where(reference.real[:, step.t], reference.tokens[:, step.t], vocabulary.eos)
    else:
        token = torch.full_like(step.origin, vocabulary.eos)
    own = None
    if experts.ties == "model":
        own = torch.zeros(candidates.ids.shape, device=candidates.ids.device)  # unread where nobody asked
        if answer is not None:
            own = own.index_copy(0, answer.at, answer.log_p.float().gather(1, candidates.ids[answer.at]))
    weights = task_log_weights(step.gains, candidates, experts, step.t, own)
    column = inverse_cdf(weights.softmax(1), step.u_task)
    choice = torch.cat([candidates.ids, candidates.miss(step.u_miss)[:, None]], 1)
    token = torch.where(step.origin.eq(Expert.TASK), choice.gather(1, column[:, None])[:, 0], token)
    if answer is not None:
        origin = step.origin[answer.at]
        q = model_weights(answer, step, candidates, experts, vocabulary)
        own_token = torch.where(origin.eq(Expert.GREEDY), q.argmax(1), inverse_cdf(q, step.u_model[answer.at]))
        token = token.index_copy(0, answer.at, torch.where(origin.eq(Expert.TASK), token[answer.at], own_token))
    return token, weights


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The column at which the cumulative weight passes the share u of it all.  [N, C] >= 0, [N] -> [N] int64

    Common random numbers: the same u draws the same column from nearly the same weights.
    """
    cdf = weights.cumsum(1)
    # Scaling u by the rounded total keeps columns of weight 0 out of reach at both ends.
    return torch.searchsorted(cdf, u[:, None] * cdf[:, -1:])[:, 0].clamp(max=weights.size(1) - 1)


def model_weights(answer: Answer, step: Step, candidates: Candidates, experts: Experts, vocabulary: Vocabulary) -> Tensor:
    """p_θ^c, or p_θ exp{ΔR / α} (Eq. 4, β = 0) where the origin is PRODUCT; unnormalised.  -> [m, V] float32"""
    weights = answer.log_p.float()
    if experts.c_model != 1:
        weights = weights * torch.where(step.origin[answer.at].eq(Expert.PRODUCT), 1.0, experts.c_model)[:, None]
    if step.lift is not None:
        lift = step.lift * step.origin.eq(Expert.PRODUCT)[:, None]
        columns = torch.where(candidates.reference.owner, candidates.reference.tokens, vocabulary.pad)
        columns = torch.cat([columns, torch.full_like(columns[:, :1], vocabulary.eos)], 1)
        weights = weights.scatter_add(1, columns[answer.at], lift[answer.at])
    # exp would overflow at a small α, and leave nothing at a large c.
    return (weights - weights.amax(1, keepdim=True)).exp().index_fill(1, candidates.never, 0)


def product_lift(gains: Gains, reference: Reference, alpha: float) -> Tensor:
    """(ΔR(w) - ΔR_miss) / α for the reference tokens and EOS: all other tokens share the miss.  -> [N, R + 1]"""
    hit = torch.where(reference.owner, gains.hit - gains.miss[:, None], 0.0)
    return torch.cat([hit, (gains.eos - gains.miss)[:, None]], 1) / alpha


@dataclass(frozen=True)
class Sampler(Generic[State]):
    """Algorithm 1 with its settings."""

    reward: Reward[State]
    experts: Experts
    vocabulary: Vocabulary
    through_eos: bool = False  # draw every sentence to its cap: inputs only, never targets
    keep_features: bool = False
    keep_shares: bool = False
    keep_lift: bool = False
    alpha: float | None = None  # of the product, Eq. 4 with β = 0; None where nothing is drawn from it or kept
    parallel: bool = False  # a fixed point of whole passes instead of step by step; the same tokens

    def draw(self, reference: Reference, origin: Tensor, caps: Tensor, draws: Draws, start: Callable[[], StepDecoder]) -> Sample:
        """Draw every token from the expert that `origin` names.  [N, R] references, [N, T] Expert, [N] caps -> Sample

        `start` is called only if the model has to answer at all. Nothing is drawn beyond a sentence's cap, and no EOS is
        made up there.
        """
        # Inference mode costs less than no_grad, operation by operation. Its tensors must not meet autograd: they are copied.
        with torch.inference_mode():
            asked = needs_model(origin, self.experts) & (torch.arange(origin.size(1), device=origin.device) < caps[:, None])
            scan = _Scan(self, reference, origin, caps, draws)
            if self.parallel and bool(asked.any()):
                sample = self._fixed_point(scan, asked, start)
            else:
                sample = scan(_Asked(asked.cpu(), start, origin.device))
        return Sample(*(None if part is None else part.clone() for part in sample))  # type: ignore[arg-type]

    def _fixed_point(self, scan: _Scan, asked: Tensor, start: Callable[[], StepDecoder]) -> Sample:
        """Guess all tokens, let the model answer everywhere at once, draw again with the same uniforms, until nothing changes.

        The sequence that draws itself is the one that left-to-right drawing finds: each pass settles at least one more
        position. Few large passes instead of T small ones; one synchronisation a pass.
        """
        sentence, position = asked.nonzero(as_tuple=True)
        slot = asked.flatten().cumsum(0).view_as(asked) - 1  # where an answer stands among all
        tokens = scan.reference_tokens(asked.size(1))
        with models_own():
            decoder = start()
        while True:
            previous = torch.cat([torch.full_like(tokens[:, :1], self.vocabulary.eos), tokens[:, :-1]], 1)
            with models_own():
                features = decoder.teacher_forced(previous)[sentence, position]
                log_p = decoder.log_probs(features)
            sample = scan(_Answered(asked.cpu(), slot, log_p, features))
            drawn = torch.nn.functional.pad(sample.tokens, (0, tokens.size(1) - sample.tokens.size(1)), value=self.vocabulary.pad)
            if torch.equal(drawn, tokens):
                return sample
            tokens = drawn


class _Scan:
    """One pass from left to right over a batch, whoever answers for the model."""

    def __init__(self, sampler: Sampler[Any], reference: Reference, origin: Tensor, caps: Tensor, draws: Draws) -> None:
        self.sampler, self.reference, self.origin, self.caps = sampler, reference, origin, caps
        self.candidates = Candidates.of(reference, sampler.vocabulary)
        self.uniforms = [draws(channel, origin.size(1)) for channel in (Channel.MODEL, Channel.TASK, Channel.MISS)]
        self.from_product = sampler.alpha is not None and bool(origin.eq(Expert.PRODUCT).any())

    def reference_tokens(self, steps: int) -> Tensor:
        """y* with EOS, cut or padded to the batch's steps: the first guess.  -> [N, steps]"""
        vocabulary, length = self.sampler.vocabulary, self.reference.length
        tokens = torch.nn.functional.pad(self.reference.tokens, (0, steps + 1), value=vocabulary.pad)
        return tokens.scatter(1, length[:, None], vocabulary.eos)[:, :steps]

    def __call__(self, model: _Asked | _Answered) -> Sample:
        """Algorithm 1, lines 4-13."""
        sampler, vocabulary, reference, origin = self.sampler, self.sampler.vocabulary, self.reference, self.origin
        state = sampler.reward.start(reference)
        reward = sampler.reward.value(state)
        kept = _Kept(origin, sampler)
        previous = torch.full_like(origin[:, :1], vocabulary.eos)
        delta_r = []
        live = self.caps > 0
        for t in range(origin.size(1)):
            going = live.cpu()
            if not going.any():
                break
            answer = model.answer(t, going, previous)
            gains = sampler.reward.gains(state)
            lift = None
            if sampler.alpha is not None and (self.from_product or sampler.keep_lift):
                lift = product_lift(gains, reference, sampler.alpha)
            u_model, u_task, u_miss = (u[:, t] for u in self.uniforms)
            step = Step(t, origin[:, t], gains, u_model, u_task, u_miss, lift if self.from_product else None)
            token, weights = draw_step(step, self.candidates, sampler.experts, vocabulary, answer)
            delta_r.append(gains.at(token, reference, vocabulary).masked_fill(~live, 0))
            reward = reward + delta_r[-1]  # in order of time, so that rounding does not depend on the batch's length
            kept.add(t, weights, lift, answer)
            previous = torch.cat([previous, token.masked_fill(~live, vocabulary.pad)[:, None]], 1)
            ends = token.eq(vocabulary.eos)
            state = sampler.reward.advance(state, token, live & ~ends)
            live = live & (~ends | sampler.through_eos) & (t + 1 < self.caps)
        tokens = previous[:, 1:]
        return Sample(
            tokens=tokens,
            origin=origin[:, : tokens.size(1)].masked_fill(tokens.eq(vocabulary.pad), int(Expert.NONE)),
            delta_r=torch.stack(delta_r, 1) if delta_r else torch.zeros_like(tokens, dtype=torch.float32),
            reward=reward,
            clipped=~tokens.eq(vocabulary.eos).any(1),
            features=kept.features,
            shares=torch.stack(kept.shares, 1) if kept.shares else None,
            lift=torch.stack(kept.lift, 1) if kept.lift else None,
        )


class _Kept:
    """What the sampler was told to keep of each step."""

    def __init__(self, origin: Tensor, sampler: Sampler[Any]) -> None:
        self.origin, self.sampler = origin, sampler
        self.features: Tensor | None = None
        self.shares: list[Tensor] = []
        self.lift: list[Tensor] = []

    def add(self, t: int, weights: Tensor, lift: Tensor | None, answer: Answer | None) -> None:
        if self.sampler.keep_shares:
            self.shares.append(weights.log_softmax(1))
        if self.sampler.keep_lift and lift is not None:
            self.lift.append(lift)
        if self.sampler.keep_features and answer is not None:
            if self.features is None:
                self.features = answer.features.new_zeros((*self.origin.shape, answer.features.size(1)))
            self.features[answer.at, t] = answer.features


class _Asked:
    """The model as an expert: runs its decoder for the sentences that will ask it again, and for no other."""

    def __init__(self, asked: Tensor, start: Callable[[], StepDecoder], device: torch.device) -> None:
        self.asked = asked  # [N, T] bool on the host
        # ahead[i, t]: sentence i asks at t or later.
        self.ahead = asked.flip(1).cummax(1).values.flip(1) if asked.any() else torch.zeros_like(asked)
        self.rows = self.ahead[:, 0].nonzero()[:, 0]
        self.decoder: StepDecoder | None = None
        self.device = device
        if len(self.rows):
            with models_own():
                self.decoder = start()
                if len(self.rows) < len(asked):
                    self.decoder.keep(self.rows.to(device))

    @models_own()
    def answer(self, t: int, going: Tensor, previous: Tensor) -> Answer | None:
        """p_θ at step t where it is asked; None if nobody asks.  [N] bool on the host, [N, t + 1] int64"""
        if self.decoder is None:
            return None
        kept = (going & self.ahead[:, t])[self.rows]
        if not kept.all():
            self.rows = self.rows[kept]
            if not len(self.rows):
                self.decoder = None
                return None
            self.decoder.keep(kept.nonzero()[:, 0].to(self.device))
        features = self.decoder.step(previous[self.rows.to(self.device)])
        asking = self.asked[self.rows, t]
        if not asking.any():
            return None
        if not asking.all():
            features = features[asking.nonzero()[:, 0].to(self.device)]
        return Answer(self.rows[asking].to(self.device), self.decoder.log_probs(features), features)


class _Answered:
    """The model's answers to a guess, all given at once."""

    def __init__(self, asked: Tensor, slot: Tensor, log_p: Tensor, features: Tensor) -> None:
        self.asked, self.slot, self.log_p, self.features = asked, slot, log_p, features

    def answer(self, t: int, going: Tensor, previous: Tensor) -> Answer | None:
        """As `_Asked.answer`."""
        at = (self.asked[:, t] & going).nonzero()[:, 0].to(self.slot.device)
        if not len(at):
            return None
        slot = self.slot[at, t]
        return Answer(at, self.log_p[slot], self.features[slot])
