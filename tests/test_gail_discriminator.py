"""The discriminator: its sign, its reward, its norm, and that it tells pairs apart."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gail.discriminator import (
    REWARDS,
    Discriminator,
    DiscriminatorSettings,
    RunningNorm,
    bernoulli_entropy,
)


def pairs(count: int, shift: float, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=rng) + shift, torch.randn(count, 2, generator=rng).clamp(
        -1, 1
    )


def test_rewards_from_d() -> None:
    """-log(1 - D), log D and log D - log(1 - D), written with D; the first is positive, the second
    negative.
    """
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    d = 1 / (1 + (-logits).exp())
    written = {"gail": -(1 - d).log(), "log_d": d.log(), "airl": d.log() - (1 - d).log()}
    assert written.keys() == REWARDS.keys()
    for name, reward in REWARDS.items():
        torch.testing.assert_close(reward(logits), written[name])
    assert (REWARDS["gail"](logits) > 0).all() and (REWARDS["log_d"](logits) < 0).all()


def test_large_logits_stay_finite() -> None:
    """Where D rounds to 0 or 1, log(1 - D) written literally would be infinite."""
    for reward in REWARDS.values():
        assert reward(torch.tensor([-200.0, 200.0])).isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        DiscriminatorSettings(learning_rate=3e-3),
        DiscriminatorSettings(learning_rate=3e-3, entropy=1e-3, gradient_penalty=1.0),
        DiscriminatorSettings(learning_rate=3e-3, spectral_norm=True),
    ],
)
def test_tells_the_expert_apart(settings: DiscriminatorSettings) -> None:
    """Logits and rewards rise for the expert's pairs, also when there are forty policy pairs to
    each of them.
    """
    discriminator = Discriminator(3, 2, settings, seed=1)
    expert, policy = pairs(20, 3.0, 1), pairs(800, -1.0, 2)
    for _ in range(20):
        discriminator.learn(expert, policy)
    report = discriminator.report(expert, discriminator(*policy))
    assert report["accuracy_expert"] > 0.95 and report["accuracy_policy"] > 0.95
    assert report["logit_expert"] > 0 > report["logit_policy"]
    reward = REWARDS[settings.reward]
    assert reward(discriminator(*expert)).mean() > 2 * reward(discriminator(*policy)).mean()


def test_cannot_tell_equals_apart() -> None:
    """Pairs of one distribution: D stays near a half, and the loss near log 2."""
    discriminator = Discriminator(3, 2, DiscriminatorSettings(), seed=1)
    expert, policy = pairs(2000, 0.0, 1), pairs(2000, 0.0, 2)
    for _ in range(10):
        discriminator.learn(expert, policy)
    # It learns a little of the sample by heart
    assert abs(discriminator.loss(expert, policy).item() - math.log(2)) < 0.03


def test_sides_weigh_the_same() -> None:
    """Every policy pair twice changes nothing."""
    discriminator = Discriminator(3, 2, DiscriminatorSettings(), seed=1)
    expert, policy = pairs(5, 1.0, 1), pairs(7, 0.0, 2)
    twice = torch.cat([policy[0], policy[0]]), torch.cat([policy[1], policy[1]])
    torch.testing.assert_close(
        discriminator.loss(expert, policy), discriminator.loss(expert, twice)
    )


def test_norm_is_that_of_all_batches() -> None:
    norm = RunningNorm(3)
    batches = [
        pairs(count, shift, count)[0] for count, shift in ((4, 0.0), (9, 5.0), (1, -2.0), (30, 1.0))
    ]
    for batch in batches:
        norm.update(batch)
    everything = torch.cat(batches)
    torch.testing.assert_close(norm.mean, everything.mean(0))
    expected = (everything - everything.mean(0)) / everything.std(0, correction=0)
    torch.testing.assert_close(norm(everything), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(RunningNorm(3)(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_constant_coordinate_does_not_explode() -> None:
    norm = RunningNorm(1)
    norm.update(torch.full((10, 1), 7.0))
    assert norm(torch.tensor([[7.0]])).item() == 0 and abs(norm(torch.tensor([[7.001]])).item()) < 2


def test_what_lies_far_out_is_clipped() -> None:
    """At ten deviations on both sides, and not before."""
    norm = RunningNorm(1)
    norm.update(torch.tensor([[-1.0], [1.0]]))
    far = torch.tensor([[-1e6], [-10.5], [-9.5], [9.5], [10.5], [1e6]])
    assert norm(far).flatten().tolist() == [-10, -10, -9.5, 9.5, 10, 10]


def test_its_network_and_its_defaults() -> None:
    """Section 5.3's two hidden layers of 128, and the settings that docs/gail.md has."""
    settings = DiscriminatorSettings()
    assert vars(settings) == {
        "learning_rate": 3e-4,
        "steps": 5,
        "entropy": 0.0,
        "gradient_penalty": 0.0,
        "spectral_norm": False,
        "reward": "gail",
    }
    layers = [
        layer
        for layer in Discriminator(3, 2, settings, seed=1).layers
        if isinstance(layer, torch.nn.Linear)
    ]
    assert [tuple(layer.weight.shape) for layer in layers] == [(128, 5), (128, 128), (1, 128)]


