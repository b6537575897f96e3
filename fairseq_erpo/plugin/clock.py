"""Where training stands: epoch, update and validation scores.  λ is a pure function of it."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from fairseq.distributed import utils as distributed

from fairseq_erpo.algorithm.schedule import Now, Run
from fairseq_erpo.annealers import falls
from fairseq_erpo.files import write_text
from fairseq_erpo.mixture import MLE, Mixture
from fairseq_erpo.plugin.checkpoints import exit_on_write_error

logger = logging.getLogger(__name__)

HISTORY = "erpo_validations.json"


@dataclass
class Clock:
    """The training clock of a task."""

    epoch: int = 1
    update: int = 0
    max_epoch: int = 0  # 0: no limit; so for updates
    max_update: int = 0
    update_freq: Sequence[int] = (1,)  # batches to an update, epoch by epoch; the last holds on
    batches: Any = None  # the epoch's iterator over training batches
    seed: int | None = None  # --seed; None where the criterion is another one
    metric: str = "loss"
    maximize: bool = False
    scores: dict[int, float] = field(default_factory=dict)  # update -> validation score
    # The plateau schedule needs the scores after a restart. fairseq restores no task state: they
    # are kept beside the checkpoints.
    path: Path | None = None
    synced: bool = False
    mixture: Mixture = MLE  # λ of the last training batch
    validated_at: int = -1  # the last update that was validated
    # (λ, best score), for the warning
    stages: list[tuple[Mixture, float]] = field(default_factory=list)

    def resume(self, update: int) -> None:
        """Read the scores of the run that stopped at `update`; later ones belong to updates that
        were lost.
        """
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
        """Record a validation score; one rank writes it to the file.  Of several subsets the first
        one counts.
        """
        if update == self.validated_at:
            return
        self.validated_at = update
        self._warn_if_falling(score)
        if self.mixture == MLE:  # the schedule has not begun
            return
        self.scores[update] = score
        if write and self.path is not None:
            with exit_on_write_error():
                write_text(
                    self.path,
                    json.dumps({"metric": self.metric, "scores": self.scores}),
                    "--save-dir",
                )

    def now(self, by_share: bool) -> Now:
        """This moment; with the length of the run where something is a share of it."""
        return Now(self.epoch, self.update, self.falls(), self.run() if by_share else None)

    def run(self) -> Run:
        """How many updates the run has, as --max-epoch and --max-update say; an epoch counts as
        the present one.
        """
        freq = self.update_freq[min(self.epoch, len(self.update_freq)) - 1]
        per_epoch = math.ceil(len(self.batches) / freq) if self.batches is not None else math.inf
        limits: list[float] = [self.max_update] * (self.max_update > 0)
        limits += [self.max_epoch * per_epoch] * (self.max_epoch > 0)
        return Run(min(limits, default=math.inf), per_epoch)

    def falls(self) -> int:
        """Falls of the validation score so far: the plateau schedule's clock."""
        return falls([score for _, score in sorted(self.scores.items())], self.maximize)

    def _warn_if_falling(self, score: float) -> None:
        """Warn after two falling stages: the algorithm to the letter is known to collapse as λ_data
        falls.
        """
        if self.stages and self.stages[-1][0] == self.mixture:
            best = (max if self.maximize else min)(score, self.stages.pop()[1])
        else:
            best = score
        self.stages.append((self.mixture, best))
        *_, first, second, third = [None, None, *(s for _, s in self.stages)]
        sign = 1 if self.maximize else -1
        if first is not None and second is not None and sign * third < sign * second < sign * first:
            logger.warning(
                f"validation {self.metric} fell for two stages of the schedule ({first:g}, "
                f"{second:g}, {third:g}; now at "
                f"{self.mixture}): hold λ earlier with --erpo-lambda, or use --erpo-preset "
                "robust; the best checkpoint is kept"
            )


def is_parallel() -> bool:
    """Whether several processes train together; fairseq's own functions fail where there is no
    process group.
    """
    return dist.is_available() and dist.is_initialized()


def _from_first_rank(stored: dict[int, float]) -> dict[int, float]:
    """Use the first rank's file everywhere, so that all ranks have the same λ whatever their disks
    hold.
    """
    if not is_parallel():
        return stored
    shared: dict[int, float] = distributed.broadcast_object(
        stored, src_rank=0, group=distributed.get_data_parallel_group()
    )
    return shared
