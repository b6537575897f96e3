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

POINTS = 64  # steps of all demonstrations that are taken again before training
ROUNDING = 1e-6  # absolute and relative; of a single step that another processor computes
# Share of episodes without a prefix, so that there are policy pairs from the start at any λ_data
FULL_EPISODES = 0.1


@dataclass(frozen=True)
class PrefixSettings:
    """Where episodes begin.  `mode` is a Method's prefix, `length` a key of PREFIX_LENGTHS."""

    demos: Demonstrations
    mode: str
    length: str
    seed: int


class DemoPrefix(gym.Wrapper[Any, Any, Any, Any]):
    """Section 5.3: an episode begins as a demonstration does, then the policy acts.

    Mode `state` restores the simulator's state at the last recorded pair within the prefix, by the
    recorded step that leads there; `replay` takes all the recorded actions. With λ_data = 0 the
    wrapper draws nothing and changes nothing.  Episodes that began with data report no statistics,
    because their returns are not the policy's alone.
    """

    def __init__(self, env: gym.Env[Any, Any], prefix: PrefixSettings | None, rank: int) -> None:
        super().__init__(env)
        self.simulator = Simulator(env)
        self.prefix = prefix
        self.rank = rank
        self.lambda_data = 0.0
        # Counts resets, and seeds what is drawn in each: nothing to save but this number
        self.episode = 0
        self.skipped = 0  # steps of this episode that are data
        self.begun: dict[str, Any] = {}  # what this episode's beginning depended on
        self.actions: list[Any] = []  # since then
        self.observation: Any = np.zeros(0)  # the last one

    def set_lambda_data(self, lambda_data: float) -> None:
        """Set λ_data for the episodes that begin from now on; a running one keeps its prefix."""
        self.lambda_data = lambda_data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.begun = {
            "seed": seed,
            "numbers": self.unwrapped.np_random.bit_generator.state,
            "episode": self.episode,
            "lambda_data": self.lambda_data,
        }
        self.actions = []
        self.observation, info = self.env.reset(seed=seed, options=options)
        self.episode += 1
        self.skipped = 0
        if self.prefix is not None and self.lambda_data > 0:
            self.observation = self.follow(self.prefix, self.observation)
        return self.observation, info

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
        if demos.index[row] == 0:  # no step of it is data
            return observation
        self.restore(demos, row)
        return demos.observations[row]

    def restore(self, demos: Demonstrations, row: int) -> None:
        """Go to where a pair was recorded: to the pair before it, and on by the recorded step.

        So the environment has what it remembers of a step: its last action, or positions that
        MuJoCo computes a step late.
        """
        self.skipped = int(demos.index[row])
        before = demos.row_before(row)
        if before is None:
            self.simulator.set(demos.states[row], self.skipped)
            return
        recorded, earlier = before
        self.simulator.set(recorded.states[earlier], self.skipped - 1)
        self.env.step(recorded.actions[earlier])
        # On another processor the step may end some roundings away
        self.simulator.pin(demos.states[row])

    def replay(self, demos: Demonstrations, start: int, m: int) -> Any:
        """Take the first m recorded actions from the recorded start; return the observation after
        them.
        """
        self.simulator.set(demos.states[start], 0)
        for t in range(m):
            observation, _, terminated, truncated, _ = self.env.step(demos.actions[start + t])
            self.skipped += 1
            if terminated or truncated:
                raise ValueError(
                    f"replaying demonstration {demos.trajectory[start]} ended at step {t}; record "
                    "it on this machine"
                )
        return observation

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        self.actions.append(np.array(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observation = observation
        # Only what training reads: DummyVecEnv copies the whole dictionary of each environment at
        # each step.
        kept = {"episode": info["episode"]} if "episode" in info and not self.skipped else {}
        return observation, reward, terminated, truncated, kept

    def capture_state(self) -> dict[str, Any]:
        """Return what this episode and the next ones depend on: how the episode began, and its
        actions.

        With them comes where they led, the simulator's state and the last observation.
        """
        assert self.action_space.shape is not None
        actions = np.array(self.actions).reshape(-1, *self.action_space.shape)
        reached = {"state": self.simulator.get(), "observation": np.asarray(self.observation)}
        return {"begun": self.begun, "actions": actions, **reached}

    def restore_state(self, kept: dict[str, Any]) -> bool:
        """Begin the episode as it had begun and take its actions again; return True if that led
        where it had led.

        Whatever the environment and the wrappers under this one remember is then there, be it
        MuJoCo's or not.
        """
        begun = kept["begun"]
        self.unwrapped.np_random.bit_generator.state = begun["numbers"]
        self.episode, self.lambda_data = begun["episode"], begun["lambda_data"]
        self.reset(seed=begun["seed"])
        for action in kept["actions"]:
            _, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                return False
        same = np.array_equal(self.simulator.get(), kept["state"])
        return same and np.array_equal(self.observation, kept["observation"])


def check_continuation(demos: Demonstrations, mode: str) -> None:
    """Take recorded steps from restored states, as episodes with a prefix will, and compare what
    comes with the record.

    `demos` are whole.  Many times one step is taken, from pairs of all trajectories, the last among
    them; once all that follow. Raises ValueError that says what differs: the environment remembers
    what MuJoCo's state does not hold, or it is not the one that was recorded.
    """
    env = DemoPrefix(Monitor(make_env(demos.env_id)), None, rank=0)
    rng = np.random.default_rng(0)

    def check(start: int, stop: int) -> None:
        # Begun anew each time, since an episode begins anywhere: nothing of the one before may
        # help.
        env.reset(seed=int(rng.integers(2**31)))
        env.restore(demos, start)
        check_steps(env, demos, slice(start, stop))

    try:
        for k in range(len(demos)):
            first, last = demos.rows_of(k).start, demos.rows_of(k).stop - 1
            starts = {first: max(1, POINTS // len(demos))}
            if mode == "state":  # an episode without a step of data begins by itself
                starts = dict.fromkeys(
                    [*rng.integers(first, last + 1, starts[first]).tolist(), last], 1
                )
                starts.pop(first, None)
            for start, times in starts.items():
                for _ in range(times):
                    check(start, start + 1)
        rows = demos.rows_of(0)
        start = rows.start if mode == "replay" else (rows.start + rows.stop) // 2
        if mode == "replay" or start > rows.start:
            check(start, rows.stop)
    finally:
        env.close()


def check_steps(env: DemoPrefix, demos: Demonstrations, rows: slice) -> None:
    """Take the recorded actions of these rows of a trajectory.  Raises ValueError where something
    else comes than recorded.
    """
    k = int(demos.trajectory[rows.start])
    last = demos.rows_of(k).stop - 1
    for row in range(rows.start, rows.stop):
        observation, reward, terminated, truncated, _ = env.env.step(demos.actions[row])
        after = demos.last_observations[k] if row == last else demos.observations[row + 1]
        compared = {
            "observation": (observation, after),
            "reward": (float(reward), demos.rewards[row]),
            "end": (terminated or truncated, row == last),
            "termination": (terminated, row == last and bool(demos.terminated[k])),
        }
        for name, (here, recorded) in compared.items():
            same = np.isclose(here, recorded, ROUNDING, ROUNDING)
            if not same.all():
                at = int(np.argmin(same))
                numbers = [np.atleast_1d(value)[at] for value in (here, recorded)]
                raise ValueError(
                    f"put back to step {demos.index[rows.start]} of demonstration {k}, "
                    f"{demos.env_id} does not go on as "
                    f"recorded (step {demos.index[row]}, {name}: {numbers[0]} instead of "
                    f"{numbers[1]}): it keeps a state "
                    "outside MuJoCo's, or is another version or variant; --prefix none begins no "
                    "episode there"
                )
        if row < last and not np.array_equal(env.simulator.get(), demos.states[row + 1]):
            # Roundings of another processor, which chaos would let grow
            env.simulator.pin(demos.states[row + 1])


def make_venv(
    env_id: str, count: int, prefix: PrefixSettings | None = None, subproc: bool = False
) -> VecEnv:
    """Make `count` environments, DemoPrefix(Monitor(env)) each, in this process or in one process
    each.
    """

    def maker(rank: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: DemoPrefix(Monitor(make_env(env_id)), prefix, rank)

    makers = [maker(rank) for rank in range(count)]
    if not subproc:
        return DummyVecEnv(makers)
    check_env(env_id)  # an error in another process would arrive as the end of a pipe
    # Ctrl-C reaches every process of a terminal.  The environments' ignore it from their start on:
    # this one ends them.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    return SubprocVecEnv(makers)
