"""Algorithm 1, batched: draw y from the experts that z names, asking the model step by step or in whole passes.

N sentences, T steps, R reference positions.  The model is asked only where its answer is needed: its decoder runs on the
sentences that still have such a position ahead, its vocabulary projection at these positions alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import Answers, PrecomputedAnswers, StepDecoder, StepwiseAnswers, outside_inference_mode
from fairseq_erpo.algorithm.batch import Expert, Sample, previous_tokens
from fairseq_erpo.algorithm.scan import Request, Scan
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.rewards.base import Reference, State
from fairseq_erpo.vocabulary import Vocabulary


def length_caps(reference: Reference, max_positions: int) -> Tensor:
    """The most tokens a sentence may have, EOS included: min(max positions, ⌊1.5 r⌋ + 5).  -> [N] int64"""
    return (reference.length * 3 // 2 + 5).clamp(max=max_positions)


def asks_model(origin: Tensor) -> Tensor:
    """True where the model has to answer.  [N, T] Expert -> [N, T] bool"""
    return origin.eq(Expert.MODEL) | origin.eq(Expert.PRODUCT) | origin.eq(Expert.GREEDY)


@dataclass(frozen=True)
class Sampler(Scan[State]):
    """Algorithm 1 with its settings: a scan, and where it gets p_θ from."""

    parallel: bool = False  # a fixed point of whole passes instead of step by step; the same tokens

    def draw(
        self,
        reference: Reference,
        origin: Tensor,
        caps: Tensor,
        draws: Draws,
        start: Callable[[], StepDecoder],
        stepwise: Callable[[Tensor, Callable[[], StepDecoder], torch.device], Answers] = StepwiseAnswers,
    ) -> Sample:
        """Draw every token from the expert that `origin` names.  [N, R] references, [N, T] Expert, [N] caps -> Sample

        `start` is called only if the model has to answer at all. Nothing is drawn beyond a sentence's cap, and no EOS is
        invented there. `stepwise` makes the answers of the cached way from (positions that ask, `start`, device).
        """
        # Inference mode costs less than no_grad per operation. Its tensors must not meet autograd, so they are copied.
        with torch.inference_mode():
            asks = asks_model(origin) & (torch.arange(origin.size(1), device=origin.device) < caps[:, None])
            request = Request.make(reference, origin, caps, draws, self.vocabulary)
            if self.parallel and bool(asks.any()):
                sample = self._fixed_point(request, asks, start)
            else:
                sample = self.scan(request, stepwise(asks.cpu(), start, origin.device))
        return Sample(*(None if part is None else part.clone() for part in sample))  # type: ignore[arg-type]

    def _fixed_point(self, request: Request, asks: Tensor, start: Callable[[], StepDecoder]) -> Sample:
        """Guess all tokens, let the model answer everywhere at once, and draw again with the same uniforms until nothing changes.

        A sequence that reproduces itself is the one that left-to-right drawing finds: each pass settles at least one more
        position. Few large passes instead of T small ones; one synchronisation per pass.
        """
        sentence, position = asks.nonzero(as_tuple=True)
        slot = asks.flatten().cumsum(0).view_as(asks) - 1  # the row of a position's answer
        tokens = reference_tokens(request.reference, asks.size(1), self.vocabulary)
        with outside_inference_mode():
            decoder = start()
        while True:
            previous = previous_tokens(tokens, self.vocabulary)
            with outside_inference_mode():
                features = decoder.teacher_forced(previous)[sentence, position]
                log_p = decoder.log_probs(features)
            sample = self.scan(request, PrecomputedAnswers(asks.cpu(), slot, log_p, features))
            drawn = torch.nn.functional.pad(sample.tokens, (0, tokens.size(1) - sample.tokens.size(1)), value=self.vocabulary.pad)
            if torch.equal(drawn, tokens):
                return sample
            tokens = drawn


def reference_tokens(reference: Reference, steps: int, vocabulary: Vocabulary) -> Tensor:
    """y* with EOS, cut or padded to `steps`: the first guess of the fixed point.  -> [N, steps]"""
    tokens = torch.nn.functional.pad(reference.tokens, (0, steps + 1), value=vocabulary.pad)
    return tokens.scatter(1, reference.length[:, None], vocabulary.eos)[:, :steps]
