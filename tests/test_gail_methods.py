"""The rows, their schedules, the likelihood's gradient, and behaviour cloning."""

from typing import Any

import numpy as np
import pytest
import torch
from gail_worlds import demonstrations, settings

from gail import bc
from gail.bc import LOG_STD_FLOOR, clone, negative_log_likelihood
from gail.build import build
from gail.demo_prefix import FULL_EPISODES
from gail.discriminator import DiscriminatorSettings
from gail.methods import METHODS, Method
from gail.policies import ARCHITECTURE
from gail.schedules import PRESETS, constant_schedule, make_schedule, parse_schedule
from gail.settings import PPOSettings, RunSettings


@pytest.fixture
def policy() -> Any:
    return build(settings("gail"), demonstrations(trajectories=1)).policy


def test_likelihood_and_its_gradient(policy: Any) -> None:
    """-Σ w log N(a; μ, σ) / Σ w; its gradients are Σ w (μ - a) / σ² and Σ w (1 - ((a - μ) / σ)²),
    over Σ w.
    """
    rng = torch.Generator().manual_seed(1)
    observations, actions = torch.randn(6, 4, generator=rng), torch.randn(6, 1, generator=rng)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0])
    with torch.no_grad():
        policy.log_std.fill_(-0.7)
    sigma = float(np.exp(-0.7))
    loss = negative_log_likelihood(policy, observations, actions, weights)
    loss.backward()
    mean = policy.get_distribution(observations).mode().detach()
    z = (actions - mean) / sigma
    by_hand = (0.5 * z.square() + np.log(sigma) + 0.5 * np.log(2 * np.pi)).squeeze(1)
    torch.testing.assert_close(loss.detach(), (weights * by_hand).sum() / weights.sum())
    slope = (weights[:, None] * (mean - actions) / sigma**2).sum(0) / weights.sum()
    torch.testing.assert_close(policy.action_net.bias.grad, slope)
    torch.testing.assert_close(
        policy.log_std.grad, (weights[:, None] * (1 - z.square())).sum(0) / weights.sum()
    )
    assert all(p.grad is None for name, p in policy.named_parameters() if "value" in name)


def test_a_pair_of_weight_zero_is_not_there(policy: Any) -> None:
    observations, actions = torch.randn(4, 4), torch.randn(4, 1)
    whole = negative_log_likelihood(
        policy, observations, actions, torch.tensor([1.0, 1.0, 1.0, 0.0])
    )
    torch.testing.assert_close(
        whole, negative_log_likelihood(policy, observations[:3], actions[:3], torch.ones(3))
    )


def test_cloning_fits_and_keeps_exploring(policy: Any) -> None:
    """The demonstrated function is found, values and random numbers are left alone, and the
    deviation stops at its floor.
    """
    with torch.no_grad():
        policy.log_std.fill_(LOG_STD_FLOOR + 0.1)
    observations = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    actions = (0.5 * observations[:, :1]).clamp(-1, 1)
    value = policy.value_net.weight.clone()
    before = torch.get_rng_state()
    clone(policy, observations, actions, steps=600, seed=1)
    with torch.no_grad():
        apart = (
            (policy.get_distribution(observations).mode() - actions).square().mean().sqrt().item()
        )
    assert apart < 0.1  # a fifth of the actions' deviation of .45
    assert policy.log_std.item() == pytest.approx(LOG_STD_FLOOR)
    assert torch.equal(policy.value_net.weight, value)
    assert torch.equal(torch.get_rng_state(), before)


def test_cloning_before_ppo_leaves_the_deviation_to_it(policy: Any) -> None:
    observations = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    actions = (0.5 * observations[:, :1]).clamp(-1, 1)
    before = policy.log_std.clone()
    clone(policy, observations, actions, steps=600, seed=1, mean_only=True)
    with torch.no_grad():
        apart = (
            (policy.get_distribution(observations).mode() - actions).square().mean().sqrt().item()
        )
    assert apart < 0.1 and torch.equal(policy.log_std, before)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"none"}))
