"""A world small enough to enumerate: every sequence of at most T tokens over V, a table model, and
q computed the slow way.

Written without the package's tensors on purpose: plain loops over the definitions of the paper.
ORACLES says of each row of the family what it draws and what it maximises in expectation, written
out over all sequences.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from reward_oracles import ORACLES as REWARDS
from reward_oracles import UNMATCHABLE
from scipy.stats import chisquare
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
            self.rows[prefix] = (
                self.sharpness * torch.randn(self.vocabulary.size, generator=numbers)
            ).log_softmax(0)
        return self.rows[prefix]

    def step(self, previous: Tensor) -> Tensor:
        return torch.stack([self.row(tuple(line[1:])) for line in previous.tolist()])

    def log_probs(self, features: Tensor) -> Tensor:
        return features

    def keep(self, rows: Tensor) -> None:
        pass

    def teacher_forced(self, previous: Tensor) -> Tensor:
        return torch.stack([self.step(previous[:, : t + 1]) for t in range(previous.size(1))], 1)

    def drawable(self, prefix: tuple[int, ...], power: float = 1.0) -> list[float]:
        """p_θ^c over the drawable tokens, normalised."""
        weights = [math.exp(power * value) for value in self.row(prefix).tolist()]
        weights = [
            0.0 if w in self.vocabulary.never else weight for w, weight in enumerate(weights)
        ]
        return [weight / sum(weights) for weight in weights]


def sequences(vocabulary: Vocabulary, cap: int) -> list[tuple[int, ...]]:
    """Every sequence the sampler may return: closed by EOS, or of `cap` tokens without it."""
    words = [w for w in range(vocabulary.size) if w not in vocabulary.never and w != EOS]
    closed = [(*body, EOS) for n in range(cap) for body in itertools.product(words, repeat=n)]
    return closed + list(itertools.product(words, repeat=cap))


def sequence_probability(
    y: Sequence[int], conditional: Callable[[tuple[int, ...]], Sequence[float]]
) -> float:
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
    """ΔR of the edit reward by its definition: Φ(y) = -min_j lev(y, y*_<j), and -lev(y, y*) once
    EOS is drawn.
    """
    before = -min(levenshtein(prefix, y_star))
    after = (
        -levenshtein(prefix, y_star)[-1] if w == EOS else -min(levenshtein((*prefix, w), y_star))
    )
    return float(after - before)


def reward_conditional(
    prefix: Sequence[int],
    y_star: Sequence[int],
    vocabulary: Vocabulary,
    c: float,
    delta_r: Callable[..., float] = edit_delta_r,
) -> list[float]:
    """exp{c ΔR} over the drawable tokens, EOS only after the first token; c = inf is the arg max
    with uniform ties.
    """
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


# How what was drawn is compared with what the enumeration says

UNLIKELY = 1e-3  # Seeds are fixed: the chance that a choice of seeds refuses what is right.


def assert_distributed(
    drawn: Sequence[tuple[int, ...]], expected: Mapping[tuple[int, ...], float]
) -> None:
    """Chi-square at one in a thousand; cells that expect under five draws are joined."""
    counts = Counter(drawn)
    assert set(counts) <= {y for y, p in expected.items() if p > 0}, (
        "an impossible sequence was drawn"
    )
    assert math.isclose(math.fsum(expected.values()), 1, rel_tol=1e-6)
    big = [y for y, p in expected.items() if p * len(drawn) >= 5]
    observed = [counts[y] for y in big]
    probability = [expected[y] for y in big]
    if 1 - math.fsum(probability) > 1e-9:
        observed.append(len(drawn) - sum(observed))
        probability.append(1 - math.fsum(probability))
    if len(observed) == 1:  # one possible sequence, and it alone was drawn
        return
    assert (
        chisquare(observed, [p * len(drawn) / math.fsum(probability) for p in probability]).pvalue
        > UNLIKELY
    )


def assert_mean(values: Tensor, expected: Tensor, most: float) -> None:
    """The mean of independent draws, coordinate by coordinate.  [N, ...], [...], `most` bounds
    every |value|

    The empirical Bernstein bound (Maurer & Pontil 2009, theorem 4), for both sides and all
    coordinates together: it needs no normality, which coordinates that are rarely drawn do not
    have.
    """
    n = len(values)
    log = math.log(4 * expected.numel() / UNLIKELY)
    tolerance = (2 * values.var(0) * log / n).sqrt() + 7 * (2 * most) * log / (3 * (n - 1))
    excess = (values.mean(0) - expected).abs() - tolerance
    assert excess.max() <= 0, (
        f"off by {(values.mean(0) - expected).abs().flatten()[excess.argmax()]:.4g}"
    )


# The worlds in which the rows of the family are enumerated


class Table(TableModel):
    """p_θ as a table of parameters: one row of logits for each prefix of fewer than `depth` tokens,
    EOS allowed inside.

    PAD and BOS have a probability of 1e-13, as good as none.
    """

    def __init__(self, vocabulary: Vocabulary, depth: int, seed: int) -> None:
        super().__init__(vocabulary, seed)
        self.drawn = [w for w in range(vocabulary.size) if w not in vocabulary.never]
        self.digit = torch.tensor(
            [self.drawn.index(w) if w in self.drawn else -1 for w in range(vocabulary.size)]
        )
        self.prefixes = [
            prefix for n in range(depth) for prefix in itertools.product(self.drawn, repeat=n)
        ]
        self.number = {prefix: i for i, prefix in enumerate(self.prefixes)}
        numbers = torch.Generator().manual_seed(seed)
        logits = torch.randn(
            len(self.prefixes), vocabulary.size, generator=numbers, dtype=torch.float64
        )
        logits[:, list(vocabulary.never)] = -30
        self.logits = logits.requires_grad_()  # [P, V]
        self.log_p = self.logits.log_softmax(1)

    def row(self, prefix: tuple[int, ...]) -> Tensor:
        return self.log_p[self.number[prefix]].detach()

    def numbers(self, previous: Tensor) -> Tensor:
        """Which row answers at each position.  [N, T] int64, EOS first -> [N, T] int64, anything
        behind padding
        """
        number = torch.zeros_like(previous)
        for t in range(1, previous.size(1)):
            number[:, t] = number[:, t - 1] * len(self.drawn) + self.digit[previous[:, t]] + 1
        return number.masked_fill(previous.eq(PAD), 0)

    def step(self, previous: Tensor) -> Tensor:
        return self.log_p.detach()[self.numbers(previous)[:, -1]].float()

    def likelihood(
        self, targets: Sequence[int], inputs: Sequence[int], start: int = 0, smoothing: float = 0.0
    ) -> Tensor:
        """Σ_t log p(target_t | inputs_<t) over t >= start, with its graph; of smoothed targets as
        `smoothed` has them.
        """
        terms = [
            self.smoothed(tuple(inputs[:t]), targets[t], smoothing)
            for t in range(start, len(targets))
        ]
        return torch.stack(terms).sum() if terms else self.logits.new_zeros(())

    def smoothed(self, prefix: tuple[int, ...], w: int, smoothing: float) -> Tensor:
        """(1 - ε) log p(w), and ε shared by all other words: fairseq's label smoothing."""
        log_p = self.log_p[self.number[prefix]]
        others = (log_p.sum() - log_p[w]) / (len(log_p) - 1)
        return (1 - smoothing) * log_p[w] + smoothing * others if smoothing else log_p[w]


