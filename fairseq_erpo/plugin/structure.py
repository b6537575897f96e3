"""The shape of fairseq's checkpoints: what fairseq takes for granted of a file is checked before it
is used.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from fairseq.dataclass.configs import CommonConfig, DatasetConfig, DistributedTrainingConfig

PARTS = ("task", "model", "criterion")  # of the configuration, which the tools read


def check_structure(state: Any) -> None:
    """Raises ValueError with what is wrong: fairseq would fail with a traceback, or build a model
    of any size.
    """
    if (
        not isinstance(state, Mapping)
        or not isinstance(state.get("model"), Mapping)
        or not (state.get("cfg") or state.get("args"))
    ):
        raise ValueError("no 'model' and 'cfg' in it")
    weights = state["model"]
    if not weights or not all(torch.is_tensor(value) for value in weights.values()):
        raise ValueError("its 'model' does not consist of tensors")
    config = state.get("cfg")
    if not isinstance(config or {}, Mapping) or not isinstance(
        state.get("args") or Namespace(), Namespace
    ):
        raise ValueError("its configuration is no record")
    for part in PARTS:
        if not isinstance((config or {}).get(part) or {}, Mapping | Namespace):
            raise ValueError(f"its configuration of the {part} is no record")
    for key, kind in (("extra_state", dict), ("task_state", dict), ("optimizer_history", list)):
        if not isinstance(state.get(key) or kind(), kind):
            raise ValueError(f"its {key} is no {kind.__name__}")
    history = state.get("optimizer_history") or [{}]
    if not isinstance(history[-1], Mapping) or not isinstance(
        history[-1].get("num_updates", 0), int
    ):
        raise ValueError("its optimizer_history has no number of updates")
    _check_sizes((config or {}).get("model") or state.get("args") or {}, weights)


# What is no part of the model, although fairseq's older models keep the flags of the whole run.
TRAINERS = frozenset(
    name
    for part in (CommonConfig, DatasetConfig, DistributedTrainingConfig)
    for name in part.__dataclass_fields__
)


def _check_sizes(model: Mapping[str, Any] | Namespace, weights: Mapping[str, torch.Tensor]) -> None:
    """No width can exceed the count of all weights, and no depth the count of tensors."""
    numbers = sum(value.numel() for value in weights.values())
    for name, value in (vars(model) if isinstance(model, Namespace) else model).items():
        most = (
            len(weights)
            if str(name).endswith("_layers")
            else numbers
            if str(name).endswith(("_dim", "_size"))
            else None
        )
        if most is not None and name not in TRAINERS and isinstance(value, int) and value > most:
            raise ValueError(f"its {name} is {value}, and its weights are not so many")
