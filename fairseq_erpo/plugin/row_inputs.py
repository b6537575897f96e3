"""Inputs of single rows: noise statistics, RAML's samples, the learned baseline, the frozen prior.

N drawn sequences, T steps, D features.
"""

import os
from argparse import Namespace
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_erpo.algorithm.baselines import StepBaseline
from fairseq_erpo.algorithm.graphs import Graphs
from fairseq_erpo.algorithm.neighbours import real_words
from fairseq_erpo.algorithm.noising import NoiseStatistics, Noising
from fairseq_erpo.algorithm.predrawn import PredrawnSamples
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.plugin.decoder import IncrementalDecoder
from fairseq_erpo.plugin.forward import Encoded
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.plugin.texts import UNKNOWN_FOUND, UNKNOWN_WANTED, spelt
from fairseq_erpo.text_rewards import Pool
from fairseq_erpo.vocabulary import Vocabulary

MOST_WORKERS = 4  # that score texts
BEAM_LENPEN = 0.6  # as in evaluation


def config_of(task: Any) -> Any:
    """The task's flags, also of fairseq's older tasks."""
    return task.cfg or task.args


def train_subset(task: Any) -> str:
    """The name of the training data."""
    return str(getattr(config_of(task), "train_subset", "train"))


def shards(task: Any) -> list[str]:
    """The folders that fairseq trains on in turn, one an epoch."""
    return list(utils.split_paths(config_of(task).data))


def training_targets(task: Any) -> Iterator[Tensor]:
    """The targets of all training data, of every shard, whichever is loaded."""
    split, folders = train_subset(task), len(shards(task))
    kept = task.datasets[split]
    for epoch in range(1, folders + 1):
        if folders > 1:
            task.load_dataset(split, epoch=epoch)
        dataset = task.dataset(split)
        yield from (dataset.tgt[i] for i in range(len(dataset)))
    task.datasets[split] = kept


class RunCache:
    """Inputs that some rows need besides the batch, made when first asked for and kept for
    the run.
    """

    def __init__(
        self, task: Any, settings: Settings, vocabulary: Vocabulary, baseline: StepBaseline | None
    ) -> None:
        self.task, self.settings, self.vocabulary, self.step_baseline = (
            task,
            settings,
            vocabulary,
            baseline,
        )
        self.graphs = Graphs()

    @cached_property
    def noising(self) -> Noising:
        """Counted in one pass over the training targets of all shards; memory grows with the
        distinct bigrams only.
        """
        statistics = NoiseStatistics.count(
            training_targets(self.task), self.vocabulary.size, self.vocabulary.eos
        )
        return Noising.from_statistics(
            self.settings.noise, statistics, self.vocabulary, self.settings.gamma
        )

    @cached_property
    def words(self) -> Tensor:
        return real_words(self.vocabulary)

    @cached_property
    def predrawn(self) -> PredrawnSamples | None:
        if self.settings.samples_file is None:
            return None
        dictionary = self.task.target_dictionary

        def encode(line: str) -> list[int]:
            return [dictionary.index(word) for word in line.split()]

        return PredrawnSamples(self.settings.samples_file, encode, self.vocabulary)

    @cached_property
    def text_pool(self) -> Pool:
        """The workers of a reward of text."""
        assert isinstance(self.settings.reward, str)
        return Pool(self.settings.reward, max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // 2)))

    @cached_property
    def prior(self) -> Any:
        """The frozen prior.  It does not belong to the criterion's state, and is not saved
        with it.
        """
        if self.settings.prior is None:
            raise ValueError("this row needs --erpo-prior CHECKPOINT")
        check_checkpoint(self.settings.prior)
        (model,), _ = checkpoint_utils.load_model_ensemble([self.settings.prior], task=self.task)
        return model.eval().requires_grad_(False)


class BatchInputs:
    """`RowInputs` for one batch, on its device."""

    def __init__(self, cache: RunCache, model: Any, sample: dict[str, Any]) -> None:
        self.cache, self.model, self.sample = cache, model, sample
        self.device = sample["target"].device

    @property
    def noising(self) -> Noising:
        return self.cache.noising.to(self.device)

    @property
    def words(self) -> Tensor:
        return self.cache.words.to(self.device)

    @property
    def predrawn(self) -> PredrawnSamples | None:
        return self.cache.predrawn

    def text_reward(self, tokens: Tensor, samples: int) -> Tensor:
        task, sample = self.cache.task, self.sample
        sources = [
            spelt(task, line, UNKNOWN_WANTED, task.source_dictionary)
            for line in sample["net_input"]["src_tokens"]
        ]
        references = [spelt(task, line, UNKNOWN_WANTED) for line in sample["target"]]
        found = [spelt(task, line, UNKNOWN_FOUND) for line in tokens]
        sources, references = (
            [text for text in side for _ in range(samples)] for side in (sources, references)
        )
        scores = self.cache.text_pool.score(sources, found, references)
        return torch.tensor(scores, device=self.device)

    def beam(self, samples: int) -> Tensor:
        task, vocabulary = self.cache.task, self.cache.vocabulary
        generator = task.build_generator(
            [self.model], Namespace(beam=samples, max_len_a=1.5, max_len_b=5, lenpen=BEAM_LENPEN)
        )
        outputs = []
        for found in task.inference_step(generator, [self.model], self.sample):
            best = [one["tokens"] for one in found[:samples]]
            # A candidate that occurs twice counts once
            outputs += best + best[:1] * (samples - len(best))
        return pad_sequence(outputs, batch_first=True, padding_value=vocabulary.pad)

    def baseline(self, features: Tensor) -> Tensor:
        assert self.cache.step_baseline is not None
        return self.cache.step_baseline(features)

    def prior(self, samples: int) -> IncrementalDecoder:
        prior = self.cache.prior.to(next(self.model.parameters()))
        return IncrementalDecoder(prior, Encoded(prior, self.sample).read(samples))
