"""Safe reading of fairseq's checkpoints: nothing in the file is executed (`literals` sees to its
configuration).
"""

import argparse
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy._core import multiarray

from fairseq_erpo.files import check_archive, reason_of
from fairseq_erpo.plugin import literals  # noqa: F401 - from now on fairseq evaluates nothing but literals
from fairseq_erpo.plugin.structure import check_structure

# torch >= 2.6 unpickles plain data only, which stays so. fairseq-train's checkpoints hold a
# Namespace, and with --eval-bleu the counts of the last validation as arrays of integers (fairseq
# logs them so); none of these carries code.
torch.serialization.add_safe_globals(
    [
        argparse.Namespace,
        multiarray._reconstruct,
        numpy.ndarray,
        numpy.dtype,
        numpy.dtypes.Int64DType,
    ]
)


def check_checkpoint(path: str) -> dict[str, Any]:
    """Read a fairseq checkpoint, with tensors on the meta device.  Raises ValueError with one line
    if it is something else.

    A file that has not changed since is read once.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    facts = Path(path).stat()
    return dict(_checked(path, facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=4)
def _checked(path: str, changed: int, size: int) -> dict[str, Any]:
    try:
        check_archive(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a broken archive raises anything
        hint = (
            ""
            if zipfile.is_zipfile(path)
            else f"; if an older torch wrote it: python -m fairseq_erpo convert {path} NEW"
        )
        raise ValueError(f"{path} is not a checkpoint: {reason_of(error)}{hint}") from None
    try:
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(
            f"{path} is not a checkpoint that is complete and safe to load: {reason_of(error)}"
        ) from None
    try:
        check_structure(state)
    except ValueError as error:
        raise ValueError(f"{path} holds no fairseq model: {error}") from None
    return dict(state)
