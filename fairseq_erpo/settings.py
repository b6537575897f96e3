"""Flags and presets as plain values; a wrong one is refused here, by the flag's name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from fairseq_erpo.annealers import Annealer, make_annealer
from fairseq_erpo.estep import Experts, InverseTemperature
from fairseq_erpo.mixture import MLE, Mixture
from fairseq_erpo.noising import SCHEMES
from fairseq_erpo.rewards import make_reward
from fairseq_erpo.rewards.base import Reward

# `paper` is the letter of the paper where it speaks, with section 3's answers where it is silent. It is known to collapse as
# the data's share goes to zero: one step after any miss all reference tokens have the same ΔBLEU. `robust` is what validation
# supported: a reward that points at the way back, sharper experts, λ held at the schedule's first step; and what the reward
# teaches without the noise of its own draws, and without the model's mistakes (an early EOS above all) as targets.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "erpo_reward": "bleu",
        "erpo_ties": "uniform",
        "erpo_c": "auto:.1",
        "erpo_c_model": 1.0,
        "erpo_schedule": "stairs",
        "erpo_lambda": "model=3/7,task=4/7,delta=0",
        "erpo_anneal_every": 4,
        "erpo_model_targets": "keep",
        "erpo_task_targets": "hard",
    },
    "robust": {
        "erpo_reward": "edit",
        "erpo_ties": "uniform",
        "erpo_c": "auto:.001",
        "erpo_c_model": 2.0,
        "erpo_schedule": "stairs",
        "erpo_lambda": "model=.12,task=.16,delta=.72",
        "erpo_anneal_every": 4,
        "erpo_model_targets": "drop",
        "erpo_task_targets": "soft",
    },
}
BASELINES = ("none", "greedy", "leave_one_out", "learned")
# How RAML's neighbours are drawn, and the temperature that suits: Ma et al. 2017, and Norouzi et al. 2016's best. With .4 the
# Hamming payoff would leave practically every sentence as it is.
PAYOFFS: Mapping[str, float] = {"ngram": 0.4, "hamming": 0.85}
BANG_BANG_ALPHA = 1e-4  # Ding & Soricut 2017: a reward weight of 10,000
SAMPLERS = ("auto", "cached", "parallel")
UNITS = ("epoch", "update")
Z = ("token", "batch")
MODEL_TARGETS = ("keep", "drop", "task", "policy")
TASK_TARGETS = ("hard", "soft", "product")


@dataclass(frozen=True)
class Flag:
    """One command-line flag of a criterion."""

    type: Any
    default: Any
    help: str


def _preset_help(name: str) -> str:
    return ", ".join(f"{preset}: {values[name]}" for preset, values in PRESETS.items())


FLAGS: Mapping[str, Flag] = {
    "label_smoothing": Flag(float, 0.0, "epsilon of label smoothing, 0 for none"),
    "erpo_preset": Flag(str, "robust", f"values for the flags left out: {' or '.join(PRESETS)}"),
    "erpo_reward": Flag(Optional[str], None, f"task reward ({_preset_help('erpo_reward')})"),
    "erpo_ties": Flag(
        Optional[str], None, f"how best reward tokens share: uniform, position or model ({_preset_help('erpo_ties')})"
    ),
    "erpo_c": Flag(
        Optional[str], None, f"inverse temperature of the reward: a number, inf, or auto:EPS ({_preset_help('erpo_c')})"
    ),
    "erpo_c_model": Flag(Optional[float], None, f"inverse temperature of the model ({_preset_help('erpo_c_model')})"),
    "erpo_schedule": Flag(
        Optional[str],
        None,
        f"stairs, linear, constant, inverse_sigmoid or plateau ({_preset_help('erpo_schedule')})",
    ),
    "erpo_lambda": Flag(Optional[str], None, f"the point where the schedule ends and is held ({_preset_help('erpo_lambda')})"),
    "erpo_anneal_every": Flag(
        Optional[float], None, f"period of the schedule in --erpo-anneal-unit ({_preset_help('erpo_anneal_every')})"
    ),
    "erpo_anneal_unit": Flag(str, "epoch", "epoch or update"),
    "erpo_pretrain_epochs": Flag(int, 0, "epochs of MLE before annealing starts (--erpo-anneal-unit epoch)"),
    "erpo_pretrain_updates": Flag(int, 0, "updates of MLE before annealing starts (--erpo-anneal-unit update)"),
    "erpo_samples": Flag(int, 1, "sequences drawn for each source, after one encoder pass"),
    "erpo_model_targets": Flag(
        Optional[str],
        None,
        "what is learnt where the model drew: keep its token; drop it; policy, the token weighted by the sentence's reward minus"
        " --erpo-baseline; or task, what is learnt where the reward drew"
        f" ({_preset_help('erpo_model_targets')})",
    ),
    "erpo_task_targets": Flag(
        Optional[str],
        None,
        "what is learnt where the reward drew: its draw, hard; its whole distribution, soft; or p exp{ΔR/α} / Z, product"
        f" ({_preset_help('erpo_task_targets')})",
    ),
    "erpo_baseline": Flag(str, "none", "subtracted from the reward: none, greedy, leave_one_out or learned"),
    "erpo_alpha": Flag(Optional[float], None, "α of Eq. 1: the pull towards the model, or towards the prior"),
    "erpo_bang_bang": Flag(Optional[float], None, "probability that the reward's weight is 0; otherwise it is 10,000"),
    "erpo_prior": Flag(Optional[str], None, "checkpoint of the frozen prior"),
    "erpo_tau": Flag(Optional[float], None, "temperature τ of exp{R/τ} (ngram: .4, hamming: .85)"),
    "erpo_payoff": Flag(str, "ngram", "ngram: replace one n-gram, weight by the reward; hamming: draw from the Hamming payoff"),
    "erpo_samples_file": Flag(Optional[str], None, "file of samples drawn before: index TAB reward TAB tokens, one a line"),
    "erpo_noise": Flag(str, "unigram", "unigram, blank or kneser_ney"),
    "erpo_gamma": Flag(float, 0.2, "how much of the data noising replaces"),
    "erpo_sampler": Flag(str, "auto", "cached: step by step; parallel: whole passes to a fixed point, same tokens; auto"),
    "erpo_z": Flag(
        str, "token", "token: an expert for each token of each sentence; batch: the older code's one a step, gold first"
    ),
}


@dataclass(frozen=True)
class Settings:
    """A row's flags, resolved: what the user typed, else the row's own default, else the preset's."""

    reward: Reward[Any]
    experts: Experts
    annealer: Annealer
    every: float
    plateau: bool
    unit: str
    pretrain: int
    label_smoothing: float
    shared_z: bool
    sampler: str
    samples: int
    model_targets: str
    task_targets: str
    baseline: str
    alpha: float | None
    bang_bang: float | None
    prior: str | None
    tau: float
    payoff: str
    samples_file: str | None
    noise: str
    gamma: float

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From flag values by name; None or a missing flag falls back to the preset.  Raises ValueError naming the flag."""
        value = _Values(given)
        with flagged("erpo_c"):
            c_task = InverseTemperature.parse(value("erpo_c"))
        bang_bang = value("erpo_bang_bang")
        # Only rows that have an α draw from the product or learn it, or weigh the prior by it.
        alpha = None if value("erpo_alpha") is None else value.within("erpo_alpha", 0, math.inf)
        if alpha == 0:
            raise ValueError("--erpo-alpha must be positive")
        if bang_bang is not None:
            alpha = BANG_BANG_ALPHA
        with flagged("erpo_ties or --erpo-c-model"):
            experts = Experts(c_task, value("erpo_c_model"), value("erpo_ties"))
        payoff = value.one_of("erpo_payoff", tuple(PAYOFFS))
        with flagged("erpo_lambda"):
            end = Mixture.parse(value("erpo_lambda"))
        with flagged("erpo_schedule or --erpo-anneal-every"):
            annealer = make_annealer(value("erpo_schedule"), end, value("erpo_anneal_every"))
        unit = value.one_of("erpo_anneal_unit", UNITS)
        other = f"erpo_pretrain_{'update' if unit == 'epoch' else 'epoch'}s"
        if value(other):
            raise ValueError(f"--{_dashed(other)} does not go with --erpo-anneal-unit {unit}; use --erpo-pretrain-{unit}s")
        return cls(
            reward=make_reward(value("erpo_reward")),
            experts=experts,
            annealer=annealer,
            every=value("erpo_anneal_every"),
            plateau=value("erpo_schedule") == "plateau",
            unit=unit,
            pretrain=int(value.within(f"erpo_pretrain_{unit}s", 0, math.inf)),
            label_smoothing=value.within("label_smoothing", 0, math.nextafter(1, 0)),
            shared_z=value.one_of("erpo_z", Z) == "batch",
            sampler=value.one_of("erpo_sampler", SAMPLERS),
            samples=int(value.within("erpo_samples", 1, 1000)),
            model_targets=value.one_of("erpo_model_targets", MODEL_TARGETS),
            task_targets=value.one_of("erpo_task_targets", TASK_TARGETS),
            baseline=value.one_of("erpo_baseline", BASELINES),
            alpha=alpha,
            bang_bang=None if bang_bang is None else value.within("erpo_bang_bang", 0, 1),
            prior=value("erpo_prior"),
            tau=PAYOFFS[payoff] if value("erpo_tau") is None else value.within("erpo_tau", 1e-6, math.inf),
            payoff=payoff,
            samples_file=value("erpo_samples_file"),
            noise=value.one_of("erpo_noise", tuple(SCHEMES)),
            gamma=value.within("erpo_gamma", 0, 1),
        )

    def __post_init__(self) -> None:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError("--erpo-baseline leave_one_out needs --erpo-samples 2 or more")
        if self.baseline != "none" and self.model_targets != "policy":
            raise ValueError(f"--erpo-baseline {self.baseline} needs --erpo-model-targets policy")
        if self.model_targets == "task" and self.task_targets == "hard":
            raise ValueError("--erpo-model-targets task needs --erpo-task-targets soft or product")
        if self.task_targets == "product" and self.alpha is None:
            raise ValueError("--erpo-task-targets product needs --erpo-alpha")

    @property
    def parallel(self) -> bool:
        """Whether whole passes ask the model.

        `auto` asks step by step: faster on a CPU (measured), and fewer kernels on any device (counted: docs/scaling.md).
        """
        return self.sampler == "parallel"

    def elapsed(self, epoch: int, update: int, falls: int) -> float | None:
        """Time since annealing began, None before: a pure function of epoch (from 1), update (from 0) and validations."""
        elapsed = (epoch - 1 if self.unit == "epoch" else update) - self.pretrain
        if elapsed < 0:
            return None
        return falls if self.plateau else elapsed

    def mixture(self, epoch: int, update: int, falls: int) -> Mixture:
        """λ at that time."""
        elapsed = self.elapsed(epoch, update, falls)
        return MLE if elapsed is None else self.annealer(elapsed)

    def stage(self, epoch: int, update: int, falls: int) -> int:
        """How many steps of the schedule were taken, 1 with the first."""
        elapsed = self.elapsed(epoch, update, falls)
        return 0 if elapsed is None else 1 + int(elapsed if self.plateau else elapsed / self.every)


class _Values:
    """Flag values by name, with their fallbacks and bounds."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        preset = given.get("erpo_preset") or "robust"
        if preset not in PRESETS:
            raise ValueError(f"--erpo-preset must be {' or '.join(PRESETS)}, not {preset!r}")
        self.preset = PRESETS[preset]

    def __call__(self, name: str) -> Any:
        typed = self.given.get(name)
        return typed if typed is not None else self.preset.get(name, FLAGS[name].default)

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        if self(name) not in known:
            raise ValueError(f"--{_dashed(name)} must be {' or '.join(known)}, not {self(name)!r}")
        return str(self(name))

    def within(self, name: str, least: float, most: float) -> float:
        value = self(name)
        if least == 0 and most == math.inf and value < 0:
            raise ValueError(f"--{_dashed(name)} must not be negative, and is {value:g}")
        if not least <= value <= most:
            raise ValueError(f"--{_dashed(name)} must lie between {least:g} and {most:g}, and is {value:g}")
        return float(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class flagged:
    """Puts the flag's name in front of a ValueError."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"--{_dashed(self.name)}: {error}") from None
