"""Pieces of like length: every target once, in few positions."""

import pytest
import torch

from fairseq_erpo.algorithm.packing import WORTH, Packing, widths

PAD = 1


def batch(lengths: list[int]) -> torch.Tensor:
    """Distinct targets 2, 3, ..., row after row."""
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens[real] = torch.arange(2, 2 + sum(lengths))
    return tokens


@pytest.mark.parametrize(
    "lengths",
    [[1], [5, 5, 5], [3, 1, 2], [12, 13, 11, 12, 21, 12, 13], list(range(1, 60)), [40, *[10] * 90]],
)
def test_every_target_stands_in_one_piece(lengths: list[int]) -> None:
    tokens = batch(lengths)
    packing = Packing.from_targets(tokens, PAD)
    pieces = [tokens[piece.rows, : piece.width].flatten()[piece.at] for piece in packing.pieces]
    assert torch.equal(tokens.flatten()[packing.at], torch.cat(pieces))
    assert sorted(torch.cat(pieces).tolist()) == list(range(2, 2 + sum(lengths)))
    assert sorted(torch.cat([piece.rows for piece in packing.pieces]).tolist()) == list(
        range(len(lengths))
    )


def test_a_cut_pays() -> None:
    """Few long ones do not widen the others; sequences of one length stay together; no cut for less
    than its worth.
    """
    assert widths([13] * 170 + [21] * 10, WORTH) == [13, 21]
    assert widths([13] * 180, WORTH) == [13]
    assert widths([12] * 90 + [13] * 90, WORTH) == [13]  # half of 1/13 is less than a twentieth
    lengths = [6 + i % 20 for i in range(180)]
    cuts = widths(lengths, WORTH)
    positions = [sum(next(w for w in some if w >= n) for n in lengths) for some in (cuts, [25])]
    assert len(cuts) <= 4 and positions[0] <= 0.75 * positions[1]
    assert positions[1] - positions[0] >= WORTH * positions[1] * (len(cuts) - 1)
