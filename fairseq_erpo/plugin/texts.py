"""fairseq's token ids as text in words, as its BLEU validation spells them."""

from typing import Any

from fairseq.utils import strip_pad
from torch import Tensor

# As fairseq's BLEU has it: an unknown word never matches, and is one word to the scorer.
UNKNOWN_FOUND, UNKNOWN_WANTED = "UNKNOWNTOKENINHYP", "UNKNOWNTOKENINREF"


def spelt(task: Any, tokens: Tensor, unknown: str, dictionary: Any = None) -> str:
    """One sentence, detokenised: --eval-bleu-remove-bpe and --eval-bleu-detok say how.

    [T] int64
    """
    dictionary = dictionary or task.target_dictionary
    bare = strip_pad(tokens, dictionary.pad()).int().cpu()
    text: str = dictionary.string(
        bare, getattr(task.cfg, "eval_bleu_remove_bpe", None), unk_string=unknown
    )
    tokenizer = getattr(task, "tokenizer", None)
    return tokenizer.decode(text) if tokenizer else text
