"""Small worlds for the tests of gail: a pendulum that a linear policy balances, and runs of a few
hundred steps on it.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

from gail.build import build
from gail.demos import Demonstrations, from_episodes
from gail.flags import parse_record
from gail.logs import Logs
from gail.policies import Act
from gail.ppo import GailPPO
from gail.record import record_episodes
from gail.run import Run
from gail.settings import PPOSettings, RunSettings

PENDULUM = "InvertedPendulum-v5"
# Cut after 7 steps, where the pendulum has fallen in some episodes and not in others: both ends of
# an episode in a short rollout.
SHORT = "ShortPendulum-v0"
gym.register(
    SHORT, "gymnasium.envs.mujoco.inverted_pendulum_v5:InvertedPendulumEnv", max_episode_steps=7
)


class Breaks(InvertedPendulumEnv):
    """Returns a reward or an observation that is no number from its 40th step on, or as the last of
    such an episode.
    """

    def __init__(self, what: str, **settings: Any) -> None:
        self.steps, self.of_episode, self.what = 0, 0, what
        super().__init__(**settings)

    def reset_model(self) -> Any:
        self.of_episode = 0
        return super().reset_model()

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        self.steps += 1
        self.of_episode += 1
        if self.steps >= 40:
            last = self.of_episode == 7
            observation = observation * (
                np.nan if self.what == "observation" or (self.what == "last" and last) else 1
            )
            reward = np.nan if self.what == "reward" else reward
        return observation, reward, False, truncated, info


BROKEN = {what: f"Broken{what.title()}-v0" for what in ("observation", "last", "reward")}
for what, name in BROKEN.items():
    gym.register(name, Breaks, max_episode_steps=7, kwargs={"what": what})


def balance(observations: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Returns 1000 on the pendulum; found by hand."""
    action = observations @ np.array([[1.0], [15.0], [1.0], [3.0]])
    noise = 0 if rng is None else 0.3 * rng.standard_normal(action.shape)
    return np.clip(action + noise, -3, 3).astype(np.float32)


def noise(size: int, high: float) -> Act:
    """Random actions, whatever is seen."""

    def act(observations: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        assert rng is not None
        return rng.uniform(-high, high, (len(observations), size)).astype(np.float32)

    return act


def demonstrations(
    env_id: str = PENDULUM, trajectories: int = 2, act: Act = balance, stochastic: bool = False
) -> Demonstrations:
    return from_episodes(
        env_id, list(record_episodes(env_id, act, trajectories, seed=3, stochastic=stochastic))
    )


def settings(method: str, **changes: object) -> RunSettings:
    """A run of 256 steps an iteration in two environments; `demos` is only a name here."""
    small = {
        "env": PENDULUM,
        "demos": "unused.npz",
        "steps": 256,
        "envs": 2,
        "iterations": 4,
        "bc_steps": 20,
        "eval_every": 2,
        "eval_episodes": 2,
        "ppo": parse_record(PPOSettings, PPOSettings(), "batch_size=64,n_epochs=2", "--ppo"),
    }
    return RunSettings(**({"method": method} | small | changes))  # type: ignore[arg-type]


def trained(
    run: RunSettings, demos: Demonstrations | None, iterations: int = 2, subproc: bool = False
) -> GailPPO:
    model = build(run, demos, subproc)
    model.learn(iterations * run.steps, log_interval=None)  # type: ignore[arg-type]
    return model


def write_demos(folder: Path, demos: Demonstrations) -> Path:
    from gail import archive

    path = folder / f"{demos.env_id}.npz"
    archive.save(demos, path, "test", 3)
    return path


def go_on(goal: RunSettings, folder: Path, end: int) -> None:
    """Resume, as `train` does, up to iteration `end`."""
    run = Run(goal, folder)
    run.begin(resume=True)
    with Logs(folder, run.iteration, goal.iterations, "", quiet=True) as logs:
        while run.iteration < end:
            run.iterate(logs)
    run.save()
