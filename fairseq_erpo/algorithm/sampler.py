"""Algorithm 1, batched: draw y from left to right, each token from the expert that z names.

On a CPU the model is asked only where its answer is needed: its decoder runs on the sentences that
still have such a position ahead, its vocabulary projection at these positions alone.  On a GPU,
where starting an operation costs more than its arithmetic, all sentences are decoded at every
position, whether all have ended is asked every few positions, and CUDA graphs start what they can.

N sentences, T steps, R reference positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import (
    Answer,
    Answers,
    AnswersForAll,
    NoAnswers,
    StepDecoder,
    StepwiseAnswers,
    outside_inference_mode,
)
from fairseq_erpo.algorithm.batch import Expert, Recorder, Sample, asks_model
from fairseq_erpo.algorithm.estep import Candidates, ExpertSettings
from fairseq_erpo.algorithm.step import Step, draw_step, product_tilt
from fairseq_erpo.algorithm.uniforms import Channel, Draws
from fairseq_erpo.rewards.base import Reference, Reward, State
from fairseq_erpo.vocabulary import Vocabulary

STRIDE = 8  # positions between two questions to a GPU whether all sentences have ended


def length_caps(reference: Reference, max_positions: int) -> Tensor:
    """The most tokens a sentence may have, EOS included: min(max positions, ⌊1.5 r⌋ + 5).
    -> [N]
    """
    return (reference.length * 3 // 2 + 5).clamp(max=max_positions)


class Request(NamedTuple):
    """One batch to draw."""

    candidates: Candidates
    origin: Tensor  # [N, T] Expert
    caps: Tensor  # [N] int64: the most tokens of each sentence, EOS included
    uniforms: tuple[Tensor, ...]  # [N, T] each: for the model, the reward expert, and its misses
    experts: frozenset[int]  # who draws any token at all

    @classmethod
    def make(
        cls,
        reference: Reference,
        origin: Tensor,
        caps: Tensor,
        draws: Draws,
        vocabulary: Vocabulary,
        experts: frozenset[int] | None = None,
    ) -> Self:
        """`experts` are found out where they are not given, which waits for the device."""
        channels = (Channel.MODEL, Channel.REWARD, Channel.MISS)
        return cls(
            candidates=Candidates.from_reference(reference, vocabulary),
            origin=origin,
            caps=caps,
            uniforms=tuple(draws(channel, origin.size(1)) for channel in channels),
            experts=experts_of(origin) if experts is None else experts,
        )


def experts_of(origin: Tensor) -> frozenset[int]:
    """Who draws any token at all."""
    return frozenset(origin.unique().tolist())


def ask(experts: frozenset[int]) -> bool:
    """Whether the model has to answer anywhere."""
    return bool(experts & {Expert.MODEL, Expert.PRODUCT, Expert.GREEDY})


@dataclass(frozen=True)
class Sampler(Generic[State]):
    """Algorithm 1 with its settings."""

    reward: Reward[State]
    experts: ExpertSettings
    vocabulary: Vocabulary
    through_eos: bool = False  # draw every sentence to its cap: inputs only, never targets
    keep_features: bool = False
    keep_log_p: bool = False
    keep_reward_q: bool = False
    alpha: float | None = None  # of the product, Eq. 4 with β = 0; None: no product

    def draw(
        self,
        reference: Reference,
        origin: Tensor,
        caps: Tensor,
        draws: Draws,
        start: Callable[[], StepDecoder],
        recorder: Recorder | None = None,
    ) -> Sample:
        """Draw every token from the expert that `origin` names.  [N, R], [N, T], [N] -> Sample

        `start` is called only if the model has to answer at all. Nothing is drawn beyond a
        sentence's cap, and no EOS is invented there.
        """
        # Inference mode costs less than no_grad per operation. Its tensors must not meet autograd,
        # so they are copied.
        with torch.inference_mode():
            if recorder is not None and origin.is_cuda:
                sample = recorder.draw(self, reference, origin, caps, draws, start)
            else:
                request = Request.make(reference, origin, caps, draws, self.vocabulary)
                scan = Scan(self, request, answers_for(request, start))
                scan.run(STRIDE if origin.is_cuda else 1)
                sample = scan.sample()
            parts = (None if part is None else part.clone() for part in sample)
        return Sample(*parts)  # type: ignore[arg-type]


def answers_for(request: Request, start: Callable[[], StepDecoder]) -> Answers:
    """How the model is asked on the device of the request."""
    if not ask(request.experts):
        return NoAnswers()
    if request.origin.device.type == "cpu":
        within = torch.arange(request.origin.size(1)) < request.caps[:, None]
        return StepwiseAnswers(asks_model(request.origin) & within, start)
    with outside_inference_mode():
        return AnswersForAll(start())


class Scan:
    """One batch on its way from left to right: what has been drawn up to position t."""

    def __init__(self, sampler: Sampler[Any], request: Request, answers: Answers) -> None:
        self.sampler, self.request, self.answers = sampler, request, answers
        origin = request.origin
        steps = torch.arange(origin.size(1) + 1, device=origin.device)
        self.within = steps < request.caps[:, None]
        self.state: Any = sampler.reward.start(request.candidates.reference)
        self.reward = sampler.reward.value(self.state)
        self.live = self.within[:, 0]
        # With `through_eos` a sentence goes on behind its EOS, and earns nothing there.
        self.closed = torch.zeros_like(self.live)
        self.length = torch.zeros_like(request.caps)
        # EOS, then the drawn tokens; a sentence that has ended goes on with EOS until `sample`.
        self.previous = torch.full_like(self.within, sampler.vocabulary.eos, dtype=torch.int64)
        self.delta_r = torch.zeros_like(origin, dtype=torch.float32)
        self.features: Tensor | None = None
        self.log_p: list[Tensor] = []
        self.reward_log_q: list[Tensor] = []

    def run(self, stride: int) -> None:
        """All positions; every `stride` of them the device is asked whether any sentence
        goes on.
        """
        for t in range(self.request.origin.size(1)):
            if t % stride == 0 and not bool(self.live.any()):
                break
            self.position(t)

    def position(self, t: int) -> None:
        """Lines 5-13 of Algorithm 1: y_t of all sentences, and what it earns."""
        sampler, request = self.sampler, self.request
        reference = request.candidates.reference
        answer = self.answers.answer(t, self.live, self.previous[:, : t + 1])
        gains = sampler.reward.gains(self.state)
        u_model, u_reward, u_miss = (u[:, t] for u in request.uniforms)
        step = Step(
            t=t,
            origin=request.origin[:, t],
            gains=gains,
            u_model=u_model,
            u_reward=u_reward,
            u_miss=u_miss,
            tilt=self._tilt(gains),
            greedy=Expert.GREEDY in request.experts,
            reward=Expert.REWARD in request.experts or sampler.keep_reward_q,
        )
        token, weights = draw_step(
            step, request.candidates, sampler.experts, sampler.vocabulary, answer
        )
        ended = ~self.live
        earns_nothing = ended | self.closed if sampler.through_eos else ended
        gain = gains.at(token, reference, sampler.vocabulary).masked_fill(earns_nothing, 0)
        self.delta_r[:, t] = gain
        self.reward = self.reward + gain  # in order of time: rounding knows no batch length
        self._keep(t, token, weights, answer)
        self.previous[:, t + 1] = token.masked_fill(ended, sampler.vocabulary.eos)
        self.length = self.length + self.live
        goes_on = self.live & token.ne(sampler.vocabulary.eos)
        self.state = sampler.reward.advance(self.state, token, goes_on)
        if sampler.through_eos:
            self.closed, goes_on = self.closed | ~goes_on, self.live
        self.live = goes_on & self.within[:, t + 1]

    def _tilt(self, gains: Any) -> Tensor | None:
        alpha = self.sampler.alpha
        if alpha is None or Expert.PRODUCT not in self.request.experts:
            return None
        return product_tilt(gains, self.request.candidates.reference, alpha)

    def _keep(self, t: int, token: Tensor, weights: Tensor | None, answer: Answer | None) -> None:
        """The parts of this position that the settings ask for."""
        sampler = self.sampler
        if sampler.keep_reward_q and weights is not None:
            self.reward_log_q.append(weights.log_softmax(1))
        if sampler.keep_log_p:
            self.log_p.append(drawn_log_p(token, answer))
        if sampler.keep_features and answer is not None:
            found = answer.features
            if self.features is None:
                self.features = found.new_zeros((*self.request.origin.shape, found.size(1)))
            if answer.at is None:
                asked = asks_model(self.request.origin[:, t]) & self.live
                self.features[:, t] = found.masked_fill(~asked[:, None], 0)
            else:
                self.features[answer.at, t] = found

    def sample(self) -> Sample:
        """What was drawn, padded on the right."""
        vocabulary, steps = self.sampler.vocabulary, int(self.length.max())
        behind = torch.arange(steps, device=self.length.device) >= self.length[:, None]
        tokens = self.previous[:, 1 : steps + 1].masked_fill(behind, vocabulary.pad)
        return Sample(
            tokens=tokens,
            origin=self.request.origin[:, :steps].masked_fill(behind, int(Expert.NONE)),
            delta_r=self.delta_r[:, :steps],
            reward=self.reward,
            clipped=~tokens.eq(vocabulary.eos).any(1),
            features=None if self.features is None else self.features[:, :steps],
            log_p=stacked(self.log_p, steps),
            reward_log_q=stacked(self.reward_log_q, steps),
        )


def stacked(positions: list[Tensor], steps: int) -> Tensor | None:
    """What was kept position by position, up to the longest sentence's end."""
    return torch.stack(positions[:steps], 1) if positions[:steps] else None


def drawn_log_p(token: Tensor, answer: Answer | None) -> Tensor:
    """log p_θ of the drawn tokens; not a number where the model was not asked.  [N] -> [N]
    float32
    """
    nothing = torch.full_like(token, torch.nan, dtype=torch.float32)
    if answer is None:
        return nothing
    found = answer.log_p.gather(1, answer.of(token)[:, None])[:, 0].float()
    return found if answer.at is None else nothing.index_copy(0, answer.at, found)
