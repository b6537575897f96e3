"""Flags and presets as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.neighbours import PAYOFFS
from fairseq_erpo.algorithm.noising import GAMMA, SCHEMES
from fairseq_erpo.annealers import SCHEDULES
from fairseq_erpo.rewards import REWARDS
from fairseq_erpo.text_rewards import TEXT_REWARDS


@dataclass(frozen=True)
class Flag:
    """One command-line flag of a criterion."""

    type: type
    default: Any
    help: str


# What `metric` stands for, by the flag --eval-NAME that the run validates with.
PAID_BY: Mapping[str | None, str] = {"rouge": "rouge", "bleu": "corpus_bleu", None: "bleu"}


def metric_of(bleu: bool, rouge: bool, best: str) -> str | None:
    """What a run validates by, a key of PAID_BY; of both --eval flags the one that chooses the best
    checkpoint.
    """
    if bleu and rouge:
        return "bleu" if best == "bleu" else "rouge"
    return "rouge" if rouge else "bleu" if bleu else None


# From the data to the model's own samples in the first quarter of the run; the first of four steps
# comes at once.
_TO_THE_MODEL = {
    "erpo_reward": "metric",
    "erpo_teacher": "edit",
    "erpo_c": "auto:.001",
    "erpo_lambda": "model=1",
    "erpo_anneal_every": "8%",
}
# Values for the flags left out, for the rows that have --erpo-preset; the first is the default.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Finishes a model that MLE no longer improves, at a small rate: from the data to the expected
    # reward over the model's own samples.
    "risk": {**_TO_THE_MODEL, "erpo_samples": 5, "erpo_targets": "risk"},
    # The same path to policy gradient over three samples, in half the time.
    "corpus": {
        **_TO_THE_MODEL,
        "erpo_samples": 3,
        "erpo_targets": "policy",
        "erpo_baseline": "leave_one_out",
    },
    # From scratch or at MLE's rate: a reward that points the way back after a mistake, sharper
    # experts, λ held near the data; no noise from the reward's own draws, and none of the model's
    # mistakes (an early EOS above all) as targets.
    "robust": {
        "erpo_reward": "edit",
        "erpo_teacher": "edit",
        "erpo_c": "auto:.001",
        "erpo_c_model": 2.0,
        "erpo_lambda": "model=.12,reward=.16,data=.72",
        "erpo_targets": "reward",
    },
    # The paper to the letter. Known to collapse as λ_data goes to 0: one step after a wrong token
    # all reference tokens have the same ΔBLEU, so that the reward goes on in random word order.
    "paper": {},
}
TAUS = ", ".join(f"{payoff.tau:g} for {name}" for name, payoff in PAYOFFS.items())

# The defaults are the paper's, where it speaks; where it is silent, the help says so.
FLAGS: Mapping[str, Flag] = {
    "erpo_preset": Flag(str, "risk", f"values for the flags left out: {', '.join(PRESETS)}"),
    "erpo_pretrain": Flag(
        str, "0e", "MLE before annealing starts: 20e (epochs) or 5000u (updates)"
    ),
    "erpo_reward": Flag(
        str,
        "bleu",
        "the reward of a sequence: metric, the one that the run validates by (--eval-rouge: rouge; "
        "--eval-bleu: corpus_bleu; neither: bleu); or "
        f"{', '.join(REWARDS)}; of its text: {', '.join(TEXT_REWARDS)}, or module:function, yours",
    ),
    "erpo_teacher": Flag(
        str,
        "same",
        f"the reward whose ΔR the reward expert follows: {', '.join(REWARDS)}, or same, the one "
        "of --erpo-reward",
    ),
    "erpo_layout": Flag(
        str,
        "token",
        "where λ's data come: at single tokens (token), as a prefix (prefix), or as y* beside the "
        "samples (sentence)",
    ),
    "erpo_c": Flag(
        str,
        "auto:.1",
        "inverse temperature of the reward: a number, inf, or auto:EPS, which leaves EPS to all "
        "other words",
    ),
    "erpo_c_model": Flag(float, 1.0, "inverse temperature of the model's own draws"),
    "erpo_schedule": Flag(
        str, "stairs", f"how λ goes from the data to --erpo-lambda: {', '.join(SCHEDULES)}"
    ),
    "erpo_lambda": Flag(
        str,
        "model=3/7,reward=4/7",
        "the mixture at which the schedule ends and is held; with others that it passes before: "
        "model=.4,reward=.6:model=1",
    ),
    "erpo_anneal_every": Flag(
        str, "4e", "period of the schedule: 8% (of the run), 4e (epochs) or 60u (updates)"
    ),
    "erpo_samples": Flag(int, 1, "sequences drawn for each source, after one encoder pass"),
    "erpo_targets": Flag(
        str,
        "drawn",
        "what is learnt: each drawn token, the model's own too (drawn); the whole distribution of "
        "the reward where it drew, and where the model did, nothing (reward) or its token weighted "
        "by the sentence's reward minus --erpo-baseline (policy); the expected reward of the "
        "samples (risk)",
    ),
    "erpo_baseline": Flag(
        str, "none", f"subtracted from the reward in policy gradient: {', '.join(BASELINES)}"
    ),
    "erpo_candidates": Flag(
        str,
        "samples",
        "the set that expected risk compares: the model's samples or its beam (beam)",
    ),
    "erpo_alpha": Flag(float, None, "α of Eq. 1: the pull towards the model, or towards the prior"),
    "label_smoothing": Flag(
        float,
        0.0,
        "epsilon of label smoothing, 0 for none; not of tokens that an advantage weighs or that "
        "have soft targets",
    ),
    "erpo_bang_bang": Flag(
        float, None, "probability that the reward's weight is 0; otherwise it is 10,000"
    ),
    "erpo_prior": Flag(str, None, "checkpoint of the frozen prior"),
    "erpo_payoff": Flag(
        str,
        "ngram",
        "neighbours of the data: one n-gram replaced (ngram), or drawn from the Hamming payoff "
        "(hamming)",
    ),
    "erpo_tau": Flag(float, None, f"temperature τ of exp{{R/τ}} (default: {TAUS})"),
    "erpo_samples_file": Flag(
        str, None, "samples drawn beforehand, one a line: index TAB reward TAB tokens"
    ),
    "erpo_noise": Flag(str, "unigram", f"the noising scheme: {', '.join(SCHEMES)}"),
    "erpo_gamma": Flag(float, GAMMA, "how much of the data noising replaces"),
}
PRESET_FLAGS = frozenset(name for values in PRESETS.values() for name in values)
