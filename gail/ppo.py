"""stable-baselines3's PPO with two changes: the rewards at the end of a rollout, and the loss.

    loss = λ_model PPO's surrogate + λ_data NLL of the demonstrations + values and entropy of PPO

(section 5.3) and λ_reward NLL of what the reward expert picked, for the method that has one. With
λ_data = 0 and the environment's reward it computes what PPO computes, bit for bit (a test).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor
from torch.nn.functional import mse_loss

from fairseq_erpo.annealers import Annealer
from gail.bc import log_prob_of_mean, weighted_nll
from gail.demos import Demonstrations
from gail.discriminator import REWARDS, Discriminator
from gail.methods import Method
from gail.normalisers import ObservationNorm, RewardScale
from gail.policies import ARCHITECTURE
from gail.prefix_length import PREFIX_LENGTHS
from gail.recorder import Recorder
from gail.reward_expert import picked
from gail.settings import PPOSettings

# A minibatch has at most a quarter as many data rows on top; the loss weights are λ's, whatever the
# row counts
DATA_PART = 4
# SB3's, with one call for all parameters instead of one each: the same bits, sooner
ADAM = {"eps": 1e-5, "foreach": True}
# Normalised observations [M, D], clipped actions [M, A], weights [M]
Pairs = tuple[Tensor, Tensor, Tensor]


@dataclass
class Imitation:
    """The parts that GailPPO adds to PPO."""

    method: Method
    annealer: Annealer  # progress 0 .. 1 -> λ
    total_timesteps: int  # where progress is 1
    demos: Demonstrations | None
    discriminator: Discriminator | None  # None: the environment's own reward
    prefix_length: str  # a key of PREFIX_LENGTHS
    seed: int


class GailPPO(PPO):
    """PPO on a learned reward; a share λ_data of its loss is the likelihood of demonstrations.

    `env` is `stack(venv, n_steps)`; call `attach` before `learn`.  `save` and `load` are PPO's and
    keep the policy only; a run that must resume exactly uses `state.capture` and `state.restore`.

    `predict` takes normalised observations, as SB3 has it with VecNormalize:
    `model.predict(model.normaliser.normalize_obs(observation))`.  A run's policy.pt keeps both,
    policy and normaliser.
    """

    imitation: Imitation

    def attach(self, imitation: Imitation) -> None:
        """Attach discriminator, demonstrations and schedule.

        Raises ValueError for an argument of PPO that `train` does not know.
        """
        assert isinstance(self.env, VecNormalize) and isinstance(self.env.venv, Recorder)
        unknown = {
            "target_kl": self.target_kl,
            "clip_range_vf": self.clip_range_vf,
            "use_sde": self.use_sde or None,
        }
        unknown["normalize_advantage"] = None if self.normalize_advantage else False
        for name, value in unknown.items():
            if value is not None:
                raise ValueError(f"GailPPO does not know PPO's {name}={value}")
        self.imitation = imitation
        self.normaliser, self.recorder = self.env, self.env.venv
        self.reward_scale = RewardScale(self.n_envs, self.gamma)
        self.lambda_data = self.lambda_reward = 0.0
        self.anneal()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *others: Any,
        **more: Any,
    ) -> tuple[int, BaseCallback]:
        """Begin anew as SB3 does, and what is ours with it: λ for the episodes that the reset
        begins, and the sums of rewards.
        """
        if reset_num_timesteps:
            self.num_timesteps = 0
            self.anneal()
            self.reward_scale.returns[:] = 0
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *others, **more)

    def anneal(self) -> None:
        """Set λ for the episodes that begin from now on and for the next update.  It is constant
        within an iteration.
        """
        done = min(1.0, self.num_timesteps / self.imitation.total_timesteps)
        mixture = self.imitation.annealer(done)
        self.lambda_data = mixture.data
        self.lambda_reward = mixture.reward if self.imitation.method.reward_expert else 0.0
        if self.imitation.method.prefix != "none":
            self.recorder.env_method("set_lambda_data", self.lambda_data)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Collect as SB3 does; then train the discriminator, reward the pairs by the new one and
        compute their advantages.
        """
        self.anneal()
        self.recorder.position = 0
        if not super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps):
            return False
        rewards = self.rewards()
        if not np.isfinite(rewards).all():
            raise ValueError("the discriminator's reward is not finite; see --discriminator")
        # The buffer holds γ V(s_T) at time limits and 0 elsewhere (see Recorder); the true reward
        # never reaches it.
        rollout_buffer.rewards += self.reward_scale(rewards, self.recorder.dones)
        with torch.no_grad():
            assert isinstance(self._last_obs, np.ndarray)
            last_values = self.policy.predict_values(
                torch.as_tensor(self._last_obs, device=self.device)
            )
        rollout_buffer.compute_returns_and_advantage(last_values, self.recorder.dones[-1])
        return True

    def rewards(self) -> NDArray[np.float32]:
        """Return the reward of each pair of the rollout, [T, N]."""
        discriminator, demos = self.imitation.discriminator, self.imitation.demos
        if discriminator is None:
            return self.recorder.rewards
        assert demos is not None
        shape = self.recorder.rewards.shape
        policy = (
            flat(self.recorder.observations, self.device),
            flat(self.recorder.actions, self.device),
        )
        expert = floats(demos.observations, self.device), floats(demos.actions, self.device)
        if self.imitation.method.train_discriminator:
            discriminator.learn(expert, policy)
        with torch.no_grad():
            logits_expert_is_high = discriminator(*policy)
        rewards = REWARDS[discriminator.settings.reward](logits_expert_is_high)
        report = discriminator.report(expert, logits_expert_is_high)
        self.log({f"discriminator/{name}": value for name, value in report.items()})
        self.log({"reward/mean": rewards.mean().item(), "reward/std": rewards.std().item()})
        return rewards.reshape(shape).cpu().numpy()

    def train(self) -> None:
        """Update the policy by SB3's loop over minibatches, with `loss`."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        parts = {
            name: pairs
            for name, pairs in (("data", self.data_batches()), ("reward", self.reward_batches()))
            if pairs
        }
        logged: dict[str, list[float]] = defaultdict(list)
        parameters = list(self.policy.parameters())
        for _ in range(self.n_epochs):
            # Shuffled as a whole: gathered once, not for each minibatch
            (rollout,) = self.rollout_buffer.get(None)
            for batch in zip(*(column.split(self.batch_size) for column in rollout), strict=True):
                loss = self.loss(
                    RolloutBufferSamples(*batch),
                    {name: next(pairs) for name, pairs in parts.items()},
                    logged,
                )
                self.policy.optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                if not norm.isfinite():  # the weights are still finite, and stay so
                    why = "with these --ppo the gradient of the policy is not finite"
                    raise ValueError(f"{why}; {self.described(logged)}")
                self.policy.optimizer.step()
            self._n_updates += 1
        self.log({f"train/{name}": float(np.mean(values)) for name, values in logged.items()})
        self.log(
            {
                "train/std": self.policy.log_std.exp().mean().item(),
                "train/lambda_data": self.lambda_data,
            }
        )

    def loss(
        self,
        batch: RolloutBufferSamples,
        parts: Mapping[str, Pairs],
        logged: dict[str, list[float]],
    ) -> Tensor:
        """The loss of a minibatch of policy pairs [B, .] and of the pairs [M, .] of `data` and
        `reward`; a scalar.

        All go through the actor in one pass, because a pass costs more than its rows.
        """
        size = start = len(batch.actions)
        observations = torch.cat([batch.observations, *(pairs[0] for pairs in parts.values())])
        actions = torch.cat([batch.actions, *(pairs[1] for pairs in parts.values())])
        distribution = self.policy.get_distribution(observations)
        log_p, entropy = distribution.log_prob(actions), distribution.entropy()
        assert entropy is not None
        values = self.policy.predict_values(batch.observations)
        surrogate = self.surrogate(batch, log_p[:size], logged)
        value_loss = mse_loss(batch.returns, values.flatten())
        logged["value_loss"].append(value_loss.item())
        logged["entropy"].append(entropy[:size].mean().item())
        shares = {"data": self.lambda_data, "reward": self.lambda_reward}
        if parts:
            surrogate = (1 - sum(shares[name] for name in parts)) * surrogate
        for name, (_, chosen, weights) in parts.items():
            likelihood = weighted_nll(log_prob_of_mean(distribution, start, chosen), weights)
            logged["nll" if name == "data" else "reward_nll"].append(likelihood.item())
            surrogate = surrogate + shares[name] * likelihood
            start += len(chosen)
        return surrogate + self.ent_coef * -entropy[:size].mean() + self.vf_coef * value_loss

    def surrogate(
        self, batch: RolloutBufferSamples, log_p: Tensor, logged: dict[str, list[float]]
    ) -> Tensor:
        """PPO's clipped surrogate, given log π(a|s) [B] under the current policy; a scalar."""
        advantages = batch.advantages
        if len(advantages) > 1:  # as SB3: one advantage has no deviation
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = torch.exp(log_p - batch.old_log_prob)
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]  # SB3 made a function of a number
        with torch.no_grad():
            logged["approx_kl"].append((ratio - 1 - ratio.log()).mean().item())
            logged["clip_fraction"].append(((ratio - 1).abs() > clip).float().mean().item())
        return -torch.min(
            advantages * ratio, advantages * torch.clamp(ratio, 1 - clip, 1 + clip)
        ).mean()

    def data_batches(self) -> Iterator[Pairs] | None:
        """Yield batches (normalised observations, actions, weights) of pairs within the prefixes,
        forever; None without any.
        """
        method, demos = self.imitation.method, self.imitation.demos
        if not method.likelihood or demos is None or self.lambda_data == 0:
            return None
        reach = PREFIX_LENGTHS[self.imitation.prefix_length].reach(
            demos.index, self.lambda_data, demos.lengths[demos.trajectory]
        )
        weights = np.ones(len(demos.index)) if method.all_pairs else reach
        rows = np.flatnonzero(weights)
        if not len(rows):
            return None
        normalised = self.normaliser.normalize_obs(demos.observations[rows])
        pairs = tuple(
            floats(array, self.device) for array in (normalised, demos.actions[rows], weights[rows])
        )
        rng = torch.Generator().manual_seed(self.imitation.seed * 1_000_003 + self.num_timesteps)
        self.log({"train/data_pairs": len(rows)})
        return self.batches((pairs[0], pairs[1], pairs[2]), rng)

    def reward_batches(self) -> Iterator[Pairs] | None:
        """Yield batches of the rollout's states, each with what the reward expert picked there;
        None at λ_reward = 0.
        """
        discriminator = self.imitation.discriminator
        if self.lambda_reward == 0 or discriminator is None:
            return None
        rng = torch.Generator().manual_seed(
            (self.imitation.seed * 1_000_003 + self.num_timesteps) ^ 1 << 40
        )
        raw = flat(self.recorder.observations, self.device)
        normalised = floats(
            self.normaliser.normalize_obs(self.recorder.observations.reshape(raw.shape)),
            self.device,
        )
        space: Any = self.action_space
        box = floats(space.low, self.device), floats(space.high, self.device)
        actions = picked(self.policy, discriminator, normalised, raw, box, rng)
        return self.batches((normalised, actions, torch.ones(len(raw))), rng)

    def batches(self, pairs: Pairs, rng: torch.Generator) -> Iterator[Pairs]:
        """Yield random batches of these, forever."""
        while True:
            rows = torch.randperm(len(pairs[0]), generator=rng)[
                : max(1, self.batch_size // DATA_PART)
            ]
            yield pairs[0][rows], pairs[1][rows], pairs[2][rows]

    def described(self, logged: Mapping[str, list[float]]) -> str:
        """Say what the policy and the last minibatch are, where something is not finite."""
        last = {"log_std": self.policy.log_std.mean().item()}
        last |= {name: values[-1] for name, values in logged.items()}
        return ", ".join(f"{name} is {value:.3g}" for name, value in last.items())

    def log(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.logger.record(name, value)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "imitation",
            "normaliser",
            "recorder",
            "reward_scale",
        ]


def make_ppo(env: VecNormalize, settings: PPOSettings, n_steps: int, seed: int) -> GailPPO:
    """Make GailPPO with the paper's networks; it collects n_steps from each environment of
    `stack`.
    """
    model = GailPPO(
        "MlpPolicy",
        env,
        n_steps=n_steps,
        seed=seed,
        policy_kwargs={
            **ARCHITECTURE,
            "log_std_init": settings.log_std_init,
            "optimizer_kwargs": ADAM,
        },
        learning_rate=settings.learning_rate,
        n_epochs=settings.n_epochs,
        batch_size=settings.batch_size,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        device="cpu",
    )
    # Whoever calls `learn` reads its values, or sets another logger
    model.set_logger(Logger(None, []))
    return model


def stack(venv: VecEnv, n_steps: int) -> VecNormalize:
    """Wrap raw environments as GailPPO needs them: the recorder, then SB3's normaliser of
    observations.
    """
    return ObservationNorm(Recorder(venv, n_steps), norm_reward=False)


def flat(array: NDArray[Any], device: torch.device) -> Tensor:
    """[T, N, X] -> [T N, X]"""
    return floats(array.reshape(-1, array.shape[-1]), device)


def floats(array: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32, device=device)
