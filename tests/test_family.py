"""Every row of the family against exact enumeration, and the identities of the paper that make it
one family.
"""

import ast
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import log_q
from oracle import (
    EOS,
    FIXED,
    ORACLES,
    PAD,
    WORLDS,
    Variant,
    World,
    assert_distributed,
    assert_mean,
    expectation,
    plain,
    reward_of,
    sequences,
)
from torch import Tensor

from fairseq_erpo.algorithm import mstep
from fairseq_erpo.algorithm.answers import StepDecoder
from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert, Sample, previous_tokens
from fairseq_erpo.algorithm.beside_data import beside_data
from fairseq_erpo.algorithm.distinct import distinct
from fairseq_erpo.algorithm.draw import FromExperts, score
from fairseq_erpo.algorithm.estep import Candidates
from fairseq_erpo.algorithm.layouts import LAYOUTS, PRODUCT, Point
from fairseq_erpo.algorithm.neighbours import raml_weights
from fairseq_erpo.algorithm.noising import NoiseStatistics, Noising
from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.algorithm.schedule import Now, Run
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.algorithm.weigh import TARGETS
from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.family import row as row_module
from fairseq_erpo.family.effect import idle
from fairseq_erpo.family.flags import FLAGS, PRESETS
from fairseq_erpo.family.resolve import resolve
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.rewards.edit import Edit
from fairseq_erpo.rewards.rouge import Rouge

N = 6000
DROPPED = {"erpo_targets": "reward"}
# What the oracles of interp and mixer_alike assume of the flags that a variant leaves out.
PLAIN = {"erpo_preset": "paper", "erpo_reward": "edit", "erpo_c_model": 2.0}


@dataclass
class Stub:
    """`RowInputs` in a world."""

    world: World
    settings: Settings
    sources: int = 1
    predrawn: Any = None  # RAML's samples from a file

    @property
    def noising(self) -> Noising:
        counts = (self.world.unigram, self.world.before, self.world.after)
        statistics = NoiseStatistics(*map(torch.tensor, counts))
        return Noising.from_statistics(
            self.settings.noise, statistics, self.world.vocabulary, self.settings.gamma
        )

    @property
    def words(self) -> Tensor:
        return torch.tensor(self.world.words)

    def text_reward(self, tokens: Tensor, samples: int) -> Tensor:
        """A reward that no ΔR knows: how often the first word occurs, for S samples of each
        source.
        """
        return tokens.eq(self.world.words[0]).sum(1) + 10.0 * samples

    def beam(self, samples: int) -> Tensor:
        """Every source has the shortest outputs as its best."""
        best = sequences(self.world.vocabulary, self.world.cap)[1 : samples + 1]
        width = max(map(len, best))
        rows = [[*y, *[PAD] * (width - len(y))] for y in best]
        return torch.tensor(rows).repeat(self.sources, 1)

    def baseline(self, features: Tensor) -> Tensor:
        """Any function of the prefix leaves the expected gradient alone."""
        return 0.2 * torch.arange(features.size(1)) + 0.3 * features[:, :, 4]

    def prior(self, samples: int) -> StepDecoder:
        return self.world.prior


def batch_in(world: World, row: Row, variant: Variant, n: int) -> Batch:
    """n sentences, all with the world's reference."""
    settings = row.settings({**(PLAIN if "erpo_preset" in row.flags else {}), **variant.flags})
    now = Now(variant.epoch, variant.update, run=Run(1000))
    return Batch(
        target=torch.tensor([world.closed]).repeat(n, 1),
        draws=Draws(torch.arange(n), seed=1, update=variant.update),
        mixture=settings.schedule.mixture(now),
        stage=settings.schedule.stage(now),
        settings=settings,
        vocabulary=world.vocabulary,
        max_positions=world.cap,
        start=lambda copies: world.table,
        inputs=Stub(world, settings, n),
    )


def drawn_in(row: Row, batch: Batch) -> Drawn:
    """What the row draws and weighs; the data themselves where it draws nothing."""
    drawn = row.draw(batch)
    if drawn is not None:
        return row.weigh(batch, drawn)
    return Drawn(score(batch, batch.target, Expert.DATA))


def gradients(world: World, batch: Batch, drawn: Drawn) -> Tensor:
    """∂ -loss / ∂ logits of each sentence, its samples together.  -> [B, P, V]"""
    table = world.table
    numbers = table.numbers(previous_tokens(drawn.sample.tokens, world.vocabulary))
    log_p = table.log_p.detach()[numbers].requires_grad_()
    candidates = Candidates.from_reference(
        Reference.from_target(batch.copies(drawn.samples)[0], world.vocabulary), world.vocabulary
    )
    at = Packing.from_targets(drawn.learnt, PAD).at
    loss = mstep.drawn_losses(
        log_p.flatten(0, 1)[at], drawn, at, candidates, batch.settings.label_smoothing
    ).sum()
    (slope,) = torch.autograd.grad(-loss, log_p)
    # Back through the softmax, and every position to its row of the table.
    slope = slope - log_p.detach().exp() * slope.sum(2, keepdim=True)
    sentence = torch.arange(len(batch.target)).repeat_interleave(drawn.samples)
    found = torch.zeros(len(batch.target), *table.logits.shape, dtype=slope.dtype)
    return found.index_put((sentence[:, None], numbers), slope, accumulate=True)


def lines(tokens: Tensor) -> list[tuple[int, ...]]:
    return [tuple(w for w in line if w != PAD) for line in tokens.tolist()]


