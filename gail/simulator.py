"""MuJoCo environments, and the simulator behind them, whose state can be read and restored to the last bit."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from fairseq_erpo.files import reason_of

INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
Box = tuple[NDArray[Any], NDArray[Any]]  # least and largest action, [A] each


class Simulator:
    """The simulator behind gymnasium's wrappers.  Raises ValueError for an environment that MuJoCo does not simulate."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if not hasattr(env.unwrapped, "data") or not hasattr(env.unwrapped, "model"):
            name = env.spec.id if env.spec else env
            raise ValueError(f"--env {name}: not a MuJoCo environment, so its state cannot be restored; try Hopper-v5")
        self.model, self.data = env.unwrapped.model, env.unwrapped.data
        self.size = mujoco.mj_stateSize(self.model, INTEGRATION)
        while not isinstance(env, TimeLimit):
            if not isinstance(env, gym.Wrapper):
                raise ValueError("the environment has no time limit; give max_episode_steps to gymnasium.make")
            env = env.env
        self.limit = env

    def get(self) -> NDArray[np.float64]:
        """Return mjSTATE_INTEGRATION: qpos and qvel alone would lose the solver's warm start, and with it the last bits."""
        state = np.empty(self.size)
        mujoco.mj_getState(self.model, self.data, state, INTEGRATION)
        return state

    def set(self, state: NDArray[np.float64], elapsed: int) -> None:
        """Restore `state`, `elapsed` steps into the episode."""
        mujoco.mj_setState(self.model, self.data, state, INTEGRATION)
        # Positions of bodies, which some environments read before they step; neither call touches the state.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        self.limit._elapsed_steps = elapsed  # type: ignore[assignment]  # None before the first reset


@contextmanager
def silent_c() -> Iterator[None]:
    """Discard what C code writes to standard error: MuJoCo's parser warns about HalfCheetah's model in every process.

    Errors are exceptions and still arrive.
    """
    sys.stderr.flush()
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def make_env(env_id: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make an environment with continuous actions.  Raises ValueError for an unknown id or for other actions."""
    try:
        # gymnasium's checker costs a tenth of a step, and looks at the first one only.
        with silent_c():
            env = gym.make(env_id, render_mode=render_mode, disable_env_checker=True)
    except (gym.error.Error, ImportError, ValueError, TypeError) as error:  # of an id's module too
        raise ValueError(f"--env {env_id}: {reason_of(error)}") from None
    if not isinstance(env.action_space, gym.spaces.Box) or not isinstance(env.observation_space, gym.spaces.Box):
        raise ValueError(f"--env {env_id}: observations and actions must be boxes of numbers")
    return env


def box_of(env: gym.Env[Any, Any]) -> Box:
    """Return the least and the largest action."""
    assert isinstance(env.action_space, gym.spaces.Box)
    return env.action_space.low, env.action_space.high
