"""Exchange with others: trajectories of HumanCompatibleAI's `imitation` as plain arrays, and
Minari's data sets.

A trajectory of `imitation` has `obs` [T + 1, D], `acts` [T, A], `terminal`.

`imitation` itself is not needed. Its own files hold pickled objects in places, and opening those
executes code; so the exchange is one .npz with the arrays of all trajectories one after the other:

    obs [Σ(T + 1), D]   acts [ΣT, A]   rews [ΣT]   lengths [K]   terminal [K]

and, if known, env_id, a text
"""

import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from fairseq_erpo.files import atomic_write, read_json, reason_of
from gail.arrays import read_arrays
from gail.demos import Demonstrations, from_episodes
from gail.simulator import Simulator, box_of, check_identity, check_vectors, make_env

# name -> (kinds of number, how many axes)
ARRAYS = {
    "obs": ("fiu", 2),
    "acts": ("fiu", 2),
    "rews": ("fiu", 1),
    "lengths": ("i", 1),
    "terminal": ("b", 1),
}


def to_arrays(demos: Demonstrations) -> list[dict[str, Any]]:
    """Return one dictionary per trajectory, with the arguments of
    `imitation.data.types.TrajectoryWithRew`.

    Raises ValueError for subsampled demonstrations: a trajectory has all its steps.
    """
    if len(demos.index) != demos.lengths.sum():
        raise ValueError(
            "only whole trajectories can be exported, and these are a sample; export before "
            "subsampling"
        )
    found = []
    for k in range(len(demos)):
        rows = demos.rows_of(k)
        found.append(
            {
                "obs": np.concatenate(
                    [demos.observations[rows], demos.last_observations[k : k + 1]]
                ),
                "acts": demos.actions[rows],
                "rews": demos.rewards[rows],
                "infos": None,
                "terminal": bool(demos.terminated[k]),
            }
        )
    return found


def from_arrays(env_id: str, trajectories: Iterable[dict[str, Any]]) -> Demonstrations:
    """Make demonstrations of trajectories without simulator states.

    qpos, qvel and states are empty: only the likelihood and the discriminator can use them,
    prefixes cannot. Raises ValueError if observations or actions are not those of `env_id`.
    """
    env = make_env(env_id)
    Simulator(env)
    shapes, box = (env.observation_space.shape, env.action_space.shape), box_of(env)
    env.close()
    rows = []
    for k, one in enumerate(trajectories):
        obs, acts = np.asarray(one["obs"], dtype=float), np.asarray(one["acts"], dtype=np.float32)
        if (obs.shape[1:], acts.shape[1:]) != shapes or len(obs) != len(acts) + 1:
            raise ValueError(
                f"trajectory {k}: obs {obs.shape} and acts {acts.shape} are not [T + 1, "
                f"*{shapes[0]}] and [T, *{shapes[1]}]"
            )
        nothing = np.zeros((len(acts), 0))
        rows.append(
            {
                "observations": obs[:-1],
                "actions": np.clip(acts, *box),
                "rewards": np.asarray(one["rews"], dtype=float)
                if one.get("rews") is not None
                else np.zeros(len(acts)),
                "states": nothing,
                "qpos": nothing,
                "qvel": nothing,
                "terminated": bool(one["terminal"]),
                "last_observations": obs[-1],
            }
        )
    return from_episodes(env_id, rows)


