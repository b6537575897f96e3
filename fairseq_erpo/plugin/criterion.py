"""The fairseq criterion of every row: draw and weigh (E-step), then one weighted likelihood
(M-step).
"""

import logging
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from fairseq.criterions import FairseqCriterion
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor

from fairseq_erpo.algorithm import log_sums, mstep
from fairseq_erpo.algorithm.baselines import BASELINES, StepBaseline
from fairseq_erpo.algorithm.batch import Batch, Drawn, previous_tokens
from fairseq_erpo.algorithm.corpus_statistics import follows_model
from fairseq_erpo.algorithm.distinct import distinct
from fairseq_erpo.algorithm.draw import GOLD
from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.algorithm.schedule import Now
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.family import Row
from fairseq_erpo.family.effect import idle
from fairseq_erpo.family.flags import metric_of
from fairseq_erpo.family.resolve import named
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.plugin import train_log
from fairseq_erpo.plugin.batch import batch_of, vocabulary_of
from fairseq_erpo.plugin.checkpoints import another
from fairseq_erpo.plugin.clock import HISTORY
from fairseq_erpo.plugin.clocked_task import clocked
from fairseq_erpo.plugin.corpus_statistics import Follower
from fairseq_erpo.plugin.data_checks import check_training
from fairseq_erpo.plugin.decoder import sampling_mode, unwrapped
from fairseq_erpo.plugin.dictionaries import check_dictionaries
from fairseq_erpo.plugin.first_batch import check_decoder, check_targets
from fairseq_erpo.plugin.forward import in_pieces
from fairseq_erpo.plugin.row_inputs import RunCache, config_of, shards
from fairseq_erpo.plugin.safe_load import check_checkpoint

logger = logging.getLogger(__name__)

NEWEST = "checkpoint_last.pt"  # what fairseq restores if nothing else is named
WITHOUT_END = "40u"  # --erpo-anneal-every where a share of the run is none, for want of its end
WATCH_EVERY = 100  # batches between two checks for samples that cannot teach anything


def check_restore_file(name: str, save_dir: Path) -> None:
    """Raises ValueError if --restore-file names no file: fairseq would train from the beginning,
    into the same folder.
    """
    if name == NEWEST or "://" in name or Path(name).is_file():
        return
    best = save_dir.absolute() / "checkpoint_best.pt"
    fix = f"the best one here is --restore-file {best}" if best.is_file() else "give its whole path"
    raise ValueError(f"--restore-file: there is no file {name}; {fix}")


class Origins(NamedTuple):
    """What training goes on from."""

    restore_file: str
    finetune_from_model: str | None
    save_dir: Path

    def check(self, task: Any) -> None:
        """Raises ValueError if a file is missing, or of other dictionaries than the task's."""
        check_restore_file(self.restore_file, self.save_dir)
        # fairseq reads --finetune-from-model at the first launch only. Later it may be gone.
        first_launch = self.save_dir.is_dir() and not (self.save_dir / NEWEST).exists()
        if self.finetune_from_model and first_launch:
            check_same_words(self.finetune_from_model, task)
        newest = self.save_dir / NEWEST if self.restore_file == NEWEST else Path(self.restore_file)
        if newest.is_file():
            try:
                check_same_words(str(newest), task)
            except ValueError as error:
                raise ValueError(f"{error}; {another(str(newest))}") from None


def metric_of_run(cfg: Any, task: Any) -> str | None:
    """What the run validates by, which pays under --erpo-reward metric."""
    flags = config_of(task)
    bleu, rouge = getattr(flags, "eval_bleu", False), getattr(flags, "eval_rouge", False)
    return metric_of(bleu, rouge, cfg.best_checkpoint_metric)


def check_same_words(path: str, task: Any) -> None:
    """Raises ValueError if a checkpoint is damaged, or of other dictionaries than the task's."""
    check_dictionaries(check_checkpoint(path).get("task_state", {}), task, path)


def check_run(cfg: Any, settings: Settings, task: Any) -> None:
    """Refuse what can never take effect, or would fail after the first epoch.  Raises ValueError
    naming the flag.
    """
    schedule, metric = settings.schedule, cfg.best_checkpoint_metric
    pretrain = schedule.pretrain
    if cfg.seed < 0:
        raise ValueError(f"--seed must not be negative, and is {cfg.seed}")
    if schedule.plateau and cfg.disable_validation:
        raise ValueError(
            "--erpo-schedule plateau anneals by validation scores: leave --disable-validation out"
        )
    if pretrain.unit == "epoch" and 0 < cfg.max_epoch <= pretrain.number:
        raise ValueError(
            f"--erpo-pretrain {pretrain.number:g}e leaves nothing of --max-epoch {cfg.max_epoch} "
            "to anneal in"
        )
    for name in ("bleu", "rouge"):
        if metric.startswith(name) and not getattr(task.cfg, f"eval_{name}", False):
            raise ValueError(
                f"--best-checkpoint-metric {metric} needs --task erpo_translation --eval-{name}"
            )


