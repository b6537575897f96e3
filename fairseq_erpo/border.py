"""The border: fairseq's dictionaries, samples and models as the plain tensors and functions that the engine knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from torch import Tensor, nn

from fairseq_erpo.compat import check_checkpoint
from fairseq_erpo.decoding import IncrementalDecoder, check_model, sampling_mode, splits_projection, unwrapped
from fairseq_erpo.engine import Batch
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.noising import NoiseStatistics, Noising, PredrawnSamples, real_words
from fairseq_erpo.packing import Packing
from fairseq_erpo.settings import Settings
from fairseq_erpo.uniforms import Draws
from fairseq_erpo.vocabulary import Vocabulary

MAX_STEPS = 256  # later time steps share the learned baseline of the last


def vocabulary_of(dictionary: Dictionary) -> Vocabulary:
    """What the sampler needs of fairseq's target dictionary; PAD, BOS and fillers are never drawn."""
    fillers = [i for i in range(len(dictionary)) if dictionary.count[i] == 0 and dictionary[i].startswith("madeupword")]
    special = {dictionary.pad(), dictionary.bos()} - {dictionary.eos()}
    never = (*sorted(special), *fillers)
    return Vocabulary(len(dictionary), dictionary.pad(), dictionary.eos(), dictionary.unk(), never)


def batch_of(
    sample: dict[str, Any], model: Any, resources: Resources, *, seed: int, update: int, mixture: Mixture, stage: int
) -> Batch:
    """fairseq's sample dictionary as plain tensors, at one moment of training."""
    model = unwrapped(model)
    check_model(model)

    def start(copies: int) -> IncrementalDecoder:
        inputs = {name: value for name, value in sample["net_input"].items() if name != "prev_output_tokens"}
        with shared_encoder(model, copies):
            return IncrementalDecoder(model, model.encoder(**inputs))

    return Batch(
        target=sample["target"],
        draws=Draws(sample["id"], seed, update),
        mixture=mixture,
        stage=stage,
        settings=resources.settings,
        vocabulary=resources.vocabulary,
        max_positions=model.max_decoder_positions(),
        start=start,
        sources=SourcesAt(resources, model, sample),
    )