def test_the_steps_share_the_policys_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has all of the expert's and its part of the policy's, every pair once; at most a
    step for each.
    """
    for count, steps, sizes in ((7, 3, [3, 2, 2]), (2, 5, [1, 1]), (4, 1, [4])):
        discriminator = Discriminator(3, 2, DiscriminatorSettings(steps=steps), seed=1)
        expert, policy = pairs(5, 1.0, 1), pairs(count, 0.0, 2)
        seen: list[Tensor] = []
        loss = discriminator.loss

        def watched(one: Any, other: Any, loss: Any = loss, seen: list[Tensor] = seen) -> Tensor:
            assert torch.equal(one[0], expert[0])  # noqa: B023 - called within this turn
            seen.append(other[0])
            return loss(one, other)  # type: ignore[no-any-return]

        monkeypatch.setattr(discriminator, "loss", watched)
        discriminator.learn(expert, policy)
        assert [len(part) for part in seen] == sizes
        assert sorted(torch.cat(seen).tolist()) == sorted(policy[0].tolist())


def test_entropy() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(
        bernoulli_entropy(logits), torch.distributions.Bernoulli(logits=logits).entropy()
    )


def test_the_entropy_of_d_lowers_the_loss() -> None:
    expert, policy = pairs(5, 1.0, 1), pairs(7, 0.0, 2)
    plain, soft = (
        Discriminator(3, 2, DiscriminatorSettings(entropy=entropy), seed=1)
        for entropy in (0.0, 1.0)
    )
    bonus = (
        bernoulli_entropy(plain(*expert)).mean() + bernoulli_entropy(plain(*policy)).mean()
    ) / 2
    assert bonus > 0.1
    torch.testing.assert_close(soft.loss(expert, policy), plain.loss(expert, policy) - bonus)


def test_the_norm_is_of_both_sides() -> None:
    discriminator = Discriminator(3, 2, DiscriminatorSettings(), seed=1)
    expert, policy = pairs(5, 3.0, 1), pairs(7, 0.0, 2)
    discriminator.learn(expert, policy)
    torch.testing.assert_close(discriminator.norm.mean, torch.cat([expert[0], policy[0]]).mean(0))


def test_penalty_of_a_linear_discriminator() -> None:
    """Of logit = w·x + b it is (|w| - 1)², wherever it is measured."""
    discriminator = Discriminator(3, 2, DiscriminatorSettings(gradient_penalty=1.0), seed=1)
    linear = torch.nn.Linear(5, 1)
    discriminator.layers = torch.nn.Sequential(linear)
    expected = (linear.weight.norm() - 1) ** 2
    torch.testing.assert_close(discriminator.penalty(pairs(6, 1.0, 1), pairs(9, 0.0, 2)), expected)


def test_building_one_draws_no_global_number() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (Discriminator(3, 2, DiscriminatorSettings(), seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.layers[0].weight.detach(), second.layers[0].weight.detach())


@pytest.mark.parametrize("wrong", [{"reward": "wgan"}, {"learning_rate": -1.0}, {"steps": 0}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        DiscriminatorSettings(**wrong)  # type: ignore[arg-type]
