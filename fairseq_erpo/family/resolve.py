"""From flag values to `Settings`; a wrong value is refused here, by the flag's name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.estep import ExpertSettings, InverseTemperature
from fairseq_erpo.algorithm.layouts import LAYOUTS
from fairseq_erpo.algorithm.neighbours import PAYOFFS
from fairseq_erpo.algorithm.noising import SCHEMES
from fairseq_erpo.algorithm.schedule import Duration, Schedule
from fairseq_erpo.algorithm.settings import CANDIDATES, Settings
from fairseq_erpo.algorithm.weigh import TARGETS
from fairseq_erpo.annealers import make_annealer
from fairseq_erpo.family.flags import FLAGS, PAID_BY, PRESETS
from fairseq_erpo.mixture import parse_path
from fairseq_erpo.rewards import Reward, make_reward
from fairseq_erpo.text_rewards import TEXT_REWARDS
from fairseq_erpo.verbs import dashed

BANG_BANG_ALPHA = 1e-4  # Ding & Soricut 2017: a reward weight of 10,000


def resolve(given: Mapping[str, Any], metric: str | None = None) -> Settings:
    """Settings from flag values by name.  None, or a missing flag, stands for the preset's value or
    the flag's default.  `metric` is a key of PAID_BY, for --erpo-reward metric.

    The preset is `given["erpo_preset"]`; without one the defaults of FLAGS hold.  Raises ValueError
    naming the flag.
    """
    value = _Values(given)
    with named("erpo_c"):
        c_reward = InverseTemperature.parse(value("erpo_c"))
    with named("erpo_c_model"):
        experts = ExpertSettings(c_reward, value("erpo_c_model"))
    payoff = value.one_of("erpo_payoff", PAYOFFS)
    teacher, reward = _rewards(value, metric)
    return Settings(
        teacher=teacher,
        reward=reward,
        experts=experts,
        schedule=_schedule(value),
        label_smoothing=value.within("label_smoothing", 0, math.nextafter(1, 0)),
        samples=int(value.within("erpo_samples", 1, 1000)),
        layout=value.one_of("erpo_layout", LAYOUTS),
        targets=value.one_of("erpo_targets", TARGETS),
        baseline=value.one_of("erpo_baseline", BASELINES),
        candidates=value.one_of("erpo_candidates", CANDIDATES),
        alpha=_alpha(value),
        bang_bang=None if value("erpo_bang_bang") is None else value.within("erpo_bang_bang", 0, 1),
        prior=value("erpo_prior"),
        payoff=payoff,
        tau=PAYOFFS[payoff].tau
        if value("erpo_tau") is None
        else value.within("erpo_tau", 1e-6, math.inf),
        samples_file=value("erpo_samples_file"),
        noise=value.one_of("erpo_noise", SCHEMES),
        gamma=value.within("erpo_gamma", 0, 1),
    )


# Python's integers may exceed a float's range; they are clamped before they are formatted
MOST = 10**300
LEAST_ALPHA = 1e-6  # R/α has to stay within float32


def _rewards(value: _Values, metric: str | None) -> tuple[Reward[Any], Reward[Any] | str]:
    """The reward that teaches token by token, and the one that pays the sequence: the same object
    unless they differ.
    """
    paid, taught = value("erpo_reward"), value("erpo_teacher")
    if paid == "metric":
        paid = PAID_BY[metric]
    text = paid in TEXT_REWARDS or ":" in paid
    if taught in ("same", paid):
        # Rows that ask no reward expert show its ΔR in their log only
        if text and taught == "same":
            taught = "edit"
        elif text:
            raise ValueError(
                f"--erpo-teacher {taught} scores whole texts and cannot teach: use --erpo-teacher "
                "edit"
            )
        else:
            return (reward := make_reward(paid)), reward
    return make_reward(taught, "--erpo-teacher"), paid if text else make_reward(paid)


def _schedule(value: _Values) -> Schedule:
    with named("erpo_lambda"):
        *through, end = parse_path(value("erpo_lambda"))
    with named("erpo_anneal_every"):
        every = Duration.parse(value("erpo_anneal_every"))
    with named("erpo_schedule or --erpo-anneal-every"):
        annealer = make_annealer(value("erpo_schedule"), end, every.number, tuple(through))
    with named("erpo_pretrain"):
        pretrain = Duration.parse(value("erpo_pretrain"))
    if every.unit == "share" and value("erpo_schedule") == "inverse_sigmoid":
        raise ValueError(
            f"--erpo-anneal-every {every}: --erpo-schedule inverse_sigmoid counts updates or "
            "epochs; write 4000u"
        )
    return Schedule(annealer, every, pretrain, plateau=value("erpo_schedule") == "plateau")


def _alpha(value: _Values) -> float | None:
    """α > 0; only rows that draw from the product, learn it, or weigh a prior by it have one."""
    if value("erpo_bang_bang") is not None:
        return BANG_BANG_ALPHA
    if value("erpo_alpha") is None:
        return None
    if 0 <= value("erpo_alpha") < LEAST_ALPHA:
        raise ValueError(
            f"--erpo-alpha must be positive, at least {LEAST_ALPHA:g}, and is "
            f"{value('erpo_alpha'):g}"
        )
    return value.within("erpo_alpha", 0, 1 / LEAST_ALPHA)


class _Values:
    """Flag values by name, with their fallbacks and bounds."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        preset = given.get("erpo_preset")
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"--erpo-preset must be {' or '.join(PRESETS)}, not {preset!r}")
        self.preset: Mapping[str, Any] = {} if preset is None else PRESETS[preset]

    def __call__(self, name: str) -> Any:
        typed = self.given.get(name)
        return typed if typed is not None else self.preset.get(name, FLAGS[name].default)

    def one_of(self, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
        value = self(name)
        if value not in known:
            raise ValueError(f"{dashed(name)} must be {' or '.join(known)}, not {value!r}")
        return str(value)

    def within(self, name: str, least: float, most: float) -> float:
        value = min(max(self(name), -MOST), MOST) if isinstance(self(name), int) else self(name)
        if least == 0 and most == math.inf and value < 0:
            raise ValueError(f"{dashed(name)} must not be negative, and is {value:g}")
        if not least <= value <= most:
            raise ValueError(
                f"{dashed(name)} must lie between {least:g} and {most:g}, and is {value:g}"
            )
        return float(value)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the flag's name in front of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{dashed(name)}: {error}") from None