@contextmanager
def shared_encoder(model: Any, copies: int) -> Iterator[None]:
    """Inside, the encoder reads each source once and hands out `copies` of its output, adjacent.

    The model's own forward stays the way in, so that data-parallel wrappers see it.
    """
    if copies == 1:
        yield
        return
    encoder = unwrapped(model).encoder

    def repeat(_: Any, inputs: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        tokens = inputs[0] if inputs else named["src_tokens"]
        order = torch.arange(len(tokens), device=tokens.device).repeat_interleave(copies)
        return encoder.reorder_encoder_out(out, order)

    handle = encoder.register_forward_hook(repeat, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def reordered(encoder: Any, encoder_out: Any, rows: Tensor) -> Any:
    """These sentences of the encoder's output, which stays as it is.  [n] int64"""
    if isinstance(encoder_out, dict):  # fairseq's models write into the dictionaries and lists that they are given
        encoder_out = {name: list(part) if isinstance(part, list) else part for name, part in encoder_out.items()}
    return encoder.reorder_encoder_out(encoder_out, rows)


@contextmanager
def in_pieces(model: Any, packing: Packing) -> Iterator[None]:
    """Inside, the decoder reads piece after piece and projects no padding: the model's output is [1, m, V], at `packing.at`.

    The model's own forward stays the way in, as in `shared_encoder`.
    """
    inner = unwrapped(model)
    decoder, whole = inner.decoder, inner.decoder.forward
    splits = splits_projection(decoder)
    layers = decoder.extract_features if splits else whole

    def forward(prev_output_tokens: Tensor, encoder_out: Any = None, **_: Any) -> tuple[Tensor, None]:
        parts = []
        for piece in packing.pieces:
            read = reordered(inner.encoder, encoder_out, piece.rows) if len(packing.pieces) > 1 else encoder_out
            out = layers(prev_output_tokens[piece.rows, : piece.width], encoder_out=read)[0]
            parts.append(out.flatten(0, 1)[piece.at])
        found = torch.cat(parts)[None]  # fairseq's output layers and adaptive softmax expect a batch and a time axis
        return (decoder.output_layer(found) if splits else found), None

    decoder.forward = forward
    try:
        yield
    finally:
        del decoder.forward


class StepBaseline(nn.Module):
    """MIXER's baseline (A.1): one linear function of the decoder's features for each time step."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(MAX_STEPS, features + 1))

    def forward(self, features: Tensor) -> Tensor:
        """[N, T, D] -> [N, T] float32; no gradient into the features"""
        step = torch.arange(features.size(1), device=features.device).clamp(max=MAX_STEPS - 1)
        weight = self.weight[step].float()
        return (features.detach().float() * weight[:, :-1]).sum(-1) + weight[:, -1]


class Resources:
    """What some rows need besides the batch; made when first asked for, kept for the run."""

    def __init__(self, task: Any, settings: Settings, vocabulary: Vocabulary, baseline: StepBaseline | None) -> None:
        self.task, self.settings, self.vocabulary, self.step_baseline = task, settings, vocabulary, baseline

    @cached_property
    def noising(self) -> Noising:
        """One pass over the training targets; memory grows with the distinct bigrams only."""
        dataset = self.task.dataset(self.task.cfg.train_subset)
        targets = (dataset.tgt[i] for i in range(len(dataset)))
        statistics = NoiseStatistics.count(targets, self.vocabulary.size, self.vocabulary.eos)
        return Noising.of(self.settings.noise, statistics, self.vocabulary, self.settings.gamma)

    @cached_property
    def words(self) -> Tensor:
        return real_words(self.vocabulary)

    @cached_property
    def predrawn(self) -> PredrawnSamples | None:
        if self.settings.samples_file is None:
            return None
        dictionary = self.task.target_dictionary

        def encode(line: str) -> list[int]:
            return [dictionary.index(word) for word in line.split()]

        return PredrawnSamples(self.settings.samples_file, encode, self.vocabulary)

    @cached_property
    def prior(self) -> Any:
        """The frozen prior. It is no part of the criterion's state."""
        if self.settings.prior is None:
            raise ValueError("this row needs --erpo-prior CHECKPOINT")
        check_checkpoint(self.settings.prior)
        (model,), _ = checkpoint_utils.load_model_ensemble([self.settings.prior], task=self.task)
        return model.eval().requires_grad_(False)


class SourcesAt:
    """`engine.Sources` for one batch."""

    def __init__(self, resources: Resources, model: Any, sample: dict[str, Any]) -> None:
        self.resources, self.model, self.sample = resources, model, sample
        self.device = sample["target"].device

    @property
    def noising(self) -> Noising:
        return self.resources.noising.to(self.device)

    @property
    def words(self) -> Tensor:
        return self.resources.words.to(self.device)

    @property
    def predrawn(self) -> PredrawnSamples | None:
        return self.resources.predrawn

    def baseline(self, features: Tensor) -> Tensor:
        assert self.resources.step_baseline is not None
        return self.resources.step_baseline(features)

    def log_p(self, tokens: Tensor, samples: int, prior: bool) -> Tensor:
        model = self.model
        if prior:
            like = next(model.parameters())
            model = self.resources.prior.to(like)
        vocabulary = self.resources.vocabulary
        previous = torch.cat([torch.full_like(tokens[:, :1], vocabulary.eos), tokens[:, :-1]], 1)
        with sampling_mode(model), shared_encoder(model, samples):
            out = model(**{**self.sample["net_input"], "prev_output_tokens": previous})
            log_p = model.get_normalized_probs(out, log_probs=True)
        return log_p.gather(2, tokens[:, :, None])[:, :, 0].float().masked_fill(tokens.eq(vocabulary.pad), 0)
