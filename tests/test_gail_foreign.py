"""What others made: environments, policies and data sets that do not fit cost one line, and execute
nothing.
"""

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gail_worlds import PENDULUM, demonstrations, noise, write_demos
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.envs.registration import WrapperSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gail import archive, trajectories
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
    """Demonstrations under the name of each environment, so that it is the environment that is
    refused; and trajectories.
    """
    folder = tmp_path_factory.mktemp("demos")
    demos = demonstrations(trajectories=1)
    trajectories.save(demos, folder / "theirs.npz")
    for name in [*SPACES, "Fails"]:
        write_demos(folder, replace(demos, env_id=f"{name}-v0"))
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_environments_that_no_policy_here_can_act_in(
    verb: str, folder: Path, tmp_path: Path
) -> None:
    """Every verb with an --env, every kind of space, and an environment whose own code fails."""
    out = tmp_path / "out"
    for name in [*SPACES, "Fails"]:
        demos, theirs = folder / f"{name}-v0.npz", folder / "theirs.npz"
        words = [
            word.format(out=out, demos=demos, theirs=theirs, folder=folder) for word in VERBS[verb]
        ]
        refused([*words, "--env", f"{name}-v0"], f"--env {name}-v0")
        assert not out.exists()


def test_an_environment_without_a_time_limit_is_not_trained_in(tmp_path: Path) -> None:
    refused(
        ["expert", "--env", "Endless-v0", "--out", tmp_path / "out"],
        "--env Endless-v0",
        "max_episode_steps",
    )


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
        (
            "PPO",
            {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": torch.nn.ELU}},
        ),
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
    assert np.array_equal(
        act(observations, None), model.predict(observations, deterministic=True)[0]
    )
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
    for name in (
        "hopper.pkl",
        "other.pkl",
        "text.pkl",
        "broken.pkl",
        "nothere.pkl",
        "PPO.zip",
        ".",
    ):
        words = [
            "--sb3",
            tmp_path / "PPO.zip",
            "--sb3-normaliser",
            tmp_path / name,
            "--env",
            PENDULUM,
        ]
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
        setattr(
            model,
            name,
            {"activation_fn": Evil(executed)} if name == "policy_kwargs" else Evil(executed),
        )
        model.save(tmp_path / f"{name}.zip")
        setattr(model, name, kept)
        refused([*words, tmp_path / f"{name}.zip"], f"{name}.zip")
    model.learning_rate = Evil(executed)
    model.save(tmp_path / "rate.zip")
    # What acting does not need is not read
    main([str(word) for word in [*words, tmp_path / "rate.zip"]])
    with (
        zipfile.ZipFile(tmp_path / "PPO.zip") as whole,
        zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive,
    ):
        for name in whole.namelist():
            content = pickle.dumps(Evil(executed)) if name == "policy.pth" else whole.read(name)
            archive.writestr(name, content)
    refused([*words, tmp_path / "weights.zip"], "weights.zip")
    saved(tmp_path, "PPO", policy_kwargs={"activation_fn": Own})
    refused([*words, tmp_path / "PPO.zip"], "activation_fn", "--expert")
    assert not executed.exists()


# ---- data sets and trajectories ----

# Their observations and actions have equal shapes
WALKER, CHEETAH = "Walker2d-v5", "HalfCheetah-v5"
gym.register(
    "LowHopper-v0", HopperEnv, max_episode_steps=30, kwargs={"healthy_z_range": [0.2, 9.0]}
)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def minari_set(
    name: str, spec: Any, steps: int = 5, observation: gym.Space[Any] | None = None
) -> None:
    """A data set of one episode, of an environment or of observations of another kind
    without one.
    """
    import minari
    from minari.storage.datasets_root_dir import get_dataset_path

    env = make_env(spec.id if spec is not None else PENDULUM)
    space = observation or env.observation_space
    observations = (
        {key: np.zeros((steps + 1, 4)) for key in space}
        if isinstance(space, Dict)
        else np.zeros((steps + 1, *space.shape))
    )  # type: ignore[misc]
    ends = np.arange(steps) == steps - 1
    actions = np.zeros((steps, *env.action_space.shape), np.float32)  # type: ignore[misc]
    episode = minari.data_collector.EpisodeBuffer(
        id=0,
        observations=observations,
        actions=actions,
        rewards=[0.0] * steps,
        terminations=[False] * steps,
        truncations=ends.tolist(),
    )
    spaces = {"observation_space": space, "action_space": env.action_space}
    minari.create_dataset_from_buffers(name, [episode], **spaces)
    if spec is not None:
        about = get_dataset_path(name) / "data" / "metadata.json"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"env_spec": spec.to_json()}))