class World:
    """A vocabulary, one reference, the most tokens a sentence may have, and the models."""

    def __init__(self, words: int, y_star: tuple[int, ...], cap: int) -> None:
        self.vocabulary, self.y_star, self.cap = world(words), y_star, cap
        self.words = [w for w in range(self.vocabulary.size) if w > UNK]
        self.closed = (*y_star, EOS)
        self.table, self.prior = (
            Table(self.vocabulary, max(cap, len(y_star) + 1), seed) for seed in (11, 12)
        )
        # Counts over some training data; continuations before and after a token are fewer.
        self.unigram = [0, 0, 6, 1, *(2 + i for i in range(words))]
        self.before = [0, 0, 3, 1, *(1 + i % 2 for i in range(words))]
        self.after = [0, 0, 4, 1, *(2 - i % 2 for i in range(words))]

    def delta_r(self, reward: str, prefix: Sequence[int], w: int, y_star: Sequence[int]) -> float:
        return REWARDS[reward].delta_r(tuple(prefix), w, readable(y_star))

    def reward(self, reward: str, y: tuple[int, ...]) -> float:
        """Φ(∅) + ΣΔR: the sentence metric if EOS closes y, Φ if it was clipped."""
        scorer = REWARDS[reward]
        return (
            scorer.metric(y[:-1], readable(self.y_star))
            if y[-1] == EOS
            else scorer.phi(y, readable(self.y_star))
        )


