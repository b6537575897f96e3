"""The demo's start: a small model that MLE has finished with, stored in 16 bits.

    python examples/quickstart/model.py pack RUN/checkpoint_best.pt DATA    writes model/ here
    python examples/quickstart/model.py unpack RUN DATA    writes RUN/checkpoint_best.pt

DATA is the prepared corpus. The folder model/ holds the weights, the subword model and the
dictionary, which belong together; docs/results.md says how the model was trained.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from fairseq_erpo.files import atomic_write
from fairseq_erpo.plugin.safe_load import check_checkpoint

MODEL = Path(__file__).with_name("model")
KEPT = ("cfg", "task_state")  # what a checkpoint needs besides its weights


def pack(checkpoint: Path, data: Path) -> None:
    """Keep the weights in 16 bits, the configuration and the dictionary's digest; nothing of the
    optimiser.
    """
    check_checkpoint(str(checkpoint))
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    MODEL.mkdir(exist_ok=True)
    halves = {
        value.data_ptr(): value.half()
        for value in state["model"].values()
        if value.is_floating_point()
    }
    # Shared ones once
    weights = {name: halves.get(value.data_ptr(), value) for name, value in state["model"].items()}
    torch.save({**{name: state[name] for name in KEPT}, "model": weights}, MODEL / "checkpoint.pt")
    shutil.copyfile(data / "pieces" / "model.model", MODEL / "pieces.model")
    shutil.copyfile(next((data / "bin").glob("dict.*.txt")), MODEL / "dict.txt")


def unpack(run: Path, data: Path) -> None:
    """Write a checkpoint as fairseq-train leaves it, in 32 bits, that was trained on `data`."""
    check_checkpoint(str(MODEL / "checkpoint.pt"))
    state: dict[str, Any] = torch.load(
        MODEL / "checkpoint.pt", map_location="cpu", weights_only=True
    )
    state["model"] = {
        name: value.float() if value.is_floating_point() else value
        for name, value in state["model"].items()
    }
    state["cfg"]["task"]["data"] = str(data / "bin")
    history = {
        "criterion_name": "ErpoMle",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    state |= {
        "args": None,
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"val_loss": None},
    }
    with atomic_write(run / "checkpoint_best.pt") as part:
        torch.save(state, part)


if __name__ == "__main__":
    verb, first, data = sys.argv[1:]
    {"pack": pack, "unpack": unpack}[verb](Path(first), Path(data))
