"""Every reward against a brute-force twin, the public scorers, and the laws of the interface."""

import importlib.util
import math
import random
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from dense import dense_gains, gains_along
from fake_cuda import StaysOnCuda, fake_cuda
from reward_oracles import (
    BOS,
    EOS,
    ORACLES,
    PAD,
    UNK,
    VOCABULARY,
    WORDS,
    Oracle,
    Words,
    adversarial_pair,
    distances,
    readable,
    rouge_score,
    sacrebleu_counts,
    sacrebleu_score,
    sacrebleu_share,
    text,
)
from sacrebleu.metrics import BLEU
from torch import Tensor

import fairseq_erpo.rewards
from fairseq_erpo.rewards import (
    REWARDS,
    Gains,
    Reference,
    Reward,
    make_reward,
    register_reward,
    replay,
)
from fairseq_erpo.rewards.bleu import Bleu
from fairseq_erpo.rewards.corpus_bleu import CorpusBleu, CorpusStatistics
from fairseq_erpo.vocabulary import Vocabulary

MAKERS: dict[str, Callable[[], Reward[Any]]] = {**REWARDS}
# ΔR is a difference of two float32 of at most 3, each a few roundings (2^-24 of its size) from the
# float64 twin: below 6e-7.
TOLERANCE = 1e-6
DRAWABLE = [w for w in range(VOCABULARY.size) if w not in VOCABULARY.never]

each_reward = pytest.mark.parametrize("name", sorted(MAKERS))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def registry() -> Iterator[None]:
    before = dict(REWARDS)
    yield
    REWARDS.clear()
    REWARDS.update(before)


class Pairs(NamedTuple):
    reference: Reference
    drawn: Tensor  # [B, T]
    words: list[tuple[Words, Words]]  # y* with what cannot match marked, and y; neither with EOS


