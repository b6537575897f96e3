"""MuJoCo environments, and the simulator behind them, whose state can be read and restored to the
last bit.
"""

import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from fairseq_erpo.files import reason_of

INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
# Arguments of gymnasium's environments that say how they look.
RENDERING = (
    "render_mode",
    "width",
    "height",
    "camera_id",
    "camera_name",
    "default_camera_config",
    "max_geom",
    "visual_options",
)
# Wrappers that leave observations, actions and rewards alone.
WATCHING = (
    "RecordEpisodeStatistics",
    "RecordVideo",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "TimeLimit",
    "DataCollector",
)
Box = tuple[NDArray[Any], NDArray[Any]]  # least and largest action, [A] each


class Simulator:
    """The simulator behind gymnasium's wrappers.  Raises ValueError for an environment that MuJoCo
    does not simulate.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        check_mujoco(env)
        self.model, self.data = env.unwrapped.model, env.unwrapped.data  # type: ignore[attr-defined]
        self.size = mujoco.mj_stateSize(self.model, INTEGRATION)
        while not isinstance(env, TimeLimit):
            if not isinstance(env, gym.Wrapper):
                raise ValueError(
                    f"--env {name_of(env)}: it has no time limit; register it with "
                    "max_episode_steps"
                )
            env = env.env
        self.limit = env

    def get(self) -> NDArray[np.float64]:
        """Return mjSTATE_INTEGRATION: qpos and qvel alone would lose the solver's warm start, and
        with it the last bits.
        """
        state = np.empty(self.size)
        mujoco.mj_getState(self.model, self.data, state, INTEGRATION)
        return state

    def set(self, state: NDArray[np.float64], elapsed: int) -> None:
        """Restore `state`, `elapsed` steps into the episode."""
        self.pin(state)
        # Positions of bodies, which some environments read before they step; neither call touches
        # the state.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        self.limit._elapsed_steps = elapsed  # type: ignore[assignment]  # None before the first reset

    def pin(self, state: NDArray[np.float64]) -> None:
        """Set what MuJoCo integrates, and leave what it computed from the state before as it is."""
        mujoco.mj_setState(self.model, self.data, state, INTEGRATION)


@contextmanager
def silent_c() -> Iterator[None]:
    """Discard what C code writes to standard error: MuJoCo's parser warns about HalfCheetah's model
    in every process.

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
    """Make an environment of vectors.  Raises ValueError for one that is unknown, fails or has
    other spaces.
    """
    try:
        # gymnasium's checker costs a tenth of a step, and looks at the first one only.
        with silent_c():
            env = gym.make(env_id, render_mode=render_mode, disable_env_checker=True)
    except Exception as error:  # the environment's own code raises anything
        raise ValueError(f"--env {env_id}: {reason_of(error)}") from None
    try:
        check_vectors("observations", env.observation_space)
        actions = check_vectors("actions", env.action_space)
        if not actions.is_bounded() or np.all(actions.low == actions.high):
            raise ValueError(
                "actions must lie in a box of finite bounds; set the environment's action_space "
                "to one"
            )
    except ValueError as error:
        raise ValueError(f"--env {env_id}: {error}") from None
    return env


def check_vectors(what: str, space: gym.Space[Any]) -> gym.spaces.Box:
    """Return the space.  Raises ValueError unless it is one of vectors of floating numbers."""
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"{what} must be boxes of numbers, and are {type(space).__name__}")
    if len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        kind = f"{space.dtype} of the shape {space.shape}"
        raise ValueError(f"{what} must be vectors of floating numbers, and are {kind}")
    return space


def check_mujoco(env: gym.Env[Any, Any]) -> None:
    """Raises ValueError unless MuJoCo simulates the environment."""
    if not hasattr(env.unwrapped, "data") or not hasattr(env.unwrapped, "model"):
        why = "not a MuJoCo environment, so its state cannot be restored; try Hopper-v5"
        raise ValueError(f"--env {name_of(env)}: {why}")


def check_env(env_id: str) -> None:
    """Raises ValueError where no policy can be trained on the environment."""
    env = make_env(env_id)
    Simulator(env)
    env.close()


def arguments_of(spec: gym.envs.registration.EnvSpec) -> dict[str, Any]:
    """The arguments with which an environment is registered, as JSON has them; without those of
    rendering.
    """
    kept = {name: value for name, value in spec.kwargs.items() if name not in RENDERING}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=lambda value: type(value).__name__))
    return plain


def check_identity(env_id: str, spec: gym.envs.registration.EnvSpec) -> None:
    """Raises ValueError unless what was recorded in an environment of `spec` is of --env: its
    version, class and arguments.
    """
    own = gym.spec(env_id)
    make = (
        gym.envs.registration.load_env_creator(own.entry_point)
        if isinstance(own.entry_point, str)
        else own.entry_point
    )
    names = (own.entry_point, f"{make.__module__}:{getattr(make, '__qualname__', make)}")
    if spec.id != own.id and spec.entry_point not in names:
        raise ValueError(
            f"it is of {spec.id}, not of --env {env_id}; give --env {spec.id}, or name another"
        )
    known = inspect.signature(make).parameters.values()  # type: ignore[arg-type]
    defaults = {one.name: one.default for one in known if one.default is not one.empty}
    theirs, ours = (
        arguments_of(replace(one, kwargs={**defaults, **one.kwargs})) for one in (spec, own)
    )
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"it is of {spec.id} with {name}={theirs.get(name)}, and --env {env_id} has "
                f"{ours.get(name)}; "
                "register an environment with its arguments"
            )
    wrappers = [
        [one.name for one in each.additional_wrappers if one.name not in WATCHING]
        for each in (spec, own)
    ]
    if wrappers[0] != wrappers[1]:
        raise ValueError(
            f"it is of {spec.id} with the wrappers {wrappers[0]}, and --env {env_id} has "
            f"{wrappers[1]}"
        )


def name_of(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec else str(env)


def box_of(env: gym.Env[Any, Any]) -> Box:
    """Return the least and the largest action, in the precision in which actions are kept."""
    assert isinstance(env.action_space, gym.spaces.Box)
    return env.action_space.low.astype(np.float32), env.action_space.high.astype(np.float32)