def cases(table: Mapping[str, Row], oracles: Mapping[str, list[Variant]]) -> list[Any]:
    """Every row of the family with its oracles; None for a row that has none."""
    return [
        pytest.param(row, variant, id=f"{name}-{variant}")
        for name, row in table.items()
        for variant in oracles.get(name) or [None]
    ]


def check(world: World, row: Row, variant: Variant | None) -> None:
    assert variant is not None, f"row {row.name} has no entry in oracle.ORACLES"
    q, objective = variant.expected(world)
    batch = batch_in(world, row, variant, N)
    drawn = drawn_in(row, batch)
    assert drawn.samples == len(q)
    for sample, share in enumerate(q):
        assert_distributed(lines(drawn.sample.tokens)[sample :: drawn.samples], share)
    found = gradients(world, batch, drawn)
    (expected,) = torch.autograd.grad(objective, world.table.logits, retain_graph=True)
    assert expected.abs().max() > 0.02  # there is something to compare
    if found.eq(found[0]).all():
        torch.testing.assert_close(found[0], expected)
    else:
        # A prefix occurs once in a sequence, so that a coordinate holds at most one weight of each
        # sample.
        most = 1.0 if drawn.weights is None else float(drawn.weights.abs().max())
        assert_mean(found, expected, most=drawn.samples * most)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize(("row", "variant"), cases(FAMILY, ORACLES))
def test_row_draws_and_teaches_what_the_enumeration_says(
    row: Row, variant: Variant | None, name: str
) -> None:
    check(WORLDS[name], row, variant)


def test_row_without_an_oracle_fails_by_its_name() -> None:
    stranger = replace(FAMILY["interp"], name="stranger")
    (case,) = [
        case
        for case in cases({**FAMILY, "stranger": stranger}, ORACLES)
        if case.id == "stranger-None"
    ]
    with pytest.raises(AssertionError, match="row stranger has no entry"):
        check(WORLDS["V=3, T=3"], *case.values)


def test_every_oracle_has_its_row() -> None:
    assert ORACLES.keys() == FAMILY.keys()


# Variance switches: the same expected gradient is checked above


def spread(**flags: Any) -> float:
    """Variance of a sentence's gradient under interp, all coordinates together."""
    world = WORLDS["V=3, T=3"]
    batch = batch_in(
        world, FAMILY["interp"], Variant(plain, {**FIXED, "erpo_c_model": 1.0, **flags}), N
    )
    return float(gradients(world, batch, drawn_in(FAMILY["interp"], batch)).var(0).sum())


def test_the_rewards_whole_distribution_takes_variance_away() -> None:
    """By a fifth at least, where the estimate of a variance from 6,000 draws is good to a few per
    cent.
    """
    assert spread(erpo_targets="reward") < 0.8 * spread()


def test_samples_of_a_sentence_share_the_variance() -> None:
    """S independent samples of one source: their sum has S times the variance, their mean
    one S-th.
    """
    assert spread(erpo_samples=3) == pytest.approx(3 * spread(), rel=0.1)


def test_baselines_take_variance_away() -> None:
    """Only a good baseline does; the sentences here are of one length and the reward is between 0
    and 1.
    """
    world = WORLDS["V=3, T=3"]
    sizes = {}
    for name, flags in (
        ("pg", {"erpo_samples": 3}),
        ("self_critic", {"erpo_samples": 3, "erpo_baseline": "leave_one_out"}),
    ):
        batch = batch_in(world, FAMILY[name], Variant(plain, flags), N)
        sizes[name] = float(gradients(world, batch, drawn_in(FAMILY[name], batch)).var(0).sum())
    assert sizes["self_critic"] < 0.9 * sizes["pg"]


@pytest.mark.parametrize(
    ("name", "baseline"),
    [("pg", "none"), ("self_critic", "greedy"), ("self_critic", "leave_one_out")],
)
def test_policy_targets_without_data_or_reward_expert_are_policy_gradient(
    name: str, baseline: str
) -> None:
    """interp at λ = (1, 0, 0) draws and weighs what the row does, to the last bit."""
    flags = {"erpo_samples": 3, "erpo_baseline": baseline}
    corner = {
        "erpo_schedule": "constant",
        "erpo_lambda": "model=1",
        "erpo_c_model": 1.0,
        "erpo_reward": "bleu",
    }
    batches = {
        row: batch_in(WORLDS["V=2, T=4"], FAMILY[row], Variant(plain, {**flags, **more}), 100)
        for row, more in ((name, {}), ("interp", {**corner, "erpo_targets": "policy"}))
    }
    one, other = (drawn_in(FAMILY[row], batch) for row, batch in batches.items())
    assert (
        one.weights is not None and other.weights is not None and one.weights.count_nonzero() > 100
    )
    assert (
        torch.equal(one.sample.tokens, other.sample.tokens)
        and torch.equal(one.weights, other.weights)
        and one.size == other.size
    )


