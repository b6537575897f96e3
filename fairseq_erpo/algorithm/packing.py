"""Targets without their padding: drawn sequences differ in length, so they are learnt in pieces of
similar length.

fairseq batches sentences of similar length; the sequences drawn for them have a tail of longer
ones, which would widen the batch.

N sequences, T steps, m positions that are not padding.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

WORTH = 0.05  # one more pass of the decoder must save this share of all positions
WORTH_ON_GPU = 0.25  # where a pass of a small batch is the starting of its operations


class Piece(NamedTuple):
    """Sequences of similar length."""

    rows: Tensor  # [n] int64
    width: int  # of the longest
    at: Tensor  # [m'] int64: the positions of the flattened [n, width] that are not padding


class Packing(NamedTuple):
    """All sequences that are not empty, each in one piece."""

    pieces: list[Piece]
    # [m] int64: the pieces' positions, one piece after the other, in the flattened [N, T]
    at: Tensor

    @classmethod
    def from_targets(cls, learnt: Tensor, pad: int) -> Self:
        """From right-padded targets, of which rows of padding alone are left out.  [N, T] int64 ->
        Packing; one synchronisation
        """
        length = learnt.ne(pad).sum(1).cpu()
        pieces, places, shorter = [], [], 0
        worth = WORTH_ON_GPU if learnt.is_cuda else WORTH
        for width in widths(length[length > 0].tolist(), worth):
            rows = (length.gt(shorter) & length.le(width)).nonzero()[:, 0]
            real = torch.arange(width) < length[rows, None]
            pieces.append(
                Piece(
                    rows.to(learnt.device), width, real.flatten().nonzero()[:, 0].to(learnt.device)
                )
            )
            places.append((rows[:, None] * learnt.size(1) + torch.arange(width))[real])
            shorter = width
        return cls(pieces, torch.cat(places).to(learnt.device))


def widths(lengths: list[int], worth: float) -> list[int]:
    """The widths of the pieces, increasing: each cut saves at least the share `worth` of all
    positions.
    """
    order = sorted(lengths)
    least = worth * len(order) * order[-1]

    def cut(low: int, high: int) -> list[int]:
        width = order[high - 1]

        def saved(end: int) -> int:
            return (end - low) * (width - order[end - 1])

        best = max(range(low + 1, high + 1), key=saved)
        return [*cut(low, best), *cut(best, high)] if saved(best) >= max(least, 1) else [width]

    return cut(0, len(order))
