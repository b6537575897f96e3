"""Demonstrations from a policy that acts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gail.demos import Demonstrations
from gail.envs import Simulator, make_env
from gail.policies import Act


def record_episodes(env_id: str, act: Act, trajectories: int, seed: int, stochastic: bool = False) -> Iterator[dict[str, Any]]:
    """Whole episodes from the environment's own reset, one dictionary of lists each; `collect` makes demonstrations of them.

    Trajectory k is that of reset seed (seed, k), whatever the others are.
    """
    env = make_env(env_id)
    simulator = Simulator(env)
    for k in range(trajectories):
        numbers = np.random.default_rng([seed, k])
        observation, _ = env.reset(seed=int(numbers.integers(2**31)))
        rows: dict[str, Any] = {name: [] for name in ("observations", "actions", "rewards", "states", "qpos", "qvel")}
        over = False
        while not over:
            action = act(observation[None], numbers if stochastic else None)[0]
            now = (observation, action, simulator.get(), simulator.data.qpos.copy(), simulator.data.qvel.copy())
            for name, value in zip(("observations", "actions", "states", "qpos", "qvel"), now, strict=True):
                rows[name].append(value)
            observation, reward, terminated, truncated, _ = env.step(action)
            rows["rewards"].append(float(reward))
            over = terminated or truncated
        yield rows | {"terminated": terminated, "last_observations": observation}
    env.close()


def collect(env_id: str, trajectories: list[dict[str, Any]]) -> Demonstrations:
    """The arrays of `record`'s trajectories, one after the other."""
    lengths = np.array([len(rows["rewards"]) for rows in trajectories], dtype=np.int64)

    def joined(name: str) -> Any:
        return np.concatenate([np.asarray(rows[name]) for rows in trajectories])

    return Demonstrations(
        env_id=env_id,
        observations=joined("observations"),
        actions=joined("actions").astype(np.float32),
        rewards=joined("rewards"),
        states=joined("states"),
        qpos=joined("qpos"),
        qvel=joined("qvel"),
        index=np.concatenate([np.arange(length) for length in lengths]),
        trajectory=np.repeat(np.arange(len(lengths)), lengths),
        lengths=lengths,
        terminated=np.array([rows["terminated"] for rows in trajectories], dtype=bool),
        last_observations=np.stack([np.asarray(rows["last_observations"]) for rows in trajectories]),
    )