def readable(y_star: Sequence[int]) -> tuple[int, ...]:
    """UNK matches nothing."""
    return tuple(UNMATCHABLE if w == UNK else w for w in y_star)


# Repeated tokens, one token only, and a reference long enough for MIXER's prefix and for n-grams.
WORLDS = {
    "V=3, T=3": World(3, (4, 5), 3),
    "V=4, T=2": World(4, (6,), 2),
    "V=2, T=4": World(2, (4, 4, 5), 4),
}


class Expected(NamedTuple):
    """What one sentence's draws are, and what they maximise."""

    q: list[dict[tuple[int, ...], float]]  # of each of its samples
    objective: Tensor  # E of Σ_t w_t log p(target_t | inputs_<t), summed over the samples


@dataclass(frozen=True)
class Variant:
    """A row with some flags, and its oracle."""

    expected: Callable[[World], Expected]
    flags: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 1
    update: int = 0

    def __str__(self) -> str:
        named = {**self.flags, **({"epoch": self.epoch} if self.epoch > 1 else {})}
        return (
            ",".join(f"{name.removeprefix('erpo_')}={value}" for name, value in named.items())
            or "defaults"
        )


def token_by_token(
    w: World, conditional: Callable[[tuple[int, ...]], Sequence[float]], samples: int = 1
) -> Expected:
    """Tokens drawn one after the other, each a target of weight 1."""
    q = {y: sequence_probability(y, conditional) for y in sequences(w.vocabulary, w.cap)}
    return Expected([q] * samples, samples * expectation(w, q))


def expectation(w: World, q: Mapping[tuple[int, ...], float]) -> Tensor:
    """E_q[log p(y)]."""
    return sum(p * w.table.likelihood(y, y) for y, p in q.items() if p > 0)


def mle(w: World, smoothing: float = 0.0) -> Expected:
    """Eq. 5: the gradient at y*."""
    return Expected([{w.closed: 1.0}], w.table.likelihood(w.closed, w.closed, smoothing=smoothing))


def noising(
    w: World, rate: Callable[[World, int], float], proposal: Callable[[World, int], float]
) -> Expected:
    """Eq. 7 (Xie et al. 2017, table 1): each token x is replaced with probability rate(x), by a
    draw ∝ proposal.
    """
    total = sum(proposal(w, v) for v in (UNK, *w.words))
    q = {}
    for y in itertools.product((UNK, *w.words), repeat=len(w.y_star)):
        pairs = zip(y, w.y_star, strict=True)
        q[(*y, EOS)] = math.prod(
            (v == x) * (1 - rate(w, x)) + rate(w, x) * proposal(w, v) / total for v, x in pairs
        )
    return Expected([q], expectation(w, q))


def neighbours(w: World) -> dict[tuple[int, ...], float]:
    """Ma et al. 2017: one n-gram, not the last token, becomes random words; n ~
    U{1..min(r-1, 4)}.
    """
    y, r = w.y_star, len(w.y_star)
    if r == 1:
        return {w.closed: 1.0}
    q: Counter[tuple[int, ...]] = Counter()
    longest = min(r - 1, 4)
    for n in range(1, longest + 1):
        for start in range(r - n):
            for new in itertools.product(w.words, repeat=n):
                q[(*y[:start], *new, *y[start + n :], EOS)] += (
                    1 / longest / (r - n) / len(w.words) ** n
                )
    return dict(q)


