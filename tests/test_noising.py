"""Whole-sequence draws against worlds small enough to enumerate: the exact probability of every
sequence is written out.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fairseq_erpo.algorithm import neighbours, noising
from fairseq_erpo.algorithm.neighbours import raml_hamming, raml_ngram, raml_weights, real_words
from fairseq_erpo.algorithm.noising import GAMMA, SCHEMES, NoiseStatistics, Noising
from fairseq_erpo.algorithm.predrawn import PredrawnSamples
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.vocabulary import Vocabulary

torch.set_num_threads(1)

# BOS, PAD, EOS, UNK as fairseq has them, three words, a filler in between: real words are not
# contiguous.
BOS, PAD, EOS, UNK, A, FILLER, B, C = range(8)
VOCABULARY = Vocabulary(size=8, pad=PAD, eos=EOS, unk=UNK, never=(BOS, PAD, FILLER))
WORDS = real_words(VOCABULARY)
# `a b b`, `a c`, `b a b UNK`; a and b are frequent enough for rates other than 0 and 1.
CORPUS = [[A, B, B, EOS], [A, C, EOS], [B, A, B, UNK, EOS]]
STATISTICS = NoiseStatistics.count(CORPUS, 8, EOS)
REFERENCES = [[], [A], [UNK], [A, C], [B, UNK, A], [A, B, B]]
DRAWN = 20000
# Fixed seeds: a test always passes or always fails; this is the chance that a choice of seeds
# refuses a right distribution.
UNLIKELY = 1e-3

Sequence = tuple[int, ...]


def target(*references: list[int], width: int = 0) -> Tensor:
    rows = [[*reference, EOS] for reference in references]
    width = max(width, *map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def draws(rows: int, first: int = 0) -> Draws:
    return Draws(torch.arange(first, first + rows), seed=3, update=14)


def assert_drawn_from(exact: dict[Sequence, float], drawn: Tensor) -> None:
    """Chi-square of the rows of `drawn` against probabilities; cells that expect less than five are
    taken together.
    """
    assert math.isclose(sum(exact.values()), 1, rel_tol=1e-9)
    counts = Counter(map(tuple, drawn.tolist()))
    possible = {sequence for sequence, probability in exact.items() if probability > 0}
    assert set(counts) <= possible, "an impossible sequence was drawn"
    if len(possible) == 1:
        return
    observed, expected = [0.0], [0.0]
    for sequence in possible:
        mean = exact[sequence] * len(drawn)
        if mean < 5:
            observed[0], expected[0] = observed[0] + counts[sequence], expected[0] + mean
        else:
            observed, expected = [*observed, counts[sequence]], [*expected, mean]
    if expected[0] < 5:  # too few even together: join the first proper cell
        observed[1:2], expected[1:2] = [observed[0] + observed[1]], [expected[0] + expected[1]]
        observed, expected = observed[1:], expected[1:]
    if len(observed) > 1:
        assert stats.chisquare(observed, expected).pvalue > UNLIKELY


def product(independent: list[dict[int, float]]) -> dict[Sequence, float]:
    """Of independent positions, EOS at the end.  Ids outside the distributions have
    probability 0.
    """
    exact: dict[Sequence, float] = Counter()
    for choice in itertools.product(*(position.items() for position in independent)):
        exact[(*(token for token, _ in choice), EOS)] += math.prod(p for _, p in choice)
    return dict(exact)


# What `CORPUS` says, counted by hand.
UNIGRAM = {A: 3, B: 4, C: 1, UNK: 1}
BEFORE = {A: {EOS, B}, B: {A, B, EOS}, C: {A}, UNK: {B}}
AFTER = {A: {B, C}, B: {B, EOS, A, UNK}, C: {EOS}, UNK: {EOS}}
BY_HAND = {
    "unigram": (dict.fromkeys(UNIGRAM, 1.0), UNIGRAM),
    "blank": (dict.fromkeys(UNIGRAM, 1.0), {UNK: 1}),
    "kneser_ney": (
        {x: len(AFTER[x]) / UNIGRAM[x] for x in UNIGRAM},
        {x: len(BEFORE[x]) for x in UNIGRAM},
    ),
}


def test_statistics_by_hand():
    dense = lambda counts: [counts.get(i, 0) for i in range(8)]  # noqa: E731
    assert STATISTICS.unigram.tolist() == dense(UNIGRAM | {EOS: 3})
    assert STATISTICS.continuations_before.tolist() == dense(
        {x: len(y) for x, y in BEFORE.items()} | {EOS: 3}
    )
    assert STATISTICS.continuations_after.tolist() == dense(
        {x: len(y) for x, y in AFTER.items()} | {EOS: 2}
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([A, B, C, UNK]), max_size=6), max_size=8), st.integers(1, 9)
)
def test_statistics_equal_a_set_of_bigrams(corpus: list[list[int]], chunk: int):
    bigrams = {pair for sentence in corpus for pair in itertools.pairwise([EOS, *sentence, EOS])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noising, "CHUNK", chunk)
        # Lists, arrays and tensors, with and without EOS, as a stream that can be read once.
        kinds: list[Callable] = [list, np.array, torch.tensor]
        closed = (
            [*sentence, EOS] if i % 2 or not sentence else sentence
            for i, sentence in enumerate(corpus)
        )
        counted = NoiseStatistics.count(
            (kinds[i % 3](sentence) for i, sentence in enumerate(closed)), 8, EOS
        )
    for x in range(8):
        assert counted.unigram[x] == sum([*sentence, EOS].count(x) for sentence in corpus)
        assert counted.continuations_before[x] == sum(second == x for _, second in bigrams)
        assert counted.continuations_after[x] == sum(first == x for first, _ in bigrams)


def test_words_may_begin_at_0() -> None:
    """Other dictionaries have what is special elsewhere."""
    counted = NoiseStatistics.count([[0, 0, 7], [7, 0]], 8, EOS)
    assert (int(counted.unigram[0]), int(counted.unigram[7])) == (3, 2)


def test_statistics_that_cannot_be():
    for outside in (-1, 8):
        with pytest.raises(ValueError, match=r"outside 0\.\.7"):
            NoiseStatistics.count([[A, outside]], 8, EOS)
    one = torch.ones(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="different vocabularies"):
        NoiseStatistics(one, one, one[:-1])
    more = one + one.cumsum(0).eq(5)  # of one token
    for before, after in ((one, 2 * one), (2 * one, one), (one, more), (more, one)):
        with pytest.raises(ValueError, match="more distinct neighbours"):
            NoiseStatistics(one, before, after)


@pytest.mark.parametrize("reference", REFERENCES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_data_noising_draws_the_enumerated_distribution(scheme: str, reference: list[int]):
    gamma = 0.6
    rate, proposal = BY_HAND[scheme]
    total = sum(proposal.values())
    exact = product(
        [
            {
                x: gamma * rate[token] * proposal.get(x, 0) / total
                + (1 - gamma * rate[token]) * (x == token)
                for x in UNIGRAM
            }
            for token in reference
        ]
    )
    noise = Noising.from_statistics(scheme, STATISTICS, VOCABULARY, gamma)
    assert_drawn_from(exact, noise(target(reference).repeat(DRAWN, 1), draws(DRAWN)))


def test_noising_at_the_ends_of_gamma():
    y = target([A, B, C], [UNK])
    assert Noising.from_statistics("blank", STATISTICS, VOCABULARY, 0)(y, draws(2)).equal(y)
    assert Noising.from_statistics("blank", STATISTICS, VOCABULARY, 1)(y, draws(2)).equal(
        target([UNK, UNK, UNK], [UNK])
    )
    changed = Noising.from_statistics("blank", STATISTICS, VOCABULARY)(
        target([A] * 99).repeat(500, 1), draws(500)
    ).eq(UNK)
    assert abs(changed[:, :99].float().mean() - GAMMA) < 0.01  # five standard deviations


def test_a_token_never_seen_is_noised_like_one_seen_once():
    unseen = NoiseStatistics.count([[A, B]], 8, EOS)
    assert Noising.from_statistics("kneser_ney", unseen, VOCABULARY, 0.5).rate[[A, C]].tolist() == [
        0.5,
        0.5,
    ]


def test_only_words_are_proposed_even_where_others_are_counted():
    ten = torch.full((8,), 10.0, dtype=torch.float64)
    for scheme in SCHEMES:
        noise = Noising.from_statistics(scheme, NoiseStatistics(ten, ten, ten), VOCABULARY, 1)
        assert ten.eq(10).all()
        drawn = noise(target([A] * 20).repeat(500, 1), draws(500))
        assert set(drawn[:, :20].unique().tolist()) <= {UNK, A, B, C} and drawn[:, 20].eq(EOS).all()


def test_a_uniform_on_the_edge_of_two_proposals_takes_the_one_with_mass():
    cdf = torch.tensor([0, 0.25, 0.25, 1, 1], dtype=torch.float64)
    for u, proposed in ((2.0**-53, 1), (0.25, 3), (1 - 2.0**-53, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Draws, "__call__", lambda *_, u=u: torch.tensor([[u, u]], dtype=torch.float64)
            )
            noise = Noising(torch.full((5,), 2.0), cdf, pad=4, eos=2)
            assert noise(torch.tensor([[0, 2]]), draws(1)).tolist() == [[proposed, 2]]


def test_noising_that_cannot_be():
    with pytest.raises(
        ValueError, match="no noising scheme 'bigram', only unigram, blank, kneser_ney"
    ):
        Noising.from_statistics("bigram", STATISTICS, VOCABULARY)
    for gamma in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="not a probability"):
            Noising.from_statistics("unigram", STATISTICS, VOCABULARY, gamma)
    with pytest.raises(ValueError, match="8 ids for a vocabulary of 9"):
        Noising.from_statistics("unigram", STATISTICS, Vocabulary(9, PAD, EOS, UNK, (BOS, PAD)))
    with pytest.raises(ValueError, match="no token to propose"):
        Noising.from_statistics("unigram", NoiseStatistics.count([[]], 8, EOS), VOCABULARY)


def ngram_replacement(reference: list[int]) -> dict[Sequence, float]:
    """A.3.2 written as loops: n, then the start, then n words."""
    exact: dict[Sequence, float] = Counter()
    r = len(reference)
    lengths = range(1, min(r - 1, 4) + 1)
    if not lengths:
        return {(*reference, EOS): 1.0}
    for n in lengths:
        for start in range(r - n):
            for words in itertools.product((A, B, C), repeat=n):
                sequence = (*reference[:start], *words, *reference[start + n :], EOS)
                exact[sequence] += 1 / len(lengths) / (r - n) / 3**n
    return dict(exact)


@pytest.mark.parametrize("reference", [*REFERENCES, [C, A, B, UNK, A, B]], ids=str)
def test_ngram_replacement_draws_the_enumerated_distribution(reference: list[int]):
    drawn = raml_ngram(
        target(reference).repeat(DRAWN // 2, 1), WORDS, 3, draws(DRAWN // 2), VOCABULARY
    )
    truth, *others = drawn.view(DRAWN // 2, 3, -1).unbind(1)
    assert truth.equal(target(reference).repeat(DRAWN // 2, 1))
    exact = ngram_replacement(reference)
    assert_drawn_from(exact, torch.cat(others))
    # The two samples are drawn apart from each other: they agree as often as chance has it (within
    # four standard deviations).
    agree = sum(probability**2 for probability in exact.values())
    assert abs(others[0].eq(others[1]).all(1).double().mean() - agree) <= 4 * math.sqrt(
        max(agree * (1 - agree), 0) / len(truth)
    )


def test_no_more_than_four_tokens_are_replaced():
    reference = [A] * 30
    drawn = raml_ngram(target(reference).repeat(3000, 1), WORDS, 2, draws(3000), VOCABULARY)[1::2]
    changed = drawn.ne(A)[:, :30]
    position = torch.arange(30)
    span = (
        torch.where(changed, position, -1).amax(1) - torch.where(changed, position, 99).amin(1) + 1
    )
    assert (
        span[changed.any(1)].max() == 4
        and not changed[:, 29].any()
        and changed[:, 0].any()
        and changed[:, 28].any()
    )


def hamming_payoff(reference: list[int], tau: float) -> dict[Sequence, float]:
    """Norouzi et al.: every sequence of the same length, of weight exp(-e/τ) (W-1)^(-e/τ), e words
    other than in y*.
    """
    weight = {}
    for sequence in itertools.product(*({token, A, B, C} for token in reference)):
        e = sum(x != y for x, y in zip(sequence, reference, strict=True))
        # UNK has W others where a word has W-1: the weight of e stays what it is, shared by more.
        others = math.prod(
            3 / 2 for x, y in zip(sequence, reference, strict=True) if x != y and y == UNK
        )
        weight[(*sequence, EOS)] = math.exp(-e / tau) * 2 ** (-e / tau) / others
    return {sequence: w / sum(weight.values()) for sequence, w in weight.items()}


@pytest.mark.parametrize("tau", [0.4, 1.0, 5.0])
@pytest.mark.parametrize("reference", REFERENCES, ids=str)
def test_hamming_payoff_draws_the_enumerated_distribution(reference: list[int], tau: float):
    drawn = raml_hamming(
        target(reference).repeat(DRAWN // 2, 1), WORDS, 2, tau, draws(DRAWN // 2), VOCABULARY
    )
    assert_drawn_from(hamming_payoff(reference, tau), drawn)


def test_number_of_edits_of_different_lengths_and_a_large_vocabulary():
    """The formula of Norouzi et al. in Python's floats, for all r of a batch at once."""
    tau, words, lengths = 0.9, 73197, [0, 1, 20, 60]
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    r = torch.tensor(lengths).repeat_interleave(4000)
    drawn = neighbours._edits(r, words, tau, 70, u.repeat(4).unsqueeze(1)).view(4, 4000)
    for e, length in zip(drawn, lengths, strict=True):
        log = [
            math.log(math.comb(length, k)) - k / tau + (k - k / tau) * math.log(words - 1)
            for k in range(length + 1)
        ]
        cdf = np.cumsum(np.exp(np.array(log) - max(log)))
        assert e.tolist() == np.searchsorted(cdf / cdf[-1], u.numpy(), side="right").tolist()
    top = torch.tensor([[1 - 2.0**-53]])
    assert neighbours._edits(torch.tensor([50]), words, 5.0, 60, top.double()) <= 50


