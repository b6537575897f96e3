"""Demonstrations: state-action pairs of whole trajectories with the simulator's state, as plain
arrays.

Letters: K trajectories, N pairs of all of them, D the size of an observation, A of an action, S of
the simulator's state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PAIRS = 50  # section 5.3: random pairs that are kept of each trajectory
LARGEST = 1e9  # of any number in a demonstration; a simulator that has not exploded stays far below
# field -> (kind of number, axes); N pairs, K trajectories, any other letter is the same size
# wherever it occurs
FIELDS = {
    "observations": ("f", "ND"),
    "actions": ("f", "NA"),
    "rewards": ("f", "N"),
    "states": ("f", "NS"),
    "qpos": ("f", "NP"),
    "qvel": ("f", "NV"),
    "index": ("i", "N"),
    "trajectory": ("i", "N"),
    "lengths": ("i", "K"),
    "terminated": ("b", "K"),
    "last_observations": ("f", "KD"),
}


@dataclass(frozen=True)
class Demonstrations:
    """Pairs in the order of time, one trajectory after the other.

    Raises ValueError, with the field's name, for an array of a wrong type or shape, a number that
    is not finite, or pairs that are not in the order of time.
    """

    env_id: str
    observations: Floats  # [N, D], raw
    actions: Floats  # [N, A], as the simulator got them: clipped to the box
    rewards: Floats  # [N], the environment's
    # [N, S], mjSTATE_INTEGRATION before the action: the only state that continues to the last bit
    states: Floats
    qpos: Floats  # [N, P]
    qvel: Floats  # [N, V]
    index: Ints  # [N], t of a pair, 0 at the start of its trajectory
    trajectory: Ints  # [N], which trajectory: 0 .. K - 1
    lengths: Ints  # [K], T: the steps that each trajectory had, of which the pairs may be a sample
    # [K], True where the trajectory ended by itself and not by the time limit
    terminated: NDArray[np.bool_]
    last_observations: Floats  # [K, D], after the last action
    # Of a sample: all pairs, since a recorded step leads into each that is kept
    whole: "Demonstrations | None" = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, (kind, axes) in FIELDS.items():
            check_array(name, getattr(self, name), kind, axes, sizes)
        if not sizes["N"]:
            raise ValueError("there is no pair in these demonstrations")
        if (
            self.trajectory.min() < 0
            or np.any(np.diff(self.trajectory) < 0)
            or self.trajectory.max() >= sizes["K"]
        ):
            raise ValueError(
                f"trajectory must rise from 0 to {sizes['K'] - 1}, one number for each of lengths"
            )
        if np.any(np.diff(self.index)[np.diff(self.trajectory) == 0] <= 0):
            raise ValueError(
                "index must rise within each trajectory: pairs are kept in the order of time"
            )
        if self.index.min() < 0 or np.any(self.index >= self.lengths[self.trajectory]):
            raise ValueError("index must lie in 0 .. T - 1 of its trajectory, as lengths has it")

    def __len__(self) -> int:
        return len(self.lengths)

    def rows_of(self, k: int) -> slice:
        """Return the rows of trajectory k."""
        first, last = np.searchsorted(self.trajectory, [k, k + 1])
        return slice(int(first), int(last))

    def row_before(self, row: int) -> tuple["Demonstrations", int] | None:
        """Return where the pair of the step before is; None for a trajectory's first pair, and
        where it was not kept.
        """
        k, t = self.trajectory[row], self.index[row] - 1
        for demos in (self, self.whole):
            if demos is not None:
                rows = demos.rows_of(k)
                before = rows.start + int(np.searchsorted(demos.index[rows], t))
                if before < rows.stop and demos.index[before] == t:
                    return demos, before
        return None

    def returns(self) -> Floats:
        """Return the undiscounted return of each trajectory, [K], over the pairs that are here:
        call it before subsampling.
        """
        return np.bincount(self.trajectory, self.rewards, len(self)).astype(np.float64)

    def first(self, n: int) -> "Demonstrations":
        """Return the first n trajectories.  Raises ValueError if there are fewer."""
        if not 1 <= n <= len(self):
            raise ValueError(f"--n {n}: there are {len(self)} demonstrations of {self.env_id}")
        return self.select(self.trajectory < n, n)

    def subsample(self, pairs: int = PAIRS, seed: int = 0) -> "Demonstrations":
        """Section 5.3: keep `pairs` random pairs of each trajectory, without replacement, in the
        order of time.

        Each trajectory has its own seed, so that the pairs of the first do not depend on how many
        others there are.
        """
        if pairs < 1:
            raise ValueError(f"--pairs {pairs}: must be at least 1")
        mask = np.zeros(len(self.index), dtype=bool)
        for k in range(len(self)):
            rows = self.rows_of(k)
            size = rows.stop - rows.start
            mask[
                rows.start
                + np.random.default_rng([seed, k]).choice(size, min(pairs, size), replace=False)
            ] = True
        return replace(self.select(mask, len(self)), whole=self.whole or self)

    def select(self, mask: NDArray[np.bool_], n: int) -> "Demonstrations":
        """Keep the pairs where `mask` [N] is True, of the first n trajectories."""
        chosen = {
            name: getattr(self, name)[mask] if axes[0] == "N" else getattr(self, name)[:n]
            for name, (_, axes) in FIELDS.items()
        }
        return replace(self, **chosen)


def check_array(name: str, array: object, kind: str, axes: str, sizes: dict[str, int]) -> None:
    """Type, shape and finiteness of one field; `sizes` collects what each axis measures."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != kind:
        have = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(
            f"{name} must be an array of kind {kind!r} (f: floating, i: integer, b: boolean), not "
            f"{have}"
        )
    if array.ndim != len(axes):
        raise ValueError(f"{name} must have the axes {axes}, and has the shape {array.shape}")
    for axis, size in zip(axes, array.shape, strict=True):
        if sizes.setdefault(axis, size) != size:
            raise ValueError(
                f"{name} has the shape {array.shape}, but axis {axis} measures {sizes[axis]} in "
                "the fields before"
            )
    if kind == "f" and not (np.abs(array) <= LARGEST).all():
        where = np.argwhere(~(np.abs(array) <= LARGEST))[0].tolist()
        raise ValueError(
            f"{name} has a number that is not finite or beyond {LARGEST:g}, at {where}; record "
            "them anew"
        )


assert {field.name for field in fields(Demonstrations)} == {"env_id", "whole", *FIELDS}


def from_episodes(env_id: str, episodes: Sequence[Mapping[str, Any]]) -> Demonstrations:
    """Join episodes, dictionaries of the fields of one trajectory each, into demonstrations."""
    lengths = np.array([len(rows["rewards"]) for rows in episodes], dtype=np.int64)

    def joined(name: str) -> Any:
        return np.concatenate([np.asarray(rows[name]) for rows in episodes])

    return Demonstrations(
        env_id=env_id,
        observations=joined("observations"),
        actions=joined("actions").astype(np.float32),
        rewards=joined("rewards"),
        states=joined("states"),
        qpos=joined("qpos"),
        qvel=joined("qvel"),
        index=np.concatenate([np.arange(length) for length in lengths]),
        trajectory=np.repeat(np.arange(len(lengths)), lengths),
        lengths=lengths,
        terminated=np.array([rows["terminated"] for rows in episodes], dtype=bool),
        last_observations=np.stack([np.asarray(rows["last_observations"]) for rows in episodes]),
    )
