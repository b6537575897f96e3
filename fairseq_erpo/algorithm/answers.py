"""The model's part of a draw: p_θ at the positions that ask for it, step by step or all at once.

N sentences, T steps, V words, D features.
"""

from collections.abc import Callable, Iterator
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
        """Features of all positions at once, without the cache that `step` builds.  [n, T] int64, EOS first -> [n, T, D]"""


class Answer(NamedTuple):
    """p_θ at one step, for the sentences that asked."""

    at: Tensor  # [m] int64: which sentences
    log_p: Tensor  # [m, V]
    features: Tensor  # [m, D]


class Answers(Protocol):
    """Where a scan gets p_θ from."""

    def answer(self, t: int, live: Tensor, previous: Tensor) -> Answer | None:
        """p_θ at step t for the sentences that ask; None if no sentence does.  [N] bool on the host, [N, t + 1] int64"""


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Call the model without gradient, but not in inference mode: models cache masks and positions that the loss will use."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class StepwiseAnswers:
    """Run the decoder step by step, only for sentences that will ask again, and project only where one asks."""

    def __init__(self, asks: Tensor, start: Callable[[], StepDecoder], device: torch.device) -> None:
        self.asks = asks  # [N, T] bool on the host
        # ahead[i, t]: sentence i asks at t or later.
        self.ahead = asks.flip(1).cummax(1).values.flip(1) if asks.any() else torch.zeros_like(asks)
        self.rows = self.ahead[:, 0].nonzero()[:, 0]
        self.decoder: StepDecoder | None = None
        self.device = device
        if len(self.rows):
            with outside_inference_mode():
                self.decoder = start()
                if len(self.rows) < len(asks):
                    self.decoder.keep(self.rows.to(device))

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
            self.decoder.keep(kept.nonzero()[:, 0].to(self.device))
        features = self.decoder.step(previous[self.rows.to(self.device)])
        asking = self.asks[self.rows, t]
        if not asking.any():
            return None
        if not asking.all():
            features = features[asking.nonzero()[:, 0].to(self.device)]
        return Answer(self.rows[asking].to(self.device), self.decoder.log_probs(features), features)


class PrecomputedAnswers:
    """Look the answers up: one teacher-forced pass over a guess has computed them all."""

    def __init__(self, asks: Tensor, slot: Tensor, log_p: Tensor, features: Tensor) -> None:
        """[N, T] bool on the host; [N, T] int64: which row of `log_p` [m, V] and `features` [m, D] answers a position."""
        self.asks, self.slot, self.log_p, self.features = asks, slot, log_p, features

    def answer(self, t: int, live: Tensor, previous: Tensor) -> Answer | None:
        """As `Answers.answer`."""
        at = (self.asks[:, t] & live).nonzero()[:, 0].to(self.slot.device)
        if not len(at):
            return None
        slot = self.slot[at, t]
        return Answer(at, self.log_p[slot], self.features[slot])