def padded(rows: list[Words], width: int = 0) -> Tensor:
    width = max(width, *map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def pairs(seed: int, size: int = 64, closed: bool = True) -> Pairs:
    rng = random.Random(seed)
    drawn = [adversarial_pair(rng) for _ in range(size)]
    reference = Reference.from_target(padded([(*y_star, EOS) for y_star, _ in drawn]), VOCABULARY)
    tokens = padded([(*y, EOS) if closed else y for _, y in drawn], width=1)
    return Pairs(reference, tokens, [(readable(y_star), y) for y_star, y in drawn])


def prefixes(reward: Reward[Any], batch: Pairs) -> Iterator[tuple[int, Any, Tensor]]:
    """(t, state, live) of every prefix; live says which of them exist."""
    state = reward.start(batch.reference)
    lengths = torch.tensor([len(y) for _, y in batch.words])
    for t, token in enumerate(batch.drawn.unbind(1)):
        yield t, state, t <= lengths
        state = reward.advance(state, token, t < lengths)


def rows(values: tuple[Tensor, ...], index: Tensor | int) -> list[Tensor]:
    return [value[index] for value in values]


def assert_same(left: Any, right: Any) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def assert_near(value: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(
        value.double(), torch.tensor(wanted, dtype=torch.double), atol=TOLERANCE, rtol=0
    )


def check_extensions(reward: Reward[Any], oracle: Oracle, batch: Pairs) -> set[tuple[Words, Words]]:
    """Compare Φ of every prefix and ΔR of every drawable token after it with the oracle; return
    (y*, prefix) of each.
    """
    checked = set()
    for t, state, live in prefixes(reward, batch):
        words = [(y_star, y[:t]) for y_star, y in batch.words if t <= len(y)]
        dense = dense_gains(reward.gains(state), batch.reference, VOCABULARY)[live][:, DRAWABLE]
        assert_near(
            dense, [[oracle.delta_r(y, w, y_star) for w in DRAWABLE] for y_star, y in words]
        )
        assert_near(reward.value(state)[live], [oracle.phi(y, y_star) for y_star, y in words])
        checked.update(words)
    return checked


@each_reward
@pytest.mark.parametrize("extensions", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_every_token_of_every_prefix_against_brute_force(name: str, extensions: int) -> None:
    """Eq. 3 by its definition for all drawable tokens, at every prefix of adversarial pairs."""
    checked: set[tuple[Words, Words]] = set()
    for seed in range(60):
        checked |= check_extensions(MAKERS[name](), ORACLES[name], pairs(seed))
        if len(checked) * len(DRAWABLE) >= extensions:
            break
    assert len(checked) * len(DRAWABLE) >= extensions


def sentence_metric(name: str, y: Words, y_star: Words) -> float:
    if name.startswith("bleu"):
        return sacrebleu_counts(y, y_star)
    if name == "corpus_bleu":
        return sacrebleu_share(y, y_star)
    if name == "edit":
        return -distances(y, y_star)[-1]
    scores = rouge_score(y, y_star)
    return scores[name] if name in scores else sum(scores.values())


@each_reward
@pytest.mark.parametrize("seed", range(1000, 1002))
def test_sum_is_the_metric_of_public_scorers(name: str, seed: int) -> None:
    batch = pairs(seed)
    total = replay(MAKERS[name](), batch.reference, batch.drawn, VOCABULARY).total
    assert_near(total, [sentence_metric(name, y, y_star) for y_star, y in batch.words])


def test_bleu_against_the_score_that_sacrebleu_reports() -> None:
    batch = pairs(2000, size=256)
    matching = [i for i, (y_star, y) in enumerate(batch.words) if set(y_star) & set(y)]
    assert len(matching) > 100
    total = replay(Bleu(), batch.reference, batch.drawn, VOCABULARY).total[matching]
    assert_near(
        total, [sacrebleu_score(y, y_star) for y_star, y in (batch.words[i] for i in matching)]
    )


@each_reward
def test_replay_of_an_open_sequence_is_its_prefix(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(7, closed=False)
    result = replay(reward, batch.reference, batch.drawn, VOCABULARY)
    assert_near(result.total, [ORACLES[name].phi(y, y_star) for y_star, y in batch.words])
    assert result.delta_r[batch.drawn.eq(PAD)].eq(0).all()


@each_reward
def test_replay_sums_the_gains_of_every_prefix(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(8)
    result = replay(reward, batch.reference, batch.drawn, VOCABULARY)
    for t, state, live in prefixes(reward, batch):
        dense = dense_gains(reward.gains(state), batch.reference, VOCABULARY)
        assert torch.equal(
            dense.gather(1, batch.drawn[:, t, None])[live, 0], result.delta_r[live, t]
        )


@pytest.mark.parametrize("name", [*sorted(MAKERS), "corpus_bleu at a model"])
@pytest.mark.parametrize("closed", [True, False])
def test_the_total_is_that_of_the_walk_along_the_sequence(name: str, closed: bool) -> None:
    """From counts at the end, in another order of sums: a few roundings of numbers of at
    most 30.
    """
    statistics = CorpusStatistics(
        (61.0, 30.0, 14.0, 7.0), (99.0, 90.0, 81.0, 72.0), 99.0, 110.0, 9.0
    )
    reward, batch = (
        MAKERS[name]() if name in MAKERS else CorpusBleu(statistics),
        pairs(17, closed=closed),
    )
    walked = replay(reward, batch.reference, batch.drawn, VOCABULARY).total
    total = reward.total(batch.reference, batch.drawn, VOCABULARY)
    torch.testing.assert_close(total, walked, rtol=1e-5, atol=1e-5)
    behind = batch.drawn.masked_fill(batch.drawn.eq(PAD), WORDS[0]) if closed else batch.drawn
    assert torch.equal(reward.total(batch.reference, behind, VOCABULARY), total)


@each_reward
def test_replay_ends_at_eos(name: str) -> None:
    """Whatever stands behind it, the closed prefix stays the last one."""
    reward, batch = MAKERS[name](), pairs(13)
    clean = replay(reward, batch.reference, batch.drawn, VOCABULARY)
    result = replay(
        reward, batch.reference, batch.drawn.masked_fill(batch.drawn.eq(PAD), WORDS[0]), VOCABULARY
    )
    assert_same(result, clean)


def test_eos_of_bleu_costs_the_brevity_penalty_exactly() -> None:
    """-1 at once and nothing from t = r on, to the last bit: an expert may compare these
    with ==.
    """
    reward, batch = Bleu(), pairs(3, size=256)
    for t, state, live in prefixes(reward, batch):
        eos, long_enough = reward.gains(state).eos, t >= batch.reference.length
        assert (eos[live & long_enough] == 0).all()
        assert (eos[live & ~long_enough] < 0).all()
        if t == 0:
            assert (eos == -1).all()


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rouge"])
def test_eos_is_free_and_the_empty_prefix_worth_nothing(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(4)
    assert (reward.value(reward.start(batch.reference)) == 0).all()
    assert all((reward.gains(state).eos == 0).all() for _, state, _ in prefixes(reward, batch))


@each_reward
def test_an_empty_reference_gives_numbers(name: str) -> None:
    reference = Reference.from_target(torch.tensor([[EOS, PAD], [PAD, PAD]]), VOCABULARY)
    assert reference.length.tolist() == [0, 0]
    result = replay(
        MAKERS[name](), reference, torch.tensor([[EOS, PAD], [WORDS[0], EOS]]), VOCABULARY
    )
    for value in result:
        assert value.isfinite().all()


@each_reward
def test_ties_are_exact(name: str) -> None:
    """At t = 0 and after a token outside y* no order but the first is in reach: all tokens of y*
    gain the same, bit for bit.
    """
    reward = MAKERS[name]()
    reference = Reference.from_target(padded([tuple(WORDS[:5]), tuple(WORDS[2:7])]), VOCABULARY)
    state = reward.start(reference)
    for token in (WORDS[7], UNK):
        hit = reward.gains(state).hit
        ties = hit[:, :1] if name == "edit" else hit
        assert ties.eq(ties[:, :1]).all()
        state = reward.advance(state, torch.full((2,), token), torch.ones(2, dtype=torch.bool))


@each_reward
def test_hits_are_equal_at_equal_tokens_and_misses_elsewhere(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(5)
    for _, state, _ in prefixes(reward, batch):
        gains = reward.gains(state)
        assert all(value.dtype == torch.float32 for value in (*gains, reward.value(state)))
        assert torch.equal(gains.hit, gains.hit.gather(1, batch.reference.first))
        missed = gains.miss[:, None].expand_as(gains.hit)
        assert torch.equal(
            gains.hit[~batch.reference.matchable], missed[~batch.reference.matchable]
        )


@each_reward
def test_dense_spreads_hit_miss_and_eos(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(6, size=16)
    for _, state, _ in prefixes(reward, batch):
        gains = reward.gains(state)
        dense = dense_gains(gains, batch.reference, VOCABULARY)
        for b, (y_star, _) in enumerate(batch.words):
            for w in range(VOCABULARY.size):
                wanted = gains.hit[b, y_star.index(w)] if w in y_star else gains.miss[b]
                wanted = gains.eos[b] if w == EOS else wanted
                assert dense[b, w] == (-torch.inf if w in VOCABULARY.never else wanted)


@each_reward
def test_padding_changes_nothing(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(9)
    target = batch.reference.tokens
    wide = Reference.from_target(
        torch.cat([target, target.new_full((len(target), 5), PAD)], 1), VOCABULARY
    )
    drawn = torch.cat([batch.drawn, batch.drawn.new_full((len(target), 3), PAD)], 1)
    narrow = replay(reward, Reference.from_target(target, VOCABULARY), batch.drawn, VOCABULARY)
    result = replay(reward, wide, drawn, VOCABULARY)
    assert torch.equal(result.total, narrow.total)
    steps, positions = batch.drawn.size(1), target.size(1)
    assert_same([result.delta_r[:, :steps]], [narrow.delta_r])
    along = (
        gains_along(reward, one, tokens, VOCABULARY).hit
        for one, tokens in ((wide, drawn), (batch.reference, batch.drawn))
    )
    padded_hit, hit = along
    assert torch.equal(padded_hit[:, :steps, :positions], hit)


@each_reward
def test_the_order_of_the_ids_means_nothing(name: str) -> None:
    """Other dictionaries begin with words, and have what is special at the end."""
    batch, last = pairs(13), VOCABULARY.size - 1
    other = Vocabulary(
        last + 1, *(last - i for i in (PAD, EOS, UNK)), tuple(last - i for i in VOCABULARY.never)
    )
    target = padded(
        [(*y_star, EOS) for y_star, _ in (adversarial_pair(random.Random(s)) for s in range(64))]
    )
    tokens = batch.drawn
    reward = MAKERS[name]()
    one = replay(reward, Reference.from_target(target, VOCABULARY), tokens, VOCABULARY)
    two = replay(reward, Reference.from_target(last - target, other), last - tokens, other)
    assert_same(one, two)
    gains = gains_along(reward, Reference.from_target(target, VOCABULARY), tokens, VOCABULARY)
    assert_same(
        gains,
        gains_along(reward, Reference.from_target(last - target, other), last - tokens, other),
    )


@each_reward
def test_a_batch_is_its_sentences_one_by_one(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(10, size=32)
    result = replay(reward, batch.reference, batch.drawn, VOCABULARY)
    together = gains_along(reward, batch.reference, batch.drawn, VOCABULARY)
    for b, (_, y) in enumerate(batch.words):
        r = max(int(batch.reference.length[b]), 1)
        alone = Reference.from_target(batch.reference.tokens[b : b + 1, :r], VOCABULARY)
        single = replay(reward, alone, batch.drawn[b : b + 1, : len(y) + 1], VOCABULARY)
        assert torch.equal(single.delta_r[0], result.delta_r[b, : len(y) + 1])
        gains = gains_along(reward, alone, batch.drawn[b : b + 1, : len(y) + 1], VOCABULARY)
        assert torch.equal(gains.hit[0], together.hit[b, : len(y) + 1, :r])
        assert torch.equal(gains.eos[0], together.eos[b, : len(y) + 1])


@each_reward
def test_only_live_rows_advance(name: str) -> None:
    reward, batch = MAKERS[name](), pairs(11)
    torch.manual_seed(0)
    everyone = torch.ones(len(batch.words), dtype=torch.bool)
    for _, state, _ in prefixes(reward, batch):
        token = torch.randint(UNK, VOCABULARY.size, everyone.shape)
        live = torch.rand(everyone.shape) < 0.5
        before, moved = [value.clone() for value in state], reward.advance(state, token, everyone)
        after = reward.advance(state, token, live)
        assert_same(state, before)
        assert_same(rows(after, ~live), rows(state, ~live))
        assert_same(rows(after, live), rows(moved, live))


@each_reward
def test_runs_on_an_accelerator_without_waiting_for_it(name: str) -> None:
    """Fake tensors hold no values, so a branch on one raises, and so does a tensor of another
    device.
    """
    with fake_cuda(), StaysOnCuda():
        target = torch.zeros((3, 6), dtype=torch.long, device="cuda")
        reward, reference = MAKERS[name](), Reference.from_target(target, VOCABULARY)
        state = reward.start(reference)
        assert all(value.size(0) == 3 for value in state)
        state = reward.advance(state, target[:, 0], target[:, 0].ne(PAD))
        result = replay(reward, reference, target, VOCABULARY)
        dense = dense_gains(reward.gains(state), reference, VOCABULARY)
        outputs = (
            *reference,
            *state,
            *reward.gains(state),
            reward.value(state),
            dense,
            result.total,
            result.delta_r,
        )
    assert {value.device.type for value in outputs} == {"cuda"}


def test_reference_marks_what_can_match() -> None:
    """Closed or not, with UNK, a repeated token, an id never drawn, an EOS inside, and different
    lengths.
    """
    a, b, c = WORDS[:3]
    sentences: list[Words] = [(a, b, a, UNK), (c,), (UNK, UNK), (b, BOS, b, c, b), (a, EOS, a)]
    closed = Reference.from_target(padded([(*y, EOS) for y in sentences]), VOCABULARY)
    for open_, full in zip(
        Reference.from_target(padded(sentences), VOCABULARY), closed, strict=True
    ):
        assert torch.equal(open_, full[:, :5] if full.dim() == 2 else full)
    assert closed.length.tolist() == [4, 1, 2, 5, 3]
    assert closed.tokens.tolist() == padded(sentences, width=6).tolist()
    assert closed.real.long().tolist() == [[1] * len(y) + [0] * (6 - len(y)) for y in sentences]
    assert closed.matchable.long().tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 1, 1, 1, 0],
        [1, 0, 1, 0, 0, 0],
    ]
    assert closed.first.tolist() == [
        [0, 1, 0, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 0, 3, 0, 5],
        [0, 1, 0, 3, 4, 5],
    ]
    assert closed.owner.long().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]
    assert closed.keys[0].tolist() == [a, b, a, -1, -1, -1]


def test_an_unknown_reward_names_the_flag_and_the_choices() -> None:
    with pytest.raises(
        ValueError,
        match=r"--erpo-reward 'blue' .* bleu, corpus_bleu, edit, rouge, rouge1, rouge2, rougeL",
    ):
        make_reward("blue")


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_make_reward_gives_a_new_reward(name: str) -> None:
    assert isinstance(make_reward(name), Reward)
    assert make_reward(name) is not make_reward(name)


@pytest.mark.usefixtures("registry")
def test_register_reward_refuses_other_classes_and_taken_names() -> None:
    with pytest.raises(TypeError, match="'mine' must be a subclass"):
        register_reward("mine")(Gains)  # type: ignore[type-var]

    class Mine(Bleu):
        pass

    with pytest.raises(ValueError, match="'rouge' is registered already"):
        register_reward("rouge")(Mine)
    assert "mine" not in REWARDS
    assert register_reward("mine")(Mine) is Mine
    assert register_reward("mine")(Mine) is Mine
    assert isinstance(make_reward("mine"), Mine)


def corpus(seed: int, size: int = 300) -> tuple[CorpusStatistics, Tensor, float]:
    """The statistics of many outputs, the reward of each at them, and sacreBLEU of the whole, all
    in tokens.
    """
    batch = pairs(seed, size)
    counts = CorpusBleu().counts(batch.reference, batch.drawn, VOCABULARY)
    statistics = CorpusStatistics.from_counts(counts)
    total = replay(CorpusBleu(statistics), batch.reference, batch.drawn, VOCABULARY).total
    sides = [
        [text(side) for side in both]
        for both in zip(*((y, y_star) for y_star, y in batch.words), strict=True)
    ]
    score = BLEU(tokenize="none", force=True, smooth_method="none").corpus_score(
        sides[0], [sides[1]]
    )
    return statistics, total, score.score / 100


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_corpus_statistics_are_sacrebleus(seed: int) -> None:
    statistics, _, score = corpus(seed)
    assert statistics.bleu == pytest.approx(score, rel=1e-6)


@pytest.mark.parametrize("cut", [0, 2])
def test_the_corpus_reward_is_the_slope_of_corpus_bleu(cut: int) -> None:
    """Exchange one output of 2,000 for its reference: N times the change of the corpus score is the
    change of the reward.

    To one percent, since the second order is one in N.
    """
    rng = random.Random(7)
    wanted = [tuple(rng.choices(WORDS, k=rng.randint(4, 9))) for _ in range(2000)]
    noisy = [[w if rng.random() < 0.7 else rng.choice(WORDS) for w in y] for y in wanted]
    drawn = [tuple(y[:-cut] if cut else [*y, rng.choice(WORDS)]) for y in noisy]
    reference = Reference.from_target(padded([(*y, EOS) for y in wanted]), VOCABULARY)

    def counts(outputs: list[Words]) -> Tensor:
        return CorpusBleu().counts(reference, padded(outputs, width=10), VOCABULARY)

    now = CorpusStatistics.from_counts(counts(drawn))
    # Away from the brevity penalty's step, which the reward smooths: of outputs a tenth longer than
    # their references, too.
    assert (now.length < 0.8 * now.wanted) if cut else (now.length > 1.1 * now.wanted)
    reward = CorpusBleu(now)
    better = [wanted[0], *drawn[1:]]
    before, after = (
        float(replay(reward, reference, padded(ys, width=10), VOCABULARY).total[0])
        for ys in (drawn, better)
    )
    change = (CorpusStatistics.from_counts(counts(better)).bleu - now.bleu) * now.sentences
    assert change == pytest.approx(after - before, rel=0.01) and change > 0.1


def test_an_order_without_a_match_counts_as_half_a_match() -> None:
    """Beside many matches and beside none: the score stays above 0, and below that of a whole
    match.
    """
    reference = Reference.from_target(padded([(4, 5, 6, 7, EOS), (4, 5, EOS)]), VOCABULARY)
    drawn = padded([(4, 5, 8, 6, EOS), (5, 4, EOS)], width=5)
    found = CorpusStatistics.from_counts(CorpusBleu().counts(reference, drawn, VOCABULARY))
    assert found.matches == (5, 1, 0.5, 0.5) and found.ngrams == (6, 4, 2, 1)
    assert (found.length, found.wanted, found.sentences) == (6, 6, 2)
    assert found.bleu == pytest.approx((5 / 6 * 1 / 4 * 0.5 / 2 * 0.5 / 1) ** 0.25)


@pytest.mark.parametrize("ratio", [0.9, 0.98, 1.0, 1.02, 1.1, 40.0])
def test_the_step_of_the_brevity_penalty_is_smooth(ratio: float) -> None:
    """A token that matches nothing costs B N / 4 t_1 and earns its part s (L/H)/H of the penalty, s
    over .02 of L/H.
    """
    now = CorpusStatistics(
        (5.0, 3.0, 2.0, 1.0), (10.0, 8.0, 6.0, 4.0), length=10.0, wanted=10.0 * ratio, sentences=2.0
    )
    reference = Reference.from_target(padded([(4, 5, EOS)]), VOCABULARY)
    paid = replay(CorpusBleu(now), reference, padded([(8, EOS)]), VOCABULARY).delta_r[0].tolist()
    s = 1 / (1 + math.exp((1 - ratio) / 0.02))
    assert paid == pytest.approx([now.bleu * 2 * (s * ratio / 10 - 1 / 40), 0], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("place", range(11))
def test_statistics_without_an_output_are_refused(place: int, wrong: float) -> None:
    numbers = [2.0, 1, 0.5, 0.5, 4, 3, 2, 1, 4, 4, 0.5]
    CorpusStatistics(tuple(numbers[:4]), tuple(numbers[4:8]), *numbers[8:])
    numbers[place] = wrong
    with pytest.raises(ValueError, match="cannot be linearised"):
        CorpusStatistics(tuple(numbers[:4]), tuple(numbers[4:8]), *numbers[8:])


def test_statistics_are_read_from_plain_numbers() -> None:
    plain = {
        "matches": [2, 1, 0.5, 0.5],
        "ngrams": [4, 3, 2, 1],
        "length": 5,
        "wanted": 6,
        "sentences": 7,
        "update": 3,
    }
    assert CorpusStatistics.from_plain(plain) == CorpusStatistics(
        (2, 1, 0.5, 0.5), (4, 3, 2, 1), 5, 6, 7
    )
    for name in ("matches", "ngrams"):
        with pytest.raises(ValueError, match="4 orders"):
            CorpusStatistics.from_plain({**plain, name: [1, 1, 1]})
    with pytest.raises(KeyError):
        CorpusStatistics.from_plain({"matches": [1] * 4, "ngrams": [1] * 4})


def shared(y: Words, y_star: Words) -> int:
    return (Counter(y) & Counter(y_star)).total()


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("my_reward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("registry")
def test_the_example_of_a_users_reward_works_as_printed(tmp_path: Path) -> None:
    assert fairseq_erpo.rewards.__doc__ is not None
    path = tmp_path / "my_reward.py"
    path.write_text(textwrap.dedent(fairseq_erpo.rewards.__doc__.split("A complete one:")[1]))
    load(path)
    load(path)
    check_extensions(make_reward("shared"), Oracle(shared, shared), pairs(12))
