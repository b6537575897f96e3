"""Digests of the dictionaries that a model was trained with: ids mean nothing in another
dictionary, or in another order.
"""

import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

LOG = logging.getLogger("fairseq_cli.train")  # the one that --log-file listens to

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
    """Raises ValueError if a side differs.  Says it where nothing can be compared, as with
    fairseq's own runs.
    """
    kept = (task_state or {}).get(KEY)
    if not isinstance(kept, Mapping):
        _say_unknown(name)
        return
    for side, digest in digests(task).items():
        if kept.get(side) != digest:
            raise ValueError(
                f"{name} was trained with another {side} dictionary, "
                "or with its words in another order"
            )


@cache
def _say_unknown(name: str) -> None:
    """Once for each checkpoint."""
    LOG.warning(
        f"{name} does not say which dictionaries it was trained with: "
        "only their sizes are compared, not their words"
    )
