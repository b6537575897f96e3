"""A fairseq task with the training clock, whatever its class."""

import json
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.distributed import utils as distributed
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.utils import split_paths

from fairseq_erpo.files import cause_of
from fairseq_erpo.plugin.clock import Clock, is_parallel
from fairseq_erpo.plugin.data_checks import (
    BadData,
    check_dataset,
    check_files,
    check_kept,
    check_scorers,
    name_of,
)
from fairseq_erpo.plugin.decoder import check_model, check_projection, feature_size, unwrapped
from fairseq_erpo.plugin.dictionaries import KEY, check_dictionaries, digests
from fairseq_erpo.plugin.row_inputs import config_of, train_subset
from fairseq_erpo.provenance import provenance

LOG = logging.getLogger("fairseq_cli.train")  # the one that --log-file listens to


class Clocked:
    """Mixin for a fairseq task: tells the criterion the epoch, the update and the validations so
    far.
    """

    dataset_to_epoch_iter: dict[Any, Any]
    datasets: dict[str, Any]

    @property
    def clock(self) -> Clock:
        return self.__dict__.setdefault("_erpo_clock", Clock())

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        model = super().build_model(cfg, from_checkpoint)  # type: ignore[misc]
        self.__dict__["_erpo_model"] = weakref.ref(model)
        return model

    def feature_size(self) -> int:
        """Width of the model's decoder.  Raises ValueError if the model was built before the task
        had its clock.
        """
        model = self.__dict__.get("_erpo_model", lambda: None)()
        if model is None:
            raise ValueError("--erpo-baseline learned needs --task erpo_translation")
        return feature_size(model)

    def begin_epoch(self, epoch: int, model: Any) -> None:
        try:
            if self.clock.seed is not None:  # the criterion is one of ours
                check_model(unwrapped(model))
                check_projection(unwrapped(model))
        except ValueError as error:
            raise SystemExit(f"erpo: {error}") from None
        if not self.__dict__.setdefault("_erpo_logged", False):
            self.__dict__["_erpo_logged"] = True
            LOG.info(json.dumps({"erpo_run": provenance()}))
        self.clock.epoch = epoch
        super().begin_epoch(epoch, model)  # type: ignore[misc]

    def get_batch_iterator(
        self, dataset: Any, *, seed: int = 1, epoch: int = 1, **options: Any
    ) -> Any:
        """Make batches that do not depend on the epoch in which the process started.

        Where fairseq keeps an iterator for all epochs, it makes the batches once, from seed + epoch
        of the start, so that a resumed run would train on other ones: there they are those of epoch
        1. Shards, --update-epoch-batch-itr and tasks that sample anew have other batches each
        epoch, which are fairseq's own.
        """
        iterator = self._batches(dataset, seed, epoch, options)
        if dataset is self.datasets.get(train_subset(self)):
            self.clock.batches = iterator
        return iterator

    def _batches(self, dataset: Any, seed: int, epoch: int, options: dict[str, Any]) -> Any:
        kept, make = self.dataset_to_epoch_iter, super().get_batch_iterator  # type: ignore[misc]
        if dataset in kept:
            return make(dataset, seed=seed, epoch=epoch, **options)
        iterator = make(dataset, seed=seed, epoch=epoch, **options)
        if epoch > 1 and kept.get(dataset) is iterator:
            del kept[dataset]
            # --update-ordered-indices-seed adds the epoch to --seed; it added 1 in the first one.
            start = seed if self.clock.seed in (None, seed) else seed - epoch + 1
            iterator = make(dataset, seed=start, epoch=1, **options)
            iterator.epoch = epoch
            dataset.set_epoch(epoch)
        # Else fairseq would shuffle all epochs as the process's first one, whatever --curriculum
        # says.
        iterator.reuse_dataloader = False
        return iterator

    def train_step(
        self,
        sample: Any,
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **extra: Any,
    ) -> Any:
        self.clock.resume(update_num)
        arguments = (sample, model, criterion, optimizer, update_num, ignore_grad)
        return super().train_step(*arguments, **extra)  # type: ignore[misc]

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """fairseq's hook after each validation subset; the first one that carries the metric
        counts.
        """
        update, score = stats["num_updates"], stats.get(self.clock.metric)
        if score is not None:
            self.clock.validated(
                update,
                float(score),
                write=not is_parallel() or distributed.get_data_parallel_rank() == 0,
            )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), KEY: digests(self)}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            check_dictionaries(state_dict, self, "the checkpoint")
        except ValueError as error:
            raise SystemExit(f"erpo: {error}; name the data that it was trained on") from None
        super().load_state_dict({key: value for key, value in state_dict.items() if key != KEY})  # type: ignore[misc]

    def has_binarised(self, split: str) -> bool:
        """Whether the first folder of the data has this split."""
        folders = split_paths(getattr(config_of(self), "data", None) or "")
        return any(Path(folders[0]).glob(f"{split}.*.idx"))

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> None:
        config = config_of(self)
        if (
            getattr(config, "num_batch_buckets", 0) > 0
            and np.lib.NumpyVersion(np.__version__) >= "2.0.0"
        ):
            raise SystemExit(
                "erpo: --num-batch-buckets: fairseq's code for it runs with numpy 1 only; leave "
                "the flag out"
            )
        try:
            for folder in split_paths(getattr(config, "data", None) or ""):
                check_files(folder, split)
            super().load_dataset(split, *args, **kwargs)  # type: ignore[misc]
            check_dataset(self.datasets[split], self, split)
            check_scorers(self.datasets[split], self, split)
        except FileNotFoundError as error:
            raise SystemExit(
                f"erpo: no binarised data for --train-subset/--valid-subset/--gen-subset {split}: "
                f"{error}"
            ) from None
        except BadData as error:
            raise SystemExit(f"erpo: {error}") from None
        except Exception as error:  # fairseq raises anything here
            raise SystemExit(
                f"erpo: --task {name_of(self)} cannot load the {split} data: {cause_of(error)}"
            ) from None

    def filter_indices_by_size(
        self,
        indices: Any,
        dataset: Any,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
    ) -> Any:
        """fairseq leaves long sentences out of the training data, however many, and ends with a
        traceback in others.
        """
        keep = super().filter_indices_by_size  # type: ignore[misc]
        kept = keep(indices, dataset, max_positions, ignore_invalid_inputs=True)
        try:
            check_kept(
                len(kept), len(indices), max_positions, all_of_them=not ignore_invalid_inputs
            )
        except BadData as error:
            raise SystemExit(f"erpo: {error}") from None
        return kept


def clocked(task: FairseqTask) -> FairseqTask:
    """Give a task of any class the clock, so that the criterions work with every --task, and with
    none.
    """
    if not isinstance(task, Clocked):
        kind = type(task)
        task.__class__ = type(f"Clocked{kind.__name__}", (Clocked, kind), {})
    return task