def raml_ngram(w: World, samples: int, tau: float) -> Expected:
    """Eq. 8 over samples: the truth and S-1 neighbours, weighted by exp{R/τ} among themselves."""
    q = neighbours(w)
    objective = w.table.logits.new_zeros(())
    for others in itertools.product(q, repeat=samples - 1):
        drawn = (w.closed, *others)
        weights = [math.exp(w.reward("bleu", y) / tau) for y in drawn]
        probability = math.prod(q[y] for y in others)
        for y, weight in zip(drawn, weights, strict=True):
            objective = objective + probability * weight / sum(weights) * w.table.likelihood(y, y)
    return Expected([{w.closed: 1.0}, *[q] * (samples - 1)], objective)


def raml_hamming(w: World, samples: int, tau: float) -> Expected:
    """Eq. 8 with R = -Hamming distance, exact; Norouzi et al. 2016 read τ as 1 / (1/τ +
    log(V-1)/τ).
    """
    temperature = tau / (1 + math.log(len(w.words) - 1))
    weights = {}
    for y in itertools.product(w.words, repeat=len(w.y_star)):
        weights[(*y, EOS)] = math.exp(
            -sum(a != b for a, b in zip(y, w.y_star, strict=True)) / temperature
        )
    q = {y: weight / sum(weights.values()) for y, weight in weights.items()}
    return Expected([q] * samples, expectation(w, q))


def product(w: World, prefix: tuple[int, ...], alpha: float, reward: str) -> list[float]:
    """Eq. 4 with β = 0: p exp{ΔR/α}."""
    p = w.table.drawable(prefix)
    gains = [w.delta_r(reward, prefix, v, w.y_star) if p[v] else -math.inf for v in range(len(p))]
    weights = [p[v] * math.exp((gains[v] - max(gains)) / alpha) for v in range(len(p))]
    return [weight / sum(weights) for weight in weights]


def spg(w: World, alpha: float, p_drop: float = 0.0, samples: int = 1) -> Expected:
    """Each token from the product, or with probability `p_drop` from the model."""

    def conditional(prefix: tuple[int, ...]) -> list[float]:
        pairs = zip(w.table.drawable(prefix), product(w, prefix, alpha, "bleu"), strict=True)
        return [p_drop * p + (1 - p_drop) * q for p, q in pairs]

    return token_by_token(w, conditional, samples)


def policy(
    w: World,
    value: Callable[[World, tuple[int, ...]], float | Tensor],
    samples: int = 1,
    m: int = 0,
    data_weight: float = 0.0,
) -> Expected:
    """y*_<m, then the model: data_weight log p(y*_<m) + E_p[value(y)], its gradient being taken
    through p and value.

    Nothing of Eq. 10 stands here: that R ∇ log p is the gradient of E_p[R] is what the test finds.
    """
    data = w.y_star[:m]
    q, objective = {}, data_weight * w.table.likelihood(data, data)
    for y in sequences(w.vocabulary, w.cap):
        if y[:m] == data and len(y) > m:
            probability = w.table.likelihood(y, y, start=m).exp()
            q[y] = probability.item()
            objective = objective + probability * value(w, y)
    return Expected([q] * samples, samples * objective)


def reward_of(w: World, y: tuple[int, ...], reward: str = "bleu") -> float:
    return w.reward(reward, y)


def tutored(w: World, y: tuple[int, ...], alpha: float, reward: str = "bleu") -> Tensor:
    """R - α log p/prior, so that its expectation is E_p[R] - α KL(p || prior)."""
    return w.reward(reward, y) - alpha * (
        w.table.likelihood(y, y) - w.prior.likelihood(y, y).detach()
    )


def mixer(w: World, k: int, reward: str = "bleu", samples: int = 1) -> Expected:
    """A.1: data of weight .5 for the first T - 3k tokens, then policy gradient."""
    return policy(
        w,
        partial(reward_of, reward=reward),
        samples,
        m=max(0, len(w.y_star) + 1 - 3 * k),
        data_weight=0.5,
    )


