"""`corpus_bleu` follows the model: its statistics are counted at the start of each epoch, from greedy outputs for training data.

They are kept beside the checkpoints, so that a run that is resumed within an epoch goes on with the statistics of its start.
"""

import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fairseq import utils
from fairseq.distributed import utils as distributed

from fairseq_erpo.algorithm.batch import Expert
from fairseq_erpo.algorithm.sampler import Sampler, length_caps
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.files import read_json, write_json
from fairseq_erpo.mixture import MLE
from fairseq_erpo.plugin.batch import batch_of
from fairseq_erpo.plugin.checkpoints import exit_on_write_error
from fairseq_erpo.plugin.clock import Clock, is_parallel
from fairseq_erpo.plugin.decoder import sampling_mode, unwrapped
from fairseq_erpo.plugin.row_inputs import RunCache
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.rewards.corpus_bleu import CorpusBleu, CorpusStatistics

logger = logging.getLogger(__name__)

FILE = "erpo_corpus.json"
SENTENCES = 500  # of the training data, spread evenly
AT_ONCE = 100


def follows_model(settings: Settings) -> bool:
    """Whether one of the two rewards has to be counted anew."""
    return any(isinstance(reward, CorpusBleu) for reward in (settings.teacher, settings.reward))


def with_statistics(settings: Settings, statistics: CorpusStatistics) -> Settings:
    """The same settings, with each `corpus_bleu` at these statistics."""
    reward = CorpusBleu(statistics)
    parts: dict[str, Any] = {}
    for name in ("teacher", "reward"):
        if isinstance(getattr(settings, name), CorpusBleu):
            parts[name] = reward
    return replace(settings, **parts)


class Follower:
    """Counts once an epoch."""

    def __init__(self, cache: RunCache, folder: Path) -> None:
        self.cache, self.file = cache, folder / FILE
        self.epoch: int | None = None

    def update(self, model: Any, clock: Clock, seed: int) -> Settings | None:
        """New settings at the first batch of an epoch, else None."""
        if clock.epoch == self.epoch or self.cache.task.cfg.train_subset not in self.cache.task.datasets:
            return None
        kept = self.kept(clock) if self.epoch is None else None
        self.epoch = clock.epoch
        statistics = kept or self.counted(model, seed)
        if is_parallel():  # the first rank's, whatever other disks hold
            statistics = distributed.broadcast_object(statistics, src_rank=0, group=distributed.get_data_parallel_group())
        if kept is None and (not is_parallel() or dist.get_rank() == 0):
            with exit_on_write_error():
                write_json(self.file, {"epoch": clock.epoch, "update": clock.update, **asdict(statistics)}, "--save-dir")
        ratio = statistics.length / statistics.wanted
        logger.info(f"corpus_bleu follows the model: BLEU {100 * statistics.bleu:.2f} of tokens, length ratio {ratio:.3f}")
        return with_statistics(self.cache.settings, statistics)

    def kept(self, clock: Clock) -> CorpusStatistics | None:
        """Those of this epoch's start, where the run goes on within an epoch."""
        if not self.file.is_file():
            return None
        try:
            found = read_json(self.file)
            if found.pop("epoch") != clock.epoch or found.pop("update") >= clock.update:
                return None
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else float(v) for k, v in found.items()}
            return CorpusStatistics(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SystemExit(f"erpo: {self.file} is damaged ({error}); remove it, and the statistics are counted anew") from None

    def counted(self, model: Any, seed: int) -> CorpusStatistics:
        """Greedy outputs for a part of the training data, counted."""
        task, settings, vocabulary = self.cache.task, self.cache.settings, self.cache.vocabulary
        dataset = task.dataset(task.cfg.train_subset)
        room = utils.resolve_max_positions(task.max_positions(), unwrapped(model).max_positions())
        fitting, _ = dataset.filter_indices_by_size(np.arange(len(dataset)), room)
        chosen = fitting[np.unique(np.linspace(0, len(fitting) - 1, SENTENCES, dtype=int))]
        device = next(model.parameters()).device
        sampler = Sampler(CorpusBleu(), settings.experts, vocabulary)
        counts = []
        with sampling_mode(unwrapped(model)):
            for part in np.array_split(chosen, -(-len(chosen) // AT_ONCE)):
                sample = utils.apply_to_sample(lambda t: t.to(device), dataset.collater([dataset[int(i)] for i in part]))
                batch = batch_of(sample, model, self.cache, seed=seed, update=0, mixture=MLE, stage=0)
                reference = Reference.from_target(batch.target, vocabulary)
                caps = length_caps(reference, batch.max_positions)
                origin = torch.full((len(caps), int(caps.max())), int(Expert.GREEDY), device=device)
                found = sampler.draw(reference, origin, caps, batch.draws, partial(batch.start, 1))
                counts.append(CorpusBleu().counts(reference, found.tokens, vocabulary))
        return CorpusStatistics.from_counts(torch.cat(counts))
