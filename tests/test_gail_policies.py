"""Policies from files, and the protocol that measures them."""

import math
from pathlib import Path

import numpy as np
import pytest
from gail_worlds import PENDULUM, balance, noise, settings
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gail.evaluate import Evaluator
from gail.policies import clipped, load_policy, plain_expert
from gail.run import Run, train
from gail.sb3_policy import sb3_policy
from gail.simulator import make_env

BOX = np.array([-1.0, -0.5], np.float32), np.array([1.0, 0.5], np.float32)


def arrays(rows: bool) -> dict[str, np.ndarray]:
    """A policy of 3 observations, 4 hidden units, 2 actions; vectors as rows where `rows`."""
    rng = np.random.default_rng(1)
    found = {
        "obs_mean": rng.normal(size=3),
        "obs_meansq": 2 + rng.random(3),
        "W0": rng.normal(size=(3, 4)),
        "b0": rng.normal(size=4),
        "W_out": 0.3 * rng.normal(size=(4, 2)),
        "b_out": rng.normal(size=2) / 5,
        "log_std": np.array([-1.0, -2.0]),
    }
    return {
        name: value[None] if rows and value.ndim == 1 else value for name, value in found.items()
    }


@pytest.mark.parametrize("rows", [False, True])
def test_plain_expert_by_loops(tmp_path: Path, rows: bool) -> None:
    """The documented formula, number by number."""
    np.savez(tmp_path / "expert.npz", **arrays(rows))
    a = arrays(rows=False)
    observation = [0.3, -1.2, 2.0]
    hidden = []
    for j in range(4):
        total = a["b0"][j]
        for i in range(3):
            deviation = math.sqrt(max(a["obs_meansq"][i] - a["obs_mean"][i] ** 2, 0)) + 1e-6
            total += (observation[i] - a["obs_mean"][i]) / deviation * a["W0"][i, j]
        hidden.append(total if total > 0 else 0.01 * total)
    expected = [
        a["b_out"][k] + sum(hidden[j] * a["W_out"][j, k] for j in range(4)) for k in range(2)
    ]
    wide = np.full(2, -100, np.float32), np.full(2, 100, np.float32)
    act = plain_expert(tmp_path / "expert.npz", wide)
    np.testing.assert_allclose(act(np.array([observation]), None)[0], expected, rtol=1e-5)
    draws = act(np.repeat([observation], 4000, 0), np.random.default_rng(0)) - expected
    # A deviation's own deviation is σ / √(2 n); five of them.
    np.testing.assert_allclose(draws.std(0), np.exp(a["log_std"]), rtol=5 / math.sqrt(8000))


@pytest.mark.parametrize(
    ("drop", "message"),
    [("W0", "no array W0"), (None, r"W_out has the shape \(4, 2\), and \(4, 1\) is wanted")],
)
def test_plain_experts_are_checked(tmp_path: Path, drop: str | None, message: str) -> None:
    np.savez(
        tmp_path / "expert.npz",
        **{name: value for name, value in arrays(False).items() if name != drop},
    )
    with pytest.raises(ValueError, match=message):
        plain_expert(tmp_path / "expert.npz", (BOX[0][:1], BOX[1][:1]))


def test_actions_stay_in_the_box() -> None:
    """Also where the bound is no float32: rounding comes before clipping."""
    mean = np.array([[0.5 + 1e-9, 3.0], [-7.0, 0.1]])
    assert np.array_equal(
        clipped(mean, np.zeros(2), None, BOX), np.array([[0.5, 0.5], [-1.0, 0.1]], np.float32)
    )
    assert clipped(mean, np.ones(2), np.random.default_rng(0), BOX).dtype == np.float32


def test_the_protocol() -> None:
    """Fresh episodes, the same for each policy, as many as asked, one by one as side by side."""
    evaluator = Evaluator(PENDULUM, episodes=13, seed=5)
    assert evaluator(balance) == ([1000.0] * 13, [1000] * 13)
    random = noise(1, 3)
    first, lengths = evaluator(random, deterministic=False)
    assert (first, lengths) == evaluator(random, deterministic=False)
    # The last step pays nothing
    assert len(set(first)) > 3 and first == [length - 1.0 for length in lengths]

    def lean(observations: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        return np.full((len(observations), 1), 0.2, np.float32)

    alone = [Evaluator(PENDULUM, episodes=count, seed=5)(lean)[0] for count in (1, 3, 13)]
    assert alone[0] == alone[2][:1] and alone[1] == alone[2][:3]
    assert Evaluator(PENDULUM, episodes=13, seed=6)(lean)[0] != alone[2]


def test_a_policy_from_its_file(tmp_path: Path) -> None:
    """policy.pt acts as the model in memory did, whose `predict` takes normalised observations."""
    train(settings("expert", iterations=1), tmp_path, quiet=True)
    run = Run(settings("expert", iterations=1), tmp_path)
    run.begin(resume=True)
    env_id, act = load_policy(tmp_path / "policy.pt")
    observations = np.random.default_rng(0).normal(size=(7, 4))
    assert env_id == PENDULUM
    np.testing.assert_allclose(act(observations, None), run.act(observations, None), rtol=1e-5)
    predicted, _ = run.model.predict(
        run.model.normaliser.normalize_obs(observations), deterministic=True
    )
    np.testing.assert_allclose(act(observations, None), predicted, rtol=1e-5)


def test_any_sb3_policy(tmp_path: Path) -> None:
    """A zip of SB3's with its normaliser acts as SB3's predict does."""
    venv = VecNormalize(DummyVecEnv([lambda: make_env(PENDULUM)]))
    model = PPO(
        "MlpPolicy", venv, n_steps=64, batch_size=32, n_epochs=1, seed=1, device="cpu"
    ).learn(64)
    model.save(tmp_path / "model.zip")
    venv.save(str(tmp_path / "norm.pkl"))
    act = sb3_policy(tmp_path / "model.zip", "PPO", tmp_path / "norm.pkl", PENDULUM)
    observations = np.random.default_rng(0).normal(size=(3, 4))
    assert np.array_equal(
        act(observations, None),
        model.predict(venv.normalize_obs(observations), deterministic=True)[0],
    )
    assert not np.array_equal(act(observations, np.random.default_rng(0)), act(observations, None))
    with pytest.raises(ValueError, match="--sb3-algorithm PPOO"):
        sb3_policy(tmp_path / "model.zip", "PPOO", None, PENDULUM)
