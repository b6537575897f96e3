"""The simulator put back to the last bit, and beginnings that come from data."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gail_worlds import PENDULUM, balance, demonstrations, noise
from stable_baselines3.common.monitor import Monitor

from gail import demo_prefix
from gail.demo_prefix import DemoPrefix, PrefixSettings
from gail.demos import Demonstrations
from gail.prefix_length import PREFIX_LENGTHS, PrefixLength
from gail.simulator import Simulator, make_env

# Contacts, chaos, and velocities that observations clip: what makes a state hard to restore.
# (environment, actions, their bound) Ant and Humanoid are rewarded by positions that MuJoCo
# computes a step late.
HARD = [
    ("HalfCheetah-v5", 6, 1.0), ("Hopper-v5", 3, 1.0), ("Walker2d-v5", 6, 1.0), (PENDULUM, 1, 3.0),
    ("Ant-v5", 8, 1.0), ("Humanoid-v5", 17, 0.4),
]  # fmt: skip


def begun(
    demos: Demonstrations, share: float, mode: str = "state", law: str = "fixed"
) -> DemoPrefix:
    env = DemoPrefix(
        Monitor(make_env(demos.env_id)), PrefixSettings(demos, mode, law, seed=1), rank=0
    )
    env.set_lambda_data(share)
    return env


@pytest.mark.parametrize(("env_id", "size", "high"), HARD)
@pytest.mark.parametrize("mode", ["state", "replay"])
def test_the_rest_is_bit_exact(
    env_id: str, size: int, high: float, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where a prefix ends, the recorded actions lead to the recorded observations, rewards and
    end, to the last bit.
    """
    monkeypatch.setattr(demo_prefix, "FULL_EPISODES", 0.0)
    whole = demonstrations(env_id, 1, noise(size, high), stochastic=True)
    demos = whole if mode == "replay" else whole.subsample(9)
    length = int(whole.lengths[0])
    env = begun(demos, 0.6, mode)
    observation, _ = env.reset(seed=5)
    t = env.skipped
    wanted = round(0.6 * length)
    assert t == (wanted if mode == "replay" else max(demos.index[demos.index <= wanted])) > 0
    assert np.array_equal(observation, whole.observations[t])
    for step in range(t, length):
        observation, reward, terminated, truncated, info = env.step(whole.actions[step])
        after = whole.observations[step + 1] if step + 1 < length else whole.last_observations[0]
        assert np.array_equal(observation, after), f"{step - t} steps after the prefix"
        assert reward == whole.rewards[step]
        assert (terminated or truncated) == (step == length - 1)
    assert terminated == whole.terminated[0]
    assert "episode" not in info


def test_positions_and_velocities_are_not_enough() -> None:
    """Why demonstrations hold the integration state: without the solver's warm start the walker's
    last bits differ.
    """
    whole = demonstrations("Walker2d-v5", 1, noise(6, 1.0), stochastic=True)
    env = make_env("Walker2d-v5")
    simulator = Simulator(env)
    apart = []
    for by_state in (True, False):
        env.reset(seed=0)
        if by_state:
            simulator.set(whole.states[5], 5)
        else:
            env.unwrapped.set_state(whole.qpos[5], whole.qvel[5])
        ahead = [
            np.abs(env.step(whole.actions[t])[0] - whole.observations[t + 1]).max()
            for t in range(5, len(whole.index) - 1)
        ]
        apart.append(max(ahead))
    assert apart[0] == 0 < apart[1]


def test_the_recorded_state_has_the_last_word() -> None:
    """On another processor the step that leads there ends some roundings away."""
    whole = demonstrations("Hopper-v5", 1, noise(3, 1.0), stochastic=True)
    elsewhere = replace(whole, states=whole.states * (1 + 1e-13))
    env = begun(elsewhere, 0.0)
    for row in (0, 1, 7):
        env.reset(seed=row)
        env.restore(elsewhere, row)
        assert np.array_equal(env.simulator.get(), elsewhere.states[row]) and env.skipped == row
        assert env.simulator.limit._elapsed_steps == row


