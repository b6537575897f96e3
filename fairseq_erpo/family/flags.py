"""Flags and presets as data."""

import math
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


# The defaults are the paper's, where it speaks; where it is silent, the help or docs/presets.md
# says so.
FLAGS: Mapping[str, Flag] = {
    "erpo_preset": Flag(
        str,
        "finish",
        "values for the flags left out: finish, corpus, risk (at a small rate), robust or paper",
    ),
    "erpo_pretrain": Flag(
        str, "0e", "MLE before annealing starts: 20e (epochs) or 5000u (updates)"
    ),
    "erpo_reward": Flag(
        str,
        "bleu",
        f"the reward of a sequence: {', '.join(REWARDS)}; of its text: {', '.join(TEXT_REWARDS)}, or module:function, your own",
    ),
    "erpo_teacher": Flag(
        str,
        "same",
        f"the reward whose ΔR the reward expert follows: {', '.join(REWARDS)}, or same, the one of --erpo-reward",
    ),
    "erpo_layout": Flag(
        str,
        "token",
        "where λ's data come: at single tokens (token), as a prefix (prefix), or as y* beside the samples (sentence)",
    ),
    "erpo_c": Flag(
        str,
        "auto:.1",
        "inverse temperature of the reward: a number, inf, or auto:EPS, which leaves EPS to all other words",
    ),
    "erpo_c_model": Flag(float, 1.0, "inverse temperature of the model's own draws"),
    "erpo_schedule": Flag(
        str, "stairs", f"how λ goes from the data to --erpo-lambda: {', '.join(SCHEDULES)}"
    ),
    "erpo_lambda": Flag(
        str,
        "model=3/7,reward=4/7",
        "the mixture at which the schedule ends and is held; with others that it passes before: model=.4,reward=.6:model=1",
    ),
    "erpo_anneal_every": Flag(str, "4e", "period of the schedule: 4e (epochs) or 60u (updates)"),
    "erpo_samples": Flag(int, 1, "sequences drawn for each source, after one encoder pass"),
    "erpo_model_targets": Flag(
        str,
        "keep",
        "what is learnt where the model drew: its token (keep); nothing (drop); what the reward says there (reward); its token,"
        " weighted by the sentence's reward minus --erpo-baseline (policy); the expected reward of the samples (risk)",
    ),
    "erpo_reward_targets": Flag(
        str,
        "hard",
        "what is learnt where the reward drew: its draw (hard); its whole distribution (soft); p exp{ΔR/α} / Z (product)",
    ),
    "erpo_baseline": Flag(
        str, "none", f"subtracted from the reward in policy gradient: {', '.join(BASELINES)}"
    ),
    "erpo_advantage": Flag(
        str,
        "plain",
        "reward minus baseline as it is (plain); divided by the rewards' deviation over the source's samples (group); or centred"
        " and divided by its deviation over the batch (batch)",
    ),
    "erpo_clip": Flag(float, math.inf, "the largest absolute advantage"),
    "erpo_candidates": Flag(
        str,
        "samples",
        "the set that expected risk compares: the model's samples or its beam (beam)",
    ),
    "erpo_sharpness": Flag(
        float,
        1.0,
        "how much expected risk prefers likely candidates: q ∝ exp{sharpness · mean log p}",
    ),
    "erpo_alpha": Flag(float, None, "α of Eq. 1: the pull towards the model, or towards the prior"),
    "label_smoothing": Flag(
        float,
        0.0,
        "epsilon of label smoothing, 0 for none; not of tokens that an advantage weighs or that have soft targets",
    ),
    "erpo_bang_bang": Flag(
        float, None, "probability that the reward's weight is 0; otherwise it is 10,000"
    ),
    "erpo_prior": Flag(str, None, "checkpoint of the frozen prior"),
    "erpo_payoff": Flag(
        str,
        "ngram",
        "neighbours of the data: one n-gram replaced (ngram), or drawn from the Hamming payoff (hamming)",
    ),
    "erpo_tau": Flag(
        float,
        None,
        f"temperature τ of exp{{R/τ}} (default: {', '.join(f'{p.tau:g} for {name}' for name, p in PAYOFFS.items())})",
    ),
    "erpo_samples_file": Flag(
        str, None, "samples drawn beforehand, one a line: index TAB reward TAB tokens"
    ),
    "erpo_noise": Flag(str, "unigram", f"the noising scheme: {', '.join(SCHEMES)}"),
    "erpo_gamma": Flag(float, GAMMA, "how much of the data noising replaces"),
}

# Values for the flags left out, for the rows that have --erpo-preset.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Finishes a model that MLE no longer improves, at a small rate: from data to policy gradient
    # beside the reward's targets.
    "finish": {
        "erpo_reward": "edit",
        "erpo_teacher": "edit",
        "erpo_c": "auto:.001",
        "erpo_lambda": "model=.8,reward=.2",
        "erpo_anneal_every": "20u",
        "erpo_samples": 2,
        "erpo_model_targets": "policy",
        "erpo_reward_targets": "soft",
        "erpo_baseline": "leave_one_out",
    },
    # From the data to the model's own samples alone, which corpus BLEU pays; for summaries ROUGE,
    # by --erpo-reward.
    "corpus": {
        "erpo_reward": "corpus_bleu",
        "erpo_teacher": "edit",
        "erpo_c": "auto:.001",
        "erpo_lambda": "model=1",
        "erpo_anneal_every": "40u",
        "erpo_samples": 3,
        "erpo_model_targets": "policy",
        "erpo_reward_targets": "soft",
        "erpo_baseline": "leave_one_out",
    },
    # The same path to the expected reward over five samples, as in mrt: steadier, and paid for with
    # twice the time of `corpus`.
    "risk": {
        "erpo_reward": "corpus_bleu",
        "erpo_teacher": "edit",
        "erpo_c": "auto:.001",
        "erpo_lambda": "model=1",
        "erpo_anneal_every": "40u",
        "erpo_samples": 5,
        "erpo_model_targets": "risk",
    },
    # From an MLE checkpoint, beside more MLE: a reward that points the way back after a mistake,
    # sharper experts, λ held near the data; no noise from the reward's own draws, and none of the
    # model's mistakes (an early EOS above all) as targets.
    "robust": {
        "erpo_reward": "edit",
        "erpo_teacher": "edit",
        "erpo_c": "auto:.001",
        "erpo_c_model": 2.0,
        "erpo_lambda": "model=.12,reward=.16,data=.72",
        "erpo_model_targets": "drop",
        "erpo_reward_targets": "soft",
    },
    # The paper to the letter. Known to collapse as λ_data goes to 0: one step after a wrong token
    # all reference tokens have the same ΔBLEU, so that the reward goes on in random word order.
    "paper": {},
}
PRESET_FLAGS = frozenset(name for values in PRESETS.values() for name in values)
