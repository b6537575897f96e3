"""The front-end of transformers: any encoder-decoder model, trained by a row of the family.

    from fairseq_erpo.huggingface import ErpoConfig, ErpoTrainer

`ErpoConfig` is a `Seq2SeqTrainingArguments` with the family's flags, and `ErpoTrainer` a
`Seq2SeqTrainer` that draws before it learns; `python -m fairseq_erpo.huggingface` is both on the
command line.  docs/transformers.md tells how to use them.  fairseq is not needed.
"""

import sys

try:
    # peft imports it; fairseq brings one that a CPU build of torch cannot load.
    import torchaudio  # noqa: F401
except (ImportError, OSError):
    sys.modules["torchaudio"] = None  # type: ignore[assignment]

from fairseq_erpo.huggingface.config import ErpoConfig
from fairseq_erpo.huggingface.trainer import ErpoTrainer

__all__ = ["ErpoConfig", "ErpoTrainer"]
