"""The one loss of the family against plain loops over its definition, in float64."""

from typing import Any

import pytest
import torch
from dense import gains_along, reward_q
from oracle import EOS, PAD, UNK, world
from torch import Tensor

from fairseq_erpo.algorithm import mstep
from fairseq_erpo.algorithm.batch import Drawn, Expert, Sample
from fairseq_erpo.algorithm.estep import Candidates, InverseTemperature, reward_log_weights
from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.algorithm.targets import Targets
from fairseq_erpo.rewards import Reference, make_reward

VOCABULARY = world(5)
# Padding, repeated tokens, UNK on both sides, a clipped sentence without EOS.
TARGET = torch.tensor([[4, 5, 4, EOS], [6, UNK, EOS, PAD], [7, EOS, PAD, PAD]])
TOKENS = torch.tensor([[4, 8, UNK, 5, EOS], [6, EOS, PAD, PAD, PAD], [7, 7, 4, 8, 5]])
MODEL, REWARD, DATA, NONE = (
    int(e) for e in (Expert.MODEL, Expert.REWARD, Expert.DATA, Expert.NONE)
)
ORIGIN = torch.tensor(
    [
        [DATA, REWARD, MODEL, REWARD, REWARD],
        [REWARD, DATA, NONE, NONE, NONE],
        [MODEL, MODEL, REWARD, REWARD, MODEL],
    ]
)
N, T = TOKENS.shape


@pytest.fixture
def log_p() -> Tensor:
    numbers = torch.Generator().manual_seed(2)
    return torch.randn(N, T, VOCABULARY.size, generator=numbers, dtype=torch.float64).log_softmax(2)


@pytest.fixture
def candidates() -> Candidates:
    return Candidates.from_reference(Reference.from_target(TARGET, VOCABULARY), VOCABULARY)


def drawn(reward_log_q: Tensor | None = None, **others: Any) -> Drawn:
    rewards, clipped = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([False, False, True])
    return Drawn(
        Sample(TOKENS, ORIGIN, torch.zeros(N, T), rewards, clipped, reward_log_q=reward_log_q),
        **others,
    )


def losses_of(
    log_p: Tensor, drawn: Drawn, candidates: Candidates | None = None, smoothing: float = 0.0
) -> Tensor:
    """`drawn_losses`, at their places.  -> [N, T]"""
    at = Packing.from_targets(drawn.learnt, PAD).at
    found = mstep.drawn_losses(log_p.flatten(0, 1)[at], drawn, at, candidates, smoothing)
    return torch.zeros(N * T, dtype=found.dtype).index_copy(0, at, found).view(N, T)


def by_loops(
    log_p: Tensor, target: Tensor, weight: Tensor, smoothing: float = 0.0
) -> list[list[float]]:
    """- w_t ((1 - ε - ε/(V-1)) log p(target_t) + ε/(V-1) Σ_v log p(v)): fairseq's label
    smoothing.
    """
    loss = [[0.0] * T for _ in range(N)]
    for n in range(N):
        for t in range(T):
            if target[n, t] != PAD:
                row = log_p[n, t].tolist()
                each = smoothing / (len(row) - 1)
                loss[n][t] = -float(weight[n, t]) * (
                    (1 - smoothing - each) * row[int(target[n, t])] + each * sum(row)
                )
    return loss


