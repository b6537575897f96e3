"""Recording a rollout below SB3's normaliser, because GAIL's rewards are known only after the
discriminator has learned.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


class Recorder(VecEnvWrapper):
    """Record raw observations, actions, rewards and dones of a rollout, and pass on rewards of
    zero.

    SB3's rollout buffer therefore holds γ V(s_T) where the time limit cut an episode, and 0
    elsewhere.
    """

    def __init__(self, venv: VecEnv, steps: int) -> None:
        super().__init__(venv)
        assert venv.observation_space.shape is not None and venv.action_space.shape is not None
        self.observations = np.zeros((steps, self.num_envs, *venv.observation_space.shape))  # raw
        # Clipped
        self.actions = np.zeros((steps, self.num_envs, *venv.action_space.shape), dtype=np.float32)
        self.rewards = np.zeros((steps, self.num_envs), dtype=np.float32)  # the environment's
        # True: this step ended the episode
        self.dones = np.zeros((steps, self.num_envs), dtype=bool)
        self.now = np.zeros((self.num_envs, *venv.observation_space.shape))
        self.position = 0

    def reset(self) -> Any:
        observations = self.venv.reset()
        assert isinstance(observations, np.ndarray)
        self.check(observations)
        self.now[:] = observations
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self.observations[self.position] = self.now
        self.actions[self.position] = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, np.ndarray)
        cut = [
            info["terminal_observation"]
            for info in compress(infos, dones)
            if info["TimeLimit.truncated"]
        ]
        self.check(observations, rewards, cut)
        self.now[:] = observations
        self.rewards[self.position] = rewards
        self.dones[self.position] = dones
        self.position = (self.position + 1) % len(self.rewards)
        return observations, np.zeros_like(rewards), dones, infos

    def check(self, observations: NDArray[Any], rewards: Any = (), cut: Sequence[Any] = ()) -> None:
        """Raises ValueError where the environment returns what is not finite: PPO would learn it.

        `cut` has the observations at which the time limit cut episodes, since PPO asks for their
        value.
        """
        found = {"observation": [observations, *cut], "reward": [rewards]}
        for name, arrays in found.items():
            if not all(np.isfinite(array).all() for array in arrays):
                env_id = self.venv.get_attr("spec", indices=0)[0].id
                raise ValueError(f"--env {env_id}: the {name} that it returned is not finite")