def from_minari(dataset: str, env_id: str, count: int) -> Demonstrations:
    """Make demonstrations of the first `count` episodes of a Minari data set on this machine, such
    as mujoco/hopper/expert-v0.

    They hold no simulator state that could be restored exactly.  Raises ValueError that names the
    flag and what to do, also where the set is of another environment.
    """
    try:
        import minari
        from minari.storage.datasets_root_dir import get_dataset_path
    except ImportError:
        raise ValueError("--from-minari needs Minari: pip install 'minari[hdf5]'") from None
    about = get_dataset_path(dataset) / "data" / "metadata.json"
    if not about.is_file():
        raise ValueError(
            f"--from-minari {dataset}: it is not here; `minari download {dataset}` fetches it"
        )
    try:
        found = read_json(about)
        if not isinstance(found, dict) or not found.keys() >= {"observation_space", "action_space"}:
            # Minari would make the environment that the file names, and import its module.
            raise ValueError("it does not say what its observations and actions are")
        data = minari.load_dataset(dataset)
        for what, space in (
            ("observations", data.observation_space),
            ("actions", data.action_space),
        ):
            check_vectors(what, space)
        check_source(f"--from-minari {dataset}", env_id, data.env_spec)
        episodes = [
            {
                "obs": one.observations,
                "acts": one.actions,
                "rews": one.rewards,
                "terminal": one.terminations[-1],
            }
            for one in islice(data, count)
        ]
        return from_arrays(env_id, episodes)
    except Exception as error:  # Minari, and HDF5 under it, raise anything where a file is damaged
        raise ValueError(f"--from-minari {dataset}: {reason_of(error)}") from None


def check_source(name: str, env_id: str, spec: EnvSpec | None) -> None:
    """Compare the environment that was recorded with --env; where the data do not name it, say so.
    Raises ValueError.
    """
    if spec is not None:
        check_identity(env_id, spec)
        return
    print(
        f"gail: {name} does not say of which environment it is; --env {env_id} is believed",
        file=sys.stderr,
    )


def save(demos: Demonstrations, path: Path) -> None:
    """Write the exchange file of complete trajectories."""
    all_of = to_arrays(demos)
    arrays: dict[str, Any] = {
        name: np.concatenate([one[name] for one in all_of]) for name in ("obs", "acts", "rews")
    }
    arrays |= {
        "lengths": demos.lengths,
        "terminal": demos.terminated,
        "env_id": np.array(demos.env_id),
    }
    with atomic_write(path) as part, part.open("wb") as sink:
        np.savez_compressed(sink, **arrays)


def load(path: Path, env_id: str) -> Demonstrations:
    """Read an exchange file.  Raises ValueError that names the file and the array, also for one of
    another environment.
    """
    try:
        arrays = read_arrays(path, ARRAYS, optional=["env_id"])
        check_fit(arrays)
        named = arrays.get("env_id")
        if named is not None and str(named) != env_id:
            raise ValueError(
                f"it is of {str(named)!r}, not of --env {env_id}; name another file or its --env"
            )
    except ValueError as error:
        raise ValueError(
            f"--from-trajectories {'' if str(path) in str(error) else f'{path}: '}{error}"
        ) from None
    if named is None:
        check_source(f"--from-trajectories {path}", env_id, None)
    ends = np.cumsum(arrays["lengths"])[:-1]
    parts = (
        np.split(arrays["obs"], ends + np.arange(1, len(ends) + 1)),
        np.split(arrays["acts"], ends),
        np.split(arrays["rews"], ends),
        arrays["terminal"],
    )
    names = ("obs", "acts", "rews", "terminal")
    try:
        return from_arrays(
            env_id, [dict(zip(names, one, strict=True)) for one in zip(*parts, strict=True)]
        )
    except ValueError as error:
        raise ValueError(f"--from-trajectories {path}: {error}") from None


def check_fit(arrays: Mapping[str, Any]) -> None:
    """Raises ValueError unless the arrays are of their kinds, and hold as many steps as `lengths`
    says.
    """
    for name, (kinds, axes) in ARRAYS.items():
        if arrays[name].dtype.kind not in kinds or arrays[name].ndim != axes:
            raise ValueError(
                f"{name} must not be of {arrays[name].dtype} with the shape {arrays[name].shape}"
            )
    lengths = arrays["lengths"]
    if not len(lengths) or lengths.min() < 1:
        raise ValueError("lengths must be positive integers, one for each trajectory")
    steps, count = sum(lengths.tolist()), len(lengths)
    for name, wanted in (
        ("obs", steps + count),
        ("acts", steps),
        ("rews", steps),
        ("terminal", count),
    ):
        if arrays[name].shape[:1] != (wanted,):
            raise ValueError(
                f"{name} has the shape {arrays[name].shape}, and lengths ask for {wanted} rows"
            )
