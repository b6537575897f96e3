"""How far each row of the family explores, measured on its real draws in a world of four words (the
paper's Figures 1 and 2).

y* has three tokens, and the model is a table that leans mildly towards it. The draws are
training's, for many sentence ids.

N sequences, T steps, V ids.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.algorithm.batch import Batch
from fairseq_erpo.algorithm.inputs import PlainInputs
from fairseq_erpo.algorithm.neighbours import real_words
from fairseq_erpo.algorithm.schedule import Now
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.family import Row
from fairseq_erpo.vocabulary import Vocabulary

# Fairseq's order: BOS, PAD, EOS, UNK, then four words
VOCABULARY = Vocabulary(size=8, pad=1, eos=2, unk=3, never=(0, 1))
Y_STAR = (4, 5, 6, VOCABULARY.eos)
PULL = 1.5  # the model's logit of y*_t, all others 0: a right token has p = .47
DRAWS = 12_000  # sequences
PERIODS = 8  # of a schedule; by then each has come to its end in this world
ALPHAS = (0.1, 1.0)  # beside a row's own α: 1 is policy gradient's
# Of all schedules, in each row's unit: at 20 the inverse sigmoid too goes from data to model in
# PERIODS
PERIOD = 20


class Reach(NamedTuple):
    """How far one row goes at one moment of its schedule, or with one α."""

    label: str  # what makes this point of the row: λ, or α
    entropy: float  # bits: of the drawn sequences
    off_sequences: float  # share of the sequences that are not y*
    off_tokens: float  # share of the tokens that are not y*_t


class Moment(NamedTuple):
    """A row as it draws at one time."""

    label: str
    settings: Settings
    time: int  # in the schedule's unit

    def batch(self, draws: int) -> Batch:
        """A batch of so many sequences, all of them for y*."""
        moment = Now(1 + self.time, self.time)
        words = [[int(word)] for word in real_words(VOCABULARY)]  # equally frequent
        sentences = draws // self.settings.samples
        return Batch(
            target=torch.tensor(Y_STAR).repeat(sentences, 1),
            draws=Draws(torch.arange(sentences), seed=1, update=1),
            mixture=self.settings.schedule.mixture(moment),
            stage=self.settings.schedule.stage(moment),
            settings=self.settings,
            vocabulary=VOCABULARY,
            max_positions=100,
            start=lambda copies: Table(model_log_p()),
            inputs=ToyInputs.from_targets(words, self.settings, VOCABULARY),
        )


def moments(row: Row) -> Iterator[Moment]:
    """Several values of α for a row that has one, else the times of its schedule."""
    if "erpo_alpha" in row.defaults:
        for alpha in (row.defaults["erpo_alpha"], *ALPHAS):
            yield Moment(f"α = {alpha:g}", row.settings({"erpo_alpha": alpha}), 0)
        return
    typed: dict[str, Any] = {"erpo_preset": "paper"} if "erpo_preset" in row.flags else {}
    if "erpo_anneal_every" in row.flags:
        typed["erpo_anneal_every"] = f"{PERIOD}{row.settings({}).schedule.every.unit[0]}"
    schedule = (settings := row.settings(typed)).schedule
    # One epoch or update before annealing starts, a row that anneals draws the data.
    times = [-1] * ("erpo_anneal_every" in row.flags) + [
        int(period * schedule.every.number) for period in range(PERIODS)
    ]
    for time in times:
        now = Now(1 + time, time)
        by_share = "erpo_schedule" in row.flags
        yield Moment(
            f"{schedule.mixture(now).data:.2g}" if by_share else f"k = {schedule.stage(now)}",
            settings,
            time,
        )


def reaches(row: Row, draws: int = DRAWS) -> list[Reach]:
    """One entry for a row that always draws the same; else its start, and every later moment that
    differs.
    """
    found: list[Reach] = []
    before = None
    for moment in moments(row):
        tokens, weights = draw(row, moment.batch(draws))
        # The same uniforms draw the same again where nothing has changed.
        if before is not None and torch.equal(tokens, before):
            break
        found.append(reach(tokens, weights, moment.label))
        before = tokens
    return found


def draw(row: Row, batch: Batch) -> tuple[Tensor, Tensor]:
    """The sequences that a row draws, and how much each counts: as its weight says where weights
    make up a distribution (Eq. 8).

    -> [N, T] int64, [N] float32
    """
    drawn = row.draw(batch)
    if drawn is None:
        return batch.target, torch.ones(len(batch.target))
    weights, tokens = row.weigh(batch, drawn).weights, drawn.sample.tokens
    equal = torch.ones(len(tokens))
    if weights is None or drawn.samples == 1:
        return tokens, equal
    shares = weights[:, 0]
    normalised = shares.view(-1, drawn.samples).sum(1).sub(1).abs().max() < 1e-5 and bool(
        (shares >= 0).all()
    )
    return tokens, shares if normalised else equal


def reach(tokens: Tensor, weights: Tensor, label: str) -> Reach:
    """The figures of weighted sequences.  [N, T], [N]"""
    width = max(tokens.size(1), len(Y_STAR))
    pad = VOCABULARY.pad
    y = torch.nn.functional.pad(tokens, (0, width - tokens.size(1)), value=pad)
    y_star = torch.nn.functional.pad(torch.tensor(Y_STAR), (0, width - len(Y_STAR)), value=pad)
    real = y.ne(pad)
    wrong = y.ne(y_star) & real
    share = weights / weights.sum()
    return Reach(
        label=label,
        entropy=entropy(y, weights),
        off_sequences=float((y.ne(y_star).any(1) * share).sum()),
        off_tokens=float((wrong.sum(1) * share).sum() / (real.sum(1) * share).sum()),
    )


def entropy(y: Tensor, weights: Tensor) -> float:
    """Bits: the plug-in estimate with Miller and Madow's correction, (distinct - 1) / 2N.  [N, T],
    [N] -> bits

    Sequences too rare to be drawn are missed: 12,000 draws of the model give 8.6 of its 9.3 bits;
    narrower rows lose less.
    """
    # A sequence as one number: its digits are its ids.
    code = (y * VOCABULARY.size ** torch.arange(y.size(1))).sum(1)
    distinct, index = torch.unique(code, return_inverse=True)
    q = torch.zeros(len(distinct), dtype=torch.float64).index_add(0, index, weights.double())
    q = q[q > 0] / q.sum()
    # So many draws of equal weight say as much
    n = float(weights.sum().square() / weights.square().sum())
    return float(torch.special.entr(q).sum() + (len(q) - 1) / (2 * n)) / math.log(2)


# ---- the world ----


def model_log_p() -> Tensor:
    """log p(w | t), the same for all prefixes of t tokens; behind y* the model leans towards EOS.
    -> [|y*| + 1, V]
    """
    logits = torch.zeros(len(Y_STAR), VOCABULARY.size)
    return logits.scatter(1, torch.tensor(Y_STAR)[:, None], PULL).log_softmax(1)


class Table:
    """A `StepDecoder` that looks the answer up."""

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p

    def step(self, previous: Tensor) -> Tensor:
        return self.log_p[min(previous.size(1), len(self.log_p)) - 1].expand(len(previous), -1)

    def log_probs(self, features: Tensor) -> Tensor:
        return features

    def keep(self, rows: Tensor) -> None: ...

    def teacher_forced(self, previous: Tensor) -> Tensor:
        return torch.stack([self.step(previous[:, : t + 1]) for t in range(previous.size(1))], 1)


class ToyInputs(PlainInputs):
    """`RowInputs` of this world: no baseline, and the prior is the model itself."""

    def text_reward(self, tokens: Tensor, samples: int) -> Tensor:
        return torch.zeros(len(tokens))

    def beam(self, samples: int) -> Tensor:
        return torch.tensor(Y_STAR).repeat(samples, 1)

    def baseline(self, features: Tensor) -> Tensor:
        return torch.zeros(features.shape[:2])

    def prior(self, samples: int) -> Table:
        return Table(model_log_p())
