"""The complete state of a training run, so that a killed one resumes to the same bits."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gail.checkpoints import array

if TYPE_CHECKING:
    from gail.ppo import GailPPO


def capture(model: GailPPO) -> dict[str, Any]:
    """Return everything that the next iteration depends on.  λ_data is not stored: it is a function
    of num_timesteps.
    """
    kept = {
        "policy": model.policy.state_dict(),
        "policy_optimizer": model.policy.optimizer.state_dict(),
        "observation_norm": moments(model.normaliser.obs_rms),
        "reward_norm": moments(model.reward_scale.rms),
        "reward_returns": model.reward_scale.returns,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "last_observations": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "raw_observations": model.recorder.now,
        # Without wall time
        "episodes": [
            {name: episode[name] for name in "rl"} for episode in model.ep_info_buffer or ()
        ],
        "environments": model.recorder.env_method("capture_state"),
        "numbers": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        },
    }
    discriminator = model.imitation.discriminator
    if discriminator is not None:
        kept["discriminator"] = discriminator.state_dict()
        kept["discriminator_optimizer"] = discriminator.optimizer.state_dict()
        kept["discriminator_numbers"] = discriminator.generator.get_state()
    return kept


def restore(model: GailPPO, kept: Mapping[str, Any]) -> bool:
    """Restore what `capture` returned into a model that was built with the same settings.

    Return False where the half-done episodes could not be led to where they were: then all
    environments begin new ones.
    """
    model.policy.load_state_dict(kept["policy"])
    model.policy.optimizer.load_state_dict(kept["policy_optimizer"])
    restore_moments(model.normaliser.obs_rms, kept["observation_norm"])
    restore_moments(model.reward_scale.rms, kept["reward_norm"])
    model.reward_scale.returns = array(kept["reward_returns"])
    model.num_timesteps, model._n_updates = kept["num_timesteps"], kept["n_updates"]
    model.ep_info_buffer = deque(kept["episodes"], maxlen=model._stats_window_size)
    # No MuJoCo task reports success; SB3 wants it there
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    discriminator = model.imitation.discriminator
    if discriminator is not None:
        discriminator.load_state_dict(kept["discriminator"])
        discriminator.optimizer.load_state_dict(kept["discriminator_optimizer"])
        discriminator.generator.set_state(kept["discriminator_numbers"])
    exact: list[bool] = []
    if kept["last_observations"] is not None:  # None: nothing was collected yet, and `learn` resets
        model._last_obs = array(kept["last_observations"])
        model._last_episode_starts = array(kept["last_episode_starts"])
        model.recorder.now[:] = array(kept["raw_observations"])
        exact = [
            model.recorder.env_method("restore_state", with_arrays(state), indices=rank)[0]
            for rank, state in enumerate(kept["environments"])
        ]
        if not all(exact):
            model._last_obs = None  # `learn` resets
    model.anneal()
    generators = kept["numbers"]
    random.setstate(generators["python"])
    name, words, *rest = generators["numpy"]
    np.random.set_state((name, array(words), *rest))
    torch.set_rng_state(generators["torch"])
    return all(exact)


def with_arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an environment with arrays again in place of tensors."""
    return {
        name: array(value) if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }


def moments(rms: Any) -> dict[str, Any]:
    """Return mean, variance and count of a RunningMeanStd."""
    return {"mean": np.asarray(rms.mean), "var": np.asarray(rms.var), "count": float(rms.count)}


def restore_moments(rms: Any, kept: Mapping[str, Any]) -> None:
    rms.mean, rms.var, rms.count = array(kept["mean"]), array(kept["var"]), kept["count"]
