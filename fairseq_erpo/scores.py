"""Scores of outputs against references, each a function of sums over sentences: for `evaluate`, and
to select on (--eval-rouge).

A `Measure` first counts, sentence by sentence, then makes a score of the counts' sum. So batches,
ranks, seeds and the resamples of a bootstrap are put together by adding, and the score of the whole
is exact. Scores are in percent unless said otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

ROUGE = ("rouge1", "rouge2", "rougeL")
Counts = np.ndarray  # [N, K] float: N sentences


@dataclass(frozen=True)
class Measure:
    """One column of the table."""

    title: str
    # Of hypotheses and references, in this order
    counts: Callable[[Sequence[str], Sequence[str]], Counts]
    score: Callable[[np.ndarray], float]  # of the counts' sum, [K]
    tested: bool = True  # a quality, for which a difference is worth a test
    digits: int = 2


# ---- sentence by sentence ----


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(ROUGE))


def rouge_f1(hypothesis: str, reference: str) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L as `rouge-score` counts: words are runs of a-z and 0-9 in lower
    case, no stemmer.  0..1
    """
    return {
        name: float(score.fmeasure)
        for name, score in _scorer().score(reference, hypothesis).items()
    }


def rouge_021(hypothesis: str, reference: str) -> dict[str, float]:
    """The same three as the package `rouge==0.2.1` has them, which the paper's Table 2 was made
    with.  0..1

    Words are what blanks separate, n-grams are sets (a repetition counts once), and ROUGE-L has β =
    P/R, which favours recall where the output is longer than the reference. Written again here
    because the package does not build in isolation (its setup.py imports numpy) and installs a
    top-level module `bin`.
    """
    found, wanted = hypothesis.split(" "), reference.split(" ")
    scores = {}
    for n in (1, 2):
        ours, theirs = _ngrams(found, n), _ngrams(wanted, n)
        shared = len(ours & theirs)
        precision, recall = shared / max(len(ours), 1), shared / max(len(theirs), 1)
        scores[f"rouge{n}"] = 2 * precision * recall / (precision + recall + 1e-8)
    common = _common_subsequence(found, wanted)
    precision, recall = common / len(found), common / len(wanted)
    squared = (precision / (recall + 1e-12)) ** 2
    scores["rougeL"] = (1 + squared) * recall * precision / (recall + squared * precision + 1e-12)
    return scores


def _ngrams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[i:] for i in range(n)), strict=False))


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, row by row of its table."""
    row = [0] * (len(b) + 1)
    for word in a:
        before, row = row, [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return row[-1]


def repeated_bigrams(text: str) -> tuple[int, int]:
    """How many of a text's bigrams it has had before, and how many it has in all (seq-rep-2,
    Welleck et al. 2020).
    """
    words = text.split()
    bigrams = list(pairwise(words))
    return len(bigrams) - len(set(bigrams)), len(bigrams)


# ---- the measures ----


def _mean(each: Callable[[str, str], Mapping[str, float]], name: str, title: str) -> Measure:
    """Mean over sentences of a score in 0..1."""

    def counts(hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        return np.array(
            [(each(*pair)[name], 1.0) for pair in zip(hypotheses, references, strict=True)]
        )

    return Measure(title, counts, lambda sums: 100 * sums[0] / sums[1])


def _bleu(tokenize: str) -> BLEU:
    # force: no warning of tokenised text, which some corpora are.
    return BLEU(tokenize=tokenize, force=True)


def tokeniser(name: str) -> Callable[[str], str]:
    """sacreBLEU's tokeniser of that name: puts blanks between words."""
    found: Callable[[str], str] = _bleu(name).tokenizer
    return found


def _sacrebleu(metric: Metric, title: str) -> Measure:
    """A score of the whole corpus by sacreBLEU's own counts."""

    def counts(hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        return np.array(
            metric._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=float
        )

    return Measure(
        title, counts, lambda sums: float(metric._compute_score_from_stats(list(sums)).score)
    )


def _repetition(hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
    return np.array([repeated_bigrams(text) for text in hypotheses], dtype=float)


def measures(tokenize: str = "13a") -> dict[str, Measure]:
    """All measures by key.  `tokenize` is sacreBLEU's; its name stands in the signature."""
    bleu = _sacrebleu(_bleu(tokenize), "BLEU")
    names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    return {
        "bleu": bleu,
        "chrf": _sacrebleu(CHRF(), "chrF"),
        **{name: _mean(rouge_f1, name, title) for name, title in names.items()},
        **{
            f"{name}_021": _mean(rouge_021, name, f"{title} (0.2.1)")
            for name, title in names.items()
        },
        # sacreBLEU's first two numbers are the lengths of both sides in its own tokens.
        "length_ratio": Measure(
            "length", bleu.counts, lambda sums: sums[0] / max(sums[1], 1), tested=False, digits=3
        ),
        "repetition": Measure(
            "repeats", _repetition, lambda sums: 100 * sums[0] / max(sums[1], 1), tested=False
        ),
    }


def bleu_signature(tokenize: str = "13a") -> str:
    """sacreBLEU's signature of the BLEU above, one reference."""
    metric = _bleu(tokenize)
    metric.corpus_score(["a"], [["a"]])  # which tells the metric the number of references
    return str(metric.get_signature())


# ---- paired bootstrap ----

RESAMPLES = 1000
SEED = 12345
# Points: sums of the same numbers in another order differ by less, and resamples by more
ROUNDING = 1e-9
TEST = f"two-sided paired bootstrap over sentences, {RESAMPLES} resamples, seeds pooled"


def p_values(measure: Measure, baseline: Counts, systems: Mapping[str, Counts]) -> dict[str, float]:
    """Two-sided p of each system's difference Δ from the baseline, by a paired bootstrap over the N
    sentences.

    Δ* is the difference on N sentences drawn with replacement, the same ones for all systems.
    Without a true difference Δ is distributed as Δ* - Δ is, whose variance is (N - 1)/N of it:  p =
    (1 + #{√N |Δ* - Δ| ≥ √(N-1) |Δ|}) / (1 + RESAMPLES).

    Several seeds are put together by adding their counts sentence by sentence, so that a sentence
    stays one observation.  What is tested is the difference of these models on other sentences;
    what other seeds would give shows in mean ± std.
    """
    n = len(baseline)
    random = np.random.default_rng(SEED)

    def differences(weights: np.ndarray) -> list[float]:
        """Of each system, where a sentence counts as often as its weight says."""
        score = measure.score(weights @ baseline)
        return [measure.score(weights @ counts) - score for counts in systems.values()]

    found = np.array(differences(np.ones(n)))
    resamples = (random.integers(n, size=n) for _ in range(RESAMPLES))
    resampled = np.array([differences(np.bincount(drawn, minlength=n)) for drawn in resamples])
    # [RESAMPLES, systems]
    as_far = np.sqrt(n) * abs(resampled - found) >= np.sqrt(n - 1) * abs(found) - ROUNDING
    p = (1 + as_far.sum(0)) / (1 + RESAMPLES)
    return dict(zip(systems, p.tolist(), strict=True))
