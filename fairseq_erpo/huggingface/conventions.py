"""What stands around y* in a model's labels: the decoder's start, given prefixes, what is behind
EOS, and the ids that are never drawn.  Found from model, tokenizer and labels, never asked for.

    T5, Pegasus, Marian    start | X EOS
    BART                   start | BOS X EOS       BOS is given
    NLLB, mBART-50         start | LANG X EOS      LANG is given
    mBART-cc25             LANG  | X EOS LANG      the start is the label's last id

B sentences, P given tokens, T steps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from fairseq_erpo.vocabulary import Vocabulary

IGNORED = -100  # transformers' padding of labels


def vocabulary_of(model: Any, tokenizer: Any = None) -> Vocabulary:
    """Sizes and special ids of the target side.  Never drawn: special ids but EOS and UNK, and ids
    beyond the tokenizer.  Raises ValueError where the two do not fit.
    """
    config = model.config.get_text_config(decoder=True)
    size = model.get_output_embeddings().weight.size(0)
    eos = _first(_either("eos_token_id", config, model.config, tokenizer))
    pad = _first(_either("pad_token_id", config, model.config, tokenizer))
    if eos is None or pad is None or pad == eos:
        raise ValueError(
            f"the model has pad_token_id {pad} and eos_token_id {eos}: set two different ids"
        )
    places = (config, model.config)
    given = {pad, *(_either(f"{name}_token_id", *places) for name in ("bos", "decoder_start"))}
    unk = None
    if tokenizer is not None:
        words = _target_words(tokenizer)
        if tokenizer.eos_token_id not in (None, eos) or words > size:
            raise ValueError(
                f"the tokenizer has {words} words and EOS {tokenizer.eos_token_id}, the model "
                f"{size} and {eos}: use the model's own tokenizer"
            )
        added = tokenizer.added_tokens_decoder.items()
        given |= {index for index, token in added if token.special}
        given |= {*tokenizer.all_special_ids, *range(words, size)}
        unk = tokenizer.unk_token_id
    never = sorted(i for i in given - {None, eos, unk} if i < size)
    # Byte-level tokenizers know every word: PAD, which matches nothing either, stands in.
    return Vocabulary(size, pad, eos, pad if unk is None else unk, tuple(never))


def _either(name: str, *places: Any) -> Any:
    found = (getattr(place, name, None) for place in places)
    return next((value for value in found if value is not None), None)


def _first(value: Any) -> int | None:
    return value[0] if isinstance(value, list) else value


def _target_words(tokenizer: Any) -> int:
    """How many ids the target side has: Marian's tokenizer may have a vocabulary of its own."""
    if getattr(tokenizer, "separate_vocabs", False):
        return len(tokenizer.target_encoder)
    return len(tokenizer)


@dataclass(frozen=True)
class Conventions:
    """How a model's labels are made of y*."""

    vocabulary: Vocabulary
    prefix: int  # P: given tokens behind the start
    tail: int  # tokens behind EOS
    positions: int  # the most tokens of y, EOS included

    @classmethod
    def found(
        cls, model: Any, tokenizer: Any, labels: Iterable[Sequence[int]], longest: int
    ) -> Self:
        """From the labels of all training sentences.  Raises ValueError naming the sentence that
        does not fit.
        """
        if model.config.decoder_start_token_id is None and not hasattr(
            model, "prepare_decoder_input_ids_from_labels"
        ):
            raise ValueError("the model has no decoder_start_token_id: set it in its config")
        vocabulary = vocabulary_of(model, tokenizer)
        prefix, tail, most, shapes = 0, 0, 0, set()
        for number, row in enumerate(labels):
            prefix, tail = _around(row, vocabulary, number)
            shapes.add((prefix, tail))
            most = max(most, len(row) - tail)
            if len(shapes) > 1:
                raise ValueError(
                    f"sentence {number} has {prefix} special tokens before its words and {tail} "
                    "behind EOS, and others have not: make all labels by tokenizer(text_target=)"
                )
        room = positions_of(model, "decoder")
        if room is not None and most > room:
            raise ValueError(
                f"a target has {most} tokens, and the model has {room} positions: give "
                f"--max-target-length {room} or cut the labels"
            )
        caps = [longest, *([] if room is None else [room])]
        return cls(vocabulary, prefix, tail, min(caps) - prefix)

    def split(self, model: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder is given first, and y* with EOS, padded by PAD.

        [B, L] int64, padded by -100 -> [B, 1 + P], [B, T]
        """
        vocabulary = self.vocabulary
        target = labels[:, self.prefix : labels.size(1) - self.tail]
        target = target.masked_fill(target.eq(IGNORED), vocabulary.pad)
        closes = target.eq(vocabulary.eos)
        behind = closes.cumsum(1) - closes.long() > 0
        given = torch.cat([_starts(model, labels), labels[:, : self.prefix]], 1)
        return given, target.masked_fill(behind, vocabulary.pad)

    def tell_generation(self, model: Any, labels: Iterable[Sequence[int]]) -> None:
        """Let `generate` begin as the labels do, where they all begin alike and nothing else is
        said: with NLLB's target language, say.
        """
        config, shown = model.generation_config, next(iter(labels))
        if self.prefix == 1 and config.forced_bos_token_id is None:
            first = {row[0] for row in labels}
            if first <= {shown[0]}:
                config.forced_bos_token_id = shown[0]
        if config.decoder_start_token_id is None and model.config.decoder_start_token_id is None:
            config.decoder_start_token_id = int(_starts(model, torch.tensor([list(shown)]))[0])

    def words(self, labels: Sequence[int]) -> Sequence[int]:
        """y* of one sentence, with EOS."""
        return [i for i in labels[self.prefix : len(labels) - self.tail] if i != IGNORED]


def _starts(model: Any, labels: Tensor) -> Tensor:
    """The decoder's first token.  [B, L] -> [B, 1]"""
    first = model.config.decoder_start_token_id
    if first is not None:
        return torch.full_like(labels[:, :1], first)
    shifted: Tensor = model.prepare_decoder_input_ids_from_labels(labels=labels)
    return shifted[:, :1]


def _around(row: Sequence[int], vocabulary: Vocabulary, number: int) -> tuple[int, int]:
    """How many tokens stand before the words of a label, and behind its EOS."""
    words = [i for i in row if i != IGNORED]
    if any(not 0 <= i < vocabulary.size for i in words):
        raise ValueError(
            f"sentence {number} has an id outside 0..{vocabulary.size - 1}: the tokenizer does "
            "not fit the model"
        )
    special = frozenset(vocabulary.never)
    prefix = 0
    while prefix < len(words) and words[prefix] in special:
        prefix += 1
    end = words.index(vocabulary.eos) if vocabulary.eos in words else len(words)
    tail = max(0, len(words) - end - 1)
    if any(i not in special for i in words[end + 1 :]):
        raise ValueError(f"sentence {number} has words behind its EOS: the tokenizer does not fit")
    if end == prefix:
        raise ValueError(f"the target of sentence {number} is empty: leave it out")
    return prefix, tail


def positions_of(model: Any, side: str) -> int | None:
    """How many tokens the encoder or the decoder can read; None: any number."""
    config = model.config.get_text_config(**{side: True})
    for name in (f"max_{side}_position_embeddings", "max_position_embeddings"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return None
