"""`ErpoTrainer`: a `Seq2SeqTrainer` that draws before it learns.

The E-step runs where transformers fetches all micro-batches of an update (`get_batch_samples`): so
the size that the loss is divided by is known over micro-batches and ranks before the first one is
learnt.  It uses none of torch's random numbers, since a resumed run comes here before its random
state is restored.
"""

import math
from collections.abc import Callable
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

from fairseq_erpo.algorithm.schedule import Now, Run
from fairseq_erpo.annealers import falls
from fairseq_erpo.huggingface import completions
from fairseq_erpo.huggingface.card import with_row
from fairseq_erpo.huggingface.checks import check_run
from fairseq_erpo.huggingface.config import ErpoConfig
from fairseq_erpo.huggingface.data import (
    MODEL_COLUMNS,
    Collator,
    Numbered,
    check_map_style,
    check_sources,
    cuts_of,
    tokenised,
)
from fairseq_erpo.huggingface.decoder import base_of
from fairseq_erpo.huggingface.engine import Engine, Record
from fairseq_erpo.huggingface.mixer_baseline import BaselineUpkeep

DRAWN = "erpo_drawn"


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
            check_run(model, args)
        base = base_of(model)
        cuts = cuts_of(base, args)
        if train_dataset is not None:
            check_map_style(train_dataset)
            train_dataset = Numbered(tokenised(train_dataset, processing_class, args, cuts))
            check_sources(train_dataset, base)
        if data_collator is None:
            if processing_class is None:
                raise ValueError("give processing_class=, the model's tokenizer, or data_collator=")
            data_collator = DataCollatorForSeq2Seq(processing_class, model=base)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=tokenised(eval_dataset, processing_class, args, cuts),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.last: Record | None = None  # for the table of completions
        if train_dataset is None:
            return
        collate = self._get_collator_with_removed_columns(data_collator)
        self.engine = Engine(
            self.model, processing_class, train_dataset, collate, args, reward_funcs
        )
        self.engine.conventions.tell_generation(base, train_dataset.labels())
        if self.engine.baseline is not None:
            self.add_callback(BaselineUpkeep(self.engine.baseline, self.accelerator))

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
    def now(self) -> Now:
        """This moment of training: λ is a pure function of it."""
        state = self.state
        return Now(
            # Exact at an epoch's end, where `state.epoch` is a whole number
            epoch=1 + int(state.epoch or 0),
            update=state.global_step,
            falls=self._falls() if self.engine.settings.schedule.plateau else 0,
            run=Run(max(1, state.max_steps), self._updates_per_epoch()),
        )

    def _updates_per_epoch(self) -> int:
        loader = self.callback_handler.train_dataloader
        batches = 1 if loader is None else len(loader)
        return max(1, -(-batches // self.args.gradient_accumulation_steps))

    def _falls(self) -> int:
        """Falls of the evaluation's score since annealing began."""
        metric = self.args.metric_for_best_model or "loss"
        metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        scores = []
        for line in self.state.log_history:
            last = Now(math.ceil(line.get("epoch", 1)), int(line["step"]) - 1)  # the update before
            begun = self.engine.settings.schedule.elapsed(last) is not None
            if metric in line and begun:
                scores.append(line[metric])
        return falls(scores, bool(self.args.greater_is_better))

    # ---- E-step and M-step

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """All micro-batches of an update with what is drawn for each, and the size that the loss
        is divided by, over micro-batches and ranks.
        """
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        size, now = torch.zeros((), device=device), self.now
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                for inputs in samples:
                    self.last = inputs[DRAWN] = self.engine.draw(inputs, now)
                    size = size + self.engine.size(self.last.drawn)
        finally:
            self.model.train(was_training)
            # Weights that autocast has cast here know no gradient
            torch.clear_autocast_cache()
        return samples, self.accelerator.reduce(size, "sum")

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
        assert num_items_in_batch is not None  # of `get_batch_samples`
        # Data-parallel training averages gradients over ranks; the size is the sum over them
        share = self.accelerator.num_processes / num_items_in_batch
        return self.engine.loss(model, inputs, record) * share

    def create_optimizer(self, model: Any = None) -> Any:
        """`Seq2SeqTrainer`'s, and a group for the learned baseline."""
        optimizer = super().create_optimizer(model)
        baseline = self.engine.baseline
        if baseline is not None:
            known = [part for group in optimizer.param_groups for part in group["params"]]
            if all(part is not baseline.weight for part in known):
                optimizer.add_param_group({"params": [baseline.weight], "weight_decay": 0.0})
        return optimizer

    # ---- the log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`Seq2SeqTrainer`'s, and what was drawn since the last line of training."""
        if "loss" in logs:
            logs |= self.engine.log.figures(self.accelerator)
            if self.args.log_completions and self.is_world_process_zero():
                self._log_completions()
        super().log(logs, start_time)

    def _log_completions(self) -> None:
        """The table of what was drawn last."""
        if self.last is None or self.processing_class is None:
            return
        found = completions.completions(self.last, self.processing_class)
        completions.write(found, str(self.args.output_dir), self.state.global_step)
        if not self.args.disable_tqdm:
            completions.show(found, self.state.global_step)

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
        if isinstance(resume_from_checkpoint, str):
            self.engine.load(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First: a checkpoint counts as whole by the trainer's state, which is written last
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial))
            self.engine.save(folder / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """`Seq2SeqTrainer`'s, with row, preset, reward and λ."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            with_row(Path(str(self.args.output_dir)) / "README.md", self.engine, self.now)


def last_checkpoint(folder: str | None) -> str | None:
    """The newest checkpoint that was written to its end; None where there is none."""
    found = Path(folder or ".").glob("checkpoint-*/trainer_state.json")
    numbered = [path.parent for path in found if path.parent.name[11:].isdigit()]
    return str(max(numbered, key=lambda path: int(path.name[11:]))) if numbered else None
