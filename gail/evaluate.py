"""Returns by a fixed protocol: the mean action, fresh episodes from the environment's own reset, the environment's reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gail.envs import make_env
from gail.policies import Act, Box, clipped
from gail.state import load

EPISODES = 20
SIDE_BY_SIDE = 10  # environments, so that one forward pass serves many
# Section 5.3: two hidden layers of 128, tanh, for policy and value function.
ARCHITECTURE: Mapping[str, Any] = {"net_arch": {"pi": [128, 128], "vf": [128, 128]}, "activation_fn": torch.nn.Tanh}
FIRST_SEED = 1_000_000  # of evaluation episodes; training seeds are small numbers, and the two must not meet


def box_of(env: gym.Env[Any, Any]) -> Box:
    assert isinstance(env.action_space, gym.spaces.Box)
    return env.action_space.low, env.action_space.high


def act_of(policy: ActorCriticPolicy, normalise: Callable[[NDArray[Any]], NDArray[Any]], box: Box) -> Act:
    """SB3's policy behind its normaliser of observations.  No global random number is used."""

    def act(observations: NDArray[Any], numbers: np.random.Generator | None) -> NDArray[np.float32]:
        with torch.no_grad():
            distribution = policy.get_distribution(torch.as_tensor(normalise(observations), dtype=torch.float32))
            mean, deviation = distribution.mode().numpy(), policy.log_std.exp().numpy()
        return clipped(mean, deviation, numbers, box)

    return act


class Evaluator:
    """Keeps its environments: making one costs more than many of its steps."""

    def __init__(self, env_id: str, episodes: int = EPISODES, seed: int = 0) -> None:
        self.envs = [make_env(env_id) for _ in range(min(episodes, SIDE_BY_SIDE))]
        self.seeds = [FIRST_SEED + 1000 * seed + episode for episode in range(episodes)]

    def __call__(self, act: Act, deterministic: bool = True) -> tuple[list[float], list[int]]:
        """Undiscounted returns and lengths of all episodes.  The same seeds each time: differences are the policy's."""
        numbers = None if deterministic else np.random.default_rng(self.seeds[0])
        returns, lengths = [0.0] * len(self.seeds), [0] * len(self.seeds)
        for start in range(0, len(self.seeds), len(self.envs)):
            live = dict(zip(range(start, len(self.seeds)), self.envs, strict=False))
            observations = {episode: env.reset(seed=self.seeds[episode])[0] for episode, env in live.items()}
            while live:
                actions = act(np.stack([observations[episode] for episode in live]), numbers)
                for episode, action in zip(list(live), actions, strict=True):
                    observations[episode], reward, terminated, truncated, _ = live[episode].step(action)
                    returns[episode] += float(reward)
                    lengths[episode] += 1
                    if terminated or truncated:
                        del live[episode]
        return returns, lengths


def load_policy(path: Path) -> tuple[str, Act]:
    """Environment and policy of a checkpoint of this package, read without executing code."""
    kept = load(path)
    env = make_env(kept["env_id"])
    assert isinstance(env.observation_space, gym.spaces.Box)
    policy = ActorCriticPolicy(env.observation_space, env.action_space, lambda _: 0.0, **ARCHITECTURE)
    policy.load_state_dict(kept["policy"])
    norm = kept["observation_norm"]
    mean, deviation = norm["mean"].numpy(), np.sqrt(norm["var"].numpy() + 1e-8)  # VecNormalize's epsilon, and its clip_obs
    act = act_of(policy, lambda observations: np.clip((observations - mean) / deviation, -10, 10), box_of(env))
    env.close()
    return kept["env_id"], act


def sb3_policy(path: Path, algorithm: str, normaliser: Path | None, env_id: str) -> Act:
    """A model that SB3 saved, with its VecNormalize if it has one.  Both are pickles: open only files that you trust.

    Raises ValueError for an unknown algorithm.
    """
    kind = getattr(stable_baselines3, algorithm, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseAlgorithm)):
        raise ValueError(f"--sb3-algorithm {algorithm}: stable-baselines3 has PPO, A2C, SAC, TD3, DDPG")
    model = kind.load(path, device="cpu")
    env = make_env(env_id)
    norm = VecNormalize.load(str(normaliser), DummyVecEnv([lambda: env])) if normaliser is not None else None
    box = box_of(env)

    def act(observations: NDArray[Any], numbers: np.random.Generator | None) -> NDArray[np.float32]:
        seen = observations if norm is None else norm.normalize_obs(observations)
        if numbers is not None:  # SB3 samples with torch's own numbers
            torch.manual_seed(int(numbers.integers(2**31)))
        actions, _ = model.predict(seen, deterministic=numbers is None)
        return np.clip(actions.astype(np.float32), *box)

    return act