def draw(drawer: str, noise: Noising | None, words: Tensor, y: Tensor, u: Draws) -> Tensor:
    if drawer == "ngram":
        return raml_ngram(y, words, 3, u, VOCABULARY)
    if drawer == "hamming":
        return raml_hamming(y, words, 3, 2.0, u, VOCABULARY)
    assert noise is not None
    return noise(y, u)


DRAWERS = {
    scheme: functools.partial(
        draw, scheme, Noising.from_statistics(scheme, STATISTICS, VOCABULARY, 0.5), WORDS
    )
    for scheme in SCHEMES
}
DRAWERS |= {drawer: functools.partial(draw, drawer, None, WORDS) for drawer in ("ngram", "hamming")}
SAMPLES = {scheme: 1 for scheme in SCHEMES} | {"ngram": 3, "hamming": 3}


@pytest.mark.parametrize("drawer", DRAWERS)
def test_batch_equals_one_by_one_whatever_the_padding(drawer: str):
    draw_all, samples = DRAWERS[drawer], SAMPLES[drawer]
    references = [*REFERENCES, [A, C] * 9, [B] * 5] * 5
    batch = target(*references)
    drawn = draw_all(batch, draws(len(references), first=100))
    assert (
        drawn.shape == (len(references) * samples, batch.size(1))
        and drawn.ne(batch.repeat_interleave(samples, 0)).any()
    )
    for b, reference in enumerate(references):
        for width in (0, 25):
            alone = draw_all(target(reference, width=width), draws(1, first=100 + b))
            expected = drawn[b * samples : (b + 1) * samples, : len(reference) + 1]
            assert (
                alone[:, : len(reference) + 1].equal(expected)
                and alone[:, len(reference) + 1 :].eq(PAD).all()
            )


