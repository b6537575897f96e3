"""Exchange with others: trajectories of HumanCompatibleAI's `imitation` as plain arrays, and Minari's data sets.

A trajectory of `imitation` has `obs` [T + 1, D], `acts` [T, A], `terminal`.

`imitation` itself is not needed. Its own files hold pickled objects in places, and opening those executes code; so the exchange
is one .npz with the arrays of all trajectories one after the other:

    obs [Σ(T + 1), D]   acts [ΣT, A]   rews [ΣT]   lengths [K]   terminal [K]
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_erpo.files import atomic_write, reason_of
from gail.arrays import read_arrays
from gail.demos import Demonstrations, from_episodes
from gail.simulator import Simulator, box_of, make_env

# name -> (kinds of number, how many axes)
ARRAYS = {"obs": ("fiu", 2), "acts": ("fiu", 2), "rews": ("fiu", 1), "lengths": ("i", 1), "terminal": ("b", 1)}


def to_arrays(demos: Demonstrations) -> list[dict[str, Any]]:
    """Return one dictionary per trajectory, with the arguments of `imitation.data.types.TrajectoryWithRew`.

    Raises ValueError for subsampled demonstrations: a trajectory has all its steps.
    """
    if len(demos.index) != demos.lengths.sum():
        raise ValueError("only whole trajectories can be exported, and these are a sample; export before subsampling")
    found = []
    for k in range(len(demos)):
        rows = demos.rows_of(k)
        found.append(
            {
                "obs": np.concatenate([demos.observations[rows], demos.last_observations[k : k + 1]]),
                "acts": demos.actions[rows],
                "rews": demos.rewards[rows],
                "infos": None,
                "terminal": bool(demos.terminated[k]),
            }
        )
    return found


def from_arrays(env_id: str, trajectories: Iterable[dict[str, Any]]) -> Demonstrations:
    """Make demonstrations of trajectories without simulator states.

    qpos, qvel and states are empty: only the likelihood and the discriminator can use them, prefixes cannot.
    Raises ValueError if observations or actions are not those of `env_id`.
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
                f"trajectory {k}: obs {obs.shape} and acts {acts.shape} are not [T + 1, *{shapes[0]}] and [T, *{shapes[1]}]"
            )
        nothing = np.zeros((len(acts), 0))
        rows.append(
            {
                "observations": obs[:-1],
                "actions": np.clip(acts, *box),
                "rewards": np.asarray(one["rews"], dtype=float) if one.get("rews") is not None else np.zeros(len(acts)),
                "states": nothing,
                "qpos": nothing,
                "qvel": nothing,
                "terminated": bool(one["terminal"]),
                "last_observations": obs[-1],
            }
        )
    return from_episodes(env_id, rows)


def from_minari(dataset: str, env_id: str, count: int) -> Demonstrations:
    """Make demonstrations of the first `count` episodes of a Minari data set on this machine, such as mujoco/hopper/expert-v0.

    They hold no simulator state that could be restored exactly.  Raises ValueError that names the flag and what to do.
    """
    try:
        import minari
    except ImportError:
        raise ValueError("--from-minari needs Minari: pip install 'minari[hdf5]'") from None
    try:
        episodes = [
            {"obs": one.observations, "acts": one.actions, "rews": one.rewards, "terminal": one.terminations[-1]}
            for one in islice(minari.load_dataset(dataset), count)
        ]
        return from_arrays(env_id, episodes)
    except FileNotFoundError:
        raise ValueError(f"--from-minari {dataset}: it is not here; `minari download {dataset}` fetches it") from None
    except (ValueError, TypeError, OSError, KeyError) as error:  # a dictionary of observations, a damaged file
        raise ValueError(f"--from-minari {dataset}: {reason_of(error)}") from None


def save(demos: Demonstrations, path: Path) -> None:
    """Write the exchange file of complete trajectories."""
    all_of = to_arrays(demos)
    obs, acts, rews = (np.concatenate([one[name] for one in all_of]) for name in ("obs", "acts", "rews"))
    with atomic_write(path) as part, part.open("wb") as sink:
        np.savez_compressed(sink, obs=obs, acts=acts, rews=rews, lengths=demos.lengths, terminal=demos.terminated)


def load(path: Path, env_id: str) -> Demonstrations:
    """Read an exchange file.  Raises ValueError that names the file and the array."""
    try:
        arrays = read_arrays(path, ARRAYS)
        check_fit(arrays)
    except ValueError as error:
        raise ValueError(f"--from-trajectories {'' if str(path) in str(error) else f'{path}: '}{error}") from None
    ends = np.cumsum(arrays["lengths"])[:-1]
    parts = (
        np.split(arrays["obs"], ends + np.arange(1, len(ends) + 1)),
        np.split(arrays["acts"], ends),
        np.split(arrays["rews"], ends),
        arrays["terminal"],
    )
    names = ("obs", "acts", "rews", "terminal")
    try:
        return from_arrays(env_id, [dict(zip(names, one, strict=True)) for one in zip(*parts, strict=True)])
    except ValueError as error:
        raise ValueError(f"--from-trajectories {path}: {error}") from None


def check_fit(arrays: Mapping[str, Any]) -> None:
    """Raises ValueError unless the arrays are of their kinds, and hold as many steps as `lengths` says."""
    for name, (kinds, axes) in ARRAYS.items():
        if arrays[name].dtype.kind not in kinds or arrays[name].ndim != axes:
            raise ValueError(f"{name} must not be of {arrays[name].dtype} with the shape {arrays[name].shape}")
    lengths = arrays["lengths"]
    if not len(lengths) or lengths.min() < 1:
        raise ValueError("lengths must be positive integers, one for each trajectory")
    steps, count = sum(lengths.tolist()), len(lengths)
    for name, wanted in (("obs", steps + count), ("acts", steps), ("rews", steps), ("terminal", count)):
        if arrays[name].shape[:1] != (wanted,):
            raise ValueError(f"{name} has the shape {arrays[name].shape}, and lengths ask for {wanted} rows")
