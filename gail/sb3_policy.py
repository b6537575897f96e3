"""Policies that stable-baselines3 saved, read without executing what their files hold.

SB3's archive has the weights as tensors, and all else as JSON in which whatever is no JSON is a
pickle.  Of those a policy needs two, its class and its arguments, and its VecNormalize is a third.
Unpickling runs code only through the classes and functions that a pickle names: here each name
stands for an empty class, and only names that are known are then looked up.
"""

import base64
import io
import json
import pickle
import zipfile
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from fairseq_erpo.files import check_archive, reason_of
from gail.policies import Act
from gail.simulator import box_of, make_env

ARRAY_MAKERS = ("_reconstruct", "scalar", "_frombuffer")  # numpy's, of plain numbers
PLAIN = (bool, int, float, str, type(None))


class Named:
    """What a pickle names: an instance takes whatever it is made of, and does nothing."""

    state: Any = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Do nothing."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Do nothing, as of a dictionary of another class."""

    def extend(self, items: Any) -> None:
        """Do nothing, as of a list of another class."""

    append = extend


class Inert(pickle.Unpickler):
    """An unpickler that finds no class or function but numpy's arrays and empty stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy":
            if name in ARRAY_MAKERS:
                module = (
                    "numpy._core.numeric" if name == "_frombuffer" else "numpy._core.multiarray"
                )
                return super().find_class(module, name)
            if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
                return getattr(np, name)
        if (module, name) in (("collections", "OrderedDict"), ("collections", "deque")):
            return {"OrderedDict": OrderedDict, "deque": deque}[name]
        return type(name, (Named,), {"__module__": module, "__qualname__": name})

    def persistent_load(self, key: Any) -> Any:
        return Named()


def unpickled(content: bytes) -> Any:
    """Read a pickle without executing it.  Raises ValueError."""
    try:
        return Inert(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"it is no pickle: {reason_of(error)}") from None


def sb3_policy(path: Path, algorithm: str, normaliser: Path | None, env_id: str) -> Act:
    """Read a model that SB3 saved, with its VecNormalize if it has one.

    Raises ValueError that names the flag: for an unknown or another algorithm, for files that are
    none of these or do not fit the environment, and for a policy of other classes than SB3's.
    """
    kinds = {name: kind for name, kind in vars(stable_baselines3).items() if trains_vectors(kind)}
    if algorithm not in kinds:
        raise ValueError(f"--sb3-algorithm {algorithm}: it must be one of {', '.join(kinds)}")
    env = make_env(env_id)
    try:
        policy = read_policy(path, algorithm, kinds, env)
    except ValueError as error:
        raise ValueError(f"--sb3 {path}: {error}") from None
    normalise = read_normaliser(normaliser, env)
    box = box_of(env)
    env.close()

    def act(observations: NDArray[Any], rng: np.random.Generator | None) -> NDArray[np.float32]:
        if rng is not None:  # SB3 samples with torch's global generator
            torch.manual_seed(int(rng.integers(2**31)))
        actions, _ = policy.predict(normalise(observations), deterministic=rng is None)
        return np.clip(actions.astype(np.float32), *box)

    return act


def trains_vectors(kind: Any) -> bool:
    """True for SB3's algorithms with a policy of continuous actions."""
    return isinstance(kind, type) and issubclass(kind, BaseAlgorithm) and kind.__name__ != "DQN"


def read_policy(
    path: Path, algorithm: str, kinds: Mapping[str, Any], env: gym.Env[Any, Any]
) -> BasePolicy:
    """Raises ValueError with what is wrong."""
    if not path.is_file():
        raise ValueError("there is no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive, or was cut short")
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            missing = {"data", "policy.pth"} - set(archive.namelist())
            if missing:
                raise ValueError(
                    f"it has no {' and no '.join(sorted(missing))}, which a model of "
                    "stable-baselines3 has"
                )
            data = json.loads(archive.read("data"))
            weights = torch.load(io.BytesIO(archive.read("policy.pth")), "cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises anything
        raise ValueError(reason_of(error)) from None
    if not isinstance(data, dict):
        raise ValueError("its data are no JSON object")
    found = algorithms_of(data, kinds)
    if algorithm not in found:
        raise ValueError(f"it is a model of {' or '.join(found)}; give --sb3-algorithm {found[0]}")
    arguments = policy_arguments(data)
    try:
        kind = kinds[algorithm].policy_aliases["MlpPolicy"]
        if kind is ActorCriticPolicy:
            arguments["use_sde"] = data.get("use_sde") is True
        policy = kind(env.observation_space, env.action_space, lambda _: 0.0, **arguments)
        policy.load_state_dict(weights)
        if arguments.get("use_sde"):
            policy.reset_noise()
    except Exception as error:  # arguments and weights are the file's
        raise ValueError(
            f"it does not fit --env {env.spec.id if env.spec else env}: {reason_of(error)}"
        ) from None
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"it is of a run that diverged: {broken[0]} is not finite")
    policy.set_training_mode(False)
    return policy


