"""The rows of the family: each algorithm of the paper as one row of data (sections 3-4)."""

from dataclasses import replace

from fairseq_erpo.algorithm.advantage import Advantage
from fairseq_erpo.algorithm.draw import GOLD, NEIGHBOURS, NOISED, FromExperts
from fairseq_erpo.algorithm.layouts import FALLING_PREFIX, MODEL_ONLY, PRODUCT
from fairseq_erpo.algorithm.risk import Risk
from fairseq_erpo.algorithm.weigh import MIXER_DATA_WEIGHT, as_drawn, by_payoff, by_targets
from fairseq_erpo.family.row import Row, add_row

PRETRAINED = ("label_smoothing", "erpo_pretrain")
INTERPOLATED = (
    "erpo_preset",
    "erpo_reward",
    "erpo_teacher",
    "erpo_layout",
    "erpo_c",
    "erpo_c_model",
    "erpo_schedule",
    "erpo_lambda",
    "erpo_anneal_every",
)
ADVANTAGE = ("erpo_samples", "erpo_baseline")
POLICY = ("erpo_reward", *ADVANTAGE)
MIXER_PERIOD = "5e"  # Ranzato et al. 2016: epochs per step

MLE = Row(
    name="mle",
    page="""Maximum likelihood, Eq. 5: Eq. 2 with R_δ of Eq. 6, α → 0, β = 1.

    Anneals nothing and explores nothing beyond the data. Equal to fairseq's cross_entropy to the
    last bit, and to label_smoothed_cross_entropy with --label-smoothing. Watch the validation
    metric, not the loss. Use it to pretrain every other row, and as the control: MLE continued for
    as many epochs as the other row runs.""",
    draw=GOLD,
    weigh=as_drawn,
    flags=("label_smoothing",),
    defaults={"erpo_schedule": "constant", "erpo_lambda": "data=1"},
)
NOISING = replace(
    MLE,
    name="noising",
    page="""Data noising (Xie et al. 2017), Eq. 7: R_δ relaxed to noised copies g(y*) of the data, α
    → 0, β = 1.

    Anneals nothing. --erpo-noise unigram replaces a token by a draw from the unigram distribution,
    blank by UNK, kneser_ney by a token that follows many others, and more often where the bigram is
    a poor guide. Watch the validation metric as --erpo-gamma grows. Use it as a regulariser when
    data are few.""",
    draw=NOISED,
    flags=(*PRETRAINED, "erpo_noise", "erpo_gamma"),
)
RAML = Row(
    name="raml",
    page="""Reward-augmented maximum likelihood (Norouzi et al. 2016), Eq. 8: q ∝ exp{R/τ}, α → 0, β
    = τ.

    Anneals nothing. --erpo-payoff ngram draws --erpo-samples neighbours of y* by n-gram replacement
    (Ma et al. 2017, A.3.2: 6 for translation, 10 for summarization) and weights them by exp{R/τ}
    among themselves; hamming draws exactly from the Hamming payoff; --erpo-samples-file reads
    samples drawn beforehand. One encoder pass serves all samples of a source. Watch `in_reference`:
    at a large τ the targets are noise. Use it where the reward is close to counting tokens.""",
    draw=NEIGHBOURS,
    weigh=by_payoff,
    flags=(
        *PRETRAINED,
        "erpo_reward",
        "erpo_samples",
        "erpo_tau",
        "erpo_payoff",
        "erpo_samples_file",
    ),
    defaults={"erpo_schedule": "constant", "erpo_lambda": "reward=1", "erpo_samples": 6},
)
PG = Row(
    name="pg",
    page="""Policy gradient (REINFORCE), Eq. 9-11: R = log R_PG, α = 1, β = 0, p_θ as the proposal,
    Z omitted.

    Anneals nothing. Every token the model draws is weighted by the sentence's reward minus a
    baseline (none by default, as Eq. 10 has it). Watch `seq_reward` and its spread: without a
    baseline its variance decides everything; compare `python -m fairseq_erpo variance`. Use
    self_critic instead unless Eq. 10 itself is the question.""",
    draw=FromExperts(MODEL_ONLY),
    weigh=by_targets,
    flags=(*PRETRAINED, *POLICY),
    defaults={
        "erpo_reward": "metric",
        "erpo_schedule": "constant",
        "erpo_lambda": "model=1",
        "erpo_targets": "policy",
    },
)
SPG = Row(
    name="spg",
    page="""Softmax policy gradient (Ding & Soricut 2017), Eq. 4 with β = 0: q ∝ p_θ exp{ΔR/α}.

    Anneals nothing. A draw from the product of model and reward needs no baseline: every token is a
    target of weight 1. --erpo-bang-bang P gives the bang-bang form: the reward's weight is 0 with
    probability P, else very large. Watch `dr_product`: near 0 the reward leads, far below it the
    model does. Use it from a cold start, or to compare with MIXER and the interpolation where no
    data are drawn.""",
    draw=FromExperts(PRODUCT),
    weigh=as_drawn,
    flags=(*PRETRAINED, "erpo_reward", "erpo_alpha", "erpo_bang_bang", "erpo_samples"),
    defaults={"erpo_schedule": "constant", "erpo_lambda": "model=1", "erpo_alpha": 0.02},
)
SELF_CRITIC = replace(
    PG,
    name="self_critic",
    page="""Self-critical sequence training (Rennie et al. 2017): policy gradient whose baseline is
    the reward of the greedy output (--erpo-baseline greedy), or of the other samples of the source
    (leave_one_out with --erpo-samples 2 or more).

    The expected gradient is policy gradient's (Eq. 10), its variance smaller. Anneals nothing. The
    paper found MLE pretraining necessary. Watch `seq_reward`; a small learning rate keeps it from
    falling. Use it to finish a model that is good already.""",
    defaults={**PG.defaults, "erpo_baseline": "greedy"},
)
SEQUENCE_TUTOR = replace(
    SELF_CRITIC,
    name="sequence_tutor",
    page="""Sequence Tutor (Jaques et al. 2017), section 3.1: α > 0, β = 0 with q a parametrised
    model and a frozen MLE model as the prior of Eq. 1's KL term.

    Policy gradient with the reward R - α Σ_t (log p_θ - log p_prior), where a token answers for the
    terms at and behind it. --erpo-prior CHECKPOINT names the prior, usually the checkpoint that
    training starts from. Anneals nothing. Watch `seq_reward` against the validation metric as α
    falls. Use it to raise a reward without leaving the language.""",
    weigh=Advantage(kl_to_prior=True),
    flags=(*SELF_CRITIC.flags, "erpo_alpha", "erpo_prior"),
    defaults={**SELF_CRITIC.defaults, "erpo_alpha": 0.05},
)
MRT = replace(
    PG,
    name="mrt",
    page="""Minimum risk training (Shen et al. 2016; Edunov et al. 2018): the expected reward over a
    set of candidates is raised, Σ_k q_k R_k with q ∝ exp{mean log p} among the set.

    Policy gradient (Eq. 10) on the model renormalised over the set. Anneals nothing.
    --erpo-candidates beam compares the model's best outputs instead of its samples. interp
    --erpo-preset risk reaches the same from the data. Watch `seq_reward` and the validation metric.
    Use it to finish a model that is good already.""",
    weigh=Risk(),
    flags=(*PRETRAINED, "erpo_reward", "erpo_samples", "erpo_candidates"),
    defaults={**PG.defaults, "erpo_targets": "risk", "erpo_samples": 5},
)
MIXER = replace(
    PG,
    name="mixer",
    page="""MIXER (Ranzato et al. 2016), A.1: the first m tokens are data under MLE, the rest policy
    gradient with a learned baseline; m falls by 3 every --erpo-anneal-every, from the whole
    sentence.

    The reward comes at the end; the baseline is one linear function of the decoder's features for
    each time step, fitted to the reward with weight .01, without gradient into the network; the MLE
    part weighs .5. The learned baseline needs --task erpo_translation. Departs from the paper,
    which puts MIXER's second part at λ = (.5, .5, 0) with c = 2 (A.1): here it is Ranzato et al.'s
    policy gradient. Watch `clipped` and `seq_reward` as m falls. Use it as the paper's closest
    rival.""",
    draw=FromExperts(FALLING_PREFIX),
    weigh=Advantage(data_weight=MIXER_DATA_WEIGHT),
    flags=(*PG.flags, "erpo_anneal_every"),
    defaults={**PG.defaults, "erpo_baseline": "learned", "erpo_anneal_every": MIXER_PERIOD},
)
INTERP = Row(
    name="interp",
    page="""The interpolation algorithm: section 4, Algorithm 1. Each token of each sentence comes
    from the model, the task reward or the data, as λ says; λ is annealed from data to reward and
    model (A.3.2).

    In the paper every drawn token is a target of weight 1, the model's own too. --erpo-targets
    reward takes variance away without changing the expected gradient at c_model = 1. policy weights
    the model's own token by its advantage, as Eq. 10 does: with model=1 this is policy gradient,
    and self-critic with its baseline. risk raises the expected reward of the samples, as mrt does.

    Use it on a model that MLE no longer improves, at a small rate; the preset corpus takes half the
    time of risk. Watch the validation metric at each step of the schedule, `seq_reward` and
    `clipped`: --erpo-preset paper, the algorithm to the letter, collapses as λ_data goes to 0.""",
    draw=FromExperts(),
    weigh=by_targets,
    flags=(*PRETRAINED, *INTERPOLATED, "erpo_targets", *ADVANTAGE),
    defaults={},
)
MIXER_ALIKE = replace(
    INTERP,
    name="mixer_alike",
    page="""MIXER-alike annealing (section 5.1): the interpolation algorithm with MIXER's layout.
    The first round(λ_data r) tokens are data, the rest comes from model and reward in the
    schedule's proportion, 3 : 4 in the paper.

    Targets, weights and λ are those of interp, preset by preset; with --erpo-preset paper every
    drawn token is a target of weight 1. Watch the same figures. Use it to see what drawing each
    token on its own adds.""",
    defaults={"erpo_layout": "prefix"},
)
SCHEDULED_SAMPLING = Row(
    name="scheduled_sampling",
    page="""Scheduled sampling (Bengio et al. 2015): the model's own tokens are inputs, the data
    stay the targets, so that it lies outside the space (A.3.2).

    The model's share ε = 1 - k/(k + exp(i/k)) grows with the updates i since annealing began; k is
    --erpo-anneal-every (A.3.2: 4000u for translation, 600u for summarization). Departs from the
    paper, whose letter has k/(k + exp(i/k)) for it: that is the data's share, as Bengio et al. have
    it. Watch the validation metric as λ_model passes one half. Use it as the classic answer to
    exposure bias.""",
    draw=FromExperts(as_inputs=True),
    weigh=as_drawn,
    flags=(*PRETRAINED, "erpo_anneal_every", "erpo_schedule"),
    defaults={
        "erpo_schedule": "inverse_sigmoid",
        "erpo_lambda": "model=1",
        "erpo_anneal_every": "4000u",
    },
)

# From restricted to broad exploration, as in Figure 1; the row outside the space comes last.
for row in (
    MLE,
    NOISING,
    RAML,
    INTERP,
    MIXER_ALIKE,
    MIXER,
    SPG,
    MRT,
    SELF_CRITIC,
    PG,
    SEQUENCE_TUTOR,
    SCHEDULED_SAMPLING,
):
    add_row(row)
