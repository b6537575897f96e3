"""transformers' encoder-decoder models as the `StepDecoder` that the sampler needs, and as what the
loss needs: sources encoded once, targets decoded without their padding, and only what is learnt
projected to the vocabulary.

B sentences, S copies of each, N = B·S rows, P given tokens, T steps, D features, V words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from fairseq_erpo.algorithm.answers import outside_inference_mode
from fairseq_erpo.algorithm.packing import Packing


def base_of(model: Any) -> Any:
    """The model inside peft's wrapper, whose adapters stay at work."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


class Projection:
    """The way from the decoder's features to the vocabulary, apart from its layers.

    Where the model does more to its logits than to add a bias, its logits serve as the features.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.head = model, model.get_output_embeddings()
        self.bias: Tensor | None = getattr(model, "final_logits_bias", None)
        self.splits: bool | None = None  # until a forward pass has shown it

    def run(self, **inputs: Any) -> tuple[Tensor, Any]:
        """The model's forward pass, without its projection.  -> features [n, t, D], its output"""
        if self.splits is None:
            self._look(inputs)
        if not self.splits:
            out = self.model(**inputs)
            return out.logits, out
        kept: list[Tensor] = []

        def keep(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept.append(args[0])
            return (args[0][:, :0], *args[1:])

        hook = self.head.register_forward_pre_hook(keep)
        try:
            out = self.model(**inputs)
        finally:
            hook.remove()
        return kept[0], out

    def log_probs(self, features: Tensor) -> Tensor:
        """log p_θ.  [m, D] -> [m, V] float32"""
        if self.splits:
            features = self.head(features)
            if self.bias is not None:
                features = features + self.bias
        return features.float().log_softmax(-1)

    def _look(self, inputs: dict[str, Any]) -> None:
        """Whether head and bias are all that lies between features and logits."""
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            logits = self.model(**{**inputs, "use_cache": False, "cache": None}).logits
        finally:
            hook.remove()
        self.splits = len(seen) == 1
        if self.splits:
            found = self.log_probs(seen[0].flatten(0, 1))
            expected = logits.flatten(0, 1).float().log_softmax(-1)
            self.splits = torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


class Sources:
    """The sources of one batch and what the decoder is given first; encoded once by all who
    draw.
    """

    def __init__(self, projection: Projection, ids: Tensor, mask: Tensor, start: Tensor) -> None:
        """[B, S], [B, S] 1 at words, [B, 1 + P]"""
        self.projection, self.ids, self.mask, self.start = projection, ids, mask, start
        self.encoded: Tensor | None = None

    def read(self) -> Tensor:
        """The encoder's output.  -> [B, S, D]"""
        if self.encoded is None:
            encoder = self.projection.model.get_encoder()
            with outside_inference_mode():
                self.encoded = encoder(input_ids=self.ids, attention_mask=self.mask)[0]
        return self.encoded

    def decoder(self, copies: int) -> "CachedDecoder":
        """A decoder for so many copies of each sentence, adjacent."""
        rows = torch.arange(len(self.ids), device=self.ids.device).repeat_interleave(copies)
        return CachedDecoder(self, rows)


class CachedDecoder:
    """A `StepDecoder` over transformers' cache.  The start is read once for all copies."""

    def __init__(self, sources: Sources, rows: Tensor) -> None:
        """`rows` [N] int64 says which source each sequence has."""
        self.sources, self.projection, self.rows = sources, sources.projection, rows
        self.cache: Any = None
        self.encoded: Tensor | None = None  # [n, S, D] of the rows, from the first step on
        self.mask: Tensor | None = None

    def step(self, previous: Tensor) -> Tensor:
        """As `StepDecoder.step`."""
        if self.cache is None:
            return self._first()
        features, out = self._run(self.encoded, self.mask, previous[:, -1:], self.cache)
        self.cache = out.cache
        return features[:, -1]

    def _first(self) -> Tensor:
        """All copies of a sentence start alike: one pass for each source."""
        sources = self.sources
        features, out = self._run(sources.read(), sources.mask, sources.start, None)
        self.cache = out.cache
        self.cache.batch_select_indices(self.rows)
        self.encoded, self.mask = sources.read()[self.rows], sources.mask[self.rows]
        return features[self.rows, -1]

    def _run(
        self, encoded: Tensor | None, mask: Tensor | None, read: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        return self.projection.run(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=mask,
            decoder_input_ids=read,
            cache=cache,
            use_cache=True,
        )

    def log_probs(self, features: Tensor) -> Tensor:
        """As `StepDecoder.log_probs`."""
        return self.projection.log_probs(features)

    def keep(self, rows: Tensor) -> None:
        """As `StepDecoder.keep`."""
        self.rows = self.rows[rows]
        if self.cache is not None:
            assert self.encoded is not None and self.mask is not None
            self.cache.batch_select_indices(rows)
            self.encoded, self.mask = self.encoded[rows], self.mask[rows]

    def teacher_forced(self, previous: Tensor) -> Tensor:
        """As `StepDecoder.teacher_forced`."""
        sources = self.sources
        read = behind_start(sources.start[self.rows], previous)
        features, _ = self.projection.run(
            encoder_outputs=BaseModelOutput(last_hidden_state=sources.read()[self.rows]),
            attention_mask=sources.mask[self.rows],
            decoder_input_ids=read,
            use_cache=False,
        )
        return features[:, sources.start.size(1) - 1 :]


class WithoutAdapter:
    """The same decoder with peft's adapters switched off: the prior that LoRA began from."""

    def __init__(self, model: Any, sources: Sources, copies: int) -> None:
        self.model, self.decoder = model, sources.decoder(copies)

    def step(self, previous: Tensor) -> Tensor:
        """As `StepDecoder.step`."""
        with self.model.disable_adapter():
            return self.decoder.step(previous)

    def log_probs(self, features: Tensor) -> Tensor:
        """As `StepDecoder.log_probs`."""
        with self.model.disable_adapter():
            return self.decoder.log_probs(features)

    def keep(self, rows: Tensor) -> None:
        """As `StepDecoder.keep`."""
        self.decoder.keep(rows)

    def teacher_forced(self, previous: Tensor) -> Tensor:
        """As `StepDecoder.teacher_forced`."""
        with self.model.disable_adapter():
            return self.decoder.teacher_forced(previous)


def behind_start(start: Tensor, previous: Tensor) -> Tensor:
    """The decoder's inputs: what it is given, then the tokens so far without the algorithm's EOS.

    [N, 1 + P], [N, T] -> [N, P + T]
    """
    return torch.cat([start, previous[:, 1:]], 1)


@contextmanager
def in_pieces(decoder: Any, packing: Packing, copies: int, given: int) -> Iterator[None]:
    """Inside, the decoder reads piece after piece behind its `given` tokens, and gives what is
    learnt alone: the model's logits are [1, m, V], at `packing.at`.

    `copies` sequences, adjacent, have one source, which the model's forward pass is given once.
    The model's own `forward` stays the entry, so that data-parallel wrappers see it.
    """
    own = "forward" in vars(decoder)  # of somebody else's hook
    original = decoder.forward

    def forward(
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Any:
        parts = []
        for piece in packing.pieces:
            sources, mask = piece.rows // copies, encoder_attention_mask
            out = original(
                input_ids=input_ids[piece.rows, : given + piece.width],
                encoder_hidden_states=encoder_hidden_states[sources],
                encoder_attention_mask=None if mask is None else mask[sources],
                **others,
            )
            # Of a decoder that has its projection within, the logits
            name = "last_hidden_state" if "last_hidden_state" in out else "logits"
            parts.append(out[name][:, given:].flatten(0, 1)[piece.at])
        out[name] = torch.cat(parts)[None]
        return out

    decoder.forward = forward
    try:
        yield
    finally:
        if own:
            decoder.forward = original
        else:
            del decoder.forward
