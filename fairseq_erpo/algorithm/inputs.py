"""`RowInputs` from the training targets alone, for training without fairseq.

N drawn sequences, T steps, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import StepDecoder
from fairseq_erpo.algorithm.neighbours import real_words
from fairseq_erpo.algorithm.noising import NoiseStatistics, Noising
from fairseq_erpo.algorithm.predrawn import PredrawnSamples
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.vocabulary import Vocabulary


@dataclass(frozen=True)
class PlainInputs:
    """Enough for every row but those with a learned baseline or a frozen prior, which raise
    ValueError.
    """

    noising: Noising
    words: Tensor  # [W] int64
    predrawn: PredrawnSamples | None = None

    @classmethod
    def from_targets(
        cls,
        targets: Iterable[Sequence[int]],
        settings: Settings,
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Counted in one pass over the training targets, ids with or without EOS."""
        counts = NoiseStatistics.count(targets, vocabulary.size, vocabulary.eos)
        noising = Noising.from_statistics(settings.noise, counts, vocabulary, settings.gamma)
        return cls(noising.to(device), real_words(vocabulary).to(device))

    def text_reward(self, tokens: Tensor, samples: int) -> Tensor:
        """A reward of text.  [B·S, T] -> [B·S]"""
        raise ValueError("rewards of text need fairseq's criterion: choose another --erpo-reward")

    def beam(self, samples: int) -> Tensor:
        """The best outputs of the model's beam search.  -> [B·S, T]"""
        raise ValueError("--erpo-candidates beam needs fairseq's criterion: leave it out")

    def baseline(self, features: Tensor) -> Tensor:
        """MIXER's learned baseline.  [N, T, D] -> [N, T]"""
        raise ValueError(
            "--erpo-baseline learned needs fairseq's criterion: choose another baseline, or "
            "another row"
        )

    def prior(self, samples: int) -> StepDecoder:
        """Sequence Tutor's frozen prior."""
        raise ValueError("--erpo-prior needs fairseq's criterion: choose another --row")
