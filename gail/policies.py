"""Policies as functions from raw observations to clipped actions, whoever trained them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from fairseq_erpo.files import reason_of
from gail.arrays import read_arrays
from gail.checkpoints import load
from gail.simulator import Box, box_of, make_env

# (raw observations [B, D], random generator or None for the mean action) -> actions [B, A], clipped
# to the box
Act = Callable[[NDArray[Any], np.random.Generator | None], NDArray[np.float32]]
# Section 5.3: two hidden layers of 128, tanh, for policy and value function.
ARCHITECTURE: Mapping[str, Any] = {
    "net_arch": {"pi": [128, 128], "vf": [128, 128]},
    "activation_fn": torch.nn.Tanh,
}

ARRAYS = ("obs_mean", "obs_meansq", "W0", "b0", "W_out", "b_out", "log_std")
MOST_LOG_STD = 20.0  # exp of it is 5e8, more than any action space is wide
SLOPE = 0.01  # of the leaky rectifier below zero


def plain_expert(path: Path, box: Box) -> Act:
    """Read a Gaussian policy of one hidden layer from the arrays of an .npz:

        h = leaky_relu((obs - obs_mean) / (sqrt(obs_meansq - obs_mean²) + 1e-6) W0 + b0)
        mean = h W_out + b_out

    with the deviation exp(log_std).  obs_mean, obs_meansq [D], W0 [D, H], b0 [H], W_out [H, A],
    b_out, log_std [A]. Raises ValueError that names the file and the array.
    """
    try:
        read = read_arrays(path, ARRAYS)
        for name, array in read.items():
            if array.dtype.kind not in "fiu":
                raise ValueError(f"{name} is of {array.dtype}, and real numbers are wanted")
        arrays = {name: np.asarray(array, dtype=float) for name, array in read.items()}
        # Vectors may come as rows, [1, A].
        arrays |= {name: arrays[name].reshape(-1) for name in ARRAYS if name not in ("W0", "W_out")}
        check_expert(arrays, box)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"--expert {'' if str(path) in str(error) else f'{path}: '}{error}"
        ) from None
    deviation = np.sqrt(np.maximum(arrays["obs_meansq"] - arrays["obs_mean"] ** 2, 0)) + 1e-6

    def act(observations: NDArray[Any], rng: np.random.Generator | None) -> NDArray[np.float32]:
        hidden = (observations - arrays["obs_mean"]) / deviation @ arrays["W0"] + arrays["b0"]
        mean = np.where(hidden > 0, hidden, SLOPE * hidden) @ arrays["W_out"] + arrays["b_out"]
        return clipped(mean, np.exp(arrays["log_std"]), rng, box)

    return act


def check_expert(arrays: Mapping[str, NDArray[Any]], box: Box) -> None:
    """Raises ValueError naming the array that is not finite, or does not fit the others."""
    hidden, actions = arrays["b0"].size, box[0].size
    observations = arrays["obs_mean"].size
    shapes = {
        "obs_meansq": (observations,),
        "W0": (observations, hidden),
        "W_out": (hidden, actions),
        "b_out": (actions,),
    }
    for name, shape in {**shapes, "log_std": (actions,)}.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {arrays[name].shape}, and {shape} is wanted")
    for name, array in arrays.items():
        if not np.isfinite(array).all() or (
            name == "log_std" and np.abs(array).max() > MOST_LOG_STD
        ):
            raise ValueError(f"{name} has a number that is not finite or too large")


def clipped(
    mean: NDArray[Any], deviation: NDArray[Any], rng: np.random.Generator | None, box: Box
) -> NDArray[np.float32]:
    """Return the mean action, or with `rng` a Gaussian draw around it, [B, A], clipped to
    the box.
    """
    action = mean if rng is None else mean + deviation * rng.standard_normal(mean.shape)
    # Cast first: the bounds are float32, and rounding after the clipping could leave the box.
    return np.clip(action.astype(np.float32), *box)


def act_of(
    policy: ActorCriticPolicy, normalise: Callable[[NDArray[Any]], NDArray[Any]], box: Box
) -> Act:
    """Make an Act of SB3's policy and its normaliser of observations.  It uses no global random
    number.
    """

    def act(observations: NDArray[Any], rng: np.random.Generator | None) -> NDArray[np.float32]:
        with torch.no_grad():
            distribution = policy.get_distribution(
                torch.as_tensor(normalise(observations), dtype=torch.float32)
            )
            mean, deviation = distribution.mode().numpy(), policy.log_std.exp().numpy()
        return clipped(mean, deviation, rng, box)

    return act


def load_policy(path: Path, trusted: str | None = None) -> tuple[str, Act]:
    """Read the environment and the policy of a run's policy.pt or best.pt, without executing code.

    For `module:Name-v0` gymnasium imports the module: such an id must be the `trusted` one, which
    the user typed.  Raises ValueError.
    """
    kept = load(path)
    missing = [key for key in ("env_id", "policy", "observation_norm") if key not in kept]
    if missing:
        raise ValueError(f"{path} is no policy of this package: it holds no {', '.join(missing)}")
    if not isinstance(kept["env_id"], str):
        raise ValueError(f"{path}: its env_id is no text")
    if ":" in kept["env_id"] and kept["env_id"] != trusted:
        raise ValueError(
            f"{path} names an environment that imports a module; if you trust it, add --env "
            f"{kept['env_id']}"
        )
    env = make_env(kept["env_id"])
    assert isinstance(env.observation_space, gym.spaces.Box)
    policy = ActorCriticPolicy(
        env.observation_space, env.action_space, lambda _: 0.0, **ARCHITECTURE
    )
    try:
        policy.load_state_dict(kept["policy"])
        mean, variance = (kept["observation_norm"][name].numpy() for name in ("mean", "var"))
        if mean.shape != env.observation_space.shape or variance.shape != mean.shape:
            raise ValueError(
                f"its observations have the shape {mean.shape}, and those here "
                f"{env.observation_space.shape}"
            )
        if not np.isfinite(mean).all() or not (variance >= 0).all():
            raise ValueError("its normaliser is not finite")
    except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not fit {kept['env_id']}: {reason_of(error)}") from None
    deviation = np.sqrt(variance + 1e-8)  # VecNormalize's epsilon; below its clip_obs
    act = act_of(
        policy,
        lambda observations: np.clip((observations - mean) / deviation, -10, 10),
        box_of(env),
    )
    env.close()
    return kept["env_id"], act