@pytest.mark.parametrize("baseline", ["none", "greedy", "leave_one_out", "group"])
def test_weights_are_reward_minus_baseline(baseline: str) -> None:
    """Any baseline leaves the expected gradient alone, so that its value has to be looked at by
    itself.
    """
    world = WORLDS["V=2, T=4"]
    batch = batch_in(
        world, FAMILY["pg"], Variant(plain, {"erpo_samples": 3, "erpo_baseline": baseline}), 100
    )
    drawn = drawn_in(FAMILY["pg"], batch)
    greedy: tuple[int, ...] = ()
    while len(greedy) < world.cap and EOS not in greedy:
        greedy = (*greedy, int(world.table.row(greedy).argmax()))
    rewards = [reward_of(world, y) for y in lines(drawn.sample.tokens)]
    assert len(set(rewards)) > 10
    assert drawn.weights is not None
    for i, weights in enumerate(drawn.weights.tolist()):
        others = [rewards[j] for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]
        values = {"none": 0.0, "greedy": reward_of(world, greedy), "leave_one_out": sum(others) / 2}
        values["group"] = (sum(others) + rewards[i]) / 3
        length = len(lines(drawn.sample.tokens)[i])
        expected = [rewards[i] - values[baseline]] * length + [0.0] * (len(weights) - length)
        assert weights == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("baseline", ["none", "greedy"])
