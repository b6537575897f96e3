"""`corpus_bleu` follows the model: its statistics are counted every 50 updates, and kept in each
checkpoint, so that a run that is resumed in between goes on with those of the last count.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list

from fairseq_erpo.algorithm.batch import Batch
from fairseq_erpo.algorithm.corpus_statistics import AT_ONCE, EVERY, FILE, SENTENCES, count_outputs
from fairseq_erpo.files import read_json, write_json
from fairseq_erpo.rewards.corpus_bleu import CorpusStatistics


class CorpusFollower:
    """Counts when it first draws, and whenever another EVERY updates are done."""

    def __init__(self, sentences: int) -> None:
        """Of so many sentences of training data, those that are counted are spread evenly."""
        self.chosen = np.unique(np.linspace(0, sentences - 1, SENTENCES, dtype=int))
        self.at: int | None = None  # the update of the statistics in use
        self.statistics: CorpusStatistics | None = None

    def new(
        self, update: int, batch_of: Callable[[Sequence[int]], Batch]
    ) -> CorpusStatistics | None:
        """The statistics where they change, else None.  `batch_of` makes a batch of sentences."""
        if self.at is not None and self.at // EVERY == update // EVERY:
            return None
        # The first rank's, whatever rounding does on other devices
        self.statistics = broadcast_object_list([count_outputs(self._batches(batch_of))])[0]
        self.at = update
        return self.statistics

    def _batches(self, batch_of: Callable[[Sequence[int]], Batch]) -> Iterator[Batch]:
        for part in np.array_split(self.chosen, -(-len(self.chosen) // AT_ONCE)):
            yield batch_of(part.tolist())

    def save(self, checkpoint: str | Path) -> None:
        """Into a checkpoint's folder."""
        if self.statistics is not None:
            content: dict[str, Any] = {"update": self.at, **asdict(self.statistics)}
            write_json(Path(checkpoint) / FILE, content, "--output-dir")

    def load(self, checkpoint: str | Path) -> CorpusStatistics | None:
        """From a checkpoint's folder; None where it has none.  Raises ValueError naming the
        file.
        """
        file = Path(checkpoint) / FILE
        if not file.is_file():
            return None
        try:
            found = read_json(file)
            self.at, self.statistics = int(found["update"]), CorpusStatistics.from_plain(found)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged ({error}); remove it, and the statistics are counted anew"
            ) from None
        return self.statistics
