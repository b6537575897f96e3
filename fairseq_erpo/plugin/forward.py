"""The model's own forward, run on drawn sequences: sources encoded once, targets decoded without their padding.

The model's `forward` stays the entry, so that data-parallel wrappers see it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.plugin.decoder import splits_projection, unwrapped


@contextmanager
def shared_encoder(model: Any, copies: int) -> Iterator[None]:
    """Inside, the encoder reads each source once and returns `copies` of its output, adjacent."""
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
    """The encoder's output for these sentences, as a copy.  [n] int64"""
    if isinstance(encoder_out, dict):  # fairseq's models write into the dictionaries and lists that they are given
        encoder_out = {name: list(part) if isinstance(part, list) else part for name, part in encoder_out.items()}
    return encoder.reorder_encoder_out(encoder_out, rows)


@contextmanager
def in_pieces(model: Any, packing: Packing) -> Iterator[None]:
    """Inside, the decoder reads piece after piece and projects no padding: the model's output is [1, m, V], at `packing.at`."""
    inner = unwrapped(model)
    decoder, original = inner.decoder, inner.decoder.forward
    splits = splits_projection(decoder)
    layers = decoder.extract_features if splits else original

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
