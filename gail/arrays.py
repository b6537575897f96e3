"""Arrays of an .npz file, read without executing code, and only if they are as large as the file
says.
"""

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_erpo.files import reason_of

MOST = 4e9  # bytes of all arrays: a thousand trajectories of Humanoid


def read_arrays(
    path: Path, names: Collection[str], remedy: str = "", optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return these arrays, and the optional ones that are there.  Raises ValueError that names the
    file and the array.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz archive, or cut short")
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in names if name not in arrays.files]
            if missing:
                raise ValueError(f"no array {', '.join(missing)}{remedy}")
            names = [*names, *(name for name in optional if name in arrays.files)]
            sizes = {name: archive.getinfo(f"{name}.npy").file_size for name in names}
            if sum(sizes.values()) > MOST:
                raise ValueError(
                    f"it unpacks to {sum(sizes.values()) / 1e9:.0f} GB, and at most "
                    f"{MOST / 1e9:.0f} are read"
                )
            return {name: _array(archive, arrays, name, sizes[name]) for name in names}
    except Exception as error:  # a damaged archive raises anything
        raise ValueError(f"{path}: {reason_of(error)}") from None


def _array(archive: zipfile.ZipFile, arrays: Any, name: str, size: int) -> Any:
    """One array.  Raises ValueError where its header promises more than there is, or Python
    objects, which would execute code.
    """
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(file)
    if kind.hasobject:
        raise ValueError(f"{name} holds Python objects, and cannot be read without executing code")
    needed = kind.itemsize
    for axis in shape:
        needed *= axis
    if needed > size:
        raise ValueError(
            f"{name} is damaged: its header promises {needed} bytes, and there are {size}"
        )
    return arrays[name]
