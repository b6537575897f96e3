"""Every row of the family as a fairseq criterion `erpo_<row>`: one class."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Optional

from fairseq.criterions import CRITERION_REGISTRY, FairseqCriterion, register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from fairseq_erpo import logs, mstep
from fairseq_erpo.border import Resources, StepBaseline, batch_of, in_pieces, shared_encoder, vocabulary_of
from fairseq_erpo.compat import check_checkpoint
from fairseq_erpo.decoding import sampling_mode, unwrapped
from fairseq_erpo.engine import BASELINES, Drawn
from fairseq_erpo.estep import Candidates
from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.packing import Packing
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.settings import FLAGS, Settings
from fairseq_erpo.tasks.erpo_translation import HISTORY, clocked

WATCH_EVERY = 100  # batches between two looks for samples that cannot teach anything

# Fields that other parts of fairseq's configuration fill: name -> (type, where from).
BORROWED: dict[str, tuple[Any, str]] = {
    "sentence_avg": (bool, "optimization.sentence_avg"),
    "seed": (int, "common.seed"),
    "save_dir": (str, "checkpoint.save_dir"),
    "finetune_from_model": (Optional[str], "checkpoint.finetune_from_model"),
    "best_checkpoint_metric": (str, "checkpoint.best_checkpoint_metric"),
    "maximize_best_checkpoint_metric": (bool, "checkpoint.maximize_best_checkpoint_metric"),
}


class ErpoCriterion(FairseqCriterion):
    """loss = - Σ_t w_t log p_θ(target_t | inputs_<t) over what the row draws; gold cross-entropy in validation."""

    row: ClassVar[Row]

    def __init__(self, task: Any, settings: Settings, cfg: Any) -> None:
        super().__init__(task)
        self.settings = settings
        self.seed: int = cfg.seed
        self.sentence_avg: bool = cfg.sentence_avg
        task.clock.metric, task.clock.maximize = cfg.best_checkpoint_metric, cfg.maximize_best_checkpoint_metric
        task.clock.path = Path(cfg.save_dir) / HISTORY if settings.plateau else None
        self.vocabulary = vocabulary_of(task.target_dictionary)
        self.baseline = StepBaseline(task.feature_size()) if BASELINES[settings.baseline].learned else None
        self.resources = Resources(task, settings, self.vocabulary, self.baseline)
        self.batches = 0

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> ErpoCriterion:
        """From the command line; bad input ends the program with one line that names the flag."""
        try:
            settings = cls.settings_of(cfg)
            if task.target_dictionary is None:
                raise ValueError("the --task has no target dictionary; use --task erpo_translation")
            if getattr(task.cfg, "left_pad_target", False):
                raise ValueError("--left-pad-target is not supported: targets are padded on the right")
            # fairseq reads --finetune-from-model at the first launch only. Later it may be gone, as it may where others validate.
            folder = Path(cfg.save_dir)
            first_launch = folder.is_dir() and not (folder / "checkpoint_last.pt").exists()
            for path in (cfg.finetune_from_model if first_launch else None, settings.prior):
                if path:
                    check_checkpoint(path)
            if "erpo_prior" in cls.row.flags and not settings.prior:
                raise ValueError(f"erpo_{cls.row.name} needs --erpo-prior CHECKPOINT")
            return cls(clocked(task), settings, cfg)
        except ValueError as error:
            raise SystemExit(f"erpo: {error}") from None

    @classmethod
    def settings_of(cls, cfg: Any) -> Settings:
        """The row's flags, resolved.  Raises ValueError naming the flag."""
        typed = {name: getattr(cfg, name, None) for name in cls.row.flags}
        return Settings.of({**cls.row.defaults, **{name: value for name, value in typed.items() if value is not None}})

    @property
    def now(self) -> tuple[int, int, int]:
        """The clock: epoch, update, and falls of the validation score.  λ is a pure function of it."""
        clock = self.task.clock
        return clock.epoch, clock.update, clock.falls()

    @property
    def mixture(self) -> Mixture:
        """λ now."""
        return self.settings.mixture(*self.now)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, dict[str, Any]]:
        """The loss, the number of targets that it is normalised by, and what to log."""
        began = time.perf_counter()
        drawn = self.draw(model, sample) if self.training else None
        drew = time.perf_counter()
        if drawn is None:
            loss, nll, ntokens = *self.gold_loss(model, sample, reduce), sample["ntokens"]
            size, sequences = ntokens, sample["target"].size(0)
        else:
            loss, nll = self.drawn_loss(model, sample, drawn)
            ntokens = drawn.tokens.ne(self.padding_idx).sum()
            size = ntokens if drawn.size is None else drawn.size
            sequences = drawn.sequences or len(drawn.tokens)
        if self.baseline is not None and self.training:
            loss = loss + self.baseline_loss(drawn)
        sample_size = sequences if self.sentence_avg else size
        log = {"loss": loss.data, "nll_loss": nll.data, "ntokens": ntokens}
        log |= {"nsentences": sample["target"].size(0), "sample_size": sample_size}
        if self.training:
            self.task.clock.mixture = self.mixture
            log |= logs.sums(drawn, sample["target"], self.mixture, self.vocabulary)
            log |= {"draw_seconds": drew - began, "loss_seconds": time.perf_counter() - drew}
        return loss, sample_size, log

    def draw(self, model: Any, sample: dict[str, Any]) -> Drawn | None:
        """E-step: what the row draws and how it weighs, without gradient or dropout; None for the data themselves."""
        if self.settings.elapsed(*self.now) is None:
            return None
        with sampling_mode(unwrapped(model)):
            batch = batch_of(
                sample,
                model,
                self.resources,
                seed=self.seed,
                update=self.task.clock.update,
                mixture=self.mixture,
                stage=self.settings.stage(*self.now),
            )
            drawn = self.row.draw(batch)
            if drawn is not None:
                drawn = self.row.weigh(batch, drawn)
        if drawn is not None:
            if self.batches % WATCH_EVERY == 0:
                logs.warn_if_useless(drawn)
            self.batches += 1
        return drawn

    def gold_loss(self, model: Any, sample: dict[str, Any], reduce: bool) -> tuple[Tensor, Tensor]:
        """Eq. 5 on the batch as fairseq made it, and the same without label smoothing."""
        log_p = model.get_normalized_probs(model(**sample["net_input"]), log_probs=True)
        if self.settings.label_smoothing:
            flat, target = log_p.view(-1, log_p.size(-1)), sample["target"].view(-1)
            return label_smoothed_nll_loss(flat, target, self.settings.label_smoothing, self.padding_idx, reduce)
        loss = mstep.gold_loss(log_p, sample["target"], self.padding_idx, reduce)
        return loss, loss

    def drawn_loss(self, model: Any, sample: dict[str, Any], drawn: Drawn) -> tuple[Tensor, Tensor]:
        """M-step: the weighted loss of what was drawn, and the plain - Σ log p_θ of the same tokens."""
        inputs = {**sample["net_input"], "prev_output_tokens": drawn.previous(self.vocabulary)}
        packing = Packing.of(drawn.learnt, self.padding_idx)
        with shared_encoder(model, drawn.samples), in_pieces(model, packing):
            log_p = model.get_normalized_probs(model(**inputs), log_probs=True)[0]
        nll = mstep.gold_loss(log_p, drawn.learnt.flatten()[packing.at], self.padding_idx, reduce=True)
        whole = drawn.shares is not None or drawn.lift is not None
        if drawn.weights is None and not whole and not self.settings.label_smoothing:
            return nll, nll
        candidates = None
        if whole:
            gold = sample["target"].repeat_interleave(drawn.samples, 0)
            candidates = Candidates.of(Reference.of(gold, self.vocabulary), self.vocabulary)
        losses = mstep.drawn_losses(log_p, drawn, packing.at, candidates, self.settings.label_smoothing)
        return losses.sum(), nll.detach()

    def baseline_loss(self, drawn: Drawn | None) -> Tensor:
        """The learned baseline's own loss; 0, but part of the graph on every rank, where the model drew nothing."""
        assert self.baseline is not None
        if drawn is None or drawn.features is None:
            return self.baseline.weight.sum() * 0
        return mstep.baseline_loss(self.baseline(drawn.features), drawn)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's; None, from a checkpoint whose criterion had no parameters, leaves a learned baseline at its start."""
        return super().load_state_dict(self.state_dict() if state_dict is None else state_dict, strict, assign)

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        logs.reduce(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def register(row: Row) -> type[ErpoCriterion]:
    """Make `erpo_<row>` known to fairseq.  Registering a row twice is harmless."""
    name = f"erpo_{row.name}"
    if name in CRITERION_REGISTRY:
        return CRITERION_REGISTRY[name]
    title = "".join(part.capitalize() for part in name.split("_"))
    fields: list[tuple[str, Any, Any]] = []
    for flag in row.flags:
        default, text = row.defaults.get(flag, FLAGS[flag].default), FLAGS[flag].help
        fields.append((flag, FLAGS[flag].type, dataclasses.field(default=default, metadata={"help": text})))
    for field, (kind, source) in BORROWED.items():
        fields.append((field, kind, dataclasses.field(default=II(source))))
    made_here = {"__module__": __name__}
    config = dataclasses.make_dataclass(f"{title}Config", fields, bases=(FairseqDataclass,), namespace=made_here)
    criterion = type(title, (ErpoCriterion,), {"row": row, "__doc__": row.page, **made_here})
    # Spawned workers unpickle the configuration by its class's name in this module.
    setattr(sys.modules[__name__], config.__name__, config)
    setattr(sys.modules[__name__], title, criterion)
    return register_criterion(name, dataclass=config)(criterion)


for _row in FAMILY.values():
    register(_row)
