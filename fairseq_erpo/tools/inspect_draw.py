"""The sequences that training would draw from a checkpoint, token by token, drawn by the sampler of
training.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor

from fairseq_erpo.algorithm.batch import Expert, Sample
from fairseq_erpo.algorithm.corpus_statistics import FILE, follows_model, with_statistics
from fairseq_erpo.algorithm.draw import gold
from fairseq_erpo.family import FAMILY
from fairseq_erpo.plugin.batch import batch_of, vocabulary_of
from fairseq_erpo.plugin.corpus_statistics import Follower
from fairseq_erpo.plugin.decoder import sampling_mode
from fairseq_erpo.plugin.row_inputs import RunCache
from fairseq_erpo.rewards.corpus_bleu import CorpusStatistics
from fairseq_erpo.rewards.edit import Edit
from fairseq_erpo.tools.load_run import Conditions, Loaded

AT_ONCE = 64  # sentences in one pass of the model
LEGEND = (
    "Below each token: the letter of the expert that drew it, and ΔR (Eq. 3), by which it changed "
    "the reward."
)
EDIT = (
    " ΔR is here of `edit`, minus the edit distance: 0 is a token that adds no edit, the best that "
    "there is, and -1 adds one."
)
NO_COUNT = (
    " `corpus_bleu` is here of no model's statistics: beside the checkpoint is no "
    f"{FILE} with a count up to its update."
)


class Look(NamedTuple):
    """How an expert's tokens look.  The letter tells the expert without colour."""

    letter: str
    name: str
    style: str  # of rich: distinct for colour-blind eyes, legible on light and dark


LOOKS: Mapping[Expert, Look] = {
    Expert.MODEL: Look("m", "model", "bold #2f81f7"),
    Expert.REWARD: Look("r", "reward", "underline #d9730d"),
    Expert.DATA: Look("d", "data", "#8a8a8a"),
}


class Token(NamedTuple):
    """One drawn token."""

    text: str
    origin: Expert
    delta_r: float  # Eq. 3
    in_reference: bool  # as the training log counts it: EOS and UNK never are


class Sentence(NamedTuple):
    """One drawn sequence, with its source and reference."""

    number: int  # its index in the data
    source: Sequence[str] | None
    reference: Sequence[str]
    tokens: Sequence[Token]
    reward: float  # Φ(∅) + ΣΔR
    clipped: bool  # True where the length cap ended it

    @property
    def words(self) -> Sequence[Token]:
        """The tokens without EOS."""
        return self.tokens if self.clipped else self.tokens[:-1]


@dataclass(frozen=True)
class Inspection:
    """Drawn sentences, at least one, and their conditions."""

    conditions: Conditions
    sentences: Sequence[Sentence]
    legend: str = LEGEND

    @classmethod
    def of(cls, loaded: Loaded, with_sources: bool = True) -> Self:
        """Draw for all chosen sentences.  Raises ValueError where the run's statistics of corpus
        BLEU are damaged.
        """
        legend = LEGEND + (EDIT if isinstance(loaded.settings.teacher, Edit) else "")
        cache = RunCache(
            loaded.task, loaded.settings, vocabulary_of(loaded.task.target_dictionary), None
        )
        if follows_model(cache.settings):
            if statistics := last_count(cache, loaded.conditions):
                cache.settings = with_statistics(cache.settings, statistics)
            else:
                legend += NO_COUNT
        return cls(loaded.conditions, list(sentences_of(loaded, cache, with_sources)), legend)

    @property
    def tokens(self) -> list[Token]:
        return [token for sentence in self.sentences for token in sentence.tokens]

    def experts(self) -> Iterator[tuple[Look, float, float, str]]:
        """Of each expert: its look, its λ, its share of the tokens, its mean ΔR."""
        for expert, look in LOOKS.items():
            gains = [token.delta_r for token in self.tokens if token.origin == expert]
            share = getattr(self.conditions.mixture, expert.name.lower())
            mean = number(sum(gains) / len(gains)) if gains else "-"
            yield look, share, len(gains) / len(self.tokens), mean

    def figures(self) -> dict[str, str]:
        """Other summary figures, by name."""
        n = len(self.sentences)
        words = [token for sentence in self.sentences for token in sentence.words]
        wanted = sum(len(sentence.reference) for sentence in self.sentences) / n
        known = sum(token.in_reference for token in words) / max(len(words), 1)
        return {
            "in the reference": f"{known:.0%} of the tokens",
            "mean length": f"{len(words) / n:.1f} without EOS (reference {wanted:.1f})",
            "mean reward": number(sum(sentence.reward for sentence in self.sentences) / n),
            "clipped": f"{sum(sentence.clipped for sentence in self.sentences)} of {n}",
        }