def test_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode that begins at t ends T - t steps later, by the same time limit."""
    monkeypatch.setattr(demo_prefix, "FULL_EPISODES", 0.0)
    env = begun(demonstrations(trajectories=1).subsample(50), 0.9)
    observation, _ = env.reset(seed=0)
    start, steps, over = env.skipped, 0, False
    while not over:
        observation, _, terminated, over, _ = env.step(balance(observation[None], None)[0])
        steps += 1
        assert not terminated
    assert start > 800 and start + steps == 1000


@pytest.mark.parametrize("mode", ["state", "replay"])
def test_one_step_is_left_to_the_policy(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """λ_data = 1: all of a demonstration but its last step, whose end would be no beginning."""
    monkeypatch.setattr(demo_prefix, "FULL_EPISODES", 0.0)
    whole = demonstrations(PENDULUM, 1, noise(1, 3.0), stochastic=True)
    env = begun(whole, 1.0, mode)
    observation, _ = env.reset(seed=0)
    assert env.skipped == whole.lengths[0] - 1 and np.array_equal(
        observation, whole.observations[-1]
    )


def test_share_of_full_episodes() -> None:
    """A tenth of the episodes begins at the environment's own reset: 1000 of them lie within 4
    deviations of that.
    """
    env = begun(demonstrations(trajectories=2).subsample(50), 0.5)
    full = sum(env.reset()[0] is not None and env.skipped == 0 for _ in range(1000))
    assert abs(full - 100) < 4 * np.sqrt(1000 * 0.1 * 0.9)


def test_no_share_is_the_environment() -> None:
    """λ_data = 0: resets, random numbers, steps and statistics are the plain environment's."""
    demos = demonstrations(trajectories=1)
    plain, ours = Monitor(make_env(PENDULUM)), begun(demos, 0.0)
    rng = np.random.default_rng(0)
    assert np.array_equal(plain.reset(seed=3)[0], ours.reset(seed=3)[0])
    for _ in range(200):
        action = rng.uniform(-3, 3, 1).astype(np.float32)
        theirs, mine = plain.step(action), ours.step(action)
        assert np.array_equal(theirs[0], mine[0]) and theirs[1:4] == mine[1:4]
        assert without_time(theirs[4].get("episode")) == without_time(mine[4].get("episode"))
        if theirs[2]:
            assert np.array_equal(plain.reset()[0], ours.reset()[0])


def test_a_prefix_without_a_step_is_the_environments_own_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a trajectory's first pair no step is data."""
    monkeypatch.setattr(demo_prefix, "FULL_EPISODES", 0.0)
    whole = demonstrations(trajectories=2)
    env, plain = begun(whole.select(whole.index == 0, 2), 0.5), make_env(PENDULUM)
    assert np.array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0]) and env.skipped == 0
    assert np.array_equal(env.step(np.ones(1))[0], plain.step(np.ones(1))[0])


def test_a_reset_is_passed_on() -> None:
    """Its seed, and options that the environment knows; without a seed the environment's numbers go
    on.
    """
    given: list[dict[str, Any]] = []

    class Listens(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, **arguments: Any) -> Any:
            given.append(arguments)
            return super().reset(**arguments)

    env = DemoPrefix(Monitor(Listens(make_env(PENDULUM))), None, rank=0)
    first, second = env.reset(seed=3, options={"a": 1})[0], env.reset()[0]
    assert given == [{"seed": 3, "options": {"a": 1}}, {"seed": None, "options": None}]
    assert np.array_equal(first, env.reset(seed=3)[0]) and np.array_equal(second, env.reset()[0])


def without_time(episode: Any) -> Any:
    return episode and (episode["r"], episode["l"])


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_kept_and_put_back(share: float) -> None:
    """In the middle of an episode: the same steps, the same statistics at its end, the same next
    reset.
    """
    demos = demonstrations(trajectories=2).subsample(50)

    def play(env: DemoPrefix, steps: int) -> list[Any]:
        seen = []
        for _ in range(steps):
            observation, reward, terminated, truncated, info = env.step(np.full(1, 0.3, np.float32))
            seen.append(
                (
                    observation.tolist(),
                    reward,
                    terminated,
                    truncated,
                    without_time(info.get("episode")),
                )
            )
            if terminated or truncated:
                seen.append((env.reset()[0].tolist(), env.skipped))
        return seen

    first = begun(demos, share)
    first.reset(seed=9)
    play(first, 25)
    kept = first.capture_state()
    expected = play(first, 100)
    # Statistics of an episode begun before
    assert share or any(step[-1] for step in expected if len(step) == 5)
    second = begun(demos, share)
    second.restore_state(kept)
    assert play(second, 100) == expected


@pytest.mark.parametrize("law", PREFIX_LENGTHS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.72, 1.0])
def test_reach_is_the_law_of_the_draw(law: str, share: float) -> None:
    """P(m > t), by which the likelihood weighs pairs, counted over draws of m; 4000 of them, within
    5 deviations.
    """
    one: PrefixLength = PREFIX_LENGTHS[law]
    rng = np.random.default_rng(1)
    length, draws = 40, 4000
    drawn = np.array([one.draw(rng, share, length) for _ in range(draws)])
    assert drawn.min() >= 0 and drawn.max() <= length
    t = np.arange(length)
    counted = (drawn[:, None] > t).mean(0)
    assert np.abs(counted - one.reach(t, share, np.full(length, length))).max() < 5 * np.sqrt(
        0.25 / draws
    )


def test_the_geometric_prefix_is_short() -> None:
    """λ_data = .72 drawn step by step: .72 / .28 = 2.6 steps of data, whatever T is (the reason for
    `fixed`).
    """
    rng = np.random.default_rng(1)
    drawn = [PREFIX_LENGTHS["geometric"].draw(rng, 0.72, 1000) for _ in range(4000)]
    assert abs(np.mean(drawn) - 0.72 / 0.28) < 5 * np.sqrt(0.72) / 0.28 / np.sqrt(4000)
