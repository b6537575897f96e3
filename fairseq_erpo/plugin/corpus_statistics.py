"""`corpus_bleu` follows the model (`algorithm.corpus_statistics`).

The statistics are kept beside the checkpoints, so that a run that is resumed in between goes on
with those of the last count.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from fairseq import utils
from fairseq.distributed import utils as distributed
from fairseq.logging import metrics

from fairseq_erpo.algorithm.batch import Batch
from fairseq_erpo.algorithm.corpus_statistics import (
    AT_ONCE,
    EVERY,
    FILE,
    SENTENCES,
    count_outputs,
    with_statistics,
)
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.files import read_json, write_json
from fairseq_erpo.mixture import MLE
from fairseq_erpo.plugin.batch import batch_of
from fairseq_erpo.plugin.checkpoints import exit_on_write_error
from fairseq_erpo.plugin.clock import Clock, is_parallel
from fairseq_erpo.plugin.decoder import sampling_mode, unwrapped
from fairseq_erpo.plugin.row_inputs import RunCache, train_subset
from fairseq_erpo.rewards.corpus_bleu import CorpusStatistics

logger = logging.getLogger(__name__)

KEPT = 200  # counts


class Follower:
    """Counts when it first draws, and whenever another EVERY updates are done."""

    def __init__(self, cache: RunCache, folder: Path | None) -> None:
        """`folder` keeps the counts; None: they are neither read nor written."""
        self.cache, self.file = cache, folder / FILE if folder else None
        self.at: int | None = None  # the update of the statistics in use

    def update(self, model: Any, clock: Clock, seed: int) -> Settings | None:
        """New settings where the statistics changed, else None."""
        now = clock.update
        if self.at is not None and self.at // EVERY == now // EVERY:
            return None
        # A verb that looks at other data
        if train_subset(self.cache.task) not in self.cache.task.datasets:
            self.cache.task.load_dataset(train_subset(self.cache.task))
        entries = [entry for entry in self.entries() if entry["update"] < now]
        kept = (
            entries[-1]
            if self.at is None and entries and entries[-1]["update"] // EVERY == now // EVERY
            else None
        )
        self.at = now
        statistics = CorpusStatistics.from_plain(kept) if kept else self.counted(model, clock, seed)
        if is_parallel():  # the first rank's, whatever other disks hold
            statistics = distributed.broadcast_object(
                statistics, src_rank=0, group=distributed.get_data_parallel_group()
            )
        if kept is None and self.file is not None and (not is_parallel() or dist.get_rank() == 0):
            with exit_on_write_error():
                write_json(
                    self.file,
                    [*entries, {"update": now, **asdict(statistics)}][-KEPT:],
                    "--save-dir",
                )
        metrics.log_scalar("length_ratio", statistics.length / statistics.wanted, round=3)
        return with_statistics(self.cache.settings, statistics)

    def entries(self) -> list[dict[str, Any]]:
        """What was counted so far, by this process and by those that it goes on from."""
        if self.file is None or not self.file.is_file():
            return []
        try:
            found = read_json(self.file)
            for entry in found:
                CorpusStatistics.from_plain(entry)
            return sorted(found, key=lambda entry: int(entry["update"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SystemExit(
                f"erpo: {self.file} is damaged ({error}); remove it, and the statistics are "
                "counted anew"
            ) from None

    def counted(self, model: Any, clock: Clock, seed: int) -> CorpusStatistics:
        """Samples and greedy outputs for a part of the training data, counted: n-grams of the
        first, length of the second.
        """
        task = self.cache.task
        dataset = task.dataset(train_subset(task))
        room = utils.resolve_max_positions(task.max_positions(), unwrapped(model).max_positions())
        fitting, _ = dataset.filter_indices_by_size(np.arange(len(dataset)), room)
        chosen = fitting[np.unique(np.linspace(0, len(fitting) - 1, SENTENCES, dtype=int))]
        if len(chosen) < AT_ONCE and clock.update < EVERY:  # once
            logger.warning(
                f"corpus_bleu follows statistics of {len(chosen)} training sentences only, and "
                f"wants {SENTENCES}"
            )
        device = next(model.parameters()).device

        def batches() -> Iterator[Batch]:
            for part in np.array_split(chosen, -(-len(chosen) // AT_ONCE)):
                sample = utils.apply_to_sample(
                    lambda t: t.to(device), dataset.collater([dataset[int(i)] for i in part])
                )
                yield batch_of(
                    sample, model, self.cache, seed=seed, update=clock.update, mixture=MLE, stage=0
                )

        with sampling_mode(unwrapped(model)):
            return count_outputs(batches())
