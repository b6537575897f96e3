"""Checkpoints as files of tensors, numbers and text, which torch.load(weights_only=True) reads without executing code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fairseq_erpo.files import atomic_write, check_archive, reason_of


def save(content: Any, path: Path) -> None:
    """Write a checkpoint atomically.  Raises WriteError."""
    with atomic_write(path) as part:
        torch.save(plain(content), part)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code.  Raises ValueError that names the file."""
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(f"{path} cannot be read as a checkpoint of this package: {reason_of(error)}") from None
    if not isinstance(content, dict) or "policy" not in content:
        raise ValueError(f"{path} holds no policy of this package; name the policy.pt or best.pt of a run")
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
