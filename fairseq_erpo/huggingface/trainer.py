"""`ErpoTrainer`: a `Seq2SeqTrainer` that draws before it learns.

The E-step runs where transformers fetches all micro-batches of an update (`get_batch_samples`): so
the size that the loss is divided by is known over micro-batches and ranks before the first one is
learnt.  It uses none of torch's random numbers, since a resumed run comes here before its random
state is restored.

B sentences, S samples of each, N = B·S drawn sequences, P given tokens, T steps.
"""

import logging
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
)

from fairseq_erpo.algorithm.batch import Batch, Drawn, data_sample, previous_tokens
from fairseq_erpo.algorithm.corpus_statistics import follows_model, with_statistics
from fairseq_erpo.algorithm.mstep import total_loss
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.annealers import falls
from fairseq_erpo.family.effect import idle
from fairseq_erpo.huggingface.checks import check_run
from fairseq_erpo.huggingface.config import ErpoConfig, in_our_words
from fairseq_erpo.huggingface.conventions import Conventions
from fairseq_erpo.huggingface.corpus_follower import CorpusFollower
from fairseq_erpo.huggingface.data import (
    COLUMNS,
    ID,
    MODEL_COLUMNS,
    Collator,
    Numbered,
    check_map_style,
    tokenised,
)
from fairseq_erpo.huggingface.decoder import (
    Projection,
    Sources,
    WithoutAdapter,
    base_of,
    behind_start,
    encoded_once,
    projected_at,
)
from fairseq_erpo.huggingface.logs import DrawnLog
from fairseq_erpo.huggingface.rewards import NamedReward, rewards_of
from fairseq_erpo.huggingface.row_inputs import BatchInputs, RunInputs
from fairseq_erpo.mixture import Mixture

logger = logging.getLogger(__name__)

DRAWN = "erpo_drawn"


class Record:
    """What was drawn for a micro-batch.  A plain object: transformers rebuilds tuples."""

    def __init__(self, drawn: Drawn, target: Tensor, start: Tensor) -> None:
        self.drawn, self.target, self.start = drawn, target, start