class ErpoCriterion(FairseqCriterion):
    """loss = - Σ_t w_t log p_θ(target_t | inputs_<t) over what the row draws; gold cross-entropy in
    validation.
    """

    row: ClassVar[Row]
    origins: Origins | None = None
    spelt = ""  # the row's flags, as one would type them

    def __init__(self, task: Any, settings: Settings, cfg: Any) -> None:
        super().__init__(task)
        self.settings = settings
        self.seed: int = cfg.seed
        self.sentence_avg: bool = cfg.sentence_avg
        task.clock.seed = cfg.seed
        task.clock.max_epoch, task.clock.max_update = cfg.max_epoch, cfg.max_update
        task.clock.update_freq = tuple(cfg.update_freq)
        task.clock.metric, task.clock.maximize = (
            cfg.best_checkpoint_metric,
            cfg.maximize_best_checkpoint_metric,
        )
        task.clock.path = Path(cfg.save_dir) / HISTORY if settings.schedule.plateau else None
        self.vocabulary = vocabulary_of(task.target_dictionary)
        self.baseline = (
            StepBaseline(task.feature_size()) if BASELINES[settings.baseline].learned else None
        )
        self.cache = RunCache(task, settings, self.vocabulary, self.baseline)
        self.follower = (
            Follower(self.cache, Path(cfg.save_dir) if cfg.save_dir else None)
            if follows_model(settings)
            else None
        )
        self.checked = self.row.draw is GOLD  # which asks nothing of the model but its forward pass
        self.batches = 0

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> Self:
        """From the command line; bad input ends the program with one line that names the flag."""
        try:
            settings, spelt = cls.settings_of(cfg, task)
            if task.target_dictionary is None:
                raise ValueError("the --task has no target dictionary; use --task erpo_translation")
            if getattr(task.cfg, "left_pad_target", False):
                raise ValueError(
                    "--left-pad-target is not supported: targets are padded on the right"
                )
            check_run(cfg, settings, task)
            if settings.prior:
                check_same_words(settings.prior, task)
            if settings.samples_file and len(shards(task)) > 1:
                raise ValueError(
                    "--erpo-samples-file counts the sentences of one folder; give the data as "
                    "one, not as shards"
                )
            if settings.samples_file and cfg.erpo_samples is not None:
                raise ValueError(
                    "--erpo-samples-file has its own number of samples: leave --erpo-samples out"
                )
            if "erpo_prior" in cls.row.flags and not settings.prior:
                raise ValueError(f"erpo_{cls.row.name} needs --erpo-prior CHECKPOINT")
            if cls.row.only_logs_reward(settings):
                train_log.warn_if_only_logged(settings.targets)
            train_log.warn_of_idle(idle(cls.row.flags, cls.typed(cfg), settings))
            criterion = cls(clocked(task), settings, cfg)
            criterion.origins = Origins(
                cfg.restore_file, cfg.finetune_from_model, Path(cfg.save_dir)
            )
            criterion.spelt = spelt
            with named("erpo_samples_file"):
                _ = criterion.cache.predrawn  # read now, not in the middle of training
            return criterion
        except (ValueError, OSError) as error:
            raise SystemExit(f"erpo: {error}") from None

    @classmethod
    def typed(cls, cfg: Any) -> dict[str, Any]:
        """The row's flags as they were typed; None for one that was not."""
        return {name: getattr(cfg, name, None) for name in cls.row.flags}

    @classmethod
    def settings_of(cls, cfg: Any, task: Any) -> tuple[Settings, str]:
        """The row's flags, resolved, and as one would type them.  Raises ValueError naming the
        flag.
        """
        typed, metric = cls.typed(cfg), metric_of_run(cfg, task)
        settings = cls.row.settings(typed, metric)
        if settings.schedule.by_share and cfg.max_epoch <= 0 and cfg.max_update <= 0:
            if typed.get("erpo_anneal_every"):
                raise ValueError(
                    f"--erpo-anneal-every {settings.schedule.every} is a share of the run, which "
                    f"has no end: give --max-epoch or --max-update, or write {WITHOUT_END}"
                )
            typed["erpo_anneal_every"] = WITHOUT_END
            settings = cls.row.settings(typed, metric)
        return settings, cls.row.spelt(typed, metric)

    @property
    def now(self) -> Now:
        """This moment of training.  λ is a pure function of it."""
        return self.task.clock.now(self.settings.schedule.by_share)

    @property
    def mixture(self) -> Mixture:
        """λ now."""
        return self.settings.schedule.mixture(self.now)

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """The loss, the number of targets that it is normalised by, and what to log."""
        began = time.perf_counter()
        drawn = self.draw(model, sample) if self.training else None
        drew = time.perf_counter()
        if drawn is None:
            loss, nll, ntokens = *self.gold_loss(model, sample, reduce), sample["ntokens"]
            size, sequences = ntokens, sample["target"].size(0)
        else:
            loss, nll = self.drawn_loss(model, sample, drawn)
            ntokens = drawn.sample.tokens.ne(self.padding_idx).sum()
            size = ntokens if drawn.size is None else drawn.size
            sequences = drawn.sequences or len(drawn.sample.tokens)
        if self.baseline is not None and self.training:
            loss = loss + self.baseline_loss(drawn)
        sample_size = sequences if self.sentence_avg else size
        log = {"loss": loss.data, "nll_loss": nll.data, "ntokens": ntokens}
        log |= {"nsentences": sample["target"].size(0), "sample_size": sample_size}
        if self.training:
            self.task.clock.mixture = self.mixture
            log |= log_sums.sums(drawn, sample["target"], self.mixture, self.vocabulary)
            log |= {"draw_seconds": drew - began, "loss_seconds": time.perf_counter() - drew}
        return loss, sample_size, log

    def check_start(self) -> None:
        """End with one line if training cannot go on from what it is told to.  Asked by the trainer
        alone (`start`).
        """
        if self.origins is None:
            return
        logger.info(f"erpo_{self.row.name} trains with {self.spelt or 'no flags of its own'}")
        try:
            self.origins.check(self.task)
        except ValueError as error:
            raise SystemExit(f"erpo: {error}") from None

    def check(self, model: Any, sample: dict[str, Any]) -> None:
        """End with one line, before anything is drawn, if data, task or model are not fit
        for it.
        """
        # Not when the criterion is built: fairseq-validate builds a checkpoint's, and no file may
        # name what is imported.
        try:
            check_training(self.task, self.row, self.settings, self.cache, unwrapped(model))
            check_targets(sample, self.vocabulary)
            check_decoder(model, sample, self.padding_idx)
        except ValueError as error:
            raise SystemExit(f"erpo: {error}") from None
        self.checked = True

    def draw(self, model: Any, sample: dict[str, Any]) -> Drawn | None:
        """E-step: draw and weigh, without dropout and without gradient; None for the data
        themselves.
        """
        if not self.checked:
            self.check(model, sample)
        if self.settings.schedule.elapsed(self.now) is None:
            return None
        if self.follower is not None:
            self.settings = self.cache.settings = (
                self.follower.update(model, self.task.clock, self.seed) or self.settings
            )
        with sampling_mode(unwrapped(model)):
            batch = self.batch(model, sample)
            try:
                drawn = self.row.draw(batch)
            except ValueError as error:  # of a reward or a file that the user brought along
                raise SystemExit(f"erpo: {error}") from None
            if drawn is None:
                return None
            drawn = self.row.weigh(batch, drawn)
        if self.batches % WATCH_EVERY == 0:
            train_log.warn_if_useless(drawn)
        self.batches += 1
        return drawn

    def batch(self, model: Any, sample: dict[str, Any]) -> Batch:
        """fairseq's sample dictionary as plain tensors, at this moment of training."""
        update, stage = self.task.clock.update, self.settings.schedule.stage(self.now)
        return batch_of(
            sample,
            model,
            self.cache,
            seed=self.seed,
            update=update,
            mixture=self.mixture,
            stage=stage,
        )

    def gold_loss(self, model: Any, sample: dict[str, Any], reduce: bool) -> tuple[Tensor, Tensor]:
        """Eq. 5 on the batch as fairseq made it, and the same without label smoothing."""
        log_p = model.get_normalized_probs(model(**sample["net_input"]), log_probs=True)
        if self.settings.label_smoothing:
            flat, target = log_p.view(-1, log_p.size(-1)), sample["target"].view(-1)
            return label_smoothed_nll_loss(
                flat, target, self.settings.label_smoothing, self.padding_idx, reduce
            )
        loss = mstep.gold_loss(log_p, sample["target"], self.padding_idx, reduce)
        return loss, loss

    def drawn_loss(self, model: Any, sample: dict[str, Any], drawn: Drawn) -> tuple[Tensor, Tensor]:
        """M-step: the weighted loss of what was drawn, and the plain - Σ log p_θ of the same
        tokens.
        """
        inputs = {
            **sample["net_input"],
            "prev_output_tokens": previous_tokens(drawn.sample.tokens, self.vocabulary),
        }
        drawn = distinct(drawn)
        packing = Packing.from_targets(drawn.read(self.padding_idx), self.padding_idx)
        with in_pieces(model, packing, drawn.samples):
            log_p = model.get_normalized_probs(model(**inputs), log_probs=True)[0]
        return mstep.total_loss(
            log_p,
            drawn,
            packing.at,
            sample["target"],
            self.vocabulary,
            self.settings.label_smoothing,
        )

    def baseline_loss(self, drawn: Drawn | None) -> Tensor:
        """The learned baseline's own loss; 0, but part of the graph on every rank, where the model
        drew nothing.
        """
        assert self.baseline is not None
        if drawn is None or drawn.sample.features is None:
            return self.baseline.weight.sum() * 0
        return mstep.baseline_loss(self.baseline(drawn.sample.features), drawn)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's; None, from a checkpoint whose criterion had no parameters, leaves a learned
        baseline at its start.
        """
        return super().load_state_dict(
            self.state_dict() if state_dict is None else state_dict, strict, assign
        )

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        train_log.reduce(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
