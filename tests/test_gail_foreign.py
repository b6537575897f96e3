"""What others made: environments, policies and data sets that do not fit cost one line, and execute nothing."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gail_worlds import PENDULUM, demonstrations, write_demos
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gail import trajectories
from gail.__main__ import main
from gail.sb3_policy import sb3_policy
from gail.simulator import make_env


def refused(words: list[Any], *named: str) -> str:
    """Run a command that must end in one line with these words; return the line."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    line = str(stopped.value)
    assert line.startswith("gail: ") and "\n" not in line
    for word in named:
        assert word in line
    return line


# ---- environments ----

FLOATS = Box(-np.inf, np.inf, (4,), np.float64)
FORCE = Box(-3, 3, (1,), np.float32)
# name -> spaces of observations and of actions
SPACES: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] = {
    "Unbounded": (FLOATS, Box(-np.inf, np.inf, (1,), np.float32)),
    "HalfBounded": (FLOATS, Box(np.zeros(2, np.float32), np.array([1, np.inf], np.float32))),
    "Motionless": (FLOATS, Box(0, 0, (1,), np.float32)),
    "Discrete": (FLOATS, Discrete(3)),
    "MultiDiscrete": (FLOATS, MultiDiscrete([3, 2])),
    "MultiBinary": (FLOATS, MultiBinary(3)),
    "WholeActions": (FLOATS, Box(-3, 3, (1,), np.int64)),
    "SquareActions": (FLOATS, Box(-3, 3, (2, 2), np.float32)),
    "DictObservations": (Dict({"a": FLOATS}), FORCE),
    "TupleObservations": (Tuple((FLOATS,)), FORCE),
    "WholeObservations": (Box(0, 9, (4,), np.int64), FORCE),
    "ByteObservations": (Box(0, 255, (128,), np.uint8), FORCE),
    "Images": (Box(0, 255, (36, 36, 3), np.uint8), FORCE),
    "FloatImages": (Box(0, 1, (36, 36, 3), np.float32), FORCE),
}


class Spaced(InvertedPendulumEnv):
    """The pendulum with other spaces than its own."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.observation_space, self.action_space = SPACES[name]  # type: ignore[assignment]


class Fails(InvertedPendulumEnv):
    def __init__(self, **settings: Any) -> None:
        raise AttributeError("what an environment's own code raises")


for name in SPACES:
    gym.register(f"{name}-v0", Spaced, max_episode_steps=7, kwargs={"name": name})
gym.register("Fails-v0", Fails, max_episode_steps=7)
gym.register("Endless-v0", InvertedPendulumEnv)

VERBS = {
    "expert": ["expert", "--out", "{out}"],
    "train": ["train", "--method", "random", "--out", "{out}"],
    "train --demos": ["train", "--method", "gail", "--demos", "{demos}", "--out", "{out}"],
    "expert --subproc": ["expert", "--subproc", "--out", "{out}"],
    "sweep": ["sweep", "--method", "random", "--demos", "{folder}", "--out", "{out}"],
    "record --expert": ["record", "--expert", "{demos}", "--out", "{out}"],
    "record --sb3": ["record", "--sb3", "{demos}", "--out", "{out}"],
    "record --from-trajectories": ["record", "--from-trajectories", "{theirs}", "--out", "{out}"],
    "evaluate": ["evaluate", "--expert", "{demos}"],
    "render": ["render", "--expert", "{demos}", "--out", "{out}.png"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations under the name of each environment, so that it is the environment that is refused; and trajectories."""
    folder = tmp_path_factory.mktemp("demos")
    demos = demonstrations(trajectories=1)
    trajectories.save(demos, folder / "theirs.npz")
    for name in [*SPACES, "Fails"]:
        write_demos(folder, replace(demos, env_id=f"{name}-v0"))
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_environments_that_no_policy_here_can_act_in(verb: str, folder: Path, tmp_path: Path) -> None:
    """Every verb with an --env, every kind of space, and an environment whose own code fails."""
    out = tmp_path / "out"
    for name in [*SPACES, "Fails"]:
        demos, theirs = folder / f"{name}-v0.npz", folder / "theirs.npz"
        words = [word.format(out=out, demos=demos, theirs=theirs, folder=folder) for word in VERBS[verb]]
        refused([*words, "--env", f"{name}-v0"], f"--env {name}-v0")
        assert not out.exists()


def test_an_environment_without_a_time_limit_is_not_trained_in(tmp_path: Path) -> None:
    refused(["expert", "--env", "Endless-v0", "--out", tmp_path / "out"], "--env Endless-v0", "max_episode_steps")


# ---- policies of stable-baselines3 ----

KINDS = {"PPO": PPO, "A2C": A2C, "SAC": SAC, "TD3": TD3, "DDPG": DDPG}