class ErpoTrainer(Seq2SeqTrainer):
    """A row of the family on any encoder-decoder model of transformers.

    loss = - Σ_t w_t log p_θ(target_t | inputs_<t) over what the row draws, divided by the number of
    targets of the whole update, over micro-batches and ranks.  Evaluation, callbacks, checkpoints
    and the Hub are `Seq2SeqTrainer`'s.
    """

    loss_is_scaled_for_ga = True
    model: Any
    args: ErpoConfig

    def __init__(
        self,
        model: Any,
        args: ErpoConfig,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_funcs: Any = None,
        peft_config: Any = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """`model` is a model, a PEFT model, or a name.  Datasets have text columns, or `input_ids`
        and `labels`.  `reward_funcs` are names and functions (`rewards`) in the place of
        `args.reward`.

        Raises ValueError, in one line, for what cannot be trained.
        """
        if isinstance(model, str):
            processing_class = processing_class or AutoTokenizer.from_pretrained(model)
            model = AutoModelForSeq2SeqLM.from_pretrained(model)
        check_run(model, args)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        if train_dataset is not None:
            check_map_style(train_dataset)
            train_dataset = Numbered(tokenised(train_dataset, processing_class, args))
        if data_collator is None:
            data_collator = DataCollatorForSeq2Seq(processing_class, model=base_of(model))
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=tokenised(eval_dataset, processing_class, args),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.row = args.family_row
        self.follower: CorpusFollower | None = None
        if train_dataset is not None:
            self._prepare(train_dataset, reward_funcs)

    def _prepare(self, data: Numbered, reward_funcs: Any) -> None:
        """Everything that a draw needs, checked before training."""
        args, base = self.args, base_of(self.model)
        self.projection = Projection(base)
        self.conventions = Conventions.found(
            base, self.processing_class, data.labels(), args.max_target_length
        )
        self.settings = self._settings(reward_funcs)
        paid = self.settings.reward
        rewards: tuple[NamedReward, ...] = ()
        if isinstance(paid, str):
            rewards = rewards_of(reward_funcs, args.reward_weights, paid)
        self.run_inputs = RunInputs(
            data, self.processing_class, self.conventions, self.settings, rewards
        )
        if "erpo_samples_file" in self.row.flags:
            _ = self.run_inputs.predrawn  # read now, not in the middle of training
        self.drawn_log = DrawnLog(tuple(reward.name for reward in rewards))
        self.mixture = Mixture(0, 0, 1)
        if follows_model(self.settings):
            self.follower = CorpusFollower(len(data), self._batch_of_sentences)
        self.prior = self._frozen_prior()

    def _settings(self, reward_funcs: Any) -> Settings:
        """The row's flags, resolved; what the names of functions stand for is called by `paid`."""
        flags = self.args.flags(self.conventions.vocabulary.size)
        if reward_funcs is not None:
            flags["erpo_reward"] = "reward_funcs:given"
        try:
            settings = self.row.settings(flags)
        except ValueError as error:
            raise ValueError(in_our_words(str(error))) from None
        for line in idle(self.row.flags, flags, settings):
            logger.warning(in_our_words(line))
        if settings.schedule.plateau and self.args.eval_strategy == "no":
            raise ValueError(
                "--schedule plateau anneals by evaluations: give --eval-strategy epoch"
            )
        return settings

    def _frozen_prior(self) -> Projection | None:
        """A frozen copy for the rows that have a prior; None: the model without its adapters."""
        if "erpo_prior" not in self.row.flags:
            return None
        if self.settings.prior is not None:
            prior = AutoModelForSeq2SeqLM.from_pretrained(self.settings.prior)
            prior = prior.to(self.args.device)
        elif hasattr(self.model, "peft_config"):
            return None
        else:
            prior = deepcopy(self.model)
        return Projection(prior.eval().requires_grad_(False))

    # ---- rows keep their numbers and their other columns

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known: Any = self._signature_columns
        known += [name for name in MODEL_COLUMNS if name not in known]

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        return dataset

    def _get_collator_with_removed_columns(
        self, data_collator: Callable[[list[Any]], Any], description: str | None = None
    ) -> Collator:
        self._set_signature_columns_if_needed()
        return Collator(data_collator, self._signature_columns or ())

    # ---- the clock

    @property
    def now(self) -> tuple[int, int, int]:
        """Epoch (from 1), update, and falls of the validation score: λ is a pure function of it."""
        # Exact at an epoch's end, where `epoch` is a whole number
        epoch = 1 + int(self.state.epoch or 0)
        fallen = self._falls() if self.settings.schedule.plateau else 0
        return epoch, self.state.global_step, fallen

    def _falls(self) -> int:
        """Falls of the evaluation's score since annealing began."""
        metric = self.args.metric_for_best_model or "loss"
        metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        scores = []
        for line in self.state.log_history:
            # Of the last update before it
            epoch, update = max(1, math.ceil(line.get("epoch", 0))), int(line["step"]) - 1
            begun = self.settings.schedule.elapsed(epoch, update, 0) is not None
            if metric in line and begun:
                scores.append(line[metric])
        return falls(scores, bool(self.args.greater_is_better))

    # ---- E-step

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """All micro-batches of an update with what is drawn for each, and the size that the loss
        is divided by, over micro-batches and ranks.
        """
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        size = torch.zeros((), device=device)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                for inputs in samples:
                    record = self._draw(inputs)
                    inputs[DRAWN] = record
                    size = size + self._size(record.drawn)
        finally:
            self.model.train(was_training)
            # Weights that autocast has cast here know no gradient
            torch.clear_autocast_cache()
        return samples, self.accelerator.reduce(size, "sum")

    def _size(self, drawn: Drawn) -> Tensor:
        if drawn.size is not None:
            return drawn.size
        return drawn.learnt.ne(self.conventions.vocabulary.pad).sum()

    def _draw(self, inputs: dict[str, Any]) -> Record:
        """Draw and weigh, without dropout and without gradient."""
        now = self.now
        self.mixture = self.settings.schedule.mixture(*now)
        begun = self.settings.schedule.elapsed(*now) is not None
        if begun and self.follower is not None:
            self._use(self.follower.new(now[1]))
        own = self._row_inputs(inputs)
        batch = self._batch(own, inputs[ID])
        try:
            drawn = self.row.draw(batch) if begun else None
            if drawn is not None:
                drawn = self.row.weigh(batch, drawn)
        except ValueError as error:  # of a reward or a file that the user brought along
            raise ValueError(in_our_words(str(error))) from None
        vocabulary = self.conventions.vocabulary
        self.drawn_log.add(drawn, own.target, self.mixture, vocabulary, own.means)
        if drawn is None:
            drawn = Drawn(data_sample(own.target, vocabulary))
        return Record(drawn, own.target, own.sources.start)

    def _use(self, statistics: Any) -> None:
        """Go on with other statistics of corpus BLEU; None: with the same."""
        if statistics is not None:
            self.settings = with_statistics(self.settings, statistics)

    def _row_inputs(self, inputs: dict[str, Any]) -> BatchInputs:
        """A batch of transformers' as plain tensors."""
        device = self.args.device
        labels, ids = inputs["labels"].to(device), inputs["input_ids"].to(device)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.to(device)
        start, target = self.conventions.split(self.projection.model, labels)

        def prior(copies: int) -> Any:
            if self.prior is not None:
                return Sources(self.prior, ids, mask, start).decoder(copies)
            return WithoutAdapter(self.model, Sources(self.projection, ids, mask, start), copies)

        sources = Sources(self.projection, ids, mask, start)
        return BatchInputs(self.run_inputs, sources, target, inputs[COLUMNS].values, prior)

    def _batch(self, own: BatchInputs, ids: Tensor) -> Batch:
        """The same as the algorithm knows it, at this moment of training."""
        now, schedule = self.now, self.settings.schedule
        return Batch(
            target=own.target,
            draws=Draws(ids.to(own.device), self.args.seed, now[1]),
            mixture=schedule.mixture(*now),
            stage=schedule.stage(*now),
            settings=self.settings,
            vocabulary=self.conventions.vocabulary,
            max_positions=self.conventions.positions,
            start=own.sources.decoder,
            inputs=own,
        )

    def _batch_of_sentences(self, numbers: Sequence[int]) -> Batch:
        """A batch of these sentences of the training data."""
        collate = self._get_collator_with_removed_columns(self.data_collator)
        inputs = collate([self.run_inputs.data[number] for number in numbers])
        return self._batch(self._row_inputs(inputs), inputs[ID])

    # ---- M-step

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted loss of what was drawn; in evaluation, `Seq2SeqTrainer`'s."""
        record = inputs.pop(DRAWN, None)
        if record is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        drawn, vocabulary = record.drawn, self.conventions.vocabulary
        start = self._copied(record.start, drawn)
        previous = previous_tokens(drawn.sample.tokens, vocabulary)
        at = drawn.learnt.flatten().ne(vocabulary.pad).nonzero()[:, 0]
        read = behind_start(start, previous)
        steps, given = previous.size(1), start.size(1) - 1
        where = at // steps * read.size(1) + given + at % steps
        mask = inputs.get("attention_mask")
        base = self.projection.model
        with (
            encoded_once(base.get_encoder(), drawn.samples),
            projected_at(self.projection.head, where),
        ):
            logits = model(
                input_ids=self._copied(inputs["input_ids"], drawn),
                attention_mask=None if mask is None else self._copied(mask, drawn),
                decoder_input_ids=read,
                use_cache=False,
            ).logits[0]
        log_p = logits.float().log_softmax(-1)
        smoothing = self.settings.label_smoothing
        loss, _ = total_loss(log_p, drawn, at, record.target, vocabulary, smoothing)
        assert num_items_in_batch is not None  # of `get_batch_samples`
        # Data-parallel training averages gradients over ranks; the size is the sum over them
        return loss / num_items_in_batch * self.accelerator.num_processes

    @staticmethod
    def _copied(part: Tensor, drawn: Drawn) -> Tensor:
        """Each source S times, adjacent.  [B, ...] -> [B·S, ...]"""
        return part.repeat_interleave(drawn.samples, 0) if drawn.samples > 1 else part

    # ---- the log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`Seq2SeqTrainer`'s, and what was drawn since the last line of training."""
        if "loss" in logs:
            logs |= self.drawn_log.figures(self.accelerator)
        super().log(logs, start_time)

    # ---- checkpoints

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """`Seq2SeqTrainer`'s.  True resumes from the last whole checkpoint of `output_dir`, and
        begins where there is none.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if isinstance(resume_from_checkpoint, str) and self.follower is not None:
            self._use(self.follower.load(resume_from_checkpoint))
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First: a checkpoint counts as whole by the trainer's state, which is written last
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial))
            self._save_own(folder / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _save_own(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.follower is not None:
            self.follower.save(folder)


def last_checkpoint(folder: str | None) -> str | None:
    """The newest checkpoint that was written to its end; None where there is none."""
    found = Path(folder or ".").glob("checkpoint-*/trainer_state.json")
    numbered = [path.parent for path in found if path.parent.name[11:].isdigit()]
    return str(max(numbered, key=lambda path: int(path.name[11:]))) if numbered else None
