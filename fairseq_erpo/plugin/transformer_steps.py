"""fairseq's Transformer decoder one position at a time, in half of fairseq's own operations.

Keys and values of all layers lie in one tensor each, allocated once; the three projections of
self-attention are one; nothing is asked of the device.  So a step has a fixed shape, which a CUDA
graph can hold, and on a CPU it is the faster way, too.  The arithmetic is fairseq's own, but for
the order of sums.

n sentences, t tokens so far, T at most, S source positions, L layers, H heads, D features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayer, TransformerDecoderLayerBase
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

DECODERS = (TransformerDecoder, TransformerDecoderBase)
LAYERS = (TransformerDecoderLayer, TransformerDecoderLayerBase)
# What fairseq's layers may have besides, and this class does not know.
UNKNOWN = ("attn_ln", "c_attn", "ffn_layernorm", "w_resid")


def plain(attention: Any) -> bool:
    """Whether this is attention without extras."""
    extras = (attention.bias_k, attention.add_zero_attn, getattr(attention, "use_xformers", False))
    linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    return (
        type(attention) is MultiheadAttention
        and not any(extra is not None and extra is not False for extra in extras)
        and all(type(part) is torch.nn.Linear and part.bias is not None for part in linear)
    )


def takes(decoder: Any) -> bool:
    """Whether this decoder is one that `TransformerSteps` computes exactly."""
    if type(decoder) not in DECODERS or decoder.cross_self_attention:
        return False
    if decoder.quant_noise is not None or decoder.adaptive_softmax is not None:
        return False
    return all(
        type(layer) in LAYERS
        and all(getattr(layer, name, None) is None for name in UNKNOWN)
        and layer.encoder_attn is not None
        and plain(layer.self_attn)
        and plain(layer.encoder_attn)
        and type(layer.fc1) is type(layer.fc2) is torch.nn.Linear
        for layer in decoder.layers
    )


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ROOM = 16  # positions that keys and values have room for at first; then twice as many


class TransformerSteps:
    """The features of the next position, for as many sentences as are kept."""

    def __init__(self, decoder: Any, source: Tensor, padding: Tensor) -> None:
        """[S, n, D] the encoder's output, [n, S] bool: True at its padding"""
        self.decoder, self.t = decoder, 0
        layers = decoder.layers
        self.heads = layers[0].self_attn.num_heads
        joined = [
            (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
            for layer in layers
        ]
        self.weights = [torch.cat([part.weight for part in parts]) for parts in joined]
        self.biases = [torch.cat([part.bias for part in parts]) for parts in joined]
        kv = [
            project(source)
            for layer in layers
            for project in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
        ]
        memory = torch.stack(kv).unflatten(-1, (self.heads, -1))  # [2 L, S, n, H, D/H]
        memory = memory.permute(0, 2, 3, 1, 4).contiguous()
        self.memory = memory.unflatten(0, (len(layers), 2))  # [L, 2, n, H, S, D/H]
        zero = torch.zeros((), dtype=memory.dtype, device=memory.device)
        mask = zero.expand(padding.shape).masked_fill(padding, -torch.inf)
        self.mask = mask[:, None, None]  # [n, 1, 1, S]
        # Keys and values of the tokens so far.  [T, L, 2, n, H, D/H]
        shape = (ROOM, len(layers), 2, padding.size(0), self.heads, memory.size(-1))
        self.cache = torch.empty(shape, dtype=memory.dtype, device=memory.device)

    def step(self, previous: Tensor) -> Tensor:
        """As `StepDecoder.step`.  [n, t + 1] int64 -> [n, D]"""
        if self.t == len(self.cache):
            self.cache = torch.cat([self.cache, torch.empty_like(self.cache)])
        decoder = self.decoder
        x = decoder.embed_tokens(previous[:, -1]) * decoder.embed_scale
        if decoder.project_in_dim is not None:
            x = decoder.project_in_dim(x)
        if decoder.embed_positions is not None:
            x = x + self._position(previous).to(x)
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        for number, layer in enumerate(decoder.layers):
            x = self._layer(number, layer, x)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        if decoder.project_out_dim is not None:
            x = decoder.project_out_dim(x)
        self.t += 1
        return x

    def _position(self, previous: Tensor) -> Tensor:
        """The embedding of position t, at padding_idx + 1 + t of fairseq's tables.  -> [D]"""
        table = self.decoder.embed_positions
        at = table.padding_idx + 1 + self.t
        if not hasattr(table, "weights"):
            return table.weight[at]
        if at >= len(table.weights):
            table(previous)  # which makes its sinusoids longer
        return table.weights[at]

    def _layer(self, number: int, layer: Any, x: Tensor) -> Tensor:
        before = layer.normalize_before
        y = layer.self_attn_layer_norm(x) if before else x
        x = x + self._own_attention(number, layer.self_attn, y)
        x = x if before else layer.self_attn_layer_norm(x)
        y = layer.encoder_attn_layer_norm(x) if before else x
        x = x + self._source_attention(number, layer.encoder_attn, y)
        x = x if before else layer.encoder_attn_layer_norm(x)
        y = layer.final_layer_norm(x) if before else x
        x = x + layer.fc2(layer.activation_fn(layer.fc1(y)))
        return x if before else layer.final_layer_norm(x)

    def _own_attention(self, number: int, attention: Any, x: Tensor) -> Tensor:
        """Over the tokens so far, this one included.  [n, D] -> [n, D]"""
        joined = F.linear(x, self.weights[number], self.biases[number])
        joined = joined.unflatten(-1, (3, self.heads, -1))  # [n, 3, H, D/H]
        self.cache[self.t, number] = joined[:, 1:].transpose(0, 1)
        keys, values = self.cache[: self.t + 1, number].permute(1, 2, 3, 0, 4)  # [n, H, t + 1, D/H]
        return self._attend(attention, joined[:, 0], keys, values, None)

    def _source_attention(self, number: int, attention: Any, x: Tensor) -> Tensor:
        query = attention.q_proj(x).unflatten(-1, (self.heads, -1))
        keys, values = self.memory[number]
        return self._attend(attention, query, keys, values, self.mask)

    @staticmethod
    def _attend(
        attention: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """[n, H, D/H], [n, H, S, D/H] twice, [n, 1, 1, S] -> [n, D]"""
        if query.is_cuda:  # not by cuDNN, which makes a plan for every length
            with sdpa_kernel(KERNELS):
                found = F.scaled_dot_product_attention(query[:, :, None], keys, values, mask)
        else:
            found = F.scaled_dot_product_attention(query[:, :, None], keys, values, mask)
        return attention.out_proj(found.flatten(1))

    def keep(self, rows: Tensor) -> None:
        """As `StepDecoder.keep`."""
        self.memory = self.memory.index_select(2, rows)
        self.mask = self.mask.index_select(0, rows)
        shape = list(self.cache.shape)
        shape[3] = len(rows)
        kept = self.cache.new_empty(shape)
        torch.index_select(self.cache[: self.t], 3, rows, out=kept[: self.t])
        self.cache = kept
