"""fairseq's dictionaries and sample dictionaries as the plain tensors and functions that the
algorithm knows.
"""

from typing import Any

from fairseq.data import Dictionary

from fairseq_erpo.algorithm.batch import Batch
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.plugin.decoder import IncrementalDecoder, check_model, unwrapped
from fairseq_erpo.plugin.forward import Encoded
from fairseq_erpo.plugin.row_inputs import BatchInputs, RunCache
from fairseq_erpo.vocabulary import Vocabulary


def vocabulary_of(dictionary: Dictionary) -> Vocabulary:
    """Sizes and special ids of fairseq's target dictionary; PAD, BOS and fillers are never
    drawn.
    """
    fillers = [
        i
        for i in range(len(dictionary))
        if dictionary.count[i] == 0 and dictionary[i].startswith("madeupword")
    ]
    special = {dictionary.pad(), dictionary.bos()} - {dictionary.eos()}
    never = (*sorted(special), *fillers)
    return Vocabulary(len(dictionary), dictionary.pad(), dictionary.eos(), dictionary.unk(), never)


def batch_of(
    sample: dict[str, Any],
    model: Any,
    cache: RunCache,
    *,
    seed: int,
    update: int,
    mixture: Mixture,
    stage: int,
) -> Batch:
    """fairseq's sample dictionary as plain tensors, at one moment of training."""
    model = unwrapped(model)
    check_model(model)
    encoded = Encoded(model, sample)

    def start(copies: int) -> IncrementalDecoder:
        return IncrementalDecoder(model, encoded.read(copies))

    return Batch(
        target=sample["target"],
        draws=Draws(sample["id"], seed, update),
        mixture=mixture,
        stage=stage,
        settings=cache.settings,
        vocabulary=cache.vocabulary,
        max_positions=model.max_decoder_positions(),
        start=start,
        inputs=BatchInputs(cache, model, sample),
        recorder=cache.graphs,
    )