def algorithm_1(
    w: World,
    shares: Mapping[str, float],
    c: float,
    c_model: float,
    samples: int = 1,
    forced: bool = False,
    reward: str = "edit",
) -> Expected:
    """The mixture of experts at every token; `forced` gives MIXER-alike's layout, round(λ_data r)
    data tokens first.
    """
    m = round(shares["data"] * len(w.y_star)) if forced else 0

    def conditional(prefix: tuple[int, ...]) -> list[float]:
        gold = [float(v == gold_at(w, len(prefix))) for v in range(w.vocabulary.size)]
        if len(prefix) < m:
            return gold
        experts = (
            (shares["model"], w.table.drawable(prefix, power=c_model)),
            (
                shares["reward"],
                reward_conditional(prefix, w.y_star, w.vocabulary, c, partial(w.delta_r, reward)),
            ),
            (0 if forced else shares["data"], gold),
        )
        total = sum(share for share, _ in experts)
        return [sum(share * q[v] for share, q in experts) / total for v in range(w.vocabulary.size)]

    return token_by_token(w, conditional, samples)


def gold_at(w: World, t: int) -> int:
    """y*_t, and EOS behind its end."""
    return w.closed[t] if t < len(w.closed) else EOS


def policy_taught(
    w: World,
    c: float,
    c_model: float,
    shares: Mapping[str, float],
    samples: int = 1,
    reward: str = "edit",
    pays: str = "",
    smoothing: float = 0.0,
) -> Expected:
    """Algorithm 1's draws; a token weighs the sentence's reward where the model drew it, and 1
    where reward or data did.

    `reward` says what comes next, and `pays` the sentence, if it is another one.  Data alone are
    smoothed.
    """
    drawn, _ = algorithm_1(w, shares, c=c, c_model=c_model, samples=samples, reward=reward)
    objective = w.table.logits.new_zeros(())
    for y, probability in drawn[0].items():
        for t, v in enumerate(y):
            prefix = y[:t]
            own = shares["model"] * w.table.drawable(prefix, power=c_model)[v]
            follows = reward_conditional(
                prefix, w.y_star, w.vocabulary, c, partial(w.delta_r, reward)
            )
            data = shares["data"] * (v == gold_at(w, t))
            worth = reward_of(w, y, pays or reward)
            whole = own * worth + shares["reward"] * follows[v]
            total = own + shares["reward"] * follows[v] + data
            objective = objective + probability / total * (
                whole * w.table.smoothed(prefix, v, 0)
                + data * w.table.smoothed(prefix, v, smoothing)
            )
    return Expected(drawn, samples * objective)


WITHOUT_DATA = {"model": 3 / 7, "reward": 4 / 7, "data": 0.0}


def beside(
    w: World, samples: int, expected: Callable[..., Expected], data: float, smoothing: float = 0.0
) -> Expected:
    """λ over whole sequences: `samples` of what the rest of λ draws, and y* itself, which is not
    drawn.
    """
    drawn = expected(w, samples=samples, shares=WITHOUT_DATA)
    gold = w.table.likelihood(w.closed, w.closed, smoothing=smoothing)
    return Expected(
        [*drawn.q, {w.closed: 1.0}], (1 - data) * drawn.objective + data * samples * gold
    )


def risk(w: World, q: Mapping[tuple[int, ...], float], reward: str = "bleu") -> Expected:
    """Two candidates from q, whose expected reward Σ_k q_k R_k, q ∝ exp{mean log p}, is raised;
    equal ones count once.

    A source weighs as many tokens as its candidates have. Their gradient is found by
    differentiating q itself.
    """
    ys = list(q)
    length = torch.tensor([float(len(y)) for y in ys], dtype=torch.float64)
    score = torch.stack([w.table.likelihood(y, y) for y in ys]) / length
    value = torch.tensor([w.reward(reward, y) for y in ys], dtype=torch.float64)
    # Q of the first of two different candidates
    first = torch.sigmoid(score[:, None] - score[None])
    mean = first * value[:, None] + (1 - first) * value[None]
    tokens = length[:, None] + length[None]
    p = torch.tensor([q[y] for y in ys], dtype=torch.float64)
    # One candidate alone teaches nothing
    weight = p[:, None] * p[None] * (1 - torch.eye(len(ys), dtype=torch.float64))
    return Expected([dict(q)] * 2, (weight * tokens * mean).sum())