def number(value: float) -> str:
    """Signed, three decimals at most: -1, +0.083, 0."""
    return f"{round(value, 3):+g}" if round(value, 3) else "0"


def last_count(cache: RunCache, conditions: Conditions) -> CorpusStatistics | None:
    """What the checkpoint's run linearised corpus BLEU at; None where no count is kept beside it.
    Raises ValueError.
    """
    try:
        entries = Follower(cache, Path(conditions.checkpoint).parent).entries()
    except SystemExit as error:
        raise ValueError(str(error).removeprefix("erpo: ")) from None
    made = [entry for entry in entries if int(entry["update"]) <= conditions.update]
    return CorpusStatistics.from_plain(made[-1]) if made else None


def sentences_of(loaded: Loaded, cache: RunCache, with_sources: bool) -> Iterator[Sentence]:
    """Draw for the chosen sentences, in order."""
    for start in range(0, len(loaded.chosen), AT_ONCE):
        chosen = loaded.chosen[start : start + AT_ONCE]
        sample = loaded.dataset.collater([loaded.dataset[i] for i in chosen])
        sampled, target = draw(loaded, cache, sample)
        # fairseq sorts a batch by length.
        row = {int(number): i for i, number in enumerate(sample["id"])}
        for i in (row[number] for number in chosen):
            source = sample["net_input"]["src_tokens"][i] if with_sources else None
            yield sentence(int(sample["id"][i]), source, target[i], sampled, i, loaded.task)


def draw(loaded: Loaded, cache: RunCache, sample: dict[str, Any]) -> tuple[Sample, Tensor]:
    """One sequence for each sentence of fairseq's batch, and the references as the engine has them.
    -> N sequences, [N, T]
    """
    conditions = loaded.conditions
    with sampling_mode(loaded.model):
        batch = batch_of(
            sample,
            loaded.model,
            cache,
            seed=conditions.seed,
            update=conditions.update,
            mixture=conditions.mixture,
            stage=1,
        )
        # At λ_data = 1 training takes y* without drawing.
        drawn = FAMILY["interp"].draw(batch) or gold(batch)
    return drawn.sample, batch.target


def sentence(
    number: int, source: Tensor | None, target: Tensor, sampled: Sample, i: int, task: Any
) -> Sentence:
    """The i-th of the sampled sequences, in words."""
    words = task.target_dictionary
    hidden = {words.bos(), words.pad(), words.eos(), words.unk()}  # match nothing
    known = set(target.tolist()) - hidden
    length = int(sampled.tokens[i].ne(words.pad()).sum())
    ids, origins, gains = (
        values[i, :length].tolist() for values in (sampled.tokens, sampled.origin, sampled.delta_r)
    )
    tokens = [
        Token(_visible(words[token]), Expert(origin), gain, token in known)
        for token, origin, gain in zip(ids, origins, gains, strict=True)
    ]
    return Sentence(
        number=number,
        source=None if source is None else _words(source, task.source_dictionary),
        reference=_words(target, words),
        tokens=tokens,
        reward=float(sampled.reward[i]),
        clipped=bool(sampled.clipped[i]),
    )


def _words(tokens: Tensor, dictionary: Any) -> list[str]:
    """Tokens without PAD and EOS as the dictionary spells them, with subword marks."""
    hidden = (dictionary.pad(), dictionary.eos())
    return [_visible(dictionary[i]) for i in tokens.tolist() if i not in hidden]


def _visible(text: str) -> str:
    """Spell control characters out: a terminal would obey them."""
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" else c for c in text)
