"""Demonstrations as files: an .npz of plain arrays, and a JSON manifest beside it that describes
them.

NAME.npz    the fields of demos.Demonstrations, loaded with allow_pickle=False: opening it executes
            nothing
NAME.json   format, version, env_id and its arguments, versions of the libraries, source, seed,
            returns, shapes, and the SHA-256 of the .npz
"""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from fairseq_erpo.files import atomic_write, read_json, write_json
from gail.arrays import read_arrays
from gail.demos import FIELDS, Demonstrations
from gail.simulator import arguments_of

FORMAT, VERSION = "gail-demonstrations", 1
LIBRARIES = ("gymnasium", "mujoco", "numpy")


def save(demos: Demonstrations, path: Path, source: str, seed: int) -> None:
    """Write `path` (.npz) and its manifest; each is written atomically, and the hash ties them
    together.

    Raises ValueError for another suffix.
    """
    if path.suffix != ".npz":
        raise ValueError(f"demonstrations are written to a file that ends in .npz, not {path}")
    with atomic_write(path) as part:
        with part.open("wb") as sink:
            np.savez_compressed(sink, **{name: getattr(demos, name) for name in FIELDS})
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
    write_json(
        path.with_suffix(".json"),
        {
            "format": FORMAT,
            "version": VERSION,
            "env_id": demos.env_id,
            "arguments": registered(demos.env_id),
            "source": source,
            "seed": seed,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in LIBRARIES},
            },
            "returns": demos.returns().tolist(),
            "lengths": demos.lengths.tolist(),
            "arrays": {
                name: [str(getattr(demos, name).dtype), list(getattr(demos, name).shape)]
                for name in FIELDS
            },
            "sha256": digest,
        },
    )


def load(path: Path, env_id: str | None = None) -> Demonstrations:
    """Read what `save` wrote.  Raises ValueError that names the file, the field and the remedy;
    `env_id` must be theirs.
    """
    manifest = read_manifest(path)
    if env_id is not None and manifest["env_id"] != env_id:
        raise ValueError(
            f"{path}: env_id is {manifest['env_id']}, not {env_id}; give --env "
            f"{manifest['env_id']} or other --demos"
        )
    if (
        env_id is not None
        and "arguments" in manifest
        and manifest["arguments"] != registered(env_id)
    ):
        was, now = manifest["arguments"], registered(env_id)
        raise ValueError(
            f"{path}: --env {env_id} is registered with {now}, and was with {was}; record them anew"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
        raise ValueError(
            f"{path}: sha256 is not what its manifest says; the two files are not of one recording"
        )
    arrays = read_arrays(path, FIELDS, "; record with `python -m gail record`")
    try:
        return Demonstrations(env_id=manifest["env_id"], **arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def registered(env_id: str) -> dict[str, Any]:
    """The arguments with which an environment is registered; none for one that is not."""
    try:
        return arguments_of(gym.spec(env_id))
    except (gym.error.Error, ImportError):
        return {}


def read_manifest(path: Path) -> Mapping[str, Any]:
    """Read and check the manifest beside `path`."""
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise ValueError(
                f"there is no {file}; demonstrations are an .npz with a .json beside it, as `gail "
                "record` writes"
            )
    manifest = read_json(beside)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{beside}: format is not {FORMAT!r}; record with `python -m gail record`")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{beside}: version {manifest.get('version')!r} is not {VERSION}, the one that this "
            "release reads"
        )
    for key in ("env_id", "sha256"):
        if not isinstance(manifest.get(key), str):
            raise ValueError(f"{beside}: {key} is missing or not a text")
    for key in ("returns", "lengths"):
        numbers = manifest.get(key)
        if (
            not isinstance(numbers, list)
            or not numbers
            or not all(isinstance(number, int | float) for number in numbers)
        ):
            raise ValueError(f"{beside}: {key} is missing or not a list of numbers")
    return manifest