def saved(folder: Path, name: str, env_id: str = PENDULUM, **settings: Any) -> Any:
    """A model that was not trained, as a zip; return the model."""
    model = KINDS[name]("MlpPolicy", make_env(env_id), seed=1, device="cpu", **settings)
    model.save(folder / f"{name}.zip")
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("PPO", {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": torch.nn.ELU}}),
        ("PPO", {"use_sde": True, "learning_rate": lambda left: 1e-3 * left}),
        ("A2C", {}),
        ("SAC", {"policy_kwargs": {"net_arch": [8, 8]}, "buffer_size": 10}),
        ("SAC", {"use_sde": True, "buffer_size": 10}),
        ("TD3", {"buffer_size": 10}),
        ("DDPG", {"buffer_size": 10}),
    ],
)
def test_models_act_as_sb3_has_them(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = saved(tmp_path, name, **settings)
    act = sb3_policy(tmp_path / f"{name}.zip", name, None, PENDULUM)
    observations = np.random.default_rng(0).normal(size=(3, 4))
    assert np.array_equal(act(observations, None), model.predict(observations, deterministic=True)[0])
    sampled = act(observations, np.random.default_rng(0))
    assert sampled.shape == (3, 1) and np.isfinite(sampled).all()


def test_files_that_are_no_model(tmp_path: Path) -> None:
    """A missing zip, a text, an archive of other things, a cut one; no file is written."""
    saved(tmp_path, "PPO")
    whole = tmp_path / "PPO.zip"
    (tmp_path / "text.zip").write_text("no model")
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-40])
    write_demos(tmp_path, demonstrations(trajectories=1).first(1)).rename(tmp_path / "other.zip")
    for name in ("nothere.zip", "text.zip", "cut.zip", "other.zip", "."):
        words = ["--sb3", tmp_path / name, "--env", PENDULUM]
        for verb in (["record", "--out", tmp_path / "d.npz"], ["evaluate"]):
            line = refused([*verb, *words], f"--sb3 {tmp_path / name}:")
            assert ".zip.zip" not in line
    assert not (tmp_path / "d.npz").exists()


def test_models_of_another_algorithm(tmp_path: Path) -> None:
    for name in KINDS:
        saved(tmp_path, name, **({"buffer_size": 10} if name in ("SAC", "TD3", "DDPG") else {}))
    same = ({"TD3", "DDPG"},)  # one policy, which the files do not tell apart
    for name in KINDS:
        for other in KINDS:
            words = ["record", "--sb3", tmp_path / f"{name}.zip", "--sb3-algorithm", other]
            if other != name and {name, other} not in same:
                named = "DDPG" if name == "TD3" else name
                refused([*words, "--env", PENDULUM], "--sb3 ", f"--sb3-algorithm {named}")
    words = ["record", "--sb3", tmp_path / "PPO.zip", "--sb3-algorithm"]
    for wrong in ("DQN", "BaseAlgorithm", "PPOO", "ppo"):
        refused([*words, wrong, "--env", PENDULUM], f"--sb3-algorithm {wrong}")
    refused([*words, "PPO", "--env", "Hopper-v5"], "--sb3 ", "--env Hopper-v5")


def test_normalisers_that_do_not_fit(tmp_path: Path) -> None:
    """One of other observations, another pickle, a text, a missing file."""
    saved(tmp_path, "PPO")
    VecNormalize(DummyVecEnv([lambda: make_env("Hopper-v5")])).save(str(tmp_path / "hopper.pkl"))
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"mean": np.zeros(4)}))
    (tmp_path / "text.pkl").write_text("no pickle")
    broken = VecNormalize(DummyVecEnv([lambda: make_env(PENDULUM)]))
    broken.obs_rms.var = np.full(4, np.nan)
    broken.save(str(tmp_path / "broken.pkl"))
    for name in ("hopper.pkl", "other.pkl", "text.pkl", "broken.pkl", "nothere.pkl", "PPO.zip", "."):
        words = ["--sb3", tmp_path / "PPO.zip", "--sb3-normaliser", tmp_path / name, "--env", PENDULUM]
        refused(["evaluate", *words], f"--sb3-normaliser {tmp_path / name}:")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


class Own(torch.nn.ReLU):
    """An activation that is not torch's."""


def test_nothing_in_a_model_is_executed(tmp_path: Path) -> None:
    """In any of its attributes, in its weights, in a normaliser."""
    executed = tmp_path / "executed"
    model = saved(tmp_path, "PPO")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(executed)))
    words = ["evaluate", "--env", PENDULUM, "--episodes", "1", "--sb3"]
    refused([*words, tmp_path / "PPO.zip", "--sb3-normaliser", tmp_path / "evil.pkl"], "evil.pkl")
    for name in ("policy_class", "policy_kwargs"):
        kept = getattr(model, name)
        setattr(model, name, {"activation_fn": Evil(executed)} if name == "policy_kwargs" else Evil(executed))
        model.save(tmp_path / f"{name}.zip")
        setattr(model, name, kept)
        refused([*words, tmp_path / f"{name}.zip"], f"{name}.zip")
    model.learning_rate = Evil(executed)
    model.save(tmp_path / "rate.zip")
    main([str(word) for word in [*words, tmp_path / "rate.zip"]])  # what acting does not need is not read
    with zipfile.ZipFile(tmp_path / "PPO.zip") as whole, zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        for name in whole.namelist():
            content = pickle.dumps(Evil(executed)) if name == "policy.pth" else whole.read(name)
            archive.writestr(name, content)
    refused([*words, tmp_path / "weights.zip"], "weights.zip")
    saved(tmp_path, "PPO", policy_kwargs={"activation_fn": Own})
    refused([*words, tmp_path / "PPO.zip"], "activation_fn", "--expert")
    assert not executed.exists()