def algorithms_of(data: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    """The algorithms of which a model with these attributes may be.  Raises ValueError for a policy
    that none of them has.
    """
    kind = decoded(data, "policy_class")
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}"
    policies = {key: one.policy_aliases["MlpPolicy"] for key, one in kinds.items()}
    found = [key for key, one in policies.items() if f"{one.__module__}.{one.__qualname__}" == name]
    if not found:
        raise ValueError(
            f"its policy is a {name}, and only MlpPolicy can be read without executing code; see "
            "--expert"
        )
    if policies[found[0]] is ActorCriticPolicy:  # of the two, PPO alone clips
        return ["PPO" if "clip_range" in data else "A2C"]
    return found


def policy_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the policy that shape its network.  Raises ValueError for one that would
    have to be executed.
    """
    kept = decoded(data, "policy_kwargs")
    if not isinstance(kept, dict):
        raise ValueError("its policy_kwargs are no dictionary")
    shaping = {
        name: value for name, value in kept.items() if not name.startswith(("optimizer", "device"))
    }
    arguments = {name: known(name, value) for name, value in shaping.items()}
    nets = arguments.get("net_arch")
    if isinstance(nets, list) and nets and isinstance(nets[0], dict):  # of SB3 before 1.8
        arguments["net_arch"] = nets[0]
    return arguments


def known(name: str, value: Any) -> Any:
    """Numbers, texts, lists and dictionaries of them, and the classes of torch and SB3 that
    MlpPolicy is made of.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [known(name, one) for one in value]
    if isinstance(value, dict):
        return {key: known(name, one) for key, one in value.items()}
    if isinstance(value, type):
        if value.__module__ == "torch.nn.modules.activation":
            return getattr(torch.nn, value.__name__, None)
        if value.__name__ == FlattenExtractor.__name__:
            return FlattenExtractor
    what = value.__qualname__ if isinstance(value, type) else type(value).__qualname__
    raise ValueError(
        f"its policy_kwargs have {name}={what}, which could run code; see --expert for plain arrays"
    )


def decoded(data: Mapping[str, Any], name: str) -> Any:
    """An attribute of the model: JSON, or a pickle within it."""
    value = data.get(name)
    if isinstance(value, dict) and ":serialized:" in value:
        try:
            return unpickled(base64.b64decode(value[":serialized:"]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return value


def read_normaliser(path: Path | None, env: gym.Env[Any, Any]) -> Any:
    """Return VecNormalize's function of observations, the identity without a file.  Raises
    ValueError that names the file.
    """
    if path is None:
        return lambda observations: observations
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        kept = unpickled(path.read_bytes())
        if type(kept).__name__ != "VecNormalize" or not isinstance(kept.state, dict):
            raise ValueError("it is no VecNormalize of stable-baselines3")
        state = kept.state
        if state.get("norm_obs") is False:
            return lambda observations: observations
        moments = getattr(state.get("obs_rms"), "state", None) or {}
        mean, variance = (np.asarray(moments.get(key), dtype=float) for key in ("mean", "var"))
        epsilon, most = float(state["epsilon"]), float(state["clip_obs"])
        if mean.shape != env.observation_space.shape or variance.shape != mean.shape:
            raise ValueError(
                f"it is of observations {mean.shape}, and --env has {env.observation_space.shape}"
            )
        if not (
            np.isfinite(mean).all()
            and (variance >= 0).all()
            and np.isfinite(variance).all()
            and epsilon > 0
        ):
            raise ValueError("its mean and variance are not finite")
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(f"--sb3-normaliser {path}: {reason_of(error)}") from None
    deviation = np.sqrt(variance + epsilon)
    return lambda observations: np.clip((observations - mean) / deviation, -most, most).astype(
        np.float32
    )
