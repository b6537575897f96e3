"""How the model is asked: sources encoded once, targets decoded without their padding.

The model's `forward` stays the entry of the loss, so that data-parallel wrappers see it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.plugin.decoder import reordered, splits_projection, unwrapped


class Encoded:
    """The encoder's output for one batch, without dropout, as p_θ is; read once by all who draw."""

    def __init__(self, model: Any, sample: dict[str, Any]) -> None:
        self.model = unwrapped(model)
        self.inputs = {
            name: value
            for name, value in sample["net_input"].items()
            if name != "prev_output_tokens"
        }
        self.out: Any = None  # until somebody asks

    def read(self, copies: int) -> Any:
        """The encoder's output, each source `copies` times, adjacent."""
        encoder = self.model.encoder
        if self.out is None:
            with torch.no_grad():
                self.out = encoder(**self.inputs)
        sources = torch.arange(
            len(self.inputs["src_tokens"]), device=self.inputs["src_tokens"].device
        )
        return (
            self.out
            if copies == 1
            else reordered(encoder, self.out, sources.repeat_interleave(copies))
        )


@contextmanager
def in_pieces(model: Any, packing: Packing, copies: int) -> Iterator[None]:
    """Inside, the decoder reads piece after piece and projects no padding: the model's output is
    [1, m, V], at `packing.at`.

    `copies` sequences, adjacent, have one source, which the encoder reads once.
    """
    inner = unwrapped(model)
    decoder, original = inner.decoder, inner.decoder.forward
    splits = splits_projection(decoder)
    layers = decoder.extract_features if splits else original

    def forward(
        prev_output_tokens: Tensor, encoder_out: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        parts = []
        for piece in packing.pieces:
            whole = len(packing.pieces) == copies == 1
            read = (
                encoder_out
                if whole
                else reordered(inner.encoder, encoder_out, piece.rows // copies)
            )
            out = layers(prev_output_tokens[piece.rows, : piece.width], encoder_out=read)[0]
            parts.append(out.flatten(0, 1)[piece.at])
        # Fairseq's output layers and adaptive softmax expect a batch and a time axis
        found = torch.cat(parts)[None]
        return (decoder.output_layer(found) if splits else found), None

    decoder.forward = forward
    try:
        yield
    finally:
        del decoder.forward