@pytest.mark.parametrize("drawer", DRAWERS)
def test_eos_and_padding_stay(drawer: str):
    batch = target(*REFERENCES * 200)
    drawn = DRAWERS[drawer](batch, draws(len(batch)))
    rows = batch.repeat_interleave(SAMPLES[drawer], 0)
    for fixed in (EOS, PAD):
        assert drawn.eq(fixed).equal(rows.eq(fixed))
    assert not torch.isin(drawn, torch.tensor([BOS, FILLER])).any()
    # A target that was cut off has no EOS to keep and gets none.
    cut = DRAWERS[drawer](torch.tensor([[A, B, C]] * 300), draws(300))
    assert not torch.isin(cut, torch.tensor([EOS, PAD])).any() and cut[:, 2].ne(C).any() == (
        drawer != "ngram"
    )


@pytest.mark.parametrize("drawer", DRAWERS)
def test_draws_follow_seed_update_and_sentence(drawer: str):
    batch, ids = target([A, B] * 20).repeat(2, 1), torch.tensor([5, 6])
    drawn = [
        DRAWERS[drawer](batch, Draws(ids, seed, update))
        for seed, update in ((1, 1), (1, 1), (1, 2), (2, 1))
    ]
    assert (
        drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2]) and not drawn[0].equal(drawn[3])
    )
    assert not drawn[0][: len(drawn[0]) // 2].equal(drawn[0][len(drawn[0]) // 2 :])


@pytest.mark.parametrize("drawer", DRAWERS)
def test_stays_on_the_device_without_synchronisation(drawer: str):
    """A tensor elsewhere, `.item()` and a branch on a value raise under a fake device."""
    with torch.no_grad(), FakeTensorMode():
        batch, ids = (
            torch.empty(shape, dtype=torch.int64, device="cuda") for shape in ((6, 4), (6,))
        )
        rate, cdf, words = (
            torch.empty(8, dtype=kind, device="cuda")
            for kind in (torch.float32, torch.float64, torch.int64)
        )
        drawn = draw(drawer, Noising(rate, cdf, PAD, EOS), words, batch, Draws(ids, 1, 2))
        weights = raml_weights(torch.empty(12, device="cuda"), 3, 0.4)
    assert drawn.device.type == weights.device.type == "cuda"
    assert drawn.shape == (6 * SAMPLES[drawer], 4) and drawn.dtype == torch.int64


def test_real_words():
    assert WORDS.tolist() == [A, B, C]
    with pytest.raises(ValueError, match="no two real words"):
        real_words(Vocabulary(8, PAD, EOS, UNK, (BOS, PAD, FILLER, A, B)))


def test_weights_are_normalised_by_sentence():
    reward = torch.tensor([1.0, 0.2, 0.2, -3.0, 5.0, 0.0])
    weights = raml_weights(reward, samples=3, tau=0.4)
    energy = [[math.exp(x / 0.4) for x in group] for group in reward.view(2, 3).tolist()]
    expected = torch.tensor([[x / sum(group) for x in group] for group in energy]).flatten()
    torch.testing.assert_close(weights, expected)  # float32 against float64
    torch.testing.assert_close(weights.view(2, 3).sum(1), torch.ones(2))
    assert weights[1] == weights[2]  # drawn twice, counted twice
    assert raml_weights(torch.tensor([1e4, -1e4]), 2, 1e-3).tolist() == [1, 0]
    for tau in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be positive"):
            raml_weights(reward, 3, tau)
        with pytest.raises(ValueError, match="must be positive"):
            raml_hamming(target([A]), WORDS, 3, tau, draws(1), VOCABULARY)


LETTERS = {"a": A, "b": B, "c": C}


def encode(text: str) -> list[int]:
    return [LETTERS.get(token, UNK) for token in text.split()]


def predrawn(tmp_path: Path, content: str | bytes) -> PredrawnSamples:
    path = tmp_path / "samples.tsv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return PredrawnSamples(path, encode, VOCABULARY)


def test_predrawn_samples(tmp_path: Path):
    # Sentences in any order, an empty sample, a word of several bytes, a Windows line end, no line
    # end at the end.
    samples = predrawn(
        tmp_path, "7\t1\ta b\n7\t.25\té\n2\t-1e-1\t\r\n2\t0\tc c c\n40\t1\ta\n40\t1\tb"
    )
    assert samples.samples == 2
    tokens, reward = samples.read([2, 40, 7, 2])
    empty, ccc = [EOS, PAD, PAD, PAD], [C, C, C, EOS]
    assert tokens.tolist() == [
        empty,
        ccc,
        [A, EOS, PAD, PAD],
        [B, EOS, PAD, PAD],
        [A, B, EOS, PAD],
        [UNK, EOS, PAD, PAD],
        empty,
        ccc,
    ]
    torch.testing.assert_close(
        reward, torch.tensor([-0.1, 0, 1, 1, 1, 0.25, -0.1, 0]), rtol=0, atol=1e-8
    )
    for absent in (0, 3, 41):
        with pytest.raises(ValueError, match=rf"samples\.tsv: no samples of sentence {absent}"):
            samples.read([absent])


MALFORMED = {
    "no samples": "",
    "tsv:2: expected index": "0\t1\ta\n0 1 a\n",
    "tsv:1: expected index": "x\t1\ta\n",
    "tsv:3: expected index": "0\t1\ta\n0\t1\tb\n\n",
    "tsv:1: expected .*float": "0\tgood\ta\n",
    "tsv:2: expected .*unpack": "0\t1\ta\n0\t1\ta\tb\n",
    "tsv:2: expected .*utf-8": b"0\t1\ta\n0\t1\t\xff\n",
    "tsv:2: the index must": "0\t1\ta\n-1\t1\ta\n",
    "tsv:1: the index must": "0\tnan\ta\n",
    "tsv:3: the index must": f"0\t1\ta\n1\t1\ta\n{2**63}\t1\ta\n",
    "tsv:2: the index must be .* float32": "0\t1\ta\n1\t1e39\ta\n",
    "tsv:3: 1 samples end here, the first sentence has 2": (
        "0\t1\ta\n0\t1\tb\n1\t1\ta\n2\t1\ta\n2\t1\tb\n"
    ),
    "tsv:5: 3 samples end here, the first sentence has 2": (
        "0\t1\ta\n0\t1\tb\n1\t1\ta\n1\t1\ta\n1\t1\tb\n"
    ),
    "tsv:3: 1 samples end": "0\t1\ta\n0\t1\tb\n1\t1\ta\n",
    "tsv:3: sentence 5 occurs before": "5\t1\ta\n1\t1\ta\n5\t1\ta\n",
}


@pytest.mark.parametrize("message", MALFORMED)
def test_malformed_samples_are_refused_by_line(message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        predrawn(tmp_path, MALFORMED[message])


def test_predrawn_samples_are_indexed_not_kept(tmp_path: Path):
    n = 20000
    content = "".join(f"{n - 1 - i}\t{s}\t{'abc'[i % 3]} b\n" for i in range(n) for s in range(3))
    samples = predrawn(tmp_path, content)
    kept = sum(value.nbytes for value in vars(samples).values() if isinstance(value, np.ndarray))
    assert kept == 3 * 8 * n and samples.samples == 3
    tokens, reward = samples.read([n - 1 - 777, 0])
    assert (
        tokens.tolist() == [[A, B, EOS]] * 3 + [["abc".index("abc"[(n - 1) % 3]) and B, B, EOS]] * 3
    )
    assert reward.tolist() == [0, 1, 2] * 2
