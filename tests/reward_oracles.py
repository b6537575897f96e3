"""Slow, obvious twins of the rewards: plain Python on tuples of ids, and the public scorers where
there are any.

In a reference, ids that must not match (UNK, ids never drawn, EOS inside) are written as
UNMATCHABLE, which no hypothesis holds.
"""

import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from fairseq_erpo.rewards.corpus_bleu import UNHEARD
from fairseq_erpo.vocabulary import Vocabulary

Words = tuple[int, ...]

BOS, PAD, EOS, UNK = range(4)
VOCABULARY = Vocabulary(size=12, pad=PAD, eos=EOS, unk=UNK, never=(BOS, PAD))
WORDS = range(4, VOCABULARY.size)
UNMATCHABLE = -1


def readable(reference: Words) -> Words:
    return tuple(w if w in WORDS else UNMATCHABLE for w in reference)


@functools.cache
def ngrams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[i : i + n] for i in range(len(words) - n + 1))


def clipped(y: Words, y_star: Words, n: int) -> int:
    return sum((ngrams(y, n) & ngrams(y_star, n)).values())


@functools.cache
def bleu_prefix(y: Words, y_star: Words) -> float:
    ratios = [(clipped(y, y_star, n) + 1) / (max(len(y) - n + 1, 0) + 1) for n in range(1, 5)]
    return math.exp(sum(map(math.log, ratios)) / 4)


def bleu(y: Words, y_star: Words) -> float:
    if len(y) >= len(y_star):
        return bleu_prefix(y, y_star)
    return bleu_prefix(y, y_star) * math.exp(1 - len(y_star) / len(y)) if y else 0.0


def rouge_n(y: Words, y_star: Words, n: int) -> float:
    matches = clipped(y, y_star, n)
    if matches == 0:
        return 0.0
    precision, recall = matches / (len(y) - n + 1), matches / (len(y_star) - n + 1)
    return 2 * precision * recall / (precision + recall)


@functools.cache
def rouge_l(y: Words, y_star: Words) -> float:
    table = [[0] * (len(y_star) + 1) for _ in range(len(y) + 1)]
    for t, w in enumerate(y):
        for j, v in enumerate(y_star):
            table[t + 1][j + 1] = (
                table[t][j] + 1 if w == v else max(table[t][j + 1], table[t + 1][j])
            )
    lcs = table[-1][-1]
    return 2 * lcs / (len(y) + len(y_star)) if lcs else 0.0


def rouge(y: Words, y_star: Words) -> float:
    return rouge_n(y, y_star, 1) + rouge_n(y, y_star, 2) + rouge_l(y, y_star)


@functools.cache
def distances(y: Words, y_star: Words) -> list[int]:
    """lev(y, y*_1:j) for j = 0..r."""
    table = [list(range(len(y_star) + 1))] + [[t + 1] + [0] * len(y_star) for t in range(len(y))]
    for t, w in enumerate(y):
        for j, v in enumerate(y_star):
            table[t + 1][j + 1] = min(
                table[t][j + 1] + 1, table[t + 1][j] + 1, table[t][j] + (w != v)
            )
    return table[-1]


def corpus_share(matches: Sequence[float], ngrams: Sequence[float]) -> float:
    """The first-order change of corpus BLEU at `UNHEARD`, which stands at the brevity penalty's
    step: half of its slope.
    """
    s = UNHEARD
    terms = zip(matches, s.matches, ngrams, s.ngrams, strict=True)
    brevity = 0.5 * s.wanted / s.length * ngrams[0] / s.length
    return (
        s.bleu
        * s.sentences
        * (sum(m / of_m - t / of_t for m, of_m, t, of_t in terms) / 4 + brevity)
    )


def corpus_bleu(y: Words, y_star: Words) -> float:
    orders = range(1, 5)
    return corpus_share(
        [clipped(y, y_star, n) for n in orders], [max(len(y) - n + 1, 0) for n in orders]
    )


