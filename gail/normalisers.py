"""Normalisers of observations and rewards: those of SB3's VecNormalize, applied when GAIL's rewards
are known.
"""

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize


class RewardScale:
    """VecNormalize's reward scaling, for rewards known only after the rollout.

    r / sqrt(var(G) + 1e-8), clipped to ±10, where G is the running discounted sum of rewards.
    """

    def __init__(self, n_envs: int, gamma: float) -> None:
        self.rms = RunningMeanStd(shape=())
        self.returns = np.zeros(n_envs)
        self.gamma = gamma

    def __call__(
        self, rewards: NDArray[np.float32], dones: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Scale rewards [T, N], given dones [T, N], step by step as if they had been seen during
        the rollout.
        """
        scaled = np.empty_like(rewards)
        for t, reward in enumerate(rewards):
            self.returns = self.returns * self.gamma + reward
            self.rms.update(self.returns)
            # 1e-8 and 10: VecNormalize's epsilon and clip_reward.
            scaled[t] = np.clip(reward / np.sqrt(self.rms.var + 1e-8), -10, 10)
            self.returns[dones[t]] = 0
        return scaled


class ObservationNorm(VecNormalize):
    """SB3's normaliser of observations.  Rewards are left to RewardScale: the recorder passes on
    zeros only.
    """

    def _update_reward(self, reward: NDArray[np.float32]) -> None:
        """Do nothing."""
