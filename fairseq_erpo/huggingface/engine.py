"""One row at work on one model: draw (E-step), then one weighted likelihood (M-step).

B sentences, S samples of each, N = B·S drawn sequences, P given tokens, T steps, V words.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from fairseq_erpo.algorithm.baselines import BASELINES, StepBaseline
from fairseq_erpo.algorithm.batch import Batch, Drawn, data_sample, previous_tokens
from fairseq_erpo.algorithm.corpus_statistics import follows_model, with_statistics
from fairseq_erpo.algorithm.distinct import distinct
from fairseq_erpo.algorithm.mstep import baseline_loss, total_loss
from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.algorithm.schedule import Now
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.family.effect import idle
from fairseq_erpo.huggingface import mixer_baseline
from fairseq_erpo.huggingface.config import ErpoConfig, in_our_words
from fairseq_erpo.huggingface.conventions import Conventions
from fairseq_erpo.huggingface.corpus_follower import CorpusFollower
from fairseq_erpo.huggingface.data import COLUMNS, ID, Numbered
from fairseq_erpo.huggingface.decoder import (
    Projection,
    Sources,
    WithoutAdapter,
    base_of,
    behind_start,
    in_pieces,
)
from fairseq_erpo.huggingface.logs import DrawnLog
from fairseq_erpo.huggingface.rewards import NamedReward, rewards_of
from fairseq_erpo.huggingface.row_inputs import BatchInputs, RunInputs

logger = logging.getLogger(__name__)

GIVEN = "reward_funcs:given"  # what --erpo-reward is called where functions pay


class Record:
    """What was drawn for a micro-batch.  A plain object: transformers rebuilds tuples."""

    def __init__(self, drawn: Drawn, own: BatchInputs) -> None:
        self.drawn, self.target = drawn, own.target
        self.start, self.sources = own.sources.start, own.sources.ids


class Engine:
    """All that a row needs of a model, a tokenizer and the training data."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        data: Numbered,
        collate: Callable[[list[Any]], dict[str, Any]],
        args: ErpoConfig,
        reward_funcs: Any,
    ) -> None:
        """Raises ValueError for what does not fit together, before training."""
        self.model, self.args, self.row = model, args, args.family_row
        self.data, self.collate = data, collate
        self.projection = Projection(base_of(model))
        self.conventions = Conventions.found(
            self.projection.model, tokenizer, data.labels(), args.max_target_length
        )
        self.settings = self._resolved(reward_funcs)
        paid = self.settings.reward
        rewards: tuple[NamedReward, ...] = ()
        if isinstance(paid, str):
            rewards = rewards_of(reward_funcs, args.reward_weights, paid)
        self.inputs = RunInputs(data, tokenizer, self.conventions, self.settings, rewards)
        if "erpo_samples_file" in self.row.flags:
            _ = self.inputs.predrawn  # read now, not in the middle of training
        self.log = DrawnLog(tuple(reward.name for reward in rewards))
        self.follower = CorpusFollower(len(data)) if follows_model(self.settings) else None
        self.prior = self._frozen_prior()
        self.baseline = self._new_baseline() if BASELINES[self.settings.baseline].learned else None
        self.inputs.step_baseline = self.baseline

    def _resolved(self, reward_funcs: Any) -> Settings:
        flags = self.args.flags(self.conventions.vocabulary.size)
        if reward_funcs is not None:
            flags["erpo_reward"] = GIVEN
        try:
            settings = self.row.settings(flags, self.args.validated_by)
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
        elif hasattr(self.model, "peft_config"):
            return None
        else:
            prior = deepcopy(self.model)
        return Projection(prior.to(self.args.device).eval().requires_grad_(False))

    def _new_baseline(self) -> StepBaseline:
        """MIXER's, for as many features as the model shows to have."""
        batch = self.batch_of_sentences([0], Now())
        with torch.no_grad():
            features = batch.start(1).step(batch.target[:, :1])
        return StepBaseline(features.size(1)).to(self.args.device)

    # ---- E-step

    def draw(self, inputs: dict[str, Any], now: Now) -> Record:
        """Draw and weigh; y* itself before annealing begins.  The model must be in `eval` mode.

        Raises ValueError of a reward or a file that the user brought along.
        """
        begun = self.settings.schedule.elapsed(now) is not None
        if begun and self.follower is not None:
            self._follow(now)
        own = self._row_inputs(inputs)
        batch = self._batch(own, inputs[ID], now)
        try:
            drawn = self.row.draw(batch) if begun else None
            if drawn is not None:
                drawn = self.row.weigh(batch, drawn)
        except ValueError as error:
            raise ValueError(in_our_words(str(error))) from None
        self.log.add(drawn, own.target, batch.mixture, batch.vocabulary, own.means)
        if drawn is None:
            drawn = Drawn(data_sample(own.target, batch.vocabulary))
        return Record(drawn, own)

    def size(self, drawn: Drawn) -> Tensor:
        """What the loss is divided by.  -> scalar"""
        if drawn.size is not None:
            return drawn.size
        return drawn.learnt.ne(self.conventions.vocabulary.pad).sum()

    def _follow(self, now: Now) -> None:
        assert self.follower is not None

        def batch(numbers: Sequence[int]) -> Batch:
            return self.batch_of_sentences(numbers, now)

        statistics = self.follower.new(now.update, batch)
        if statistics is not None:
            self.settings = with_statistics(self.settings, statistics)

    def batch_of_sentences(self, numbers: Sequence[int], now: Now) -> Batch:
        """A batch of these sentences of the training data."""
        inputs = self.collate([self.data[number] for number in numbers])
        return self._batch(self._row_inputs(inputs), inputs[ID], now)

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
        return BatchInputs(self.inputs, sources, target, inputs[COLUMNS].values, prior)

    def _batch(self, own: BatchInputs, ids: Tensor, now: Now) -> Batch:
        """The same as the algorithm knows it, at one moment of training."""
        schedule = self.settings.schedule
        return Batch(
            target=own.target,
            draws=Draws(ids.to(own.device), self.args.seed, now.update),
            mixture=schedule.mixture(now),
            stage=schedule.stage(now),
            settings=self.settings,
            vocabulary=self.conventions.vocabulary,
            max_positions=self.conventions.positions,
            start=own.sources.decoder,
            inputs=own,
        )

    # ---- M-step

    def loss(self, model: Any, inputs: dict[str, Any], record: Record) -> Tensor:
        """- Σ_t w_t log p_θ(target_t | inputs_<t) over what was drawn.  -> scalar

        `model` is the entry that data-parallel training has wrapped.
        """
        drawn, vocabulary = distinct(record.drawn), self.conventions.vocabulary
        packing = Packing.from_targets(drawn.read(vocabulary.pad), vocabulary.pad)
        log_p = self._logits(model, inputs, record, packing).float().log_softmax(-1)
        smoothing = self.settings.label_smoothing
        loss, _ = total_loss(log_p, drawn, packing.at, record.target, vocabulary, smoothing)
        return loss if self.baseline is None else loss + self._baseline_loss(self.baseline, drawn)

    def _logits(
        self, model: Any, inputs: dict[str, Any], record: Record, packing: Packing
    ) -> Tensor:
        """Of what is learnt.  -> [m, V]"""
        copies, start = record.drawn.samples, record.start
        previous = previous_tokens(record.drawn.sample.tokens, self.conventions.vocabulary)
        read = behind_start(start.repeat_interleave(copies, 0), previous)
        decoder = self.projection.model.get_decoder()
        with in_pieces(decoder, packing, copies, given=start.size(1) - 1):
            out = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs.get("attention_mask"),
                decoder_input_ids=read,
                use_cache=False,
            )
        logits: Tensor = out.logits[0]
        return logits

    @staticmethod
    def _baseline_loss(baseline: StepBaseline, drawn: Drawn) -> Tensor:
        """The learned baseline's own loss; 0, but with a gradient, where the model drew nothing."""
        if drawn.sample.features is None:
            return baseline.weight.sum() * 0
        return baseline_loss(baseline(drawn.sample.features), drawn)

    # ---- what a checkpoint keeps besides transformers' own files

    def save(self, checkpoint: Path) -> None:
        """Into a checkpoint's folder."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        if self.follower is not None:
            self.follower.save(checkpoint)
        if self.baseline is not None:
            mixer_baseline.save(self.baseline, checkpoint)

    def load(self, checkpoint: Path) -> None:
        """From a checkpoint's folder.  Raises ValueError naming a damaged file."""
        statistics = None if self.follower is None else self.follower.load(checkpoint)
        if statistics is not None:
            self.settings = with_statistics(self.settings, statistics)
        if self.baseline is not None:
            mixer_baseline.load(self.baseline, checkpoint)
