"""A world small enough to enumerate: every sequence of at most T tokens over V, a table model, and q computed the slow way.

Written without the package's tensors on purpose: plain loops over the definitions of the paper.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fairseq_erpo.vocabulary import Vocabulary

# pad, bos, eos, unk, then the words: fairseq's order.
PAD, BOS, EOS, UNK = 1, 0, 2, 3


def world(words: int) -> Vocabulary:
    """A vocabulary with this many real words, ids 4, 5, ..."""
    return Vocabulary(size=4 + words, pad=PAD, eos=EOS, unk=UNK, never=(BOS, PAD))


class TableModel:
    """p_θ(w | prefix) from a seeded table, one row for each prefix: a model without a network.

    Serves as the sampler's decoder for n copies of the same empty source.
    """

    def __init__(self, vocabulary: Vocabulary, seed: int = 0, sharpness: float = 1.0) -> None:
        self.vocabulary, self.seed, self.sharpness = vocabulary, seed, sharpness
        self.rows: dict[tuple[int, ...], Tensor] = {}

    def row(self, prefix: tuple[int, ...]) -> Tensor:
        """log p(· | prefix), PAD and BOS included as a network would.  -> [V]"""
        if prefix not in self.rows:
            numbers = torch.Generator().manual_seed(hash((self.seed, prefix)) % 2**31)
            self.rows[prefix] = (self.sharpness * torch.randn(self.vocabulary.size, generator=numbers)).log_softmax(0)
        return self.rows[prefix]

    def step(self, previous: Tensor) -> Tensor:
        return torch.stack([self.row(tuple(line[1:])) for line in previous.tolist()])

    def log_probs(self, features: Tensor) -> Tensor:
        return features

    def keep(self, rows: Tensor) -> None:
        pass

    def drawable(self, prefix: tuple[int, ...], power: float = 1.0) -> list[float]:
        """p_θ^c over the drawable tokens, normalised."""
        weights = [math.exp(power * value) for value in self.row(prefix).tolist()]
        weights = [0.0 if w in self.vocabulary.never else weight for w, weight in enumerate(weights)]
        return [weight / sum(weights) for weight in weights]


def sequences(vocabulary: Vocabulary, cap: int) -> list[tuple[int, ...]]:
    """Every sequence the sampler may return: closed by EOS, or of `cap` tokens without it."""
    words = [w for w in range(vocabulary.size) if w not in vocabulary.never and w != EOS]
    closed = [(*body, EOS) for n in range(cap) for body in itertools.product(words, repeat=n)]
    return closed + list(itertools.product(words, repeat=cap))


def sequence_probability(y: Sequence[int], conditional: Callable[[tuple[int, ...]], Sequence[float]]) -> float:
    """Π_t q(y_t | y_<t)."""
    return math.prod(conditional(tuple(y[:t]))[w] for t, w in enumerate(y))


def levenshtein(y: Sequence[int], y_star: Sequence[int]) -> list[int]:
    """Distances from y to every prefix of y*; UNK matches nothing."""
    row = list(range(len(y_star) + 1))
    for i, w in enumerate(y):
        new = [i + 1]
        for j, v in enumerate(y_star):
            new.append(min(row[j + 1] + 1, new[j] + 1, row[j] + (w != v or w == UNK)))
        row = new
    return row


def edit_delta_r(prefix: Sequence[int], w: int, y_star: Sequence[int]) -> float:
    """ΔR of the edit reward by its definition: Φ(y) = -min_j lev(y, y*_<j), and -lev(y, y*) once EOS is drawn."""
    before = -min(levenshtein(prefix, y_star))
    after = -levenshtein(prefix, y_star)[-1] if w == EOS else -min(levenshtein((*prefix, w), y_star))
    return float(after - before)


def task_conditional(
    prefix: Sequence[int], y_star: Sequence[int], vocabulary: Vocabulary, c: float, delta_r: Callable[..., float] = edit_delta_r
) -> list[float]:
    """exp{c ΔR} over the drawable tokens, EOS only after the first token; c = inf is the arg max with uniform ties."""
    values = {
        w: delta_r(prefix, w, y_star)
        for w in range(vocabulary.size)
        if w not in vocabulary.never and (w != EOS or len(prefix) >= 1)
    }
    best = max(values.values())
    weights = [0.0] * vocabulary.size
    for w, value in values.items():
        weights[w] = float(value == best) if math.isinf(c) else math.exp(c * (value - best))
    return [weight / sum(weights) for weight in weights]