def test_whoever_pays_pays_the_whole_sequence(baseline: str) -> None:
    """A reward of text, or another one than the teacher's; ΔR stays the teacher's."""
    world, row = WORLDS["V=2, T=4"], FAMILY["pg"]
    flags = {"erpo_samples": 2, "erpo_baseline": baseline, "erpo_teacher": "edit"}
    taught = row.draw(batch_in(world, row, Variant(plain, {**flags, "erpo_reward": "edit"}), 30))
    paid = row.draw(batch_in(world, row, Variant(plain, {**flags, "erpo_reward": "chrf"}), 30))
    other = row.draw(batch_in(world, row, Variant(plain, {**flags, "erpo_reward": "bleu"}), 30))
    assert taught is not None and paid is not None and other is not None
    assert torch.equal(taught.sample.tokens, paid.sample.tokens) and torch.equal(
        taught.sample.tokens, other.sample.tokens
    )
    for drawn in (paid, other):
        assert torch.equal(drawn.sample.delta_r, taught.sample.delta_r)
    for y, reward, of_text, of_bleu in zip(
        lines(taught.sample.tokens),
        *(drawn.sample.reward.tolist() for drawn in (taught, paid, other)),
        strict=True,
    ):
        assert reward == pytest.approx(reward_of(world, y, "edit")) and of_bleu == pytest.approx(
            reward_of(world, y), abs=1e-6
        )
        assert of_text == y.count(world.words[0]) + 10 * (2 + (baseline == "greedy"))
    assert (paid.greedy is not None) == (baseline == "greedy")


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_costs_what_it_needs_only(baseline: str) -> None:
    """One more sequence of each source for the greedy output, and features for the learned
    baseline.
    """
    settings = {"erpo_samples": 3, "erpo_baseline": baseline}
    world = WORLDS["V=2, T=4"]
    batch = batch_in(world, FAMILY["pg"], Variant(plain, settings), 4)
    assert isinstance(FAMILY["pg"].draw, FromExperts)
    plan = FAMILY["pg"].draw.plan(batch)
    assert plan.rows == len(plan.caps) / 4 == (4 if baseline == "greedy" else 3)
    sample = plan.run(batch)
    assert (sample.features is not None) == (baseline == "learned")
    assert sample.reward_log_q is None
    wide = FAMILY["pg"].draw.plan(replace(batch, max_positions=50))
    assert (
        wide.caps.eq((len(world.closed) - 1) * 3 // 2 + 5).all()
        and 0 <= wide.origin.size(1) - int(wide.caps.max()) <= 2
    )


def test_candidates_of_the_beam_are_weighed_as_samples_are() -> None:
    world, row = WORLDS["V=2, T=4"], FAMILY["mrt"]
    batch = batch_in(world, row, Variant(plain, {"erpo_samples": 4, "erpo_candidates": "beam"}), 3)
    drawn = row.draw(batch)
    assert drawn is not None and drawn.samples == 4
    assert torch.equal(drawn.sample.tokens, batch.inputs.beam(4))
    real = drawn.sample.tokens.ne(PAD)
    assert (
        drawn.sample.origin[real].eq(Expert.MODEL).all()
        and drawn.sample.origin[~real].eq(Expert.NONE).all()
    )
    assert drawn.sample.reward.tolist() == pytest.approx(
        [reward_of(world, y) for y in lines(drawn.sample.tokens)], abs=1e-6
    )
    assert not drawn.sample.clipped.any() and drawn.sample.clipped.shape == (12,)
    assert torch.equal(
        drawn_in(row, batch).weights, row.weigh(batch, Drawn(drawn.sample, 4)).weights
    )  # type: ignore[arg-type]


def test_samples_of_a_file_are_weighed_by_their_own_rewards() -> None:
    """Whatever the payoff says of drawn ones; three of each source here, of two."""
    world, row = WORLDS["V=2, T=4"], FAMILY["raml"]
    tokens = torch.tensor(
        [[4, EOS, PAD], [4, 5, EOS], [5, EOS, PAD], [5, 5, EOS], [4, 4, EOS], [5, 4, EOS]]
    )
    reward = torch.tensor([0.1, 0.9, 0.3, 0.0, 0.5, 0.5])

    class File:
        def read(self, ids: list[int]) -> tuple[Tensor, Tensor]:
            assert ids == [0, 1]
            return tokens, reward

    batch = batch_in(world, row, Variant(plain, {"erpo_samples_file": "x", "erpo_tau": 0.5}), 2)
    batch = replace(batch, inputs=Stub(world, batch.settings, 2, File()))
    drawn = drawn_in(row, batch)
    assert (
        drawn.samples == 3
        and torch.equal(drawn.sample.tokens, tokens)
        and torch.equal(drawn.sample.reward, reward)
    )
    shares = torch.tensor(
        [[math.exp(float(r) / 0.5) for r in three] for three in reward.view(2, 3)]
    )
    expected = (shares / shares.sum(1, keepdim=True)).flatten()
    assert drawn.weights is not None
    torch.testing.assert_close(drawn.weights, expected[:, None] * tokens.ne(PAD))


def test_the_sentence_layout_ends_in_mle_and_in_self_critic() -> None:
    """λ_data = 1 takes the batch as it is; λ_data = 0 is the row without y*, to the last bit."""
    world, flags = WORLDS["V=2, T=4"], {"erpo_samples": 3, "erpo_baseline": "leave_one_out"}
    corner = {
        **flags,
        "erpo_schedule": "constant",
        "erpo_c_model": 1.0,
        "erpo_reward": "bleu",
        "erpo_targets": "policy",
    }
    corner |= {"erpo_layout": "sentence"}
    gold = batch_in(
        world, FAMILY["interp"], Variant(plain, {**corner, "erpo_lambda": "data=1"}), 10
    )
    assert FAMILY["interp"].draw(gold) is None
    one = drawn_in(
        FAMILY["interp"],
        batch_in(world, FAMILY["interp"], Variant(plain, {**corner, "erpo_lambda": "model=1"}), 50),
    )
    other = drawn_in(
        FAMILY["self_critic"], batch_in(world, FAMILY["self_critic"], Variant(plain, flags), 50)
    )
    assert one.weights is not None and other.weights is not None
    assert torch.equal(one.sample.tokens, other.sample.tokens) and torch.equal(
        one.weights, other.weights
    )
    assert one.size == other.size


def test_the_training_log_leaves_out_the_copies_of_the_data() -> None:
    flags = {**FIXED, "erpo_samples": 2, "erpo_layout": "sentence"}
    drawn = drawn_in(
        FAMILY["interp"], batch_in(WORLDS["V=3, T=3"], FAMILY["interp"], Variant(plain, flags), 20)
    )
    plain_flags = {**FIXED, "erpo_samples": 2, "erpo_lambda": "model=3/7,reward=4/7"}
    alone = drawn_in(
        FAMILY["interp"],
        batch_in(WORLDS["V=3, T=3"], FAMILY["interp"], Variant(plain, plain_flags), 20),
    )
    assert len(drawn.sample.tokens) == 60 and torch.equal(
        drawn.explored.reward, alone.sample.reward
    )
    assert alone.explored is alone.sample


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_y_star_beside_shorter_samples_widens_every_part(steps: int) -> None:
    """Samples that all end before y* does: weights, distributions and marks stay at their
    tokens.
    """
    flags = {**FIXED, "erpo_samples": 2, "erpo_targets": "reward"}
    batch = batch_in(WORLDS["V=3, T=3"], FAMILY["interp"], Variant(plain, flags), 20)
    drawn = FAMILY["interp"].draw(batch)
    assert drawn is not None and drawn.sample.reward_log_q is not None
    cut = [part if part is None or part.dim() < 2 else part[:, :steps] for part in drawn.sample]
    sample = Sample(*cut)  # type: ignore[arg-type]
    weights = torch.rand(sample.tokens.shape)
    both = beside_data(batch, Drawn(sample, 2, weights=weights))
    assert both.weights is not None
    width = max(steps, batch.target.size(1))
    for before, after in zip([*sample, weights], [*both.sample, both.weights], strict=True):
        if before is not None and before.dim() > 1:
            assert after.shape[:2] == (3 * len(batch.target), width)
            kept = after.unflatten(0, (-1, 3))[:, :2].flatten(0, 1)[:, :steps]
            share = 1 - batch.mixture.data if before is weights else 1
            torch.testing.assert_close(kept, before * share if share != 1 else before)
    assert torch.equal(
        both.sample.tokens.unflatten(0, (-1, 3))[:, 2, : batch.target.size(1)], batch.target
    )
    fills = {"tokens": PAD, "origin": int(Expert.NONE)}
    for name, part in {**both.sample._asdict(), "weights": both.weights}.items():
        if part is not None and part.dim() > 1:
            assert part.unflatten(0, (-1, 3))[:, :2, steps:].eq(fills.get(name, 0)).all(), name
    # No ΔR is said of y*, which was not drawn
    assert not both.sample.delta_r.unflatten(0, (-1, 3))[:, 2].any()


@pytest.mark.parametrize("targets", TARGETS)
def test_y_star_beside_samples_counts_as_it_weighs(targets: str) -> None:
    """What the loss is divided by, token-wise and with --sentence-avg: S samples of 1 - λ_data, y*
    of S λ_data.
    """
    world, row, share = WORLDS["V=3, T=3"], FAMILY["interp"], 0.3
    flags = {**FIXED, "erpo_samples": 2, "erpo_targets": targets}
    batch = batch_in(world, row, Variant(plain, {**flags, "erpo_layout": "sentence"}), 20)
    both = drawn_in(row, batch)
    alone = drawn_in(
        row,
        replace(
            batch, settings=row.settings({**PLAIN, **flags, "erpo_lambda": "model=3/7,reward=4/7"})
        ),
    )
    sampled = both.explored.origin
    counted = sampled.ne(Expert.NONE) & (sampled.ne(Expert.MODEL) if targets == "reward" else True)
    assert counted.any() and not counted.all()
    gold = len(world.closed) * 20
    assert both.size is not None and both.weights is not None and alone.sample.tokens.shape[0] == 40
    assert float(both.size) == pytest.approx((1 - share) * int(counted.sum()) + share * 2 * gold)
    assert both.sequences == 2 * 20  # S (1 - λ) + S λ of each source
    beside = both.weights.unflatten(0, (-1, 3))[:, 2]
    assert beside[beside.ne(0)].tolist() == pytest.approx([2 * share] * gold)


def test_what_the_loss_is_divided_by() -> None:
    """Targets, where a row says nothing else: those that are kept, or the shares of RAML's samples
    and one sentence for all.
    """
    world = WORLDS["V=2, T=4"]
    for name in ("pg", "self_critic", "mrt", "mixer", "spg", "noising"):
        weighed = drawn_in(FAMILY[name], batch_in(world, FAMILY[name], Variant(plain, {}), 20))
        assert (weighed.size, weighed.sequences) == (None, None), name
    dropped = drawn_in(
        FAMILY["interp"],
        batch_in(world, FAMILY["interp"], Variant(plain, {**FIXED, **DROPPED}), 20),
    )
    origin = dropped.sample.origin
    kept = origin.eq(Expert.REWARD) | origin.eq(Expert.DATA)
    assert int(dropped.size) == int(kept.sum()) < int(origin.ne(Expert.NONE).sum())  # type: ignore[arg-type]
    for payoff in ("ngram", "hamming"):
        flags = {"erpo_samples": 3, "erpo_payoff": payoff}
        raml = drawn_in(FAMILY["raml"], batch_in(world, FAMILY["raml"], Variant(plain, flags), 20))
        assert raml.weights is not None and raml.size is not None
        shares = raml.weights[:, 0].view(20, 3).sum(1)
        assert shares.tolist() == pytest.approx([1.0] * 20) and raml.sequences == 20
        assert float(raml.size) == pytest.approx(len(world.closed) * 20)


# Identities over all sequences


@pytest.fixture(scope="module")
def world() -> World:
    return WORLDS["V=3, T=3"]


@pytest.fixture(scope="module")
def everything(world: World) -> list[tuple[int, ...]]:
    return sequences(world.vocabulary, world.cap)


@pytest.fixture(scope="module")
def log_p(world: World, everything: list[tuple[int, ...]]) -> Tensor:
    """log p_θ(y) of every sequence.  [1, n]"""
    return torch.stack([world.table.likelihood(y, y) for y in everything])[None].detach()


@pytest.fixture(scope="module")
def reward(world: World, everything: list[tuple[int, ...]]) -> Tensor:
    """Sentence BLEU.  [1, n]"""
    return torch.tensor([[reward_of(world, y) for y in everything]], dtype=torch.float64)


def slope(world: World, objective: Tensor) -> Tensor:
    return torch.autograd.grad(objective, world.table.logits, retain_graph=True)[0]


def taught(world: World, everything: list[tuple[int, ...]], q: Tensor) -> Tensor:
    """E_q[∇ log p], the M-step."""
    return slope(world, expectation(world, dict(zip(everything, q[0].tolist(), strict=True))))


def test_the_model_is_a_distribution(log_p: Tensor) -> None:
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("alpha", [0, 1e-6])
def test_eq_2_with_the_data_as_reward_is_mle(
    world: World, everything: list[tuple[int, ...]], log_p: Tensor, alpha: float
) -> None:
    """R_δ of Eq. 6, α → 0, β = 1."""
    r_delta = torch.tensor(
        [[1.0 if y == world.closed else -math.inf for y in everything]], dtype=torch.float64
    )
    q = log_q(log_p, r_delta, alpha=alpha, beta=1).exp()
    assert q[0, everything.index(world.closed)] == 1
    batch = batch_in(world, FAMILY["mle"], ORACLES["mle"][0], 1)
    mle = gradients(world, batch, drawn_in(FAMILY["mle"], batch))[0]
    torch.testing.assert_close(taught(world, everything, q), mle)


@pytest.mark.parametrize("tau", [0.1, 0.4, 2.0])
def test_eq_8_is_the_e_step(log_p: Tensor, reward: Tensor, tau: float) -> None:
    """RAML: α → 0, β = τ.  The limit is taken as well as its value."""
    q = raml_weights(reward[0], reward.size(1), tau)
    energies = [math.exp(value / tau) for value in reward[0].tolist()]
    assert q.tolist() == pytest.approx([energy / math.fsum(energies) for energy in energies])
    torch.testing.assert_close(log_q(log_p, reward, alpha=0, beta=tau).exp()[0], q)
    torch.testing.assert_close(
        log_q(log_p, reward, alpha=1e-9, beta=tau).exp()[0], q, rtol=1e-6, atol=0
    )
    assert not torch.allclose(log_q(log_p, reward, alpha=0.1, beta=tau).exp()[0], q, atol=1e-4)


def test_eq_11_is_eq_10_up_to_z(
    world: World, everything: list[tuple[int, ...]], log_p: Tensor, reward: Tensor
) -> None:
    """R = log R_PG, α = 1, β = 0: the M-step under q is policy gradient divided by Z =
    E_p[R_PG].
    """
    q = log_q(log_p, reward.log(), alpha=1, beta=0).exp()
    z = (log_p.exp() * reward).sum()
    policy = slope(world, plain(world).objective)
    torch.testing.assert_close(taught(world, everything, q) * z, policy)


def test_kl_control_is_eq_1_with_the_prior(world: World) -> None:
    """At θ = prior exp{R/α} / Z, which maximises Eq. 1, sequence_tutor's expected gradient
    is zero.
    """
    posterior = World(3, world.y_star, world.cap)
    alpha = 0.7
    # Values by backward induction: V(prefix) = α log Σ prior exp{V(prefix w) / α}.
    value: dict[tuple[int, ...], float] = {}
    for y in sequences(posterior.vocabulary, posterior.cap):
        value[y] = reward_of(posterior, y)
    logits = posterior.table.logits.detach().clone()
    for prefix in sorted(
        (p for p in posterior.prior.prefixes if EOS not in p), key=len, reverse=True
    ):
        prior = posterior.prior.row(prefix)
        energy = (
            torch.tensor(
                [value.get((*prefix, w), -math.inf) for w in range(posterior.vocabulary.size)]
            )
            / alpha
            + prior
        )
        value[prefix] = alpha * float(energy.logsumexp(0))
        logits[posterior.table.number[prefix]] = energy.clamp(min=-30)
    posterior.table.logits = logits.requires_grad_()
    posterior.table.log_p = logits.log_softmax(1)
    flags = {"erpo_prior": "prior.pt", "erpo_alpha": alpha, "erpo_baseline": "none"}
    batch = batch_in(posterior, FAMILY["sequence_tutor"], Variant(plain, flags), N)
    drawn = drawn_in(FAMILY["sequence_tutor"], batch)
    # R - α log p/prior is then the same for every y, α log Z.
    first = drawn.weights[:, 0]  # type: ignore[index]
    assert first.var() < 1e-9 and float(first.mean()) == pytest.approx(value[()], abs=1e-5)


# What neither padding nor candidates' lengths may change


@dataclass
class Ruler(Stub):
    """The learned baseline falls from step to step, behind the end of a sentence too."""

    def baseline(self, features: Tensor) -> Tensor:
        return -0.4 * torch.arange(features.size(1)).repeat(len(features), 1)


def longer(sample: Sample, by: int, batch: Batch) -> Sample:
    """The same sample with more padding: the features there are what a decoder leaves, anything."""
    fill = Sample(batch.vocabulary.pad, int(Expert.NONE), 0, 0, 0, 7, 0, 0)  # type: ignore[arg-type]
    parts = [
        part
        if part is None or part.dim() < 2
        else torch.cat([part, torch.full_like(part[:, :1], value).repeat_interleave(by, 1)], 1)
        for part, value in zip(sample, fill, strict=True)
    ]
    return Sample(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "more"),
    [("pg", {"erpo_baseline": "learned"}), ("sequence_tutor", {"erpo_prior": "prior.pt"})],
)
def test_padding_changes_no_advantage(name: str, more: dict[str, Any]) -> None:
    """Of baselines and KL terms step by step, whose value at padding means nothing."""
    world, row = WORLDS["V=2, T=4"], FAMILY[name]
    batch = batch_in(world, row, Variant(plain, {**more, "erpo_alpha": 0.7}), 60)
    batch = replace(batch, inputs=Ruler(world, batch.settings))
    drawn = row.draw(batch)
    assert drawn is not None and drawn.sample.origin.eq(Expert.NONE).any()
    before, after = (
        row.weigh(batch, drawn._replace(sample=longer(drawn.sample, by, batch))).weights
        for by in (0, 3)
    )
    assert before is not None and after is not None
    torch.testing.assert_close(after[:, : before.size(1)], before)
    assert not after[:, before.size(1) :].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("origin", [Expert.MODEL, Expert.REWARD, Expert.DATA])
