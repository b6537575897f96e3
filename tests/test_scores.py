"""Scores: against the libraries they stand for, by adding counts, and the paired bootstrap against
a t-test.
"""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import ttest_rel

from fairseq_erpo.scores import (
    ROUGE,
    bleu_signature,
    measures,
    p_values,
    repeated_bigrams,
    rouge_021,
    rouge_f1,
)

WORDS = [f"w{i}" for i in range(20)]


def corpus(n: int, wrong: float, seed: int) -> tuple[list[str], list[str]]:
    """Sentences, and copies in which a share of the words is another one."""
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(n)]
    return spoilt(references, wrong, rng), references


def spoilt(lines: list[str], wrong: float, rng: random.Random) -> list[str]:
    return [
        " ".join(rng.choice(WORDS) if rng.random() < wrong else word for word in line.split())
        for line in lines
    ]


def score(name: str, hypotheses: list[str], references: list[str]) -> float:
    measure = measures()[name]
    return measure.score(measure.counts(hypotheses, references).sum(0))


def test_bleu_and_length_are_sacrebleus() -> None:
    hypotheses, references = corpus(50, 0.3, 1)
    metric = BLEU()
    whole = metric.corpus_score(hypotheses, [references])
    assert score("bleu", hypotheses, references) == pytest.approx(whole.score, abs=1e-9)
    assert score("length_ratio", hypotheses, references) == whole.sys_len / whole.ref_len
    assert bleu_signature() == str(metric.get_signature())
    assert "tok:none" in bleu_signature("none")
    tokenised = measures("none")["bleu"]
    counts = tokenised.counts(["it 's so ."], ["it 's so ."])
    assert counts[0, 0] == 4  # 13a would have five tokens


@pytest.mark.parametrize("words", [-2, 3])
def test_length_is_that_of_the_outputs_over_that_of_the_references(words: int) -> None:
    hypotheses, references = corpus(20, 0.3, 3)
    hypotheses = [
        " ".join(line.split()[:words]) if words < 0 else f"{line} {'a ' * words}"
        for line in hypotheses
    ]
    whole = BLEU().corpus_score(hypotheses, [references])
    assert score("length_ratio", hypotheses, references) == whole.sys_len / whole.ref_len != 1
    counted = (
        sum(len(line.split()) for line in hypotheses),
        sum(len(line.split()) for line in references),
    )
    assert score("length_ratio", hypotheses, references) == counted[0] / counted[1]


def test_chrf_is_sacrebleus() -> None:
    hypotheses, references = corpus(50, 0.3, 1)
    whole = CHRF().corpus_score(hypotheses, [references])
    assert score("chrf", hypotheses, references) == pytest.approx(whole.score, abs=1e-9)


def test_rouge_is_the_mean_of_rouge_scores_f1() -> None:
    hypotheses, references = corpus(20, 0.3, 2)
    scorer = RougeScorer(list(ROUGE))
    pairs = list(zip(references, hypotheses, strict=True))
    for name in ROUGE:
        mean = sum(scorer.score(*pair)[name].fmeasure for pair in pairs) / len(pairs)
        assert score(name, hypotheses, references) == pytest.approx(100 * mean)
    assert rouge_f1("The cat!", "the cat") == {"rouge1": 1, "rouge2": 1, "rougeL": 1}


