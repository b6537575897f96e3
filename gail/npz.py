"""The arrays of an .npz, read without executing code, whatever the file is."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_erpo.files import reason_of

MOST = 2**32  # bytes that a file may unpack to; a million steps of a humanoid with states take three quarters of it


def read_npz(path: Path, names: Collection[str], remedy: str = "") -> dict[str, Any]:
    """Raises ValueError that names the file and, where it is about one, the array."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted(set(names) - set(archive.files))
            if missing:
                raise ValueError(f"no array {', '.join(missing)}{remedy}")
            size = sum(member.file_size for member in archive.zip.infolist())
            if size > MOST:
                raise ValueError(f"it unpacks to {size / 1e9:.0f} GB")
            return {name: read_array(archive, name) for name in names}
    except MemoryError:
        raise ValueError(f"{path}: its header asks for more memory than there is") from None
    except Exception as error:  # a damaged archive raises anything
        raise ValueError(f"{path}: {reason_of(error)}") from None


def read_array(archive: Any, name: str) -> Any:
    """Read one array.  Raises ValueError for an array of Python objects, which numpy does not read without executing code."""
    try:
        array = archive[name]
    except ValueError as error:  # numpy's words for an array of Python objects
        raise ValueError(f"{name} cannot be read without executing code, or is damaged ({error})") from None
    if not isinstance(array, np.ndarray):  # numpy hands out what is no array as it is
        raise ValueError(f"{name} is no array")
    return array