def test_risk_is_the_slope_of_the_expected_reward_of_the_set(
    origin: Expert, smoothing: float
) -> None:
    """Without draws, so that it is exact: whoever drew, with repeats, which count once, and never
    smoothed.
    """
    world = WORLDS["V=3, T=3"]
    pool = [y for y in sequences(world.vocabulary, world.cap) if len(y) > 1][::7]
    triples = [
        (pool[i % len(pool)], pool[3 * i % len(pool)], pool[(i * i + 1) % len(pool)])
        for i in range(30)
    ]
    triples += [
        again for y, z in itertools.pairwise(pool) for again in ((y, z, y), (y, y, z), (z, y, y))
    ] + [(pool[3],) * 3]
    row = FAMILY["interp"]
    flags = {"erpo_targets": "risk", "erpo_samples": 3, "label_smoothing": smoothing}
    batch = batch_in(world, row, Variant(plain, flags), len(triples))
    tokens = torch.tensor(
        [[*y, *[PAD] * (world.cap - len(y))] for triple in triples for y in triple]
    )
    sample = score(batch, tokens, origin, 3)
    weighed = row.weigh(
        batch, Drawn(sample._replace(clipped=tokens[:, -1].ne(PAD) & tokens[:, -1].ne(EOS)), 3)
    )
    found = gradients(world, batch, weighed)
    reward = dict(
        zip((y for triple in triples for y in triple), sample.reward.tolist(), strict=True)
    )
    for slope_of_it, triple in zip(found, triples, strict=True):
        distinct = sorted(set(triple))
        likelihood = torch.stack([world.table.likelihood(y, y) / len(y) for y in distinct])
        worth = torch.tensor([reward[y] for y in distinct], dtype=torch.float64)
        objective = sum(map(len, triple)) * (likelihood.softmax(0) @ worth)
        torch.testing.assert_close(slope_of_it, slope(world, objective), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("mrt", {}),
        ("self_critic", {"erpo_baseline": "leave_one_out", "label_smoothing": 0.2}),
        ("interp", {**FIXED, "erpo_targets": "risk", "erpo_layout": "sentence"}),
        ("raml", {}),
    ],
)
def test_equal_samples_are_learnt_once_and_count_as_often_as_they_came(
    name: str, flags: dict[str, Any]
) -> None:
    world, row = WORLDS["V=2, T=4"], FAMILY[name]
    batch = batch_in(world, row, Variant(plain, {**flags, "erpo_samples": 5}), 40)
    every = drawn_in(row, batch)
    once = distinct(every)
    assert once.times is not None and every.times is None
    assert once.times.sum() == len(once.times) and 10 < once.times.eq(0).sum() < 190
    slopes, plain_sums = [], []
    for drawn in (every, once):
        at = Packing.from_targets(drawn.read(PAD), PAD).at
        numbers = world.table.numbers(previous_tokens(drawn.sample.tokens, world.vocabulary))
        rows = world.table.logits.log_softmax(1)[numbers.flatten()[at]]
        loss, nll = mstep.total_loss(
            rows, drawn, at, batch.target, world.vocabulary, batch.settings.label_smoothing
        )
        slopes.append(torch.autograd.grad(loss, world.table.logits)[0])
        plain_sums.append(float(nll))
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-6)
    assert slopes[0].abs().max() > 0.01
    assert plain_sums[1] == pytest.approx(plain_sums[0], rel=1e-6)