def assert_equals(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


def test_what_an_advantage_weighs_is_not_smoothed(log_p: Tensor) -> None:
    """A negative weight times a smoothed target would take mass from all words alike, and sharpen
    the model.
    """
    weights = torch.where(ORIGIN.eq(MODEL), -0.7, 1.0)
    found = losses_of(log_p, drawn(weights=weights, advantage=ORIGIN.eq(MODEL)), smoothing=0.1)
    plain, smooth = (
        torch.tensor(by_loops(log_p, TOKENS, weights, epsilon), dtype=torch.float64)
        for epsilon in (0.0, 0.1)
    )
    assert_equals(found, torch.where(ORIGIN.eq(MODEL), plain, smooth).tolist())
    assert not torch.equal(plain, smooth)


def test_the_weights_and_targets_of_the_row_count(log_p: Tensor) -> None:
    numbers = torch.Generator().manual_seed(3)
    weights = torch.randn(N, T, generator=numbers)
    learnt = TOKENS.flip(0)
    for smoothing in (0.0, 0.1):
        found = losses_of(log_p, drawn(weights=weights), smoothing=smoothing)
        assert_equals(found, by_loops(log_p, TOKENS, weights, smoothing))
        found = losses_of(log_p, drawn(weights=weights, targets=learnt), smoothing=smoothing)
        assert_equals(found, by_loops(log_p, learnt, weights, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_fairseqs_token_by_token(log_p: Tensor, smoothing: float) -> None:
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    found = losses_of(log_p, drawn(), smoothing=smoothing)
    flat = log_p.view(-1, VOCABULARY.size)
    expected, _ = label_smoothed_nll_loss(
        flat, TOKENS.flatten(), smoothing, ignore_index=PAD, reduce=False
    )
    torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=1e-12, atol=0)


def test_without_weights_it_is_cross_entropy_bit_for_bit(log_p: Tensor) -> None:
    for dtype in (torch.float32, torch.float64):
        losses = losses_of(log_p.to(dtype), drawn())
        gold = mstep.gold_loss(log_p.to(dtype), TOKENS, PAD, reduce=False)
        assert torch.equal(losses.flatten(), gold)
    assert mstep.gold_loss(log_p, TOKENS, PAD, reduce=True) == pytest.approx(
        float(gold.sum()), rel=1e-12
    )


@pytest.mark.parametrize(
    "c",
    [InverseTemperature(number=1.0), InverseTemperature(eps=0.1), InverseTemperature(eps=0.001)],
)
@pytest.mark.parametrize("reward", ["bleu", "rouge", "edit"])
def test_soft_targets_are_the_reward_experts_whole_distribution(
    log_p: Tensor, candidates: Candidates, c: InverseTemperature, reward: str
) -> None:
    """- w_t Σ_v q(v) log p(v) where the reward expert drew, q over the whole vocabulary; the drawn
    token elsewhere.
    """
    gains = gains_along(make_reward(reward), candidates.reference, TOKENS, VOCABULARY)
    steps = [type(gains)(*(column[:, t] for column in gains)) for t in range(T)]
    logs = [reward_log_weights(step, candidates, c, t) for t, step in enumerate(steps)]
    q = torch.stack([reward_q(weights, candidates, VOCABULARY) for weights in logs], 1)
    assert q.sum(2).allclose(torch.ones(N, T))
    shares = torch.stack([weights.log_softmax(1) for weights in logs], 1)
    weight = torch.rand(N, T, generator=torch.Generator().manual_seed(4))
    expected = by_loops(log_p, TOKENS, weight)
    for n in range(N):
        for t in range(T):
            if ORIGIN[n, t] == REWARD:
                pairs = zip(q[n, t].tolist(), log_p[n, t].tolist(), strict=True)
                expected[n][t] = -float(weight[n, t]) * sum(
                    share * value for share, value in pairs if share
                )
    found = losses_of(log_p, drawn(shares, weights=weight), candidates)
    # The shares are float32.
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("whole", ["", "soft"])
def test_the_total_is_the_sum_of_what_tokens_lose(
    log_p: Tensor, whole: str, weighted: bool, smoothing: float
) -> None:
    """Whatever short cut it takes, for S samples of each reference; beside it the plain likelihood
    of the same tokens.
    """
    target = TARGET[[0, 1]]  # two samples of the first, one and a copy of y* of the second
    twice = [0, 1, 1, 2]
    numbers = torch.Generator().manual_seed(9)
    tokens, origin = TOKENS[twice], ORIGIN[twice]
    references = Candidates.from_reference(
        Reference.from_target(target.repeat_interleave(2, 0), VOCABULARY), VOCABULARY
    )
    log_q = (
        torch.randn(4, T, target.size(1) + 2, generator=numbers).log_softmax(2)
        if whole == "soft"
        else None
    )
    parts = torch.zeros(4, T), torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    sample = Sample(tokens, origin, *parts, reward_log_q=log_q)
    taken = Drawn(sample, 2, weights=torch.randn(4, T, generator=numbers) if weighted else None)
    at = Packing.from_targets(tokens, PAD).at
    rows = log_p[twice].flatten(0, 1)[at]
    loss, nll = mstep.total_loss(rows, taken, at, target, VOCABULARY, smoothing)
    each = mstep.drawn_losses(rows, taken, at, references if whole else None, smoothing)
    torch.testing.assert_close(loss, each.sum(), rtol=1e-12, atol=1e-12)
    plain = -sum(float(rows[i, int(tokens.flatten()[place])]) for i, place in enumerate(at))
    assert float(nll) == pytest.approx(plain, rel=1e-12)
    assert (float(loss) == pytest.approx(plain)) is (not whole and not weighted and not smoothing)


@pytest.mark.parametrize("uniform", [False, True])
def test_the_one_dense_gradient_is_the_slope(log_p: Tensor, uniform: bool) -> None:
    """A word that is named twice counts twice."""
    numbers = torch.Generator().manual_seed(8)
    rows = log_p.flatten(0, 1).requires_grad_()
    ids = torch.tensor([[4, 5, 4]]).repeat(len(rows), 1)
    share = torch.randn(len(rows), 3, generator=numbers, dtype=torch.float64)
    targets = Targets(ids, share, share[:, 0] if uniform else None)
    assert torch.autograd.gradcheck(lambda x: mstep._Expected.apply(x, *targets), rows)


def test_baseline_is_fitted_to_the_reward_where_the_model_drew() -> None:
    baseline = torch.randn(
        N, T + 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    rewards, total = drawn().sample.reward.tolist(), 0.0
    for n in range(N):
        for t in range(T):
            if ORIGIN[n, t] == MODEL:
                total += 0.01 * (float(baseline[n, t]) - rewards[n]) ** 2
    assert float(mstep.baseline_loss(baseline, drawn())) == pytest.approx(total, rel=1e-12)


def test_baseline_is_linear_in_each_steps_features_and_leaves_them_alone() -> None:
    from fairseq_erpo.algorithm.baselines import MAX_STEPS, StepBaseline

    baseline = StepBaseline(3)
    with torch.no_grad():
        baseline.weight.normal_(generator=torch.Generator().manual_seed(6))
    features = torch.randn(
        2, MAX_STEPS + 2, 3, generator=torch.Generator().manual_seed(7), requires_grad=True
    )
    value = baseline(features)
    for t in (0, 1, MAX_STEPS - 1, MAX_STEPS, MAX_STEPS + 1):
        weight = baseline.weight[min(t, MAX_STEPS - 1)].tolist()
        expected = sum(w * x for w, x in zip(weight, [*features[1, t].tolist(), 1.0], strict=True))
        assert value[1, t].item() == pytest.approx(expected, abs=1e-5)  # float32
    value.square().sum().backward()
    assert features.grad is None
    assert baseline.weight.grad is not None and baseline.weight.grad.abs().min() > 0
    assert StepBaseline(3)(features).eq(0).all()  # it begins at no baseline at all