def mrt(w: World, reward: str = "bleu") -> Expected:
    """Candidates are two samples of the model."""
    return risk(w, plain(w).q[0], reward)


def interpolated_risk(w: World, shares: Mapping[str, float], samples: int = 2) -> Expected:
    """Candidates are two draws of Algorithm 1."""
    assert samples == 2
    return risk(w, algorithm_1(w, shares, c=2.5, c_model=2).q[0], "edit")


def scheduled_sampling(w: World, k: float, i: int) -> Expected:
    """A.3.2: inputs from the model with probability 1 - k/(k + exp(i/k)), through EOS; targets are
    y*.
    """
    share = 1 - k / (k + math.exp(i / k))

    def conditional(prefix: tuple[int, ...]) -> list[float]:
        p = w.table.drawable(prefix)
        return [
            share * p[v] + (1 - share) * (v == w.closed[len(prefix)])
            for v in range(w.vocabulary.size)
        ]

    inputs: Iterable[tuple[int, ...]] = itertools.product(w.table.drawn, repeat=len(w.closed))
    q = {x: sequence_probability(x, conditional) for x in inputs}
    return Expected([q], sum(p * w.table.likelihood(w.closed, x) for x, p in q.items()))


# λ of the interior points, and what goes with it on the command line.
INTERIOR = {"model": 0.3, "reward": 0.4, "data": 0.3}
FIXED = {"erpo_schedule": "constant", "erpo_lambda": "model=.3,reward=.4,data=.3", "erpo_c": "2.5"}
HALF = {"model": 0.2, "reward": 0.3, "data": 0.5}
FIXED_HALF = {
    "erpo_schedule": "constant",
    "erpo_lambda": "model=.2,reward=.3,data=.5",
    "erpo_c": "1",
}
inside = partial(algorithm_1, shares=INTERIOR, c=2.5)
paid = partial(policy_taught, shares=INTERIOR, c=2.5)
plain = partial(policy, value=reward_of)