# The table itself


def behaviour(settings: Settings) -> dict[str, Any]:
    """All that a flag may change. λ and MIXER's stage stand for the schedule's flags."""
    found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "schedule"}
    for name in ("teacher", "reward"):
        found[name] = type(found[name]), vars(found[name])
    times = [
        Now(epoch, update, falls, Run(10_000, 2_000))
        for epoch in (1, 3, 5, 12)
        for update in (0, 7, 5000)
        for falls in (0, 2)
    ]
    schedule = settings.schedule
    return found | {"clock": [(schedule.mixture(time), schedule.stage(time)) for time in times]}


ON_POLICY = {"erpo_samples": 2, "erpo_targets": "policy"}
# Each flag: (what it is compared with, another value).
OTHERWISE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "label_smoothing": ({}, {"label_smoothing": 0.1}),
    "erpo_preset": ({"erpo_preset": "robust"}, {"erpo_preset": "paper"}),
    "erpo_reward": ({}, {"erpo_reward": "rouge"}),
    "erpo_teacher": ({}, {"erpo_teacher": "rouge"}),
    "erpo_layout": ({"erpo_layout": "token"}, {"erpo_layout": "sentence"}),
    "erpo_candidates": ({}, {"erpo_candidates": "beam"}),
    "erpo_c": ({}, {"erpo_c": "7"}),
    "erpo_c_model": ({}, {"erpo_c_model": 1.7}),
    "erpo_schedule": ({}, {"erpo_schedule": "linear"}),
    "erpo_lambda": ({}, {"erpo_lambda": "model=.5,data=.5"}),
    "erpo_anneal_every": (
        {"erpo_lambda": "model=1"},
        {"erpo_anneal_every": "2e", "erpo_lambda": "model=1"},
    ),
    "erpo_pretrain": (
        {"erpo_anneal_every": "9u"},
        {"erpo_anneal_every": "9u", "erpo_pretrain": "3u"},
    ),
    "erpo_samples": ({}, {"erpo_samples": 3}),
    "erpo_targets": ({"erpo_targets": "drawn"}, {"erpo_targets": "reward"}),
    "erpo_baseline": (ON_POLICY, {**ON_POLICY, "erpo_baseline": "leave_one_out"}),
    "erpo_alpha": ({"erpo_alpha": 0.1}, {"erpo_alpha": 0.3}),
    "erpo_bang_bang": ({}, {"erpo_bang_bang": 0.4}),
    "erpo_prior": ({}, {"erpo_prior": "prior.pt"}),
    "erpo_tau": ({}, {"erpo_tau": 0.3}),
    "erpo_payoff": ({}, {"erpo_payoff": "hamming"}),
    "erpo_samples_file": ({}, {"erpo_samples_file": "samples.tsv"}),
    "erpo_noise": ({}, {"erpo_noise": "blank"}),
    "erpo_gamma": ({}, {"erpo_gamma": 0.4}),
}


