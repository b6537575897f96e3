"""RAML's samples from a file, drawn before training starts."""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairseq_erpo.coverage import ENOUGH
from fairseq_erpo.vocabulary import Vocabulary

LARGEST = torch.finfo(torch.float32).max


class PredrawnSamples:
    """RAML samples drawn beforehand, from a text file with one sample a line (UTF-8):

        index <TAB> reward <TAB> tokens

    `index` is the sentence's id in the training data; the lines of a sentence are adjacent, S for
    each sentence. The file is checked and indexed in one pass; its samples are read when they are
    asked for.
    """

    def __init__(
        self, path: str | Path, encode: Callable[[str], Sequence[int]], vocabulary: Vocabulary
    ) -> None:
        """`encode` turns the third field into ids, without EOS.  Raises ValueError naming
        path:line.
        """
        self.path, self.encode, self.vocabulary = Path(path), encode, vocabulary
        indices, offsets, offset, samples, number = array("q"), array("q"), 0, array("q"), 0
        words = known = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                index, _, text = self._parse(line, number)
                tokens = encode(text)
                self._check_symbols(tokens, text, number)
                words, known = (
                    words + len(tokens),
                    known + sum(token != vocabulary.unk for token in tokens),
                )
                if not indices or indices[-1] != index:
                    self._check_group(samples, number)
                    indices.append(index)
                    offsets.append(offset)
                    samples.append(0)
                samples[-1] += 1
                offset += len(line)
        if not indices:
            raise ValueError(f"{self.path}: no samples")
        self.known = known / max(words, 1)  # share of the words
        if self.known < ENOUGH:
            raise ValueError(
                f"{self.path}: {self.known:.1%} of the words of its samples are in the dictionary"
            )
        self._check_group(samples, number + 1)
        self.samples: int = samples[0]
        self._order = np.argsort(np.asarray(indices), kind="stable")
        self._indices, self._offsets = (
            np.asarray(indices)[self._order],
            np.asarray(offsets)[self._order],
        )
        again = np.flatnonzero(self._indices[1:] == self._indices[:-1])
        if again.size:
            line = self._order[again[0] + 1] * self.samples + 1
            raise ValueError(
                f"{self.path}:{line}: sentence {self._indices[again[0]]} occurs before, not "
                "adjacent"
            )

    def check_covers(self, ids: Sequence[int], sentences: int) -> None:
        """Raises ValueError unless there are samples of all of `ids`, and of no other sentences
        than there are.
        """
        missing = np.setdiff1d(ids, self._indices)
        if missing.size:
            have = f"{len(ids) - missing.size} of the {len(ids)} sentences of the training data"
            raise ValueError(f"{self.path}: samples of {have}, and none of sentence {missing[0]}")
        if self._indices[-1] >= sentences:
            raise ValueError(
                f"{self.path}: samples of sentence {self._indices[-1]}, and the data has "
                f"{sentences}: it is of others"
            )

    def read(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The samples of sentences `ids`, closed by EOS, and their rewards, on the CPU.  -> [B·S,
        T] int64, [B·S] float32

        Raises ValueError for a sentence that the file does not have.
        """
        rows, rewards = [], []
        with self.path.open("rb") as lines:
            for index in ids:
                at = int(np.searchsorted(self._indices, index))
                if at == len(self._indices) or self._indices[at] != index:
                    raise ValueError(f"{self.path}: no samples of sentence {index}")
                lines.seek(self._offsets[at])
                for s in range(self.samples):
                    _, reward, text = self._parse(
                        lines.readline(), int(self._order[at]) * self.samples + s + 1
                    )
                    rows.append(torch.tensor([*self.encode(text), self.vocabulary.eos]))
                    rewards.append(reward)
        tokens = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self.vocabulary.pad
        )
        return tokens, torch.tensor(rewards)

    def _parse(self, line: bytes, number: int) -> tuple[int, float, str]:
        """A line's three fields."""
        try:
            index, reward, tokens = line.decode("utf-8").rstrip("\r\n").split("\t")
            if "_" in index + reward:  # which Python's numbers may have
                raise ValueError("an underscore in a number")
            parsed = int(index), float(reward), tokens
        except ValueError as error:
            raise ValueError(
                f"{self.path}:{number}: expected index, reward and tokens between tabs ({error})"
            ) from None
        if not 0 <= parsed[0] < 2**63 or not abs(parsed[1]) <= LARGEST:  # which nan is not either
            raise ValueError(
                f"{self.path}:{number}: the index must be 0 to 2**63 - 1, the reward finite in "
                "float32"
            )
        return parsed

    def _check_symbols(self, tokens: Sequence[int], text: str, number: int) -> None:
        """Refuses words that a dictionary keeps for itself, such as </s>, which would end a sample
        early.
        """
        vocabulary = self.vocabulary
        for token, word in zip(tokens, text.split(), strict=False):
            if token == vocabulary.eos or token in vocabulary.never:
                raise ValueError(
                    f"{self.path}:{number}: {word} is a symbol of the dictionary, and no word of "
                    "a sample"
                )

    def _check_group(self, samples: Sequence[int], next_line: int) -> None:
        """Refuses a sentence that has ended with another number of samples than the first."""
        if samples and samples[-1] != samples[0]:
            raise ValueError(
                f"{self.path}:{next_line - 1}: {samples[-1]} samples end here, the first sentence "
                f"has {samples[0]}"
            )
