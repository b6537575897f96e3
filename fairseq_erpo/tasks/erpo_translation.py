"""`erpo_translation`: fairseq's translation task with the annealer's clock."""

from __future__ import annotations

import json
import logging
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from fairseq.distributed import utils as distributed
from fairseq.tasks import register_task
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.tasks.translation import TranslationTask
from fairseq.utils import split_paths

from fairseq_erpo.annealers import falls
from fairseq_erpo.decoding import check_model, feature_size, unwrapped
from fairseq_erpo.files import whole
from fairseq_erpo.mixture import MLE, Mixture
from fairseq_erpo.tasks.rouge_validation import RougeConfig, RougeValidation

logger = logging.getLogger(__name__)

HISTORY = "erpo_validations.json"


@dataclass
class Clock:
    """Where training stands. λ is a pure function of it."""

    epoch: int = 1
    update: int = 0
    metric: str = "loss"
    maximize: bool = False
    scores: dict[int, float] = field(default_factory=dict)  # update -> validation score
    # The plateau schedule needs the scores after a restart. fairseq restores no task state, so they lie beside the checkpoints.
    path: Path | None = None
    synced: bool = False
    mixture: Mixture = MLE  # λ of the last training batch
    stages: list[tuple[Mixture, float]] = field(default_factory=list)  # (λ, best score), for the warning

    def resume(self, update: int) -> None:
        """Take up the scores of the run that stopped at `update`; later ones belong to a future that was lost."""
        self.update = update
        if self.synced or self.path is None:
            return
        self.synced = True
        stored: dict[int, float] = {}
        if self.path.is_file():
            try:
                scores = json.loads(self.path.read_text())["scores"]
                stored = {int(at): float(score) for at, score in scores.items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                logger.warning(f"{self.path} is damaged; the plateau schedule starts again")
        self.scores = {at: score for at, score in _from_first_rank(stored).items() if at <= update}

    def validated(self, update: int, score: float, write: bool) -> None:
        """Note a validation score; `write` it down on one rank."""
        self._warn_if_falling(score)
        if self.mixture == MLE:  # the schedule has not begun
            return
        self.scores[update] = score
        if write and self.path is not None:
            with whole("--save-dir", str(self.path)) as part:
                part.write_text(json.dumps({"metric": self.metric, "scores": self.scores}))

    def falls(self) -> int:
        """The plateau schedule's clock."""
        return falls([score for _, score in sorted(self.scores.items())], self.maximize)

    def _warn_if_falling(self, score: float) -> None:
        """The letter of the algorithm is known to collapse as λ_delta falls: say so after two stages."""
        if self.stages and self.stages[-1][0] == self.mixture:
            best = (max if self.maximize else min)(score, self.stages.pop()[1])
        else:
            best = score
        self.stages.append((self.mixture, best))
        *_, first, second, third = [None, None, *(s for _, s in self.stages)]
        sign = 1 if self.maximize else -1
        if first is not None and second is not None and sign * third < sign * second < sign * first:
            logger.warning(
                f"validation {self.metric} fell for two stages of the schedule ({first:g}, {second:g}, {third:g}; now at "
                f"{self.mixture}): hold λ earlier with --erpo-lambda, or use --erpo-preset robust; the best checkpoint is kept"
            )


def _is_parallel() -> bool:
    # fairseq's own functions ask for a process group, which a single process has not.
    return dist.is_available() and dist.is_initialized()


def _from_first_rank(stored: dict[int, float]) -> dict[int, float]:
    """The first rank's file counts, so that all ranks have the same λ whatever their disks hold."""
    if not _is_parallel():
        return stored
    shared: dict[int, float] = distributed.broadcast_object(stored, src_rank=0, group=distributed.get_data_parallel_group())
    return shared


class Clocked:
    """Mixed into a fairseq task: tells the criterion the epoch, the update and the validations so far."""

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
            check_model(unwrapped(model))
        except ValueError as error:
            raise SystemExit(f"erpo: {error}") from None
        self.clock.epoch = epoch
        super().begin_epoch(epoch, model)  # type: ignore[misc]

    def get_batch_iterator(
        self, dataset: Any, *, seed: int = 1, epoch: int = 1, update_epoch_batch_itr: bool = False, **options: Any
    ) -> Any:
        """Batches that do not depend on the epoch in which the process started.

        fairseq makes them once a process, from seed + epoch, so that a resumed run would train on other batches.
        """
        first = epoch if update_epoch_batch_itr else 1  # the epoch whose batches are wanted
        iterator = super().get_batch_iterator(  # type: ignore[misc]
            dataset, seed=seed + first - epoch, epoch=epoch, update_epoch_batch_itr=update_epoch_batch_itr, **options
        )
        iterator.seed = seed  # of the order of the batches, to which fairseq adds the epoch
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
            self.clock.validated(update, float(score), write=not _is_parallel() or distributed.get_data_parallel_rank() == 0)

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> None:
        nothing = f"erpo: the {split} data holds no sentence pair; look at what fairseq-preprocess was given"
        folders = split_paths(getattr(self.cfg, "data", None) or "")  # type: ignore[attr-defined]
        if any(not file.stat().st_size for folder in folders for file in Path(folder).glob(f"{split}.*.bin")):
            raise SystemExit(nothing)  # fairseq would fail to map an empty file into memory
        try:
            super().load_dataset(split, *args, **kwargs)  # type: ignore[misc]
        except FileNotFoundError as error:
            raise SystemExit(f"erpo: no binarised data for --train-subset/--valid-subset/--gen-subset {split}: {error}") from None
        if not len(self.datasets[split]):  # type: ignore[attr-defined]
            raise SystemExit(nothing)


def clocked(task: FairseqTask) -> FairseqTask:
    """Give a task of any class the clock, so that the criterions work with every --task, and with none."""
    if not isinstance(task, Clocked):
        kind = type(task)
        task.__class__ = type(f"Clocked{kind.__name__}", (Clocked, kind), {})
    return task


@dataclass
class ErpoTranslationConfig(RougeConfig):
    """fairseq's translation options, and ROUGE in validation."""


@register_task("erpo_translation", dataclass=ErpoTranslationConfig)
class ErpoTranslationTask(Clocked, RougeValidation, TranslationTask):
    """Translation, summarization, or any pair of texts."""

    @classmethod
    def setup_task(cls, cfg: ErpoTranslationConfig, **kwargs: Any) -> ErpoTranslationTask:
        try:
            return super().setup_task(cfg, **kwargs)
        except FileNotFoundError as error:
            raise SystemExit(f"erpo: {cfg.data} is not a folder made by fairseq-preprocess: {error}") from None
        except Exception as error:
            if "infer language pair" not in str(error):
                raise
            raise SystemExit(
                f"erpo: {cfg.data} was not made by fairseq-preprocess, or needs --source-lang, --target-lang"
            ) from None
