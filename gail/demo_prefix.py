"""Episodes that begin with a demonstration: the environment wrapper of section 5.3."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from gail.demos import Demonstrations
from gail.prefix_length import PREFIX_LENGTHS
from gail.simulator import Simulator, check_env, make_env

FULL_EPISODES = 0.1  # share of episodes without a prefix, so that there are policy pairs from the start at any λ_data


@dataclass(frozen=True)
class PrefixSettings:
    """Where episodes begin.  `mode` is a Method's prefix, `length` a key of PREFIX_LENGTHS."""

    demos: Demonstrations
    mode: str
    length: str
    seed: int


class DemoPrefix(gym.Wrapper[Any, Any, Any, Any]):
    """Section 5.3: an episode begins as a demonstration does, then the policy acts.

    Mode `state` restores the simulator's state at the last recorded pair within the prefix; `replay` takes the recorded actions.
    With λ_data = 0 the wrapper draws nothing and changes nothing.  Episodes that began with data report no statistics, because
    their returns are not the policy's alone.
    """

    def __init__(self, env: gym.Env[Any, Any], prefix: PrefixSettings | None, rank: int) -> None:
        super().__init__(env)
        self.simulator = Simulator(env)
        self.prefix = prefix
        self.rank = rank
        self.lambda_data = 0.0
        self.episode = 0  # counts resets, and seeds what is drawn in each: nothing to save but this number
        self.skipped = 0  # steps of this episode that are data

    def set_lambda_data(self, lambda_data: float) -> None:
        """Set λ_data for the episodes that begin from now on; a running one keeps its prefix."""
        self.lambda_data = lambda_data

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.episode += 1
        self.skipped = 0
        if self.prefix is not None and self.lambda_data > 0:
            observation = self.follow(self.prefix, observation)
        return observation, info

    def follow(self, prefix: PrefixSettings, observation: Any) -> Any:
        """Move to the end of a demonstration's prefix; return the observation there."""
        rng = np.random.default_rng([prefix.seed, self.rank, self.episode])
        if rng.random() < FULL_EPISODES:
            return observation
        demos, k = prefix.demos, int(rng.integers(len(prefix.demos)))
        rows = demos.rows_of(k)
        length = int(demos.lengths[k])
        # At least one step is left to the policy.
        m = min(PREFIX_LENGTHS[prefix.length].draw(rng, self.lambda_data, length), length - 1)
        row = rows.start + int(np.searchsorted(demos.index[rows], m, side="right")) - 1
        if m == 0 or row < rows.start:
            return observation
        if prefix.mode == "replay":
            return self.replay(demos, rows.start, m)
        self.skipped = int(demos.index[row])
        self.simulator.set(demos.states[row], self.skipped)
        return demos.observations[row]

    def replay(self, demos: Demonstrations, start: int, m: int) -> Any:
        """Take the first m recorded actions from the recorded start; return the observation after them."""
        self.simulator.set(demos.states[start], 0)
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

    def capture_state(self) -> dict[str, Any]:
        """Return everything that the rest of this episode and the next ones depend on."""
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

    def restore_state(self, kept: dict[str, Any]) -> None:
        """Restore what `capture_state` returned; no random number of `reset` is used."""
        self.env.reset()  # gymnasium refuses to step before one
        monitor = self.env
        assert isinstance(monitor, Monitor)
        self.simulator.set(np.asarray(kept["state"]), kept["elapsed"])
        self.unwrapped.np_random.bit_generator.state = kept["numbers"]
        monitor.rewards = list(kept["rewards"])
        self.episode = kept["episode"]
        self.skipped = kept["skipped"]


def make_venv(env_id: str, count: int, prefix: PrefixSettings | None = None, subproc: bool = False) -> VecEnv:
    """Make `count` environments, DemoPrefix(Monitor(env)) each, in this process or in one process each."""

    def maker(rank: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: DemoPrefix(Monitor(make_env(env_id)), prefix, rank)

    makers = [maker(rank) for rank in range(count)]
    if not subproc:
        return DummyVecEnv(makers)
    check_env(env_id)  # an error in another process would arrive as the end of a pipe
    # Ctrl-C reaches every process of a terminal.  The environments' ignore it from their start on: this one ends them.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    return SubprocVecEnv(makers)
