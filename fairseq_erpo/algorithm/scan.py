"""Algorithm 1, lines 4-13: one pass from left to right over a batch, whoever answers for the model.

N sentences, T steps, R reference positions.
"""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import Answer, Answers
from fairseq_erpo.algorithm.batch import Expert, Sample
from fairseq_erpo.algorithm.estep import Candidates, ExpertSettings
from fairseq_erpo.algorithm.step import Step, draw_step, product_tilt
from fairseq_erpo.algorithm.uniforms import Channel, Draws
from fairseq_erpo.rewards.base import Reference, Reward, State
from fairseq_erpo.vocabulary import Vocabulary


class Request(NamedTuple):
    """One batch to draw: made once, however many passes it takes."""

    reference: Reference
    origin: Tensor  # [N, T] Expert
    caps: Tensor  # [N] int64: the most tokens of each sentence, EOS included
    candidates: Candidates
    uniforms: tuple[Tensor, ...]  # [N, T] each: for the model, the reward expert, and its misses
    from_product: bool  # some token is drawn from the product
    greedy: bool  # some token is the model's best

    @classmethod
    def make(cls, reference: Reference, origin: Tensor, caps: Tensor, draws: Draws, vocabulary: Vocabulary) -> Self:
        candidates = Candidates.from_reference(reference, vocabulary)
        uniforms = tuple(draws(channel, origin.size(1)) for channel in (Channel.MODEL, Channel.REWARD, Channel.MISS))
        product, greedy = (bool(origin.eq(expert).any()) for expert in (Expert.PRODUCT, Expert.GREEDY))
        return cls(reference, origin, caps, candidates, uniforms, product, greedy)


@dataclass(frozen=True)
class Scan(Generic[State]):
    """The left-to-right pass and its settings."""

    reward: Reward[State]
    experts: ExpertSettings
    vocabulary: Vocabulary
    through_eos: bool = False  # draw every sentence to its cap: inputs only, never targets
    keep_features: bool = False
    keep_reward_q: bool = False
    keep_tilt: bool = False
    alpha: float | None = None  # of the product, Eq. 4 with β = 0; None if no token is drawn from it and no tilt is kept

    def scan(self, request: Request, answers: Answers) -> Sample:
        """Draw position after position; `answers` says p_θ.  Rewards are summed in order of time."""
        vocabulary, origin = self.vocabulary, request.origin
        state = self.reward.start(request.reference)
        reward = self.reward.value(state)
        kept = _Kept(origin, self)
        previous = torch.full_like(origin[:, :1], vocabulary.eos)
        delta_r = []
        live = request.caps > 0
        ended = torch.zeros_like(live)  # with `through_eos` a sentence goes on behind its EOS, and earns nothing there
        for t in range(origin.size(1)):
            host_live = live.cpu()
            if not host_live.any():
                break
            answer = answers.answer(t, host_live, previous)
            gains = self.reward.gains(state)
            tilt = None
            if self.alpha is not None and (request.from_product or self.keep_tilt):
                tilt = product_tilt(gains, request.reference, self.alpha)
            u_model, u_reward, u_miss = (u[:, t] for u in request.uniforms)
            from_product = tilt if request.from_product else None
            step = Step(t, origin[:, t], gains, u_model, u_reward, u_miss, from_product, request.greedy)
            token, weights = draw_step(step, request.candidates, self.experts, vocabulary, answer)
            delta_r.append(gains.at(token, request.reference, vocabulary).masked_fill(~live | ended, 0))
            reward = reward + delta_r[-1]  # in order of time, so that rounding does not depend on the batch's length
            kept.add(t, weights, tilt, answer)
            previous = torch.cat([previous, token.masked_fill(~live, vocabulary.pad)[:, None]], 1)
            ends = token.eq(vocabulary.eos)
            state = self.reward.advance(state, token, live & ~ends)
            ended = ended | ends
            live = live & (~ends | self.through_eos) & (t + 1 < request.caps)
        tokens = previous[:, 1:]
        return Sample(
            tokens=tokens,
            origin=origin[:, : tokens.size(1)].masked_fill(tokens.eq(vocabulary.pad), int(Expert.NONE)),
            delta_r=torch.stack(delta_r, 1) if delta_r else torch.zeros_like(tokens, dtype=torch.float32),
            reward=reward,
            clipped=~tokens.eq(vocabulary.eos).any(1),
            features=kept.features,
            reward_log_q=torch.stack(kept.reward_log_q, 1) if kept.reward_log_q else None,
            tilt=torch.stack(kept.tilt, 1) if kept.tilt else None,
        )


class _Kept:
    """The parts of each step that the settings ask to keep."""

    def __init__(self, origin: Tensor, settings: Scan[Any]) -> None:
        self.origin, self.settings = origin, settings
        self.features: Tensor | None = None
        self.reward_log_q: list[Tensor] = []
        self.tilt: list[Tensor] = []

    def add(self, t: int, weights: Tensor, tilt: Tensor | None, answer: Answer | None) -> None:
        if self.settings.keep_reward_q:
            self.reward_log_q.append(weights.log_softmax(1))
        if self.settings.keep_tilt and tilt is not None:
            self.tilt.append(tilt)
        if self.settings.keep_features and answer is not None:
            if self.features is None:
                self.features = answer.features.new_zeros((*self.origin.shape, answer.features.size(1)))
            self.features[answer.at, t] = answer.features
