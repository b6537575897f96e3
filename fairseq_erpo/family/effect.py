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
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.verbs import dashed


def _by_policy(settings: Settings) -> bool:
    return settings.model_targets == "policy"


def _by_risk(settings: Settings) -> bool:
    return settings.model_targets == "risk"


def _product(settings: Settings) -> bool:
    return settings.reward_targets == "product"


def _drawn_here(settings: Settings) -> bool:
    return settings.samples_file is None


def _weighted(settings: Settings) -> bool:
    return _drawn_here(settings) and PAYOFFS[settings.payoff].weighted


Need = tuple[Callable[[Settings], bool], str]  # when the flag has an effect, and what it needs

# By the flag that a row must have, too: rows without it use what they have.
NEEDS: Mapping[str, Mapping[str, Need]] = {
    "erpo_model_targets": {
        "erpo_advantage": (_by_policy, "--erpo-model-targets policy"),
        "erpo_clip": (_by_policy, "--erpo-model-targets policy"),
        "erpo_sharpness": (_by_risk, "--erpo-model-targets risk"),
        "erpo_alpha": (_product, "--erpo-reward-targets product"),
    },
    "erpo_payoff": {
        "erpo_payoff": (_drawn_here, "no --erpo-samples-file"),
        "erpo_reward": (
            _weighted,
            "--erpo-payoff ngram, and no --erpo-samples-file, which has rewards of its own",
        ),
    },
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


def _passed(settings: Settings) -> Sequence[Mixture]:
    """The ends of the schedule's legs, without its start where the first step is the last."""
    annealer = settings.schedule.annealer
    ends = (*annealer.through, annealer.end)
    return ends if annealer(0) == annealer.end else (annealer.start, *ends)


def _drawn_by(expert: str) -> Callable[[Settings], bool]:
    """Whether λ ever gives the expert a share."""
    return lambda settings: any(getattr(mixture, expert) > 0 for mixture in _passed(settings))


def _c_is_asked(settings: Settings) -> bool:
    """The reward expert draws, or its whole distribution is learnt; the product is of p and
    exp{ΔR/α}, without c.
    """
    return _drawn_by("reward")(settings) or (
        settings.reward_targets == "soft" and _taught_by_reward(settings)
    )


def _taught_by_reward(settings: Settings) -> bool:
    """Targets of the reward expert, where it drew or where the model did."""
    return _drawn_by("reward")(settings) or (
        settings.model_targets == "reward" and _drawn_by("model")(settings)
    )


def _of_model(settings: Settings) -> bool:
    """By expected risk it does not matter who drew; where the model draws alone, dropping its
    tokens leaves nothing to learn.
    """
    nothing_left = settings.model_targets == "drop" and settings.schedule.annealer.end.model == 1
    return _by_risk(settings) or (_drawn_by("model")(settings) and not nothing_left)


def _data_and_draws(settings: Settings) -> bool:
    shares = [mixture.data for mixture in _passed(settings)]
    return max(shares) > 0 and min(shares) < 1


def _in_time(settings: Settings) -> bool:
    return len(_passed(settings)) > 1 and not settings.schedule.plateau


NEEDS_OF_LAMBDA: Mapping[str, Need] = {
    "erpo_reward_targets": (_taught_by_reward, "a share of the reward in --erpo-lambda"),
    "erpo_c": (_c_is_asked, "a share of the reward in --erpo-lambda"),
    "erpo_c_model": (_drawn_by("model"), "a share of the model in --erpo-lambda"),
    "erpo_alpha": (_taught_by_reward, "a share of the reward in --erpo-lambda"),
    "erpo_model_targets": (
        _of_model,
        "a share of the model in --erpo-lambda, and for drop another's too",
    ),
    "erpo_baseline": (_drawn_by("model"), "a share of the model in --erpo-lambda"),
    "erpo_advantage": (_drawn_by("model"), "a share of the model in --erpo-lambda"),
    "erpo_clip": (_drawn_by("model"), "a share of the model in --erpo-lambda"),
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
