"""The index of fairseq's binarised text, checked against its file: fairseq maps both into memory
and believes them.

The index holds a magic word, version, type and number N of sentences, then N sizes (int32) and N
offsets in bytes (int64).
"""

import struct
from pathlib import Path

import numpy as np

# The latter is of --dataset-impl lazy and cached
MAGIC, OLD_MAGIC = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00"
HEADER = "<9sQBQ"
# Fairseq's numbers of types -> bytes of a token
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 4, 7: 8, 8: 2, 9: 4, 10: 8}


def check_index(index: Path) -> None:
    """Raises ValueError naming the file that is damaged."""
    data, header = index.with_suffix(".bin"), struct.calcsize(HEADER)
    with index.open("rb") as file:
        head = file.read(header)
    if head.startswith(OLD_MAGIC):
        return
    if len(head) < header or not head.startswith(MAGIC):
        raise ValueError(f"{index} is damaged: it is no index of binarised text")
    _, version, code, count = struct.unpack(HEADER, head)
    if version != 1 or code not in BYTES or index.stat().st_size != header + 12 * count:
        raise ValueError(f"{index} is damaged: it does not hold what its header promises")
    sizes = np.fromfile(index, "<i4", count, offset=header).astype(np.int64) * BYTES[code]
    offsets = np.fromfile(index, "<i8", count, offset=header + 4 * count)
    # Fairseq would silently read other words
    if (sizes < 0).any() or not np.array_equal(offsets + sizes, sizes.cumsum()):
        raise ValueError(f"{index} is damaged: its sizes and offsets contradict each other")
    if data.stat().st_size != sizes.sum():
        raise ValueError(
            f"{data} is damaged, or not of its index: it does not end where the index does"
        )
