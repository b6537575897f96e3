"""Scores: against the libraries they stand for, by adding counts, and the paired bootstrap against sacrebleu's own."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from fairseq_erpo.scores import ROUGE, bleu_signature, measures, p_values, repeated_bigrams, rouge_021, rouge_counts, rouge_f1


def corpus(n: int, wrong: float, seed: int) -> tuple[list[str], list[str]]:
    """Sentences, and copies in which a share of the words is another one."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(20)]
    references = [rng.choices(words, k=rng.randint(3, 12)) for _ in range(n)]
    hypotheses = [[rng.choice(words) if rng.random() < wrong else word for word in line] for line in references]
    return [" ".join(line) for line in hypotheses], [" ".join(line) for line in references]


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
    hypotheses = [" ".join(line.split()[:words]) if words < 0 else f"{line} {'a ' * words}" for line in hypotheses]
    whole = BLEU().corpus_score(hypotheses, [references])
    assert score("length_ratio", hypotheses, references) == whole.sys_len / whole.ref_len != 1
    counted = sum(len(line.split()) for line in hypotheses), sum(len(line.split()) for line in references)
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


@pytest.mark.parametrize(
    ("references", "counts"),
    [
        (["Съешь ещё этих булок", "да"], False),
        (["В 2020 году", "Съешь ещё", "да", "нет"], False),  # of most sentences nothing is counted
        (["我们 走", "!"], False),
        (["the cat", "Größe"], True),
        (["ÇA VA"], True),  # counted in lower case
        (["2020", "!"], True),  # no letters that it would not count
    ],
)
def test_where_rouge_counts_nothing(references: list[str], counts: bool) -> None:
    assert rouge_counts(references) == counts


# What Rouge().get_scores of the package rouge==0.2.1 returned for these pairs.
OLD = [
    ("a b c", "a b c", 0.999999995, 0.999999995, 0.9999999999995),
    ("the cat sat on the mat", "the cat the cat sat", 0.7499999953125, 0.49999999531250006, 0.5366568914949571),
    ("w x y", "a b c", 0.0, 0.0, 0.0),
    ("a", "a b c d", 0.39999999680000003, 0.0, 0.2615384615385364),
    ("a a a a", "a b", 0.6666666622222223, 0.0, 0.2777777777771852),
    ("one", "two", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("hypothesis", "reference", "one", "two", "longest"), OLD)
def test_the_old_rouge_is_that_of_its_package(hypothesis: str, reference: str, one: float, two: float, longest: float) -> None:
    found = rouge_021(hypothesis, reference)
    assert [found[name] for name in ROUGE] == pytest.approx([one, two, longest], abs=1e-12)


def test_each_column_is_its_own_score() -> None:
    """ROUGE-1, -2 and -L, by either package: all different here, and each the mean of its own F1."""
    hypotheses, references = [pair[0] for pair in OLD], [pair[1] for pair in OLD]
    for key, each in (("{}", rouge_f1), ("{}_021", rouge_021)):
        found = {name: score(key.format(name), hypotheses, references) for name in ROUGE}
        pairs = [each(*pair) for pair in zip(hypotheses, references, strict=True)]
        assert found == pytest.approx({name: 100 * sum(pair[name] for pair in pairs) / len(pairs) for name in ROUGE})
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
        parts = [measure.counts(hypotheses[i : i + 7], references[i : i + 7]).sum(0) for i in range(0, 30, 7)]
        whole = measure.counts(hypotheses, references).sum(0)
        assert measure.score(sum(parts)) == pytest.approx(measure.score(whole))  # rounding of sums only


def test_p_values_are_sacrebleus() -> None:
    """Ours, which can also add seeds up and test ROUGE, on what sacrebleu can do itself."""
    good, references = corpus(60, 0.2, 4)
    bad, other = ([line.replace("w1", "w2") for line in good], [line.replace("w3 ", "w4 ") for line in good])
    theirs = PairedTest([("good", good), ("bad", bad), ("other", other)], {"BLEU": BLEU()}, [references], "bs")()[1]["BLEU"]
    measure = measures()["bleu"]
    counted = {name: measure.counts(lines, references) for name, lines in {"good": good, "bad": bad, "other": other}.items()}
    ours = p_values(measure, counted.pop("good"), counted)
    assert ours == {"bad": theirs[1].p_value, "other": theirs[2].p_value}
    assert p_values(measure, counted["bad"], {}) == {}


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