class Oracle(NamedTuple):
    phi: Callable[[Words, Words], float]  # of a prefix
    metric: Callable[[Words, Words], float]  # of a closed sentence

    def delta_r(self, y: Words, w: int, y_star: Words) -> float:
        """Eq. 3 by its definition."""
        after = self.metric(y, y_star) if w == EOS else self.phi((*y, w), y_star)
        return after - self.phi(y, y_star)


ORACLES = {
    "bleu": Oracle(bleu_prefix, bleu),
    "corpus_bleu": Oracle(corpus_bleu, corpus_bleu),
    "bleu, prefix penalty": Oracle(bleu, bleu),
    "rouge1": Oracle(functools.partial(rouge_n, n=1), functools.partial(rouge_n, n=1)),
    "rouge2": Oracle(functools.partial(rouge_n, n=2), functools.partial(rouge_n, n=2)),
    "rougeL": Oracle(rouge_l, rouge_l),
    "rouge": Oracle(rouge, rouge),
    "edit": Oracle(
        lambda y, y_star: -min(distances(y, y_star)), lambda y, y_star: -distances(y, y_star)[-1]
    ),
}


def text(words: Words) -> str:
    return " ".join(f"w{w}" for w in words)


def sacrebleu_share(y: Words, y_star: Words) -> float:
    """The same from the clipped counts and totals of sacrebleu."""
    stats = BLEU(smooth_method="none", tokenize="none").sentence_score(text(y), [text(y_star)])
    return corpus_share(stats.counts, stats.totals)


def sacrebleu_counts(y: Words, y_star: Words) -> float:
    """Add-one BLEU-4 from the clipped counts, totals and brevity penalty of sacrebleu."""
    stats = BLEU(smooth_method="none", tokenize="none", effective_order=True).sentence_score(
        text(y), [text(y_star)]
    )
    product = math.prod((m + 1) / (p + 1) for m, p in zip(stats.counts, stats.totals, strict=True))
    return float(stats.bp * product**0.25)


def sacrebleu_score(y: Words, y_star: Words) -> float:
    """sacrebleu's own add-k score, which adds nothing to unigrams: exchange that factor.  Needs one
    matching unigram.

    Without effective_order orders that the sentence is too short for enter as (0 + 1)/(0 + 1),
    which is our convention too.
    """
    metric = BLEU(smooth_method="add-k", smooth_value=1, tokenize="none", effective_order=False)
    stats = metric.sentence_score(text(y), [text(y_star)])
    m, p = stats.counts[0], stats.totals[0]
    return float(stats.score / 100 * ((m + 1) / (p + 1) / (m / p)) ** 0.25)


class Whitespace:
    def tokenize(self, line: str) -> list[str]:
        return line.split()


ROUGE_SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Whitespace())


def rouge_score(y: Words, y_star: Words) -> dict[str, float]:
    scores = ROUGE_SCORER.score(target=text(y_star), prediction=text(y))
    return {name: float(score.fmeasure) for name, score in scores.items()}


def adversarial_pair(rng: random.Random) -> tuple[Words, Words]:
    """A reference without EOS (ids) and a hypothesis without EOS: short, repetitive, nearly right
    or far too long.
    """
    alphabet = [*WORDS[: rng.choice([1, 2, 3, 3, 4, 8])], *rng.choice([[], [], [UNK]])]
    y_star = tuple(rng.choices(alphabet, k=rng.choice([1, 1, 2, 3, 4, 5, 6, 7, 8])))
    if rng.random() < 0.1:
        y_star = (*y_star[:-1], rng.choice([BOS, EOS]), WORDS[0])
    if rng.random() < 0.5:
        y = rng.choices(alphabet, k=rng.choice([0, 1, 2, 4, 6, 9, 13, 2 * len(y_star) + 4]))
    else:
        # Nearly right, perhaps said again: substitutions, deletions and insertions.
        edits: list[Callable[[int], list[int]]] = [lambda w: [w]] * 8
        edits += [
            lambda w: [],
            lambda w: [rng.choice(alphabet)],
            lambda w: [w, rng.choice(alphabet)],
            lambda w: [UNK],
        ]
        said = [w if w in WORDS else UNK for w in y_star] * rng.choice([1, 1, 2])
        y = [w for v in said for w in rng.choice(edits)(v)]
    return y_star, tuple(y)
