"""What environments remember beside MuJoCo's state: episodes begin, and runs go on, only where it
is restored as well.
"""

from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import assert_equal_bits
from gail_worlds import demonstrations, go_on, noise, settings, write_demos
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TimeAwareObservation

from gail import checkpoints, demo_prefix
from gail.__main__ import main
from gail.build import check_fit
from gail.demos import Demonstrations, from_episodes
from gail.record import record_episodes
from gail.simulator import check_env


class Remembers(InvertedPendulumEnv):
    """A pendulum that does not fall, with a memory of one kind in its observation, its reward, its
    end or its dynamics.
    """

    def __init__(self, kind: str, where: str, **others: Any) -> None:
        self.kind, self.where, self.memory = kind, where, 0.0
        self.last = np.zeros(1)
        super().__init__(**others)
        if where == "observation":
            self.observation_space = Box(-np.inf, np.inf, (5,), np.float64)

    def reset_model(self) -> Any:
        self.last = np.zeros(1)
        if self.kind == "counter":
            self.memory = 0.0
        if self.kind in ("goal", "model"):
            self.memory = self.np_random.uniform(-1, 1)
        if self.kind == "one of two goals":
            self.memory = float(self.np_random.integers(2))
        if self.kind == "model":
            self.model.opt.gravity[2] = -9.81 + self.memory
        if self.kind == "not the generator's":
            self.memory = np.random.uniform()
        return super().reset_model()

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        if self.kind == "counter":
            self.memory += 1
        if self.kind == "noise":
            self.memory = self.np_random.normal()
        if self.kind == "last action":
            self.memory = float(np.abs(action - self.last).sum())
            self.last = np.array(action)
        over = self.memory == 20
        reward += self.memory / 100 if self.where == "reward" else 0
        return observation, reward, self.where == "end" and over, self.where == "cut" and over, info

    def _get_obs(self) -> Any:
        observation = super()._get_obs()
        return (
            np.append(observation, self.memory / 100)
            if self.where == "observation"
            else observation
        )


class Delayed(gym.ActionWrapper[Any, Any, Any]):
    """Takes each action two steps late: a wrapper's memory."""

    def reset(self, **arguments: Any) -> Any:
        self.waiting = deque([np.zeros(1, np.float32)] * 2)
        return super().reset(**arguments)

    def action(self, action: Any) -> Any:
        self.waiting.append(action)
        return self.waiting.popleft()


def stacked(frames: int, **others: Any) -> Any:
    return FlattenObservation(FrameStackObservation(Remembers("nothing", "", **others), frames))


def registered(name: str, entry: Any, **arguments: Any) -> str:
    gym.register(name, entry, max_episode_steps=30, kwargs=arguments)
    return name


def remembers(name: str, kind: str, where: str) -> str:
    return registered(name, Remembers, kind=kind, where=where)


NOT_RESTORED = [
    remembers("Counted-v0", "counter", "observation"),
    remembers("CountedReward-v0", "counter", "reward"),
    remembers("CountedEnd-v0", "counter", "end"),
    remembers("CountedCut-v0", "counter", "cut"),
    remembers("Goal-v0", "goal", "observation"),
    remembers("GoalReward-v0", "goal", "reward"),
    remembers("TwoGoals-v0", "one of two goals", "reward"),
    remembers("Model-v0", "model", ""),
    remembers("Noise-v0", "noise", "observation"),
    registered("Delayed-v0", lambda **others: Delayed(Remembers("nothing", "", **others))),
    registered("Stacked4-v0", stacked, frames=4),
    "TimeAware-v0",
]
gym.register(
    "TimeAware-v0",
    Remembers,
    max_episode_steps=30,
    kwargs={"kind": "nothing", "where": ""},
    additional_wrappers=(TimeAwareObservation.wrapper_spec(),),
)
OWN_NUMBERS = remembers("OwnNumbers-v0", "not the generator's", "observation")
RESTORED = [
    remembers("Nothing-v0", "nothing", ""),
    remembers("LastAction-v0", "last action", "reward"),
    registered("Stacked2-v0", stacked, frames=2),
]


def recorded(env_id: str, trajectories: int = 3) -> Demonstrations:
    return demonstrations(env_id, trajectories, noise(1, 0.5), stochastic=True)


@pytest.mark.parametrize("env_id", [*NOT_RESTORED, OWN_NUMBERS])
def test_what_is_not_restored_is_refused_before_training(env_id: str, tmp_path: Path) -> None:
    """One line that names the environment and the way out, which works."""
    path = write_demos(tmp_path, recorded(env_id))
    words = [
        "train",
        "--env",
        env_id,
        "--demos",
        str(path),
        "--quiet",
        "--out",
        str(tmp_path / "run"),
    ]
    small = [
        "--steps",
        "32",
        "--envs",
        "2",
        "--iterations",
        "1",
        "--eval-episodes",
        "1",
        "--ppo",
        "batch_size=32,n_epochs=1",
    ]
    for method in ("gail_interp", "gail_resets"):
        with pytest.raises(SystemExit, match=r"^gail: --demos .*--prefix none") as stopped:
            main([*words, *small, "--method", method])
        assert env_id in str(stopped.value) and "\n" not in str(stopped.value)
    assert not (tmp_path / "run").exists()
    main([*words, *small, "--method", "gail_interp", "--prefix", "none"])


