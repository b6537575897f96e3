"""A search leaves the model as it found it: a run that generates in validation trains as one that
does not.

fairseq's generator tells BART's decoder how many hypotheses a source has, and switches off that its
encoder's output is reordered, to save memory.  Nothing takes that back: from then on the attention
of *training* takes every so many sentences of a batch for one.  This is all that a generator writes
into a model, but for `eval()`, which fairseq's trainer takes back.
"""

from typing import Any

from fairseq.sequence_generator import EnsembleModel


def set_decoder_beam_size(ensemble: Any, beam_size: int) -> None:
    """fairseq's method of that name, without effect: BART searches as every other model does."""


EnsembleModel.set_decoder_beam_size = set_decoder_beam_size
