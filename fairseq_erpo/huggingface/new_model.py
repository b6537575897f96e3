"""A small T5 with random weights, and a tokenizer learnt from the texts."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

SPECIAL = ("<pad>", "</s>", "<unk>")


def new_tokenizer(texts: Sequence[str], pieces: int) -> Any:
    """Byte pairs, `pieces` of them at most."""
    text = Tokenizer(models.BPE(unk_token="<unk>"))
    text.pre_tokenizer, text.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    learner = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=list(SPECIAL), show_progress=False
    )
    text.train_from_iterator(texts, learner)
    text.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", SPECIAL.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=text, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def new_model(words: int, width: int, layers: int, dropout: float) -> Any:
    """A T5 whose heads are 64 wide, as T5's are."""
    ids: Any = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = T5Config(
        vocab_size=words,
        d_model=width,
        d_kv=max(8, min(64, width // 4)),
        d_ff=4 * width,
        num_heads=max(4, width // 64),
        num_layers=layers,
        dropout_rate=dropout,
        **ids,
    )
    return T5ForConditionalGeneration(config)
