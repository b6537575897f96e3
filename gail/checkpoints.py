"""Checkpoints as files of tensors, numbers and text, which torch.load(weights_only=True) reads
without executing code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fairseq_erpo.files import atomic_write, check_archive, reason_of


def save(content: Any, path: Path) -> None:
    """Write a checkpoint atomically.  Raises WriteError."""
    # To an open file: given a name, torch would write it into the archive.
    with atomic_write(path, "--out") as part, part.open("wb") as file:
        try:
            torch.save(plain(content), file)
        except RuntimeError as error:  # torch's zip writer hides the system's error
            raise OSError(
                0, getattr(error.__context__, "strerror", None) or reason_of(error)
            ) from None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code.  Raises ValueError that names the file."""
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(
            f"{path} cannot be read as a checkpoint of this package: {reason_of(error)}"
        ) from None
    if not isinstance(content, dict) or "policy" not in content:
        raise ValueError(
            f"{path} holds no policy of this package; name the policy.pt or best.pt of a run"
        )
    weights = content["policy"]
    if not isinstance(weights, dict) or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise ValueError(f"{path} holds no policy of this package: its weights are no tensors")
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} is of a run that diverged: {broken[0]} is not finite; name another one"
        )
    return content


def plain(content: Any) -> Any:
    """Convert arrays to tensors and numpy's numbers to Python's, at any depth."""
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
    """Convert a tensor that `plain` made back to an array of its own."""
    return torch.as_tensor(tensor).numpy().copy()
