"""fairseq's encoder-decoder models as the `StepDecoder` that the sampler needs."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from fairseq.models import FairseqDecoder, FairseqEncoderDecoderModel, FairseqIncrementalDecoder
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fairseq_erpo.plugin.transformer_steps import TransformerSteps, takes

INPUTS = ("src_tokens", "src_lengths", "prev_output_tokens")  # of a model's forward pass


def check_model(model: Any) -> None:
    """Raise ValueError, naming the class, unless the model can be asked one token at a time."""
    name = type(model).__name__
    if not isinstance(model, FairseqEncoderDecoderModel):
        raise ValueError(
            f"{name} is not an encoder-decoder model: choose an --arch such as transformer or lstm"
        )
    if not isinstance(model.decoder, FairseqIncrementalDecoder):
        raise ValueError(
            f"the decoder of {name} does not decode step by step: "
            "choose an --arch such as transformer or lstm"
        )
    wanted = inspect.signature(model.forward).parameters.values()
    others = [
        p.name
        for p in wanted
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in INPUTS
    ]
    if others:
        raise ValueError(
            f"{name} reads {', '.join(others)} beside the words so far: "
            "choose an --arch such as transformer or lstm"
        )


def check_projection(model: Any) -> None:
    """Raise ValueError for fairseq's adaptive softmax: all words' log p, which the loss needs, have
    no gradient there.
    """
    if getattr(model.decoder, "adaptive_softmax", None) is not None:
        raise ValueError(
            "--adaptive-softmax-cutoff has no gradient through log p of all words: leave it out"
        )


def unwrapped(model: Any) -> Any:
    """The model inside the wrappers of data-parallel training."""
    while hasattr(model, "module"):
        model = model.module
    return model


@contextmanager
def sampling_mode(model: Any) -> Iterator[None]:
    """Dropout off while sampling, and training mode as it was afterwards; no gradient."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        # Weights that autocast has cast here know no gradient, and some versions of torch (2.6)
        # would hand them to the loss.
        torch.clear_autocast_cache()


def feature_size(model: Any) -> int:
    """How many features the decoder has before its vocabulary projection: asked of the model
    itself.
    """
    check_model(model)
    device = next(model.parameters()).device
    eos = torch.full((1, 1), model.decoder.dictionary.eos(), dtype=torch.int64, device=device)
    with sampling_mode(model):
        decoder = IncrementalDecoder(
            model, model.encoder(eos, src_lengths=torch.ones(1, dtype=torch.int64, device=device))
        )
        return decoder.step(eos).size(1)


def splits_projection(decoder: FairseqDecoder) -> bool:
    """Whether the vocabulary projection is split from the layers, so that it can be left out."""
    # Not by hasattr: fairseq's base classes have both methods, and raise.
    kind, bases = type(decoder), (FairseqDecoder, FairseqIncrementalDecoder)
    return all(kind.extract_features is not base.extract_features for base in bases) and (
        kind.output_layer is not FairseqDecoder.output_layer
    )


def reordered(encoder: Any, encoder_out: Any, rows: Tensor) -> Any:
    """The encoder's output for these sentences, as a copy.  [n] int64"""
    # Fairseq's models write into the dictionaries and lists that they are given
    if isinstance(encoder_out, dict):
        encoder_out = {
            name: list(part) if isinstance(part, list) else part
            for name, part in encoder_out.items()
        }
    return encoder.reorder_encoder_out(encoder_out, rows)


class FewRows(TorchFunctionMode):
    """Inside, a linear layer whose weights fit no cache multiplies weights by features, not
    features by weights, for few rows.

    On a CPU that takes half the time for two to eight rows (docs/performance.md); the numbers are
    the same but for rounding.
    """

    ROWS = range(2, 10)
    LEAST = 2**22  # numbers in the weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and not kwargs:
            features, weight, *bias = args
            flat = features.flatten(0, -2)
            if (
                len(flat) in self.ROWS
                and weight.numel() >= self.LEAST
                and weight.device.type == "cpu"
            ):
                out = torch.mm(weight, flat.t()).t().contiguous().unflatten(0, features.shape[:-1])
                return out if not bias or bias[0] is None else out + bias[0]
        return func(*args, **(kwargs or {}))


class IncrementalDecoder:
    """A `StepDecoder` over fairseq's models: by `TransformerSteps` where it knows the decoder, else
    by fairseq's own cache.
    """

    def __init__(self, model: FairseqEncoderDecoderModel, encoder_out: Any) -> None:
        self.model = model
        self.encoder_out = encoder_out
        self.state: dict[str, dict[str, Tensor | None]] = {}
        self.splits = splits_projection(model.decoder)
        self.own = takes(model.decoder) and isinstance(encoder_out, dict)
        self.steps: TransformerSteps | None = None  # from the first step on

    @property
    def inputs(self) -> tuple[Tensor, Tensor] | None:
        """As `GraphDecoder.inputs`: [S, n, D] and [n, S], what `TransformerSteps` reads."""
        if not self.own:
            return None
        source, masks = self.encoder_out["encoder_out"][0], self.encoder_out["encoder_padding_mask"]
        return source, masks[0] if masks else source.new_zeros(
            source.shape[1::-1], dtype=torch.bool
        )

    @property
    def key(self) -> tuple[int, ...]:
        """As `GraphDecoder.key`."""
        return (id(self.model), *(part.data_ptr() for part in self.model.decoder.parameters()))

    def rebuilt(self, inputs: Sequence[Tensor]) -> "IncrementalDecoder":
        """As `GraphDecoder.rebuilt`."""
        again = copy(self)
        again.steps = TransformerSteps(self.model.decoder, *inputs)
        return again

    def step(self, previous: Tensor) -> Tensor:
        if self.steps is None and self.inputs is not None:
            self.steps = TransformerSteps(self.model.decoder, *self.inputs)
        if self.steps is not None:
            return self.steps.step(previous)
        decode = self.model.decoder.extract_features if self.splits else self.model.decoder
        out = decode(previous, encoder_out=self.encoder_out, incremental_state=self.state)
        return out[0][:, -1]

    def log_probs(self, features: Tensor) -> Tensor:
        # fairseq's adaptive softmax and output layers expect a time axis.
        logits = features[:, None]
        if self.splits:
            with FewRows():
                logits = self.model.decoder.output_layer(logits)
        return self.model.get_normalized_probs((logits, None), log_probs=True)[:, 0]

    def keep(self, rows: Tensor) -> None:
        if self.steps is not None:
            self.steps.keep(rows)
            return
        self.encoder_out = reordered(self.model.encoder, self.encoder_out, rows)
        if self.state:
            self.model.decoder.reorder_incremental_state_scripting(self.state, rows)

    def teacher_forced(self, previous: Tensor) -> Tensor:
        decode = self.model.decoder.extract_features if self.splits else self.model.decoder
        features: Tensor = decode(previous, encoder_out=self.encoder_out)[0]
        return features
