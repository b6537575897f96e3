"""Rewards of whole sequences: the family's by name, or functions of texts, alone or weighted.

    def metric(prompts, completions, **columns) -> list[float | None]      as trl has them
    def metric(sources, hypotheses, references) -> list[float]             as --erpo-reward does

N = B·S drawn sequences.
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.rewards import REWARDS, make_reward
from fairseq_erpo.rewards.base import Reference, Reward
from fairseq_erpo.text_rewards import TEXT_REWARDS, Pool
from fairseq_erpo.vocabulary import Vocabulary

MOST_WORKERS = 4
Scores = Sequence[float | None]


@dataclass(frozen=True)
class Outputs:
    """What was drawn for a batch, as ids and as texts, each source S times."""

    target: Tensor  # [N, T']
    tokens: Tensor  # [N, T]
    vocabulary: Vocabulary
    sources: Sequence[str]
    hypotheses: Sequence[str]
    references: Sequence[str]
    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class NamedReward:
    """One reward, and how much it counts."""

    name: str
    weight: float
    score: Callable[[Outputs], Tensor]  # -> [N] float32


def rewards_of(given: Any, weights: Sequence[float] | None, named: str) -> tuple[NamedReward, ...]:
    """The rewards of `reward_funcs`, names and functions; without any, the one called `named`.

    Raises ValueError for an unknown name, a function of another form, or weights of another number.
    """
    funcs = (
        [named] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    )
    weights = [1.0] * len(funcs) if weights is None else list(weights)
    if len(weights) != len(funcs):
        raise ValueError(f"--reward-weights has {len(weights)} numbers for {len(funcs)} rewards")
    if not funcs or not all(map(math.isfinite, weights)):
        raise ValueError("--reward-weights must be finite, and there must be at least one reward")
    pairs = zip(funcs, weights, strict=True)
    return tuple(NamedReward(_name(func), weight, _scorer(func)) for func, weight in pairs)


def _name(func: Any) -> str:
    return func if isinstance(func, str) else getattr(func, "__name__", type(func).__name__)


def _scorer(func: Any) -> Callable[[Outputs], Tensor]:
    if callable(func):
        return _of_function(func)
    if not isinstance(func, str):
        raise ValueError(f"a reward is a name or a function, not {func!r}")
    if func in REWARDS:
        return _of_tokens(make_reward(func))
    if func in TEXT_REWARDS or ":" in func:
        return _of_texts(func)
    known = ", ".join([*REWARDS, *TEXT_REWARDS])
    raise ValueError(f"--reward {func} is none of {known}, nor module:function")


def _of_tokens(reward: Reward[Any]) -> Callable[[Outputs], Tensor]:
    def score(outputs: Outputs) -> Tensor:
        reference = Reference.from_target(outputs.target, outputs.vocabulary)
        return reward.total(reference, outputs.tokens, outputs.vocabulary)

    return score


def _of_texts(name: str) -> Callable[[Outputs], Tensor]:
    workers = max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // 2))
    pool = Pool(name, workers)

    def score(outputs: Outputs) -> Tensor:
        found = pool.score(
            list(outputs.sources), list(outputs.hypotheses), list(outputs.references)
        )
        return torch.tensor(found, device=outputs.tokens.device)

    return score


def _of_function(func: Callable[..., Scores]) -> Callable[[Outputs], Tensor]:
    name, as_trl = _name(func), _takes_completions(func)

    def score(outputs: Outputs) -> Tensor:
        sources, hypotheses = list(outputs.sources), list(outputs.hypotheses)
        if as_trl:
            columns = {key: list(values) for key, values in outputs.columns.items()}
            found = func(prompts=sources, completions=hypotheses, **columns)
        else:
            found = func(sources, hypotheses, list(outputs.references))
        return torch.tensor(_checked(name, found, hypotheses), device=outputs.tokens.device)

    return score


def _takes_completions(func: Callable[..., Scores]) -> bool:
    """Whether a function has trl's form.  Raises ValueError if it has neither form."""
    parameters = inspect.signature(func).parameters.values()
    names = {parameter.name for parameter in parameters}
    if "completions" in names and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return True
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if "completions" not in names and len(needed) <= 3 <= len(names):
        return False
    raise ValueError(
        f"the reward {_name(func)} must take (sources, hypotheses, references), or "
        "(prompts, completions, **columns)"
    )


def _checked(name: str, found: Any, hypotheses: Sequence[str]) -> list[float]:
    """The scores as floats; None, which trl lets a function say, counts as 0."""
    try:
        scores = [0.0 if value is None else float(value) for value in found]
    except TypeError:
        raise ValueError(f"the reward {name} must return a list of numbers") from None
    if len(scores) != len(hypotheses):
        raise ValueError(
            f"the reward {name} returned {len(scores)} numbers for {len(hypotheses)} texts"
        )
    wrong = [number for number, score in enumerate(scores) if not math.isfinite(score)]
    if wrong:
        raise ValueError(
            f"the reward {name} returned {scores[wrong[0]]} for {hypotheses[wrong[0]]!r}"
        )
    return scores