@pytest.mark.parametrize("row", FAMILY.values(), ids=FAMILY)
def test_every_flag_of_a_row_changes_something(row: Row) -> None:
    robust = {"erpo_preset": "robust"} if "erpo_preset" in row.flags else {}
    for flag in row.flags:
        before, after = (behaviour(row.settings({**robust, **flags})) for flags in OTHERWISE[flag])
        assert before != after, flag


# Beside each combination of these, every flag of OTHER_FLAGS changes what is learnt, or is refused,
# or is said to be idle.
COMBINED: dict[str, tuple[Any, ...]] = {
    "erpo_targets": tuple(TARGETS),
    "erpo_layout": tuple(LAYOUTS),
    "erpo_lambda": ("model=1", "reward=1", "model=.3,reward=.4,data=.3"),
}
OTHER_FLAGS: dict[str, Any] = {
    "erpo_c": "9",
    "erpo_c_model": 0.1,
    "erpo_samples": 3,
    "erpo_baseline": "greedy",
    "erpo_layout": "prefix",
}


def learnt_in(world: World, typed: dict[str, Any], flag: str) -> Tensor | None:
    """The gradients of some sentences under interp; None where the flags are refused, or this one
    is said to be idle.
    """
    row, base = FAMILY["interp"], {"erpo_schedule": "constant", "erpo_samples": 2}
    try:
        batch = batch_in(world, row, Variant(plain, {**base, **typed}), 25)
    except ValueError:
        return None
    if [*idle(row.flags, {flag: typed.get(flag)}, batch.settings)]:
        return None
    return gradients(world, batch, drawn_in(row, batch))