def importing(name: str, env_id: str, out: Path) -> list[str]:
    return [
        "record",
        "--from-minari",
        name,
        "--env",
        env_id,
        "--trajectories",
        "1",
        "--out",
        str(out),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a data set without an author
def test_a_minari_set_of_another_environment_is_not_taken(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name, version, arguments and wrappers are compared; what names none is believed, and that
    is said.
    """
    out = tmp_path / "d.npz"
    spec = gym.spec(WALKER)
    old, light = (
        replace(spec, id="Walker2d-v4", entry_point="a:B"),
        replace(spec, kwargs={"frame_skip": 2}),
    )
    # Its default
    same = replace(spec, kwargs={"healthy_z_range": (0.8, 2.0), "render_mode": None, "width": 20})
    wrapped = replace(spec, additional_wrappers=(WrapperSpec("FrameStackObservation", "a:B", {}),))
    for k, (one, named) in enumerate(
        ((old, "Walker2d-v4"), (light, "frame_skip=2"), (wrapped, "FrameStackObservation"))
    ):
        minari_set(f"wrong/set{k}-v0", one)
        refused(
            importing(f"wrong/set{k}-v0", WALKER, out),
            f"--from-minari wrong/set{k}-v0",
            named,
            f"--env {WALKER}",
        )
    minari_set("walker/right-v0", same)
    refused(
        importing("walker/right-v0", CHEETAH, out),
        "--from-minari walker/right-v0",
        WALKER,
        f"--env {CHEETAH}",
    )
    assert not out.exists()
    main(importing("walker/right-v0", WALKER, out))
    assert "believed" not in capsys.readouterr().err
    minari_set(
        "low/hopper-v0", replace(gym.spec("Hopper-v5"), kwargs={"healthy_z_range": [0.2, 9.0]})
    )
    refused(importing("low/hopper-v0", "Hopper-v5", out), "healthy_z_range")
    # The same class with the same arguments, under another name
    main(importing("low/hopper-v0", "LowHopper-v0", out))
    minari_set("no/name-v0", None)
    capsys.readouterr()
    main(importing("no/name-v0", PENDULUM, out))
    assert f"--env {PENDULUM}" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_sets_of_other_observations(sets: Path, tmp_path: Path) -> None:
    """Dictionaries, images, and files that are no data set; a module that a set names is not
    imported.
    """
    out = tmp_path / "d.npz"
    minari_set("dict/observations-v0", None, observation=Dict({"a": FLOATS, "b": FLOATS}))
    refused(
        importing("dict/observations-v0", PENDULUM, out),
        "--from-minari dict/observations-v0",
        "observations",
        "Dict",
    )
    minari_set("an/image-v0", None, observation=Box(0, 255, (8, 8, 3), np.uint8))
    refused(importing("an/image-v0", PENDULUM, out), "--from-minari an/image-v0", "observations")
    minari_set("damaged/set-v0", None)
    about = sets / "damaged" / "set-v0" / "data" / "metadata.json"
    whole = json.loads(about.read_text())
    (tmp_path / "trapped.py").write_text("raise SystemExit('imported')")
    spec = json.loads(gym.spec(PENDULUM).to_json()) | {"entry_point": "trapped:Env"}
    nameless = {key: value for key, value in whole.items() if key != "observation_space"}
    for content in (
        "{",
        "[]",
        json.dumps(nameless | {"env_spec": json.dumps(spec)}),
        json.dumps(whole | {"env_spec": "{"}),
    ):
        about.write_text(content)
        refused(importing("damaged/set-v0", PENDULUM, out), "--from-minari damaged/set-v0")
    about.write_text(json.dumps(whole))
    (data,) = about.parent.glob("*.hdf5")
    data.write_bytes(data.read_bytes()[:200])
    refused(importing("damaged/set-v0", PENDULUM, out), "--from-minari damaged/set-v0")
    assert not out.exists()


def test_trajectories_name_their_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Walker2d's are not HalfCheetah's, though both have 17 observations and 6 actions; a file that
    names none is believed.
    """
    theirs, bare = tmp_path / "theirs.npz", tmp_path / "bare.npz"
    trajectories.save(demonstrations(WALKER, 1, noise(6, 1), stochastic=True), theirs)
    words = ["record", "--out", tmp_path / "d.npz", "--from-trajectories"]
    refused(
        [*words, theirs, "--env", CHEETAH],
        f"--from-trajectories {theirs}",
        WALKER,
        f"--env {CHEETAH}",
    )
    main([str(word) for word in [*words, theirs, "--env", WALKER]])
    assert capsys.readouterr().err == ""
    with np.load(theirs) as whole:
        np.savez(bare, **{name: whole[name] for name in trajectories.ARRAYS})
    main([str(word) for word in [*words, bare, "--env", CHEETAH]])
    assert f"--env {CHEETAH}" in capsys.readouterr().err


def test_demonstrations_of_a_variant_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name, registered with other arguments since they were recorded."""
    path = write_demos(tmp_path, demonstrations("LowHopper-v0", 1, noise(3, 1), stochastic=True))
    archive.load(path, "LowHopper-v0")
    monkeypatch.setitem(
        gym.registry, "LowHopper-v0", replace(gym.spec("LowHopper-v0"), kwargs={"frame_skip": 2})
    )
    words = [
        "train",
        "--method",
        "bc",
        "--env",
        "LowHopper-v0",
        "--demos",
        path,
        "--out",
        tmp_path / "run",
    ]
    refused(words, str(path), "--env LowHopper-v0", "frame_skip")
