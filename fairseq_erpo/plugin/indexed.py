"""Binarised data: the index of a split (.idx) says where each sentence lies in the words (.bin), twice over."""

from pathlib import Path

import numpy as np

MAGIC, OLD_MAGIC = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00"
HEAD = len(MAGIC) + 8 + 1 + 8  # version, code of the number's type, how many sentences
TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8}  # fairseq's codes of integers -> bytes


def check_index(index: Path) -> None:
    """Raises ValueError if an index contradicts itself or its .bin: fairseq would fail, or silently read other words."""
    content = index.read_bytes()
    if content.startswith(OLD_MAGIC):  # --dataset-impl lazy or cached, of which nothing is known here
        return
    count = int.from_bytes(content[HEAD - 8 : HEAD], "little")
    width = TYPES.get(content[HEAD - 9], 0) if len(content) >= HEAD else 0
    good = content.startswith(MAGIC + (1).to_bytes(8, "little")) and width > 0 and len(content) == HEAD + 12 * count
    if good:
        sizes = np.frombuffer(content, np.int32, count, HEAD).astype(np.int64) * width
        ends = np.frombuffer(content, np.int64, count, HEAD + 4 * count) + sizes
        good = bool((sizes >= 0).all()) and np.array_equal(ends, sizes.cumsum())
        good = good and index.with_suffix(".bin").stat().st_size == sizes.sum()
    if not good:
        raise ValueError(f"{index} is damaged, or not of the .bin beside it")