# What Rouge().get_scores of the package rouge==0.2.1 returned for these pairs.
OLD = [
    ("a b c", "a b c", 0.999999995, 0.999999995, 0.9999999999995),
    (
        "the cat sat on the mat",
        "the cat the cat sat",
        0.7499999953125,
        0.49999999531250006,
        0.5366568914949571,
    ),
    ("w x y", "a b c", 0.0, 0.0, 0.0),
    ("a", "a b c d", 0.39999999680000003, 0.0, 0.2615384615385364),
    ("a a a a", "a b", 0.6666666622222223, 0.0, 0.2777777777771852),
    ("one", "two", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("hypothesis", "reference", "one", "two", "longest"), OLD)
def test_the_old_rouge_is_that_of_its_package(
    hypothesis: str, reference: str, one: float, two: float, longest: float
) -> None:
    found = rouge_021(hypothesis, reference)
    assert [found[name] for name in ROUGE] == pytest.approx([one, two, longest], abs=1e-12)


def test_each_column_is_its_own_score() -> None:
    """ROUGE-1, -2 and -L, by either package: all different here, and each the mean of its own F1."""
    hypotheses, references = [pair[0] for pair in OLD], [pair[1] for pair in OLD]
    for key, each in (("{}", rouge_f1), ("{}_021", rouge_021)):
        found = {name: score(key.format(name), hypotheses, references) for name in ROUGE}
        pairs = [each(*pair) for pair in zip(hypotheses, references, strict=True)]
        assert found == pytest.approx(
            {name: 100 * sum(pair[name] for pair in pairs) / len(pairs) for name in ROUGE}
        )
        assert len(set(found.values())) == 3
    of_old = {name: score(f"{name}_021", hypotheses, references) for name in ROUGE}
    by_hand = [100 * sum(row[column] for row in OLD) / len(OLD) for column in (2, 3, 4)]
    assert list(of_old.values()) == pytest.approx(by_hand)


def test_nothing_said_scores_nothing() -> None:
    for each in (rouge_f1, rouge_021):
        assert set(each("", "a b").values()) == {0}
    assert repeated_bigrams("") == (0, 0) and repeated_bigrams("a") == (0, 0)
    assert repeated_bigrams("a b a b a") == (2, 4)
    assert score("repetition", ["a b a b a", "c"], ["x", "y"]) == 50
    assert score("repetition", [""], ["x"]) == 0


def test_counts_of_parts_add_up_to_the_whole() -> None:
    hypotheses, references = corpus(30, 0.4, 3)
    for measure in measures().values():
        parts = [
            measure.counts(hypotheses[i : i + 7], references[i : i + 7]).sum(0)
            for i in range(0, 30, 7)
        ]
        whole = measure.counts(hypotheses, references).sum(0)
        # Rounding of sums only
        assert measure.score(sum(parts)) == pytest.approx(measure.score(whole))


def judged(
    sentences: int, seeds: int, gain: float, numbers: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of ROUGE for a baseline and a system that is better by `gain`: a sentence is as hard
    for all of their seeds.
    """
    ease = numbers.beta(2, 3, sentences)

    def pooled(more: float) -> np.ndarray:
        noise = numbers.normal(more, 0.15, (seeds, sentences))
        return np.stack([np.clip(ease + noise, 0, 1).sum(0), np.full(sentences, seeds)], axis=1)

    return pooled(0), pooled(gain)


def of_pairs(
    pairs: int, sentences: int, seeds: int, gain: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """p of the bootstrap and of the paired t-test, for pairs of systems."""
    measure, numbers = measures()["rouge1"], np.random.default_rng(1)
    both = [judged(sentences, seeds, gain, numbers) for _ in range(pairs)]
    ours = [p_values(measure, baseline, {"other": other})["other"] for baseline, other in both]
    return np.array(ours), np.array(
        [ttest_rel(baseline[:, 0], other[:, 0]).pvalue for baseline, other in both]
    )


def test_p_is_that_of_a_paired_t_test() -> None:
    """A share of 1000 resamples has a standard deviation of at most .016.  A test of one tail would
    have half of each p.
    """
    ours, theirs = of_pairs(30, sentences=300, seeds=2)
    assert abs(ours - theirs).max() < 0.06 and abs(ours - theirs).mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_without_a_difference_p_is_below_five_percent_in_five_percent(seeds: int) -> None:
    """Of 1000 pairs of systems; their share has a standard deviation of .7 %, and the t-test's is
    that of the same pairs.
    """
    ours, theirs = of_pairs(1000, sentences=200, seeds=seeds)
    assert abs((ours < 0.05).mean() - 0.05) < 0.01
    assert abs((ours < 0.05).mean() - (theirs < 0.05).mean()) < 0.01
    assert abs(ours - theirs).mean() < 0.012


@pytest.mark.slow
def test_a_difference_is_found_as_often_as_by_a_t_test() -> None:
    ours, theirs = of_pairs(300, sentences=200, seeds=1, gain=0.04)
    assert 0.5 < (theirs < 0.05).mean() < 0.9  # neither hopeless nor sure
    assert abs((ours < 0.05).mean() - (theirs < 0.05).mean()) < 0.02


@pytest.mark.slow
def test_without_a_difference_p_of_bleu_is_uniform() -> None:
    """Two copies of a text, spoilt alike, whose sentences are dealt to two systems at random:
    neither is the better one.
    """
    measure, numbers = measures()["bleu"], np.random.default_rng(1)
    one, references = corpus(2000, 0.3, 6)
    first, second = (
        measure.counts(lines, references)
        for lines in (one, spoilt(references, 0.3, random.Random(7)))
    )
    found = []
    for _ in range(1000):
        drawn, swapped = numbers.integers(2000, size=200), numbers.random((200, 1)) < 0.5
        one_system, other = np.where(
            swapped, [first[drawn], second[drawn]], [second[drawn], first[drawn]]
        )
        found.append(p_values(measure, one_system, {"other": other})["other"])
    assert abs(np.mean(np.array(found) < 0.05) - 0.05) < 0.01
    assert np.quantile(found, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)


def test_p_does_not_depend_on_what_else_is_tested_nor_on_the_run() -> None:
    good, references = corpus(60, 0.2, 4)
    measure = measures()["bleu"]
    outputs = [
        good,
        *([line.replace(*words) for line in good] for words in (("w1", "w2"), ("w3 ", "w4 "))),
    ]
    counts = [measure.counts(lines, references) for lines in outputs]
    both = p_values(measure, counts[0], {"one": counts[1], "other": counts[2]})
    assert both == {
        name: p_values(measure, counts[0], {name: each})[name]
        for name, each in zip(both, counts[1:], strict=True)
    }
    assert p_values(measure, counts[0], {}) == {}


def test_one_sentence_says_nothing() -> None:
    measure = measures()["rouge1"]
    assert p_values(measure, np.array([[0.2, 1]]), {"other": np.array([[0.9, 1]])}) == {"other": 1}


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    good, references = corpus(200, 0.2, 5)
    bad, _ = corpus(200, 0.2, 5)
    bad = [" ".join(line.split()[::-1]) for line in bad]
    for name in ("bleu", "rouge2"):
        measure = measures()[name]
        one, other = (measure.counts(lines, references) for lines in (good, bad))
        assert p_values(measure, one, {"other": other})["other"] < 0.01
        assert p_values(measure, one, {"same": one})["same"] == 1
        # Two seeds of each: the counts add up, and a sentence stays one observation.
        both = p_values(measure, np.add(one, one), {"other": np.add(other, other)})
        assert both == p_values(measure, one, {"other": other}) or name == "bleu"