@pytest.mark.parametrize("env_id", RESTORED)
def test_what_is_restored_is_taken(env_id: str) -> None:
    """One step that leads into the state brings an action or a frame of memory along."""
    demos = recorded(env_id)
    check_fit(demos, settings("gail_interp", env=env_id))


@pytest.mark.parametrize("env_id", NOT_RESTORED)
def test_what_a_replay_restores(env_id: str) -> None:
    """From its recorded start on an episode repeats itself, unless the environment drew something,
    or remembers its own start.
    """
    demos = recorded(env_id, 2)
    run = settings("gail_interp", env=env_id, prefix="replay", pairs=0)
    if env_id.startswith(("Goal", "TwoGoals", "Model", "Noise", "Stacked")):
        with pytest.raises(ValueError, match="--prefix none"):
            check_fit(demos, run)
    else:
        check_fit(demos, run)


def test_late_states_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that shows in one trajectory's last step alone is found: that step is always among
    those taken again.
    """
    monkeypatch.setattr(demo_prefix, "POINTS", 1)
    episodes = [
        episode
        for env_id in ("Nothing-v0", "CountedEnd-v0")
        for episode in record_episodes(env_id, noise(1, 0.5), 1, seed=3, stochastic=True)
    ]
    demos = from_episodes("CountedEnd-v0", episodes)
    assert demos.lengths.tolist() == [30, 20]
    with pytest.raises(ValueError, match=r"step 19 of demonstration 1, .*--prefix none"):
        check_fit(demos, settings("gail_interp", env="CountedEnd-v0"))


def test_another_simulator_is_refused() -> None:
    with pytest.raises(ValueError, match="--env Pendulum-v1"):
        check_env("Pendulum-v1")


ACTIVATED = """
<mujoco>
  <option timestep="0.02"/>
  <worldbody>
    <body name="led" mocap="true" pos="0 0 1">
      <geom type="sphere" size=".1" contype="0" conaffinity="0"/>
    </body>
    <body name="cart">
      <joint name="slider" type="slide" axis="1 0 0" range="-1 1"/>
      <geom type="sphere" size=".1" mass="1"/>
      <body name="pole" pos="0 0 .1"><joint name="hinge" type="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 .6" size=".05" mass="1"/></body></body>
  </worldbody>
  <equality><connect body1="led" body2="pole" anchor="0 0 -.3" solref=".5 1"/></equality>
  <actuator>
    <general joint="slider" dyntype="filter" dynprm=".3" gainprm="9" ctrlrange="-3 3"/>
  </actuator>
</mujoco>
"""


class Led(InvertedPendulumEnv):
    """Its pole follows a mocap body, which the clock of the simulator moves; its motor has an
    activation.
    """

    def step(self, action: Any) -> Any:
        self.data.mocap_pos[0, 0] = 0.3 * np.sin(5 * self.data.time)
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


def test_activations_mocap_bodies_and_the_clock_are_restored(tmp_path: Path) -> None:
    (tmp_path / "led.xml").write_text(ACTIVATED)
    gym.register(
        "Led-v0", Led, max_episode_steps=30, kwargs={"xml_file": str(tmp_path / "led.xml")}
    )
    demos = recorded("Led-v0")
    check_fit(demos, settings("gail_interp", env="Led-v0"))
    moved = demos.states.copy()
    moved[:, 0] += 0.5  # the clock: its state is the integration state's first number
    with pytest.raises(ValueError, match="--prefix none"):
        check_fit(
            Demonstrations(**(vars(demos) | {"states": moved})),
            settings("gail_interp", env="Led-v0"),
        )


# ---- runs that go on ----


def gone_on(env_id: str, folder: Path, ends: list[int]) -> dict[str, Any]:
    """A run that is stopped and resumed at these iterations; its last state."""
    # 25 of an episode's 30 steps
    goal = settings("expert", env=env_id, iterations=9, steps=50, eval_every=9)
    for end in ends:
        go_on(goal, folder, end)
    return {
        name: value
        for name, value in checkpoints.load(folder / "checkpoint.pt").items()
        if name != "seconds"
    }


@pytest.mark.parametrize("env_id", [*NOT_RESTORED, *RESTORED])
def test_a_run_goes_on_with_what_its_environments_remember(env_id: str, tmp_path: Path) -> None:
    """Counters, goals, wrappers, noise: the half-done episodes go on to the same bits."""
    assert_equal_bits(
        gone_on(env_id, tmp_path / "broken", [1, 2, 3]), gone_on(env_id, tmp_path / "whole", [3])
    )


def test_a_run_whose_environment_does_not_repeat_itself_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its half-done episodes begin anew, instead of going on from a state that never was; that is
    said.
    """
    kept = gone_on(OWN_NUMBERS, tmp_path, [2])
    # 50 steps, an episode of 30 behind them
    assert [len(one["actions"]) for one in kept["environments"]] == [20, 20]
    capsys.readouterr()
    kept = gone_on(OWN_NUMBERS, tmp_path, [3])
    assert OWN_NUMBERS in capsys.readouterr().err
    assert [len(one["actions"]) for one in kept["environments"]] == [25, 25]