def test_schedules_fall_from_data_to_none(name: str) -> None:
    """Every preset: starts with most of the data, never rises, and has (all but) none when `until`
    is reached.
    """
    annealer = make_schedule(name, until=0.5)
    shares = [annealer(done).data for done in np.linspace(0, 1, 201)]
    assert shares[0] >= 0.7 and np.all(np.diff(shares) <= 1e-12)
    left = max(shares[100:])
    assert left <= {"halving": 0.5**10, "inverse_sigmoid": 0.003}.get(name, 1e-12)
    assert all(
        annealer(done).reward == 0 for done in ((0, 1) if name == "by_reward" else (0, 0.3, 1))
    )


def test_schedules_at_their_corners() -> None:
    def at(name: str, *done: float) -> list[float]:
        return [make_schedule(name, until=0.6)(x).data for x in done]

    assert at("linear", 0, 0.15, 0.3, 0.6) == pytest.approx([1, 0.75, 0.5, 0])
    assert at("paper", 0, 0.19, 0.21, 0.41, 0.61) == pytest.approx([0.72, 0.72, 0.44, 0.16, 0])
    assert at("mixer", 0, 0.07, 0.59) == pytest.approx([0.9, 0.8, 0.1])
    assert at("halving", 0, 0.05, 0.07, 0.13) == pytest.approx([1, 1, 0.5, 0.25])
    assert at("none", 0, 1) == [0, 0]
    assert (
        parse_schedule("0.25", 0.5)(0.9).data
        == constant_schedule(0.25)(0).data
        == pytest.approx(0.25)
    )


@pytest.mark.parametrize(
    ("text", "until"),
    [("steep", 0.5), ("linear", 0.0), ("linear", 1.5), ("1.5", 0.5), ("nan", 0.5)],
)
def test_schedules_are_checked(text: str, until: float) -> None:
    with pytest.raises(ValueError, match=r"--schedule|--until"):
        parse_schedule(text, until)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"prefix": "teleport"}, "known are none, state, replay"),
        ({"use_ppo": False, "likelihood": True, "schedule": "linear"}, "without PPO"),
        ({"learned_reward": False, "clone": True}, "uses no demonstrations"),
        ({"prefix": "state"}, "needs a schedule"),
        ({"all_pairs": True}, "which pairs the likelihood uses"),
    ],
)
def test_a_method_that_contradicts_itself_cannot_be_built(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Method("", **wrong)


def test_every_row_says_what_it_is() -> None:
    assert all(method.summary for method in METHODS.values())
    assert {name for name, method in METHODS.items() if not method.needs_demos} == {
        "random",
        "expert",
    }


def test_defaults() -> None:
    """Section 5.3's numbers, and those where it is silent, as docs/gail.md has them."""
    run = vars(RunSettings("Hopper-v5", "gail_interp", "x.npz")) | {}
    assert vars(run.pop("ppo")) == {
        "learning_rate": 3e-4,
        "n_epochs": 10,
        "batch_size": 256,
        "gamma": 0.995,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "log_std_init": 0.0,
    }
    assert run.pop("discriminator") == DiscriminatorSettings()
    assert run == {
        "env": "Hopper-v5",
        "method": "gail_interp",
        "demos": "x.npz",
        "n": None,
        "pairs": 50,
        "seed": 1,
        "iterations": 1000,
        "steps": 2048,
        "envs": 8,
        "schedule": None,
        "until": 0.5,
        "prefix": None,
        "prefix_length": "fixed",
        "true_reward": False,
        "bc_steps": 2000,
        "eval_every": 10,
        "eval_episodes": 5,
    }
    assert ARCHITECTURE["net_arch"] == {"pi": [128, 128], "vf": [128, 128]}
    assert ARCHITECTURE["activation_fn"] is torch.nn.Tanh
    assert (bc.LEARNING_RATE, bc.BATCH, bc.LOG_STD_FLOOR, FULL_EPISODES) == (1e-3, 128, -2.5, 0.1)


@pytest.mark.parametrize("name", ["gamma", "gae_lambda", "clip_range"])
def test_shares_of_ppo_end_at_one(name: str) -> None:
    assert getattr(PPOSettings(**{name: 1.0}), name) == 1
    for wrong in (1.001, 1.9):
        with pytest.raises(ValueError, match=f"--ppo {name}"):
            PPOSettings(**{name: wrong})


def test_the_learning_rate_of_ppo_ends_at_one() -> None:
    assert PPOSettings(learning_rate=1.0).learning_rate == 1
    with pytest.raises(ValueError, match="--ppo learning_rate"):
        PPOSettings(learning_rate=1.5)
