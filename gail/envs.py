"""Environments: demonstrated beginnings, and simulators whose state can be kept and put back to the last bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from gail.demos import Demonstrations
from gail.prefix import LAWS

INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
FULL_EPISODES = 0.1  # share of episodes without a prefix, so that there are policy pairs from the start at any λ3


class Simulator:
    """What stands behind gymnasium's wrappers.  Raises ValueError if it is not MuJoCo."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if not hasattr(env.unwrapped, "data") or not hasattr(env.unwrapped, "model"):
            raise ValueError(f"{env.spec.id if env.spec else env} is no MuJoCo environment, and its state cannot be put back")
        self.model, self.data = env.unwrapped.model, env.unwrapped.data
        self.size = mujoco.mj_stateSize(self.model, INTEGRATION)
        while not isinstance(env, TimeLimit):
            if not isinstance(env, gym.Wrapper):
                raise ValueError("the environment has no time limit; give max_episode_steps to gymnasium.make")
            env = env.env
        self.limit = env

    def get(self) -> NDArray[np.float64]:
        """mjSTATE_INTEGRATION: qpos and qvel alone would lose the solver's warm start, and with it the last bits."""
        state = np.empty(self.size)
        mujoco.mj_getState(self.model, self.data, state, INTEGRATION)
        return state

    def put(self, state: NDArray[np.float64], elapsed: int) -> None:
        """Back to `state`, `elapsed` steps into the episode."""
        mujoco.mj_setState(self.model, self.data, state, INTEGRATION)
        # Positions of bodies, which some environments read before they step; neither call touches the state.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        self.limit._elapsed_steps = elapsed  # type: ignore[assignment]  # None before the first reset


@dataclass(frozen=True)
class PrefixSettings:
    """Where episodes begin.  `mode` is a Method's prefix, `law` a key of prefix.LAWS."""

    demos: Demonstrations
    mode: str
    law: str
    seed: int


class DemoPrefix(gym.Wrapper[Any, Any, Any, Any]):
    """Section 5.3: the beginning of an episode comes from a demonstration, then the policy acts.

    `state` puts the simulator to the last recorded pair within the prefix; `replay` takes the recorded actions. With λ3 = 0 it
    draws nothing and changes nothing. Statistics of episodes that began with data are dropped, being no returns of the policy.
    """

    def __init__(self, env: gym.Env[Any, Any], prefix: PrefixSettings | None, rank: int) -> None:
        super().__init__(env)
        self.simulator = Simulator(env)
        self.prefix = prefix
        self.rank = rank
        self.share = 0.0  # λ3
        self.episode = 0  # counts resets, and seeds what is drawn in each: nothing to save but this number
        self.skipped = 0  # steps of this episode that are data

    def begin_with(self, share: float) -> None:
        """λ3 of the episodes to come; one that runs keeps its own."""
        self.share = share

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.episode += 1
        self.skipped = 0
        if self.prefix is not None and self.share > 0:
            observation = self.follow(self.prefix, observation)
        return observation, info

    def follow(self, prefix: PrefixSettings, observation: Any) -> Any:
        """Go where a demonstration's prefix ends; the observation there."""
        numbers = np.random.default_rng([prefix.seed, self.rank, self.episode])
        if numbers.random() < FULL_EPISODES:
            return observation
        demos, k = prefix.demos, int(numbers.integers(len(prefix.demos)))
        rows = demos.of(k)
        length = int(demos.lengths[k])
        # At least one step is left to the policy.
        m = min(LAWS[prefix.law].draw(numbers, self.share, length), length - 1)
        row = rows.start + int(np.searchsorted(demos.index[rows], m, side="right")) - 1
        if m == 0 or row < rows.start:
            return observation
        if prefix.mode == "replay":
            return self.replay(demos, rows.start, m)
        self.skipped = int(demos.index[row])
        self.simulator.put(demos.states[row], self.skipped)
        return demos.observations[row]

    def replay(self, demos: Demonstrations, start: int, m: int) -> Any:
        """Take the first m recorded actions from the recorded start."""
        self.simulator.put(demos.states[start], 0)
        for t in range(m):
            observation, _, terminated, truncated, _ = self.env.step(demos.actions[start + t])
            self.skipped += 1
            if terminated or truncated:
                raise ValueError(
                    f"replaying demonstration {demos.trajectory[start]} ended at step {t}; record it on this machine"
                )
        return observation

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        # Only what training reads: DummyVecEnv copies the whole dictionary of each environment at each step.
        kept = {"episode": info["episode"]} if "episode" in info and not self.skipped else {}
        return observation, reward, terminated, truncated, kept

    def keep_state(self) -> dict[str, Any]:
        """All that the rest of this episode and the next ones depend on."""
        monitor = self.env
        assert isinstance(monitor, Monitor)
        return {
            "state": self.simulator.get(),
            "elapsed": self.simulator.limit._elapsed_steps,
            "numbers": self.unwrapped.np_random.bit_generator.state,
            "rewards": list(monitor.rewards),
            "episode": self.episode,
            "skipped": self.skipped,
        }

    def put_state(self, kept: dict[str, Any]) -> None:
        """Go on from there: neither `reset` nor its random numbers are used."""
        self.env.reset()  # gymnasium refuses to step before one
        monitor = self.env
        assert isinstance(monitor, Monitor)
        self.simulator.put(np.asarray(kept["state"]), kept["elapsed"])
        self.unwrapped.np_random.bit_generator.state = kept["numbers"]
        monitor.rewards = list(kept["rewards"])
        self.episode = kept["episode"]
        self.skipped = kept["skipped"]


