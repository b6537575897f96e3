"""What the rewards and the sampler need to know of a dictionary: plain numbers, no fairseq."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """Sizes and special ids of the target vocabulary.

    `never` holds the ids that no expert may draw (PAD, BOS, fillers such as `madeupword0001`); EOS
    and UNK are not in it.
    """

    size: int
    pad: int
    eos: int
    unk: int
    never: tuple[int, ...]

    def __post_init__(self) -> None:
        special = (self.pad, self.eos, self.unk, *self.never)
        if not all(0 <= i < self.size for i in special):
            raise ValueError(f"a special id of {self} lies outside 0..{self.size - 1}")
        if self.pad not in self.never or self.eos in self.never:
            raise ValueError("PAD must never be drawn and EOS must stay drawable")
        if len(set(self.never)) != len(self.never):
            raise ValueError("an id occurs twice in `never`")

    @property
    def drawable(self) -> int:
        """How many tokens an expert may draw, EOS included."""
        return self.size - len(self.never)
