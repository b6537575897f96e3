"""The model's part of a draw: p_θ at the positions that ask for it, step by step.

N sentences, T steps, V words, D features.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class StepDecoder(Protocol):
    """All that the sampler needs of a model."""

    def step(self, previous: Tensor) -> Tensor:
        """Features of the next position.  [n, t + 1] int64, EOS first -> [n, D]"""

    def log_probs(self, features: Tensor) -> Tensor:
        """log p_θ.  [m, D] -> [m, V]"""

    def keep(self, rows: Tensor) -> None:
        """Forget all but these of the kept sentences.  [k] int64, increasing"""

    def teacher_forced(self, previous: Tensor) -> Tensor:
        """Features of all positions at once, before the first `step`.  [n, T] int64, EOS first ->
        [n, T, D]
        """


class GraphDecoder(StepDecoder, Protocol):
    """A decoder whose step asks the device nothing, so that a CUDA graph can hold it."""

    @property
    def inputs(self) -> tuple[Tensor, ...] | None:
        """All that it reads of a batch; None if a graph cannot hold it after all."""

    @property
    def key(self) -> Hashable:
        """Another decoder with the same key reads the same weights in the same memory."""

    def rebuilt(self, inputs: Sequence[Tensor]) -> StepDecoder:
        """The same decoder at its first position, reading these."""


class Answer(NamedTuple):
    """p_θ at one step."""

    at: Tensor | None  # [m] int64: the sentences that asked; None: all have an answer, and m = N
    log_p: Tensor  # [m, V]
    features: Tensor  # [m, D]

    def of(self, part: Tensor) -> Tensor:
        """A tensor over all sentences, at those that have an answer.  [N, ...] -> [m, ...]"""
        return part if self.at is None else part[self.at]

    def into(self, part: Tensor, found: Tensor, asks: Tensor) -> Tensor:
        """`part` with what was found where the model was asked.  [N], [m], [N] bool -> [N]"""
        if self.at is None:
            return torch.where(asks, found, part)
        return part.index_copy(0, self.at, found)


class Answers(Protocol):
    """Where a scan gets p_θ from."""

    def answer(self, t: int, live: Tensor, previous: Tensor) -> Answer | None:
        """p_θ at step t for the sentences that ask; None if no sentence does.  [N] bool, [N, t + 1]
        int64
        """


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Call the model without gradient, but not in inference mode: models cache masks and positions
    that the loss will use.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


class NoAnswers:
    """No token is the model's."""

    def answer(self, t: int, live: Tensor, previous: Tensor) -> Answer | None:
        """As `Answers.answer`."""
        return None


class AnswersForAll:
    """All sentences at every step, finished or not: where starting an operation costs more than its
    arithmetic, on a GPU.
    """

    def __init__(self, decoder: StepDecoder) -> None:
        self.decoder = decoder

    @outside_inference_mode()
    def answer(self, t: int, live: Tensor, previous: Tensor) -> Answer | None:
        """As `Answers.answer`."""
        features = self.decoder.step(previous)
        return Answer(None, self.decoder.log_probs(features), features)


class StepwiseAnswers:
    """Only sentences that will ask again, projected only where one asks: what costs least
    arithmetic, on a CPU.
    """

    def __init__(self, asks: Tensor, start: Callable[[], StepDecoder]) -> None:
        self.asks = asks  # [N, T] bool
        # ahead[i, t]: sentence i asks at t or later.
        self.ahead = asks.flip(1).cummax(1).values.flip(1) if asks.any() else torch.zeros_like(asks)
        self.rows = self.ahead[:, 0].nonzero()[:, 0]
        self.decoder: StepDecoder | None = None
        if len(self.rows):
            with outside_inference_mode():
                self.decoder = start()
                if len(self.rows) < len(asks):
                    self.decoder.keep(self.rows)

    @outside_inference_mode()
    def answer(self, t: int, live: Tensor, previous: Tensor) -> Answer | None:
        """As `Answers.answer`."""
        if self.decoder is None:
            return None
        kept = (live & self.ahead[:, t])[self.rows]
        if not kept.all():
            self.rows = self.rows[kept]
            if not len(self.rows):
                self.decoder = None
                return None
            self.decoder.keep(kept.nonzero()[:, 0])
        features = self.decoder.step(previous[self.rows])
        asking = self.asks[self.rows, t]
        if not asking.any():
            return None
        if not asking.all():
            features = features[asking.nonzero()[:, 0]]
        return Answer(self.rows[asking], self.decoder.log_probs(features), features)
