"""The family: each algorithm of the paper is one row of data (sections 3-4), run by one engine.

loss = - Σ_t w_t log p_θ(target_t | inputs_<t), always. A row says how sequences are drawn and how their tokens are weighted,
and nothing else; `engine.py` does both.  Adding an algorithm is adding a row:

    register(add(replace(                       # criterions.register, family.add
        INTERP,
        name="half_model",
        page="Half of all tokens from the model, half from the reward, from the first update on.",
        point="(.5, .5, 0)",
        flags=("erpo_reward", "erpo_ties", "erpo_c"),
        defaults={"erpo_schedule": "constant", "erpo_lambda": "model=.5,task=.5"},
    )))

in the `__init__.py` of a folder of yours, which then is the --user-dir: `fairseq-train ... --criterion erpo_half_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairseq_erpo import engine
from fairseq_erpo.engine import Batch, Drawn, FromExperts
from fairseq_erpo.settings import FLAGS

PRETRAINED = ("label_smoothing", "erpo_pretrain_epochs", "erpo_pretrain_updates", "erpo_anneal_unit")
INTERPOLATED = (
    "erpo_preset",
    "erpo_reward",
    "erpo_ties",
    "erpo_c",
    "erpo_c_model",
    "erpo_schedule",
    "erpo_lambda",
    "erpo_anneal_every",
)
TARGETS = ("erpo_samples", "erpo_sampler", "erpo_model_targets", "erpo_baseline", "erpo_task_targets", "erpo_alpha")
# What the presets say of targets is meant for the interpolation and its like.
PLAIN = {"erpo_model_targets": "keep", "erpo_task_targets": "hard"}
SCORED = ("erpo_reward", "erpo_samples", "erpo_baseline", "erpo_sampler")


@dataclass(frozen=True)
class Row:
    """An algorithm as a point of the space: its reward R and weights (α, β), and how its targets are drawn."""

    name: str
    page: str  # paper, equation, what is annealed, what to watch, when to use it
    reward: str  # R of Eq. 2
    alpha: str
    beta: str
    point: str  # (λ_model, λ_task, λ_delta) that tokens are drawn from
    layout: str  # where in the sentence each expert draws
    draw: Callable[[Batch], Drawn | None]
    weigh: Callable[[Batch, Drawn], Drawn]
    flags: tuple[str, ...]  # keys of FLAGS that mean something here
    defaults: Mapping[str, Any]

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.flags, *self.defaults) if name not in FLAGS]
        if unknown:
            raise ValueError(f"row {self.name}: no such flag: {', '.join(unknown)}")
        if not self.name.isidentifier() or not self.page.strip():
            raise ValueError(f"row {self.name!r} needs an identifier as its name, and a page")


FAMILY: dict[str, Row] = {}


def add(row: Row) -> Row:
    """Enter a row in the table.  Raises ValueError if another row has its name."""
    if FAMILY.setdefault(row.name, row) != row:
        raise ValueError(f"the family has a row {row.name!r} already")
    return row


MLE = Row(
    name="mle",
    page="""Maximum likelihood, Eq. 5: Eq. 2 with R_δ of Eq. 6, α → 0, β = 1.

    Anneals nothing and explores nothing beyond the data. Equal to fairseq's cross_entropy to the last bit, and to
    label_smoothed_cross_entropy with --label-smoothing. Watch the validation metric, not the loss.
    Use it to pretrain every other row, and as the control: MLE continued for as many epochs as the other row runs.""",
    reward="R_δ",
    alpha="→ 0",
    beta="1",
    point="(0, 0, 1)",
    layout="-",
    draw=engine.gold,
    weigh=engine.as_drawn,
    flags=("label_smoothing",),
    defaults={**PLAIN, "erpo_schedule": "constant", "erpo_lambda": "delta=1", "erpo_reward": "bleu"},
)
NOISING = replace(
    MLE,
    name="noising",
    page="""Data noising (Xie et al. 2017), Eq. 7: R_δ relaxed to noised copies g(y*) of the data, α → 0, β = 1.

    Anneals nothing. --erpo-noise unigram replaces a token by a draw from the unigram distribution, blank by UNK,
    kneser_ney by a token that follows many others, and more often where the bigram is a poor guide. Watch the
    validation metric as --erpo-gamma grows. Use it as a regulariser when data are few.""",
    reward="R_δ at g(y*)",
    point="(0, 0, 1) on g(y*)",
    draw=engine.noised,
    flags=(*PRETRAINED, "erpo_reward", "erpo_noise", "erpo_gamma"),
)
RAML = Row(
    name="raml",
    page="""Reward-augmented maximum likelihood (Norouzi et al. 2016), Eq. 8: q ∝ exp{R/τ}, α → 0, β = τ.

    Anneals nothing. --erpo-payoff ngram draws --erpo-samples neighbours of y* by n-gram replacement (Ma et al. 2017,
    A.3.2: 6 for translation, 10 for summarization) and weights them by exp{R/τ} among themselves; hamming draws exactly
    from the Hamming payoff; --erpo-samples-file reads samples drawn before. One encoder pass serves all samples of a
    source. Watch `in_reference`: at a large τ the targets are noise. Use it where the reward is close to counting tokens.""",
    reward="task",
    alpha="→ 0",
    beta="τ",
    point="(0, 1, 0), c = 1/τ",
    layout="whole sequences",
    draw=engine.replaced,
    weigh=engine.by_payoff,
    flags=(*PRETRAINED, "erpo_reward", "erpo_samples", "erpo_tau", "erpo_payoff", "erpo_samples_file"),
    defaults={**PLAIN, "erpo_schedule": "constant", "erpo_lambda": "task=1", "erpo_reward": "bleu", "erpo_samples": 6},
)
PG = Row(
    name="pg",
    page="""Policy gradient (REINFORCE), Eq. 9-11: R = log R_PG, α = 1, β = 0, p_θ as the proposal, Z omitted.

    Anneals nothing. Every token the model draws is weighted by the sentence's reward minus a baseline (none by default,
    as Eq. 10 has it). Watch `seq_reward` and its spread: without a baseline the variance is the whole story; compare
    `python -m fairseq_erpo variance`. Use self_critic instead unless Eq. 10 itself is the question.""",
    reward="log R_PG",
    alpha="1",
    beta="0",
    point="(1, 0, 0) as proposal",
    layout="every token",
    draw=FromExperts(),
    weigh=engine.Advantage(),
    flags=(*PRETRAINED, *SCORED),
    defaults={
        **PLAIN,
        "erpo_model_targets": "policy",
        "erpo_schedule": "constant",
        "erpo_lambda": "model=1",
        "erpo_reward": "bleu",
        "erpo_c_model": 1.0,
    },
)
SPG = replace(
    PG,
    name="spg",
    page="""Softmax policy gradient (Ding & Soricut 2017), Eq. 4 with β = 0: q ∝ p_θ exp{ΔR/α}.

    Anneals nothing. A draw from the product of model and reward needs no baseline: every token is a target of weight 1.
    --erpo-bang-bang P gives the bang-bang form: the reward's weight is 0 with probability P, else very large. Watch
    `dr_product`: near 0 the reward leads, far below it the model does. Use it from a cold start, or as MIXER's and the
    interpolation's neighbour without data.""",
    reward="task",
    alpha="α",
    point="p · exp{ΔR/α}",
    draw=FromExperts(engine.product),
    weigh=engine.as_drawn,
    flags=(*PRETRAINED, "erpo_reward", "erpo_alpha", "erpo_bang_bang", "erpo_samples", "erpo_sampler"),
    defaults={**PG.defaults, **PLAIN, "erpo_alpha": 0.02},
)
SELF_CRITIC = replace(
    PG,
    name="self_critic",
    page="""Self-critical sequence training (Rennie et al. 2017): policy gradient whose baseline is the reward of the greedy
    output (--erpo-baseline greedy), or of the other samples of the source (leave_one_out with --erpo-samples 2 or more).

    The expected gradient is policy gradient's (Eq. 10), its variance smaller. Anneals nothing. The paper found MLE
    pretraining necessary. Watch `seq_reward`; a small learning rate keeps it from falling. Use it to finish a
    model that is good already.""",
    defaults={**PG.defaults, "erpo_baseline": "greedy"},
)
SEQUENCE_TUTOR = replace(
    SELF_CRITIC,
    name="sequence_tutor",
    page="""Sequence Tutor (Jaques et al. 2017), section 3.1: α > 0, β = 0 with q a parametrised model and a frozen MLE model
    as the prior of Eq. 1's KL term.

    Policy gradient with the reward R - α Σ_t (log p_θ - log p_prior), each token seeing what lies at and behind it.
    --erpo-prior CHECKPOINT names the prior, usually the checkpoint that training starts from. Anneals nothing. Watch
    `seq_reward` against the validation metric as α falls. Use it to raise a reward without leaving the language.""",
    reward="task",
    alpha="α",
    weigh=engine.Advantage(kl_to_prior=True),
    flags=(*SELF_CRITIC.flags, "erpo_alpha", "erpo_prior"),
    defaults={**SELF_CRITIC.defaults, "erpo_alpha": 0.05},
)
MIXER = replace(
    PG,
    name="mixer",
    page="""MIXER (Ranzato et al. 2016), A.1: the first m tokens are data under MLE, the rest policy gradient with a learned
    baseline; m falls by 3 each --erpo-anneal-every epochs, from the whole sentence.

    The reward comes at the end; the baseline is one linear function of the decoder's features for each time step,
    fitted to the reward with weight .01, without gradient into the network; the MLE part weighs .5. The learned baseline
    needs --task erpo_translation. Watch `clipped` and `seq_reward` as m falls. Use it as the paper's closest rival.""",
    reward="R_δ, then log R_PG",
    alpha="0, then 1",
    beta="1, then 0",
    point="(0, 0, 1), then (1, 0, 0)",
    layout="prefix, m = T - 3k",
    draw=FromExperts(engine.falling_prefix),
    weigh=engine.Advantage(data_weight=engine.MIXER_DATA_WEIGHT),
    flags=(*PG.flags, "erpo_anneal_every"),
    defaults={**PG.defaults, "erpo_baseline": "learned", "erpo_anneal_every": engine.MIXER_EPOCHS},
)
INTERP = Row(
    name="interp",
    page="""The interpolation algorithm: section 4, Algorithm 1. Each token of each sentence comes from the model, the task
    reward or the data, as λ says; λ is annealed from data to reward and model (A.3.2).

    In the paper every drawn token is a target of weight 1, the model's own too. --erpo-model-targets drop and
    --erpo-task-targets soft take variance away without changing the expected gradient at c_model = 1. --erpo-task-targets
    product learns Eq. 4's p exp{ΔR/α} / Z instead, from likelihood at a small --erpo-alpha towards policy gradient at a large
    one; --erpo-model-targets task lets the reward say what should have come where the model drew, and policy weights the
    model's own token by its advantage, as Eq. 10 does: with model=1 this is policy gradient, and self-critic with its baseline.

    Watch the validation metric at each step of the schedule, `seq_reward` and `clipped`: the letter of the algorithm
    (--erpo-preset paper) falls as λ_delta goes to 0. Use it on a model pretrained by MLE.""",
    reward="R_δ → task",
    alpha="annealed",
    beta="annealed",
    point="(λ_model, λ_task, λ_delta)",
    layout="scattered",
    draw=FromExperts(),
    weigh=engine.as_drawn,
    flags=(*PRETRAINED, *INTERPOLATED, *TARGETS, "erpo_z"),
    defaults={},
)
MIXER_ALIKE = replace(
    INTERP,
    name="mixer_alike",
    page="""MIXER-alike annealing (section 5.1): the interpolation algorithm with MIXER's layout. The first round(λ_delta r)
    tokens are data, the rest comes from model and task reward in the schedule's proportion, 3 : 4 in the paper.

    Every drawn token is a target of weight 1. λ is annealed as in interp. Watch the same figures. Use it to see what
    the scattered layout of interp adds.""",
    point="(0, 0, 1), then (λ_model, λ_task, 0)",
    layout="prefix, m = round(λ_delta r)",
    draw=FromExperts(engine.prefix),
    flags=(*PRETRAINED, *INTERPOLATED, *TARGETS),
)
SCHEDULED_SAMPLING = replace(
    INTERP,
    name="scheduled_sampling",
    page="""Scheduled sampling (Bengio et al. 2015): the model's own tokens are inputs, the data stay the targets, so that
    it lies outside the space (A.3.2).

    The model's share ε = 1 - k/(k + exp(i/k)) grows with the updates i since annealing began; k is --erpo-anneal-every
    (A.3.2: 4000 for translation, 600 for summarization). Watch the validation metric as λ_model passes one half. Use it
    as the classic answer to exposure bias.""",
    reward="-",
    alpha="-",
    beta="-",
    point="(ε, 0, 1 - ε), gold targets",
    draw=FromExperts(as_inputs=True),
    flags=(*PRETRAINED, "erpo_anneal_every", "erpo_schedule", "erpo_sampler"),
    defaults={
        **PG.defaults,
        **PLAIN,
        "erpo_schedule": "inverse_sigmoid",
        "erpo_anneal_unit": "update",
        "erpo_anneal_every": 4000.0,
    },
)

# From restricted to broad exploration, as Figure 1 has them; what lies outside of it comes last.
for row in (
    MLE,
    NOISING,
    RAML,
    INTERP,
    MIXER_ALIKE,
    MIXER,
    SPG,
    SELF_CRITIC,
    PG,
    SEQUENCE_TUTOR,
    SCHEDULED_SAMPLING,
):
    add(row)
