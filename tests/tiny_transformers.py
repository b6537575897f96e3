"""Tiny random models of transformers and tokenizers for them, made in the test: no network, no hub.

Words are w0 .. w29, one token each; a target is its source the other way round.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fairseq_erpo.huggingface  # noqa: F401  # before transformers, which wants torchaudio

# isort: split
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = [f"w{number}" for number in range(30)]
LAYERS: Mapping[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}


def pairs(number: int = 64, seed: int = 0, longest: int = 12) -> list[dict[str, str]]:
    """Rows with a source and its reverse."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, longest))]
        rows.append({"source": " ".join(words), "target": " ".join(words[::-1])})
    return rows


def tokenizer(
    first: Sequence[str], template: str, last: Sequence[str] = (), **named: str
) -> PreTrainedTokenizerFast:
    """A tokenizer whose special tokens come `first` and `last`, and which wraps texts as told."""
    words = {word: number for number, word in enumerate([*first, *WORDS, *last])}
    text = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    text.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text.decoder = decoders.WordPiece(prefix="##")
    used = [(word, words[word]) for word in template.split() if word in words]
    text.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=text,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **named,  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Tiny:
    """A model and its tokenizer, both made anew at each call, always alike."""

    make: Callable[[float, int], Any]  # dropout, words
    tokenizer: Callable[[], Any]
    prefix: int = 0

    def model(self, dropout: float = 0.0) -> Any:
        torch.manual_seed(0)
        return self.make(dropout, len(self.tokenizer()))


def dropouts(rate: float) -> dict[str, float]:
    return dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), rate)


def t5(dropout: float, words: int) -> Any:
    config = T5Config(
        vocab_size=words,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        dropout_rate=dropout,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def bart(dropout: float, words: int) -> Any:
    config = BartConfig(
        vocab_size=words,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        **dropouts(dropout),
        **LAYERS,
    )
    return BartForConditionalGeneration(config)


def marian(dropout: float, words: int) -> Any:
    config = MarianConfig(
        vocab_size=words,
        decoder_vocab_size=words,
        pad_token_id=words - 1,
        eos_token_id=0,
        bos_token_id=None,
        decoder_start_token_id=words - 1,
        forced_eos_token_id=0,
        **dropouts(dropout),
        **LAYERS,
    )
    return MarianMTModel(config)


def pegasus(dropout: float, words: int) -> Any:
    config = PegasusConfig(
        vocab_size=words,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=1,
        **dropouts(dropout),
        **LAYERS,
    )
    return PegasusForConditionalGeneration(config)


def nllb(dropout: float, words: int) -> Any:
    config = M2M100Config(
        vocab_size=words,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        **dropouts(dropout),
        **LAYERS,
    )
    return M2M100ForConditionalGeneration(config)


def mbart(dropout: float, words: int) -> Any:
    config = MBartConfig(
        vocab_size=words,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=None,
        forced_eos_token_id=2,
        **dropouts(dropout),
        **LAYERS,
    )
    return MBartForConditionalGeneration(config)


def t5_tokenizer() -> Any:
    return tokenizer(["<pad>", "</s>", "<unk>"], "$A </s>")


def bart_tokenizer() -> Any:
    return tokenizer(["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s>", bos_token="<s>")


def marian_tokenizer() -> Any:
    return tokenizer(["</s>", "<unk>"], "$A </s>", ["<pad>"])


def nllb_tokenizer() -> Any:
    """transformers' own, with 202 language codes, over byte pairs of the words' letters."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "w", *"0123456789", "▁w"]
    merges = [("▁", "w")]
    for word in WORDS:
        pieces.append(f"▁{word}")
        merges.append(("▁w", word[1]) if len(word) == 2 else (f"▁{word[:2]}", word[2]))
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return NllbTokenizer(vocab=vocab, merges=merges, src_lang="deu_Latn", tgt_lang="eng_Latn")


def mbart_tokenizer() -> Any:
    """mBART-cc25's convention: X </s> LANG, on either side."""
    first = ["<s>", "<pad>", "</s>", "<unk>", "en_XX"]
    return tokenizer(
        first,
        "$A </s> en_XX",
        bos_token="<s>",
        extra_special_tokens=["en_XX"],  # type: ignore[arg-type]
    )


def mbart50_tokenizer() -> Any:
    first = ["<s>", "<pad>", "</s>", "<unk>", "en_XX"]
    return tokenizer(
        first,
        "en_XX $A </s>",
        bos_token="<s>",
        extra_special_tokens=["en_XX"],  # type: ignore[arg-type]
    )


def mbart50(dropout: float, words: int) -> Any:
    model = mbart(dropout, words)
    model.config.decoder_start_token_id = 2
    return model


def untied(dropout: float, words: int) -> Any:
    """T5 1.1: an output projection of its own."""
    config = t5(dropout, words).config
    config.tie_word_embeddings = False
    config.feed_forward_proj = "gated-gelu"
    return T5ForConditionalGeneration(T5Config.from_dict(json.loads(config.to_json_string(False))))


MODELS: Mapping[str, Tiny] = {
    "t5": Tiny(t5, t5_tokenizer),
    "t5-untied": Tiny(untied, t5_tokenizer),
    "bart": Tiny(bart, bart_tokenizer, prefix=1),
    "marian": Tiny(marian, marian_tokenizer),
    "pegasus": Tiny(pegasus, t5_tokenizer),
    "nllb": Tiny(nllb, nllb_tokenizer, prefix=1),
    "mbart-cc25": Tiny(mbart, mbart_tokenizer),
    "mbart-50": Tiny(mbart50, mbart50_tokenizer, prefix=1),
}
