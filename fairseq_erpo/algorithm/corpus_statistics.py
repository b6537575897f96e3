"""`corpus_bleu` follows the model: its statistics are counted every 50 updates, from outputs for
training data.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.batch import Batch, Expert
from fairseq_erpo.algorithm.sampler import Sampler, length_caps
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.rewards.corpus_bleu import CorpusBleu, CorpusStatistics

FILE = "erpo_corpus.json"
# Updates: within an epoch of 265, the outputs' length went from .965 of the references' to 1.12
EVERY = 50
SENTENCES = 500  # of the training data, spread evenly
AT_ONCE = 100


def follows_model(settings: Settings) -> bool:
    """Whether one of the two rewards has to be counted anew."""
    return any(isinstance(reward, CorpusBleu) for reward in (settings.teacher, settings.reward))


def with_statistics(settings: Settings, statistics: CorpusStatistics) -> Settings:
    """The same settings, with each `corpus_bleu` at these statistics."""
    reward = CorpusBleu(statistics)
    parts: dict[str, Any] = {}
    for name in ("teacher", "reward"):
        if isinstance(getattr(settings, name), CorpusBleu):
            parts[name] = reward
    return replace(settings, **parts)


def count_outputs(batches: Iterable[Batch]) -> CorpusStatistics:
    """Samples and greedy outputs for the batches, counted: n-grams of the first, length of the
    second.  The model must be in `eval` mode.
    """
    counts: dict[Expert, list[Tensor]] = {Expert.MODEL: [], Expert.GREEDY: []}
    for batch in batches:
        reference = Reference.from_target(batch.target, batch.vocabulary)
        caps = length_caps(reference, batch.max_positions)
        sampler = Sampler(CorpusBleu(), batch.settings.experts, batch.vocabulary)
        for expert, found in counts.items():
            shape = (len(caps), int(caps.max()))
            origin = torch.full(shape, int(expert), device=caps.device)
            start = partial(batch.start, 1)
            outputs = sampler.draw(reference, origin, caps, batch.draws, start)
            found.append(CorpusBleu().counts(reference, outputs.tokens, batch.vocabulary))
    samples, greedy = (CorpusStatistics.from_counts(torch.cat(found)) for found in counts.values())
    return replace(samples, length=greedy.length)