class Recorder(VecEnvWrapper):
    """Keeps what a rollout saw below the normaliser, and passes on rewards of zero: GAIL's come after the discriminator's step.

    So SB3's rollout buffer holds γ V(s_T) where the time limit cut an episode, and 0 elsewhere.
    """

    def __init__(self, venv: VecEnv, steps: int) -> None:
        super().__init__(venv)
        assert venv.observation_space.shape is not None and venv.action_space.shape is not None
        self.observations = np.zeros((steps, self.num_envs, *venv.observation_space.shape))  # raw
        self.actions = np.zeros((steps, self.num_envs, *venv.action_space.shape), dtype=np.float32)  # clipped
        self.rewards = np.zeros((steps, self.num_envs), dtype=np.float32)  # the environment's
        self.dones = np.zeros((steps, self.num_envs), dtype=bool)  # True: this step ended the episode
        self.now = np.zeros((self.num_envs, *venv.observation_space.shape))
        self.position = 0

    def reset(self) -> Any:
        observations = self.venv.reset()
        assert isinstance(observations, np.ndarray)
        self.now[:] = observations
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self.observations[self.position] = self.now
        self.actions[self.position] = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, np.ndarray)
        self.now[:] = observations
        self.rewards[self.position] = rewards
        self.dones[self.position] = dones
        self.position = (self.position + 1) % len(self.rewards)
        return observations, np.zeros_like(rewards), dones, infos


@contextmanager
def silent_c() -> Iterator[None]:
    """Nothing on standard error: the engine's parser tells each process of HalfCheetah's model that it is written in an old way.

    Errors are exceptions, and not lost.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def make_env(env_id: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """An environment with continuous actions.  Raises ValueError for an unknown id or other actions."""
    try:
        # gymnasium's checker costs a tenth of a step, and looks at the first one only.
        with silent_c():
            env = gym.make(env_id, render_mode=render_mode, disable_env_checker=True)
    except gym.error.Error as error:
        raise ValueError(f"--env {env_id}: {error}") from None
    if not isinstance(env.action_space, gym.spaces.Box) or not isinstance(env.observation_space, gym.spaces.Box):
        raise ValueError(f"--env {env_id}: observations and actions must be boxes of numbers")
    return env


def make_venv(env_id: str, count: int, prefix: PrefixSettings | None = None, subproc: bool = False) -> VecEnv:
    """`count` environments side by side: DemoPrefix(Monitor(env)), in this process or one each."""

    def maker(rank: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: DemoPrefix(Monitor(make_env(env_id)), prefix, rank)

    makers = [maker(rank) for rank in range(count)]
    return SubprocVecEnv(makers) if subproc else DummyVecEnv(makers)