# A row that is missing here fails the test by its name.
ORACLES: dict[str, list[Variant]] = {
    "mle": [Variant(mle), Variant(partial(mle, smoothing=0.2), {"label_smoothing": 0.2})],
    "noising": [
        Variant(partial(noising, rate=lambda w, x: 0.2, proposal=lambda w, v: w.unigram[v])),
        Variant(
            partial(noising, rate=lambda w, x: 0.6, proposal=lambda w, v: float(v == UNK)),
            {"erpo_noise": "blank", "erpo_gamma": 0.6},
        ),
        Variant(
            partial(
                noising,
                rate=lambda w, x: 0.9 * w.after[x] / w.unigram[x],
                proposal=lambda w, v: w.before[v],
            ),
            {"erpo_noise": "kneser_ney", "erpo_gamma": 0.9},
        ),
    ],
    "raml": [
        Variant(partial(raml_ngram, samples=2, tau=0.4), {"erpo_samples": 2}),
        Variant(partial(raml_ngram, samples=3, tau=0.1), {"erpo_samples": 3, "erpo_tau": 0.1}),
        Variant(
            partial(raml_hamming, samples=2, tau=0.85),
            {"erpo_payoff": "hamming", "erpo_samples": 2},
        ),
    ],
    "spg": [
        Variant(partial(spg, alpha=0.02)),
        Variant(partial(spg, alpha=0.5, samples=2), {"erpo_alpha": 0.5, "erpo_samples": 2}),
        Variant(partial(spg, alpha=1e-4, p_drop=0.3), {"erpo_bang_bang": 0.3}),
    ],
    "pg": [
        Variant(plain),
        Variant(
            partial(policy, value=partial(reward_of, reward="edit")),
            {"erpo_reward": "edit", "erpo_baseline": "learned"},
        ),
    ],
    "self_critic": [
        Variant(plain),
        Variant(partial(plain, samples=3), {"erpo_baseline": "leave_one_out", "erpo_samples": 3}),
    ],
    "mixer": [
        Variant(partial(mixer, k=1)),
        Variant(partial(mixer, k=2), epoch=6),
        Variant(partial(mixer, k=1, samples=2), {"erpo_samples": 2, "erpo_baseline": "greedy"}),
    ],
    "mixer_alike": [
        Variant(partial(algorithm_1, shares=HALF, c=1, c_model=2, forced=True), FIXED_HALF),
        Variant(
            partial(algorithm_1, shares=HALF, c=1, c_model=1, forced=True, samples=2),
            {**FIXED_HALF, "erpo_c_model": 1.0, "erpo_samples": 2, "erpo_targets": "reward"},
        ),
    ],
    # Soft targets change nothing in expectation; dropping the model's does not either where it is
    # asked with c = 1.
    "interp": [
        Variant(partial(inside, c_model=2), FIXED),
        Variant(partial(inside, c_model=2, samples=2), {**FIXED, "erpo_samples": 2}),
        Variant(
            partial(inside, c_model=1, reward="bleu"),
            {**FIXED, "erpo_c_model": 1.0, "erpo_reward": "bleu"},
        ),
        Variant(
            partial(inside, c_model=1), {**FIXED, "erpo_c_model": 1.0, "erpo_targets": "reward"}
        ),
        Variant(partial(paid, c_model=2), {**FIXED, "erpo_targets": "policy"}),
        Variant(
            partial(paid, c_model=2, pays="bleu"),
            {**FIXED, "erpo_targets": "policy", "erpo_reward": "bleu", "erpo_teacher": "edit"},
        ),
        Variant(
            partial(beside, samples=2, expected=partial(algorithm_1, c=2.5, c_model=2), data=0.3),
            {**FIXED, "erpo_samples": 2, "erpo_layout": "sentence"},
        ),
        Variant(
            partial(beside, samples=1, expected=partial(policy_taught, c=2.5, c_model=2), data=0.3),
            {**FIXED, "erpo_targets": "policy", "erpo_layout": "sentence"},
        ),
        Variant(
            partial(paid, c_model=2, smoothing=0.3),
            {**FIXED, "erpo_targets": "policy", "label_smoothing": 0.3},
        ),
        # Expected risk weighs every draw by an advantage, whoever drew it: none is smoothed, and y*
        # beside them is.
        Variant(
            partial(interpolated_risk, shares=INTERIOR),
            {**FIXED, "erpo_samples": 2, "erpo_targets": "risk", "label_smoothing": 0.3},
        ),
        Variant(
            partial(beside, samples=2, expected=interpolated_risk, data=0.3, smoothing=0.3),
            {
                **FIXED,
                "erpo_samples": 2,
                "erpo_targets": "risk",
                "erpo_layout": "sentence",
                "label_smoothing": 0.3,
            },
        ),
        # A baseline that does not see the token changes nothing where the model is asked with c =
        # 1.
        Variant(
            partial(paid, c_model=1, samples=2, reward="bleu"),
            {
                **FIXED,
                "erpo_c_model": 1.0,
                "erpo_samples": 2,
                "erpo_reward": "bleu",
                "erpo_targets": "policy",
                "erpo_baseline": "leave_one_out",
            },
        ),
    ],
    "mrt": [
        Variant(mrt, {"erpo_samples": 2}),
        Variant(partial(mrt, reward="edit"), {"erpo_samples": 2, "erpo_reward": "edit"}),
    ],
    "scheduled_sampling": [
        Variant(partial(scheduled_sampling, k=3.0, i=4), {"erpo_anneal_every": "3u"}, update=4)
    ],
    "sequence_tutor": [
        Variant(partial(policy, value=partial(tutored, alpha=0.05)), {"erpo_prior": "prior.pt"}),
        Variant(
            partial(policy, value=partial(tutored, alpha=0.7, reward="edit"), samples=2),
            {
                "erpo_prior": "prior.pt",
                "erpo_alpha": 0.7,
                "erpo_reward": "edit",
                "erpo_samples": 2,
                "erpo_baseline": "none",
            },
        ),
    ],
}
