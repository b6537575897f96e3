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
    experts: frozenset[Expert]  # who draws any token at all

    @classmethod
    def make(cls, reference: Reference, origin: Tensor, caps: Tensor, draws: Draws, vocabulary: Vocabulary) -> Self:
        candidates = Candidates.from_reference(reference, vocabulary)
        uniforms = tuple(draws(channel, origin.size(1)) for channel in (Channel.MODEL, Channel.REWARD, Channel.MISS))
        experts = frozenset(Expert(z) for z in origin.unique().tolist())
        return cls(reference, origin, caps, candidates, uniforms, experts)


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
        within = torch.arange(origin.size(1) + 1, device=origin.device) < request.caps[:, None]
        live = within[:, 0]
        closed = torch.zeros_like(live)  # with `through_eos` a sentence goes on behind its EOS, and earns nothing there
        from_product, greedy = Expert.PRODUCT in request.experts, Expert.GREEDY in request.experts
        from_reward = Expert.REWARD in request.experts or self.keep_reward_q
        for t in range(origin.size(1)):
            host_live = live.cpu()
            if not host_live.any():
                break
            ended = ~live
            answer = answers.answer(t, host_live, previous)
            gains = self.reward.gains(state)
            tilt = None
            if self.alpha is not None and (from_product or self.keep_tilt):
                tilt = product_tilt(gains, request.reference, self.alpha)
            u_model, u_reward, u_miss = (u[:, t] for u in request.uniforms)
            product = tilt if from_product else None
            step = Step(t, origin[:, t], gains, u_model, u_reward, u_miss, product, greedy, from_reward)
            token, weights = draw_step(step, request.candidates, self.experts, vocabulary, answer)
            delta_r.append(
                gains.at(token, request.reference, vocabulary).masked_fill(ended | closed if self.through_eos else ended, 0)
            )
            reward = reward + delta_r[-1]  # in order of time, so that rounding does not depend on the batch's length
            kept.add(t, weights, tilt, answer)
            previous = torch.cat([previous, token.masked_fill(ended, vocabulary.pad)[:, None]], 1)
            goes_on = live & token.ne(vocabulary.eos)
            state = self.reward.advance(state, token, goes_on)
            if self.through_eos:
                closed, goes_on = closed | ~goes_on, live
            live = goes_on & within[:, t + 1]
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

    def add(self, t: int, weights: Tensor | None, tilt: Tensor | None, answer: Answer | None) -> None:
        if self.settings.keep_reward_q and weights is not None:
            self.reward_log_q.append(weights.log_softmax(1))
        if self.settings.keep_tilt and tilt is not None:
            self.tilt.append(tilt)
        if self.settings.keep_features and answer is not None:
            if self.features is None:
                self.features = answer.features.new_zeros((*self.origin.shape, answer.features.size(1)))
            self.features[answer.at, t] = answer.features
