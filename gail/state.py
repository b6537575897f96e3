"""The whole state of a run, so that one that was killed goes on to the same bits.

A checkpoint is one file of tensors, numbers and text: torch.load(weights_only=True) reads it and executes nothing.
"""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail.files import whole

if TYPE_CHECKING:
    from gail.ppo import GailPPO


def keep(model: GailPPO) -> dict[str, Any]:
    """Everything that the next iteration depends on; λ needs nothing, being a function of num_timesteps."""
    kept = {
        "policy": model.policy.state_dict(),
        "policy_optimizer": model.policy.optimizer.state_dict(),
        "observation_norm": moments(model.normaliser.obs_rms),
        "reward_norm": moments(model.scale.rms),
        "reward_returns": model.scale.returns,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "last_observations": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "raw_observations": model.recorder.now,
        "episodes": [{name: episode[name] for name in "rl"} for episode in model.ep_info_buffer or ()],  # without wall time
        "environments": model.recorder.env_method("keep_state"),
        "numbers": {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()},
    }
    discriminator = model.imitation.discriminator
    if discriminator is not None:
        kept["discriminator"] = discriminator.state_dict()
        kept["discriminator_optimizer"] = discriminator.optimizer.state_dict()
        kept["discriminator_numbers"] = discriminator.generator.get_state()
    return kept


def put(model: GailPPO, kept: Mapping[str, Any]) -> None:
    """Go on exactly where `keep` was called, in a model built with the same settings."""
    model.policy.load_state_dict(kept["policy"])
    model.policy.optimizer.load_state_dict(kept["policy_optimizer"])
    put_moments(model.normaliser.obs_rms, kept["observation_norm"])
    put_moments(model.scale.rms, kept["reward_norm"])
    model.scale.returns = array(kept["reward_returns"])
    model.num_timesteps, model._n_updates = kept["num_timesteps"], kept["n_updates"]
    model.ep_info_buffer = deque(kept["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)  # no MuJoCo task reports success; SB3 wants it there
    discriminator = model.imitation.discriminator
    if discriminator is not None:
        discriminator.load_state_dict(kept["discriminator"])
        discriminator.optimizer.load_state_dict(kept["discriminator_optimizer"])
        discriminator.generator.set_state(kept["discriminator_numbers"])
    if kept["last_observations"] is not None:  # None: nothing was collected yet, and `learn` resets
        model._last_obs = array(kept["last_observations"])
        model._last_episode_starts = array(kept["last_episode_starts"])
        model.recorder.now[:] = array(kept["raw_observations"])
        for rank, state in enumerate(kept["environments"]):
            model.recorder.env_method("put_state", {**state, "state": array(state["state"])}, indices=rank)
    model.anneal()
    numbers = kept["numbers"]
    random.setstate(numbers["python"])
    name, words, *rest = numbers["numpy"]
    np.random.set_state((name, array(words), *rest))
    torch.set_rng_state(numbers["torch"])


def save(content: Any, path: Path) -> None:
    """Write a checkpoint; it is whole or not there."""
    with whole(path) as part:
        torch.save(plain(content), part)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code.  Raises ValueError that names the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint of this package: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or "policy" not in content:
        raise ValueError(f"{path} holds no policy of this package")
    return content


def plain(content: Any) -> Any:
    """Arrays as tensors and numpy's numbers as Python's, at any depth."""
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.copy())
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(plain(value) for value in content)
    return content


def array(tensor: torch.Tensor | NDArray[Any]) -> NDArray[Any]:
    """What `plain` turned into a tensor, as an array of its own."""
    return torch.as_tensor(tensor).numpy().copy()


def moments(rms: Any) -> dict[str, Any]:
    return {"mean": np.asarray(rms.mean), "var": np.asarray(rms.var), "count": float(rms.count)}


def put_moments(rms: Any, kept: Mapping[str, Any]) -> None:
    rms.mean, rms.var, rms.count = array(kept["mean"]), array(kept["var"]), kept["count"]
