"""Policies as functions from raw observations to clipped actions, whoever trained them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# (raw observations [B, D], random numbers or None for the mean action) -> actions [B, A], clipped to the box
Act = Callable[[NDArray[Any], np.random.Generator | None], NDArray[np.float32]]
Box = tuple[NDArray[Any], NDArray[Any]]  # least and largest action, [A] each

ARRAYS = ("obs_mean", "obs_meansq", "W0", "b0", "W_out", "b_out", "log_std")
SLOPE = 0.01  # of the leaky rectifier below zero


def plain_expert(path: Path, box: Box) -> Act:
    """A Gaussian policy of one hidden layer given as arrays in an .npz:

        h = leaky_relu((obs - obs_mean) / (sqrt(obs_meansq - obs_mean²) + 1e-6) W0 + b0),   mean = h W_out + b_out

    with the deviation exp(log_std).  obs_mean, obs_meansq [D], W0 [D, H], b0 [H], W_out [H, A], b_out, log_std [A].
    Raises ValueError that names the file and the array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive.files]
            if missing:
                raise ValueError(f"no array {', '.join(missing)}")
            arrays = {name: np.asarray(archive[name], dtype=float) for name in ARRAYS}
            # Vectors may come as rows, [1, A].
            arrays |= {name: arrays[name].reshape(-1) for name in ARRAYS if name not in ("W0", "W_out")}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"--expert {path}: {error}") from None
    if arrays["b_out"].shape != box[0].shape:
        raise ValueError(f"--expert {path}: b_out has the shape {arrays['b_out'].shape}, the actions {box[0].shape}")
    deviation = np.sqrt(np.maximum(arrays["obs_meansq"] - arrays["obs_mean"] ** 2, 0)) + 1e-6

    def act(observations: NDArray[Any], numbers: np.random.Generator | None) -> NDArray[np.float32]:
        hidden = (observations - arrays["obs_mean"]) / deviation @ arrays["W0"] + arrays["b0"]
        mean = np.where(hidden > 0, hidden, SLOPE * hidden) @ arrays["W_out"] + arrays["b_out"]
        return clipped(mean, np.exp(arrays["log_std"]), numbers, box)

    return act


def clipped(mean: NDArray[Any], deviation: NDArray[Any], numbers: np.random.Generator | None, box: Box) -> NDArray[np.float32]:
    """The mean action, or with `numbers` a Gaussian draw around it, [B, A], as the simulator gets it."""
    action = mean if numbers is None else mean + deviation * numbers.standard_normal(mean.shape)
    # Cast first: the bounds are float32, and rounding after the clipping could leave the box.
    return np.clip(action.astype(np.float32), *box)
