"""Digests of the dictionaries that a model was trained with: ids mean nothing in another dictionary, or in another order."""

import hashlib
from collections.abc import Mapping
from typing import Any

KEY = "erpo_dictionaries"  # in a checkpoint's task_state


def digests(task: Any) -> dict[str, str]:
    """SHA-256 of the symbols of each side, in their order."""
    sides = {side: getattr(task, f"{side}_dictionary", None) for side in ("source", "target")}
    return {
        side: hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()
        for side, dictionary in sides.items()
        if dictionary is not None
    }


def check_dictionaries(task_state: Mapping[str, Any], task: Any, name: str) -> None:
    """Raises ValueError if a side differs.  Checkpoints of fairseq's own tasks have no digests, and pass."""
    kept = (task_state or {}).get(KEY)
    if not isinstance(kept, Mapping):
        return
    for side, digest in digests(task).items():
        if kept.get(side, digest) != digest:
            raise ValueError(f"{name} was trained with another {side} dictionary, or with its words in another order")
