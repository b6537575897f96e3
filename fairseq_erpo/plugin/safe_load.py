"""Safe reading of fairseq's checkpoints: nothing in the file is executed."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy._core import multiarray

# torch >= 2.6 unpickles plain data only, which stays so. fairseq-train's checkpoints hold a Namespace, and with --eval-bleu the
# counts of the last validation as arrays of integers (fairseq logs them so); none of these carries code.
torch.serialization.add_safe_globals(
    [argparse.Namespace, multiarray._reconstruct, numpy.ndarray, numpy.dtype, numpy.dtypes.Int64DType]
)


def check_checkpoint(path: str) -> dict[str, Any]:
    """Read a fairseq checkpoint, with tensors on the meta device.  Raises ValueError with one line if it is something else."""
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a checkpoint: torch.save writes zip files, and this is not one")
    try:
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if line.startswith("WeightsUnpickler")), lines[0])
        raise ValueError(f"{path} is not a checkpoint that loads safely: {reason[:160]}") from None
    if not isinstance(state, dict) or "model" not in state or not (state.get("cfg") or state.get("args")):
        raise ValueError(f"{path} holds no fairseq model (no 'model' and 'cfg' in it)")
    return state