@pytest.mark.parametrize("targets", TARGETS)
def test_no_flag_is_accepted_that_changes_nothing(targets: str) -> None:
    world, asked = WORLDS["V=2, T=4"], set()
    others = {**COMBINED, "erpo_targets": (targets,)}
    for values in itertools.product(*others.values()):
        typed = dict(zip(others, values, strict=True))
        before = learnt_in(world, typed, "erpo_targets")
        for flag, value in OTHER_FLAGS.items():
            after = (
                None if typed.get(flag) == value else learnt_in(world, {**typed, flag: value}, flag)
            )
            if before is not None and before.any() and after is not None:
                asked.add(flag)
                same = before.shape == after.shape and torch.equal(before, after)
                assert not same, f"{flag} {value} changes nothing beside {typed}"
    assert len(asked) >= 3


def test_a_reward_of_text_has_a_teacher_that_can() -> None:
    """By itself the edit reward; one that is typed must have a ΔR."""
    for given in ({}, {"erpo_teacher": "same"}):
        settings = FAMILY["pg"].settings({"erpo_reward": "chrf", **given})
        assert settings.reward == "chrf" and type(settings.teacher) is Edit
    taught = resolve({"erpo_reward": "my_metric:f", "erpo_teacher": "rouge"})
    assert taught.reward == "my_metric:f" and type(taught.teacher) is Rouge
    same = resolve({"erpo_reward": "rouge"})
    assert same.reward is same.teacher and type(same.teacher) is Rouge
    for teacher in ("chrf", "my_metric:f"):
        with pytest.raises(ValueError, match=f"^--erpo-teacher {teacher} "):
            resolve({"erpo_reward": teacher, "erpo_teacher": teacher})


def test_every_flag_belongs_to_a_row() -> None:
    assert (
        {flag for row in FAMILY.values() for flag in row.flags} == FLAGS.keys() == OTHERWISE.keys()
    )


def test_points_of_the_papers_table() -> None:
    """(R, α, β) of sections 3 and 4, which the rows derive from how they draw and weigh."""
    reinforce, annealed = Point("log R_PG", "1", "0"), Point("R_δ → reward", "annealed", "annealed")
    assert {name: row.point for name, row in FAMILY.items()} == {
        "mle": Point("R_δ", "→ 0", "1"),
        "noising": Point("R_δ at g(y*)", "→ 0", "1"),
        "raml": Point("reward", "→ 0", "τ"),
        "spg": Point("reward", "α", "0"),
        "pg": reinforce,
        "self_critic": reinforce,
        "sequence_tutor": Point("reward", "α", "0"),
        "mrt": Point("log R_PG on a set", "1", "0"),
        "mixer": Point("R_δ, then log R_PG", "0, then 1", "1, then 0"),
        "mixer_alike": annealed,
        "interp": annealed,
        "scheduled_sampling": Point("-", "-", "-"),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_reach_rows_that_name_the_flag_only(preset: str) -> None:
    plain = {
        name: behaviour(row.settings({}))
        for name, row in FAMILY.items()
        if "erpo_preset" not in row.flags
    }
    assert {"mle", "pg", "raml"} <= plain.keys() and {
        "interp",
        "mixer_alike",
    } == FAMILY.keys() - plain.keys()
    assert not {flag for name in plain for flag in FAMILY[name].defaults} & {"erpo_preset"}
    assert behaviour(FAMILY["interp"].settings({"erpo_preset": preset})) == behaviour(
        FAMILY["interp"].settings({"erpo_preset": "paper", **PRESETS[preset]})
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flags": ("erpo_zeal",)}, "row new: no such flag: erpo_zeal"),
        ({"defaults": {"beta": 1}}, "row new: no such flag: beta"),
        ({"name": "a b"}, "identifier"),
        ({"page": " "}, "page"),
        ({"flags": ("erpo_reward",), "draw": FromExperts(PRODUCT)}, "needs the flag erpo_alpha"),
        ({"draw": FAMILY["raml"].draw}, "needs the flag erpo_tau"),
        (
            {
                "draw": FAMILY["pg"].draw,
                "defaults": {"erpo_targets": "drawn", "erpo_baseline": "none"},
            },
            "policy gradient needs erpo_targets policy",
        ),
        ({"defaults": {"erpo_lambda": "model=2"}}, "sum to one"),
    ],
)
def test_a_wrong_row_cannot_be_built(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FAMILY["interp"], **{"name": "new", **wrong})


def test_a_name_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_module, "FAMILY", dict(FAMILY))
    assert row_module.add_row(FAMILY["pg"]) is FAMILY["pg"]  # the same row again is harmless
    with pytest.raises(ValueError, match="has a row 'pg' already"):
        row_module.add_row(replace(FAMILY["pg"], page="Another."))


PACKAGE = Path(row_module.__file__).parents[1]


@pytest.mark.parametrize("room", ["algorithm", "plugin"])
def test_no_code_knows_an_algorithm_by_name(room: str) -> None:
    """No string in the code is a row's name, docstrings apart: nothing can branch on one."""
    for file in sorted((PACKAGE / room).glob("*.py")):
        tree = ast.parse(file.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        strings = {
            n.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Constant) and id(n) not in docstrings
        }
        assert not strings & {
            text for name in FAMILY for text in (name, f"erpo_{name}", name.replace("_", "-"))
        }, file
