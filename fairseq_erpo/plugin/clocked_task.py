"""A fairseq task with the training clock, whatever its class."""

import json
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.distributed import utils as distributed
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.utils import split_paths

from fairseq_erpo.files import reason_of
from fairseq_erpo.plugin.binarised import check_index
from fairseq_erpo.plugin.clock import Clock, is_parallel
from fairseq_erpo.plugin.decoder import check_model, check_projection, feature_size, unwrapped
from fairseq_erpo.plugin.dictionaries import KEY, check_dictionaries, digests
from fairseq_erpo.provenance import provenance

LOG = logging.getLogger("fairseq_cli.train")  # the one that --log-file listens to


class Clocked:
    """Mixin for a fairseq task: tells the criterion the epoch, the update and the validations so far."""

    dataset_to_epoch_iter: dict[Any, Any]

    @property
    def clock(self) -> Clock:
        return self.__dict__.setdefault("_erpo_clock", Clock())

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        model = super().build_model(cfg, from_checkpoint)  # type: ignore[misc]
        self.__dict__["_erpo_model"] = weakref.ref(model)
        return model

    def feature_size(self) -> int:
        """Width of the model's decoder.  Raises ValueError if the model was built before the task had its clock."""
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

    def get_batch_iterator(self, dataset: Any, *, seed: int = 1, epoch: int = 1, **options: Any) -> Any:
        """Make batches that do not depend on the epoch in which the process started.

        Where fairseq keeps an iterator for all epochs, it makes the batches once, from seed + epoch of the start, so that a
        resumed run would train on other ones: there they are those of epoch 1. Shards, --update-epoch-batch-itr and tasks that
        sample anew have other batches each epoch, which are fairseq's own.
        """
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
        # Else fairseq would shuffle all epochs as the process's first one, whatever --curriculum says.
        iterator.reuse_dataloader = False
        return iterator

    def train_step(
        self, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False, **extra: Any
    ) -> Any:
        self.clock.resume(update_num)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad, **extra)  # type: ignore[misc]

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """fairseq's hook after each validation subset; the first one that carries the metric counts."""
        update, score = stats["num_updates"], stats.get(self.clock.metric)
        if score is not None:
            self.clock.validated(update, float(score), write=not is_parallel() or distributed.get_data_parallel_rank() == 0)

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
        folders = split_paths(getattr(self.cfg, "data", None) or "")  # type: ignore[attr-defined]
        return any(Path(folders[0]).glob(f"{split}.*.idx"))

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> None:
        again = "look at what fairseq-preprocess was given, or run it again"
        folders = split_paths(getattr(self.cfg, "data", None) or "")  # type: ignore[attr-defined]
        try:
            # fairseq would fail to map an empty file into memory.
            if any(not file.stat().st_size for folder in folders for file in Path(folder).glob(f"{split}.*.bin")):
                raise ValueError(f"the {split} data holds no sentence pair")
            for folder in folders:
                for index in Path(folder).glob(f"{split}.*.idx"):
                    check_index(index)
            super().load_dataset(split, *args, **kwargs)  # type: ignore[misc]
            check_dataset(self.datasets[split], self, split)  # type: ignore[attr-defined]
        except FileNotFoundError as error:
            raise SystemExit(f"erpo: no binarised data for --train-subset/--valid-subset/--gen-subset {split}: {error}") from None
        except ValueError as error:
            raise SystemExit(f"erpo: {error}; {again}") from None
        except Exception as error:  # fairseq raises anything here, where a file is damaged
            raise SystemExit(f"erpo: the {split} data cannot be read: {reason_of(error)}; {again}") from None


LOOKED_AT = 500  # sentences of a split


def check_dataset(dataset: Any, task: Any, split: str) -> None:
    """Raises ValueError for a split that is empty, or whose sentences cannot be text."""
    if not len(dataset):
        raise ValueError(f"the {split} data holds no sentence pair")
    check_side(getattr(dataset, "src", None), getattr(task, "source_dictionary", None), f"the {split} data", "sources")
    check_side(getattr(dataset, "tgt", None), getattr(task, "target_dictionary", None), f"the {split} data", "targets")


def check_side(texts: Any, dictionary: Any, data: str, side: str) -> None:
    """Look at some texts, spread evenly.  Raises ValueError if they cannot be text: damaged, empty, or unknown words only."""
    if texts is None or dictionary is None:
        return
    chosen = np.unique(np.linspace(0, len(texts) - 1, LOOKED_AT, dtype=int))
    try:
        tokens = torch.cat([texts[int(i)] for i in chosen])
    except (ValueError, RuntimeError, IndexError):  # an index that does not fit its file
        raise ValueError(f"{data} is damaged: its {side} end before their index does") from None
    if bool(((tokens == dictionary.pad()) | (tokens == dictionary.bos()) | (tokens < 0) | (tokens >= len(dictionary))).any()):
        raise ValueError(f"{data} is damaged, or of another dictionary: its {side} hold ids that no text has")
    words = tokens[tokens != dictionary.eos()]
    if not len(words):
        raise ValueError(f"{data} has empty {side} only")
    if bool((words == dictionary.unk()).all()):
        raise ValueError(f"{data} has no word of its {side} that is in the dictionary")


def clocked(task: FairseqTask) -> FairseqTask:
    """Give a task of any class the clock, so that the criterions work with every --task, and with none."""
    if not isinstance(task, Clocked):
        kind = type(task)
        task.__class__ = type(f"Clocked{kind.__name__}", (Clocked, kind), {})
    return task
