"""Typed flags that change nothing of what is learnt: refused beside the flags that make them idle,
said where λ does.

λ is a place that people move: at a corner of the simplex a flag is idle that is not one step before
it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fairseq_erpo.algorithm.neighbours import PAYOFFS
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.family.flags import FLAGS
from fairseq_erpo.verbs import dashed


def _drawn_here(settings: Settings) -> bool:
    return settings.samples_file is None


def _weighted(settings: Settings) -> bool:
    return _drawn_here(settings) and PAYOFFS[settings.payoff].weighted


Need = tuple[Callable[[Settings], bool], str]  # when the flag has an effect, and what it needs

# By the flag that a row must have, too: rows without it use what they have.
NEEDS: Mapping[str, Mapping[str, Need]] = {
    "erpo_payoff": {
        "erpo_payoff": (_drawn_here, "no --erpo-samples-file"),
        "erpo_reward": (
            _weighted,
            "--erpo-payoff ngram, and no --erpo-samples-file, which has rewards of its own",
        ),
    }
}


def check_effect(flags: Sequence[str], typed: Mapping[str, Any], settings: Settings) -> None:
    """`flags` are the row's.  Raises ValueError for a typed flag that has no effect beside the
    others.
    """
    needs = {
        name: need
        for marker, found in NEEDS.items()
        if marker in flags
        for name, need in found.items()
    }
    for name in _asked(needs, typed):
        has_effect, what = needs[name]
        if not has_effect(settings):
            raise ValueError(f"{dashed(name)} {typed[name]} would change nothing: it needs {what}")


def _drawn_by(expert: str) -> Callable[[Settings], bool]:
    """Whether λ ever gives the expert a share."""
    return lambda settings: settings.drawn_by(expert)


def _targets_differ(settings: Settings) -> bool:
    """Where data alone are drawn, all targets are the data, but for expected risk; for `reward`
    where the model draws alone, nothing is left to learn.
    """
    if settings.targets == "reward" and settings.schedule.annealer.end.model == 1:
        return False
    return settings.targets == "risk" or settings.drawn_by("model") or settings.drawn_by("reward")


def _data_and_draws(settings: Settings) -> bool:
    shares = [mixture.data for mixture in settings.schedule.passed()]
    return max(shares) > 0 and min(shares) < 1


def _in_time(settings: Settings) -> bool:
    return len(settings.schedule.passed()) > 1 and not settings.schedule.plateau


NEEDS_OF_LAMBDA: Mapping[str, Need] = {
    "erpo_c": (_drawn_by("reward"), "a share of the reward in --erpo-lambda"),
    "erpo_c_model": (_drawn_by("model"), "a share of the model in --erpo-lambda"),
    "erpo_targets": (
        _targets_differ,
        "a share of the model or the reward in --erpo-lambda, for reward not the model's alone",
    ),
    "erpo_baseline": (_drawn_by("model"), "a share of the model in --erpo-lambda"),
    "erpo_layout": (_data_and_draws, "data in --erpo-lambda, or a schedule that begins with them"),
    "erpo_anneal_every": (_in_time, "a schedule that moves λ in time"),
}


def idle(flags: Sequence[str], typed: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """A line for each typed flag of the row that λ makes idle."""
    if "erpo_schedule" in flags:
        for name in _asked(NEEDS_OF_LAMBDA, typed):
            has_effect, what = NEEDS_OF_LAMBDA[name]
            if not has_effect(settings):
                yield f"{dashed(name)} {typed[name]} changes nothing here: it needs {what}"


def _asked(names: Mapping[str, Any], typed: Mapping[str, Any]) -> list[str]:
    """Those that were typed, other than at their defaults."""
    return [name for name in names if typed.get(name) not in (None, FLAGS[name].default)]
