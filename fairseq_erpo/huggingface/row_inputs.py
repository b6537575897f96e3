"""Inputs that only some rows need: noise statistics, samples from a file, rewards of text, the
model's beam, the learned baseline, the frozen prior.

B sentences, S samples of each, T steps, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.answers import StepDecoder
from fairseq_erpo.algorithm.baselines import StepBaseline
from fairseq_erpo.algorithm.neighbours import real_words
from fairseq_erpo.algorithm.noising import NoiseStatistics, Noising
from fairseq_erpo.algorithm.predrawn import PredrawnSamples
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.huggingface.conventions import Conventions
from fairseq_erpo.huggingface.data import Numbered
from fairseq_erpo.huggingface.decoder import Sources
from fairseq_erpo.huggingface.rewards import NamedReward, Outputs

BEAM_LENPEN = 0.6  # as in evaluation


class RunInputs:
    """Made when first asked for, and kept for the run."""

    def __init__(
        self,
        data: Numbered,
        tokenizer: Any,
        conventions: Conventions,
        settings: Settings,
        rewards: tuple[NamedReward, ...],
    ) -> None:
        self.data, self.tokenizer, self.conventions = data, tokenizer, conventions
        self.settings, self.rewards = settings, rewards
        self.step_baseline: StepBaseline | None = None

    @cached_property
    def noising(self) -> Noising:
        """Counted in one pass over the training targets."""
        vocabulary = self.conventions.vocabulary
        targets = map(self.conventions.words, self.data.labels())
        statistics = NoiseStatistics.count(targets, vocabulary.size, vocabulary.eos)
        settings = self.settings
        return Noising.from_statistics(settings.noise, statistics, vocabulary, settings.gamma)

    @cached_property
    def words(self) -> Tensor:
        return real_words(self.conventions.vocabulary)

    @cached_property
    def predrawn(self) -> PredrawnSamples | None:
        """Samples of a file, whose third field is text."""
        if self.settings.samples_file is None:
            return None
        vocabulary, prefix = self.conventions.vocabulary, self.conventions.prefix

        def encode(line: str) -> Sequence[int]:
            ids = self.tokenizer(text_target=line)["input_ids"][prefix:]
            return ids[: ids.index(vocabulary.eos)] if vocabulary.eos in ids else ids

        samples = PredrawnSamples(self.settings.samples_file, encode, vocabulary)
        samples.check_covers(range(len(self.data)), len(self.data))
        return samples

    def texts(self, tokens: Tensor) -> list[str]:
        """Ids as text, without special tokens.  [N, T] int64"""
        if self.tokenizer is None:
            raise ValueError("a reward of text needs processing_class=, the model's tokenizer")
        found: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return found


@dataclass
class BatchInputs:
    """`RowInputs` for one batch, on its device."""

    run: RunInputs
    sources: Sources
    target: Tensor  # [B, T]
    columns: dict[str, Sequence[Any]]
    # The frozen prior's decoder for so many copies; None: the row has none
    frozen: Callable[[int], StepDecoder] | None = None
    means: dict[str, Tensor] = field(default_factory=dict)  # of each of several rewards

    @property
    def device(self) -> torch.device:
        return self.target.device

    @property
    def noising(self) -> Noising:
        return self.run.noising.to(self.device)

    @property
    def words(self) -> Tensor:
        return self.run.words.to(self.device)

    @property
    def predrawn(self) -> PredrawnSamples | None:
        return self.run.predrawn

    def text_reward(self, tokens: Tensor, samples: int) -> Tensor:
        """The weighted rewards of `reward_funcs`.  [B·S, T] -> [B·S] float32"""
        outputs = self.outputs(tokens, samples)
        total = torch.zeros(len(tokens), device=self.device)
        for reward in self.run.rewards:
            scores = reward.score(outputs).float()
            self.means[reward.name] = scores.mean()
            total = total + reward.weight * scores
        return total

    def outputs(self, tokens: Tensor, samples: int) -> Outputs:
        """Sequences as ids and texts.  [B·S, T]"""
        run = self.run

        def repeated(texts: Sequence[Any]) -> list[Any]:
            return [text for text in texts for _ in range(samples)]

        return Outputs(
            target=self.target.repeat_interleave(samples, 0),
            tokens=tokens,
            vocabulary=run.conventions.vocabulary,
            sources=repeated(run.texts(self.sources.ids)),
            hypotheses=run.texts(tokens),
            references=repeated(run.texts(self.target)),
            columns={name: repeated(values) for name, values in self.columns.items()},
        )

    def beam(self, samples: int) -> Tensor:
        """The S best outputs of the model's beam search.  -> [B·S, T] int64"""
        sources, conventions = self.sources, self.run.conventions
        room = min(conventions.positions, self.target.size(1) * 3 // 2 + 5)
        found = sources.projection.model.generate(
            input_ids=sources.ids,
            attention_mask=sources.mask,
            decoder_input_ids=sources.start,
            num_beams=samples,
            num_return_sequences=samples,
            do_sample=False,
            max_new_tokens=room,
            length_penalty=BEAM_LENPEN,
            suppress_tokens=list(conventions.vocabulary.never),
            forced_bos_token_id=None,
            forced_eos_token_id=None,
            pad_token_id=conventions.vocabulary.pad,
            eos_token_id=conventions.vocabulary.eos,
        )
        return found[:, sources.start.size(1) :]

    def baseline(self, features: Tensor) -> Tensor:
        assert self.run.step_baseline is not None
        return self.run.step_baseline(features)

    def prior(self, samples: int) -> StepDecoder:
        """Sequence Tutor's frozen prior."""
        assert self.frozen is not None
        return self.frozen(samples)
