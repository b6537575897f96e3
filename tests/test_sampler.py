"""Algorithm 1 against exact enumeration, at its corners, and against itself under batching and
padding.
"""

import math

import pytest
import torch
from dense import dense_gains, log_q, mixture_q, model_q, reward_q
from fake_cuda import StaysOnCuda, fake_cuda
from oracle import (
    EOS,
    PAD,
    UNK,
    TableModel,
    assert_distributed,
    edit_delta_r,
    reward_conditional,
    sequence_probability,
    sequences,
    world,
)
from scipy.stats import chisquare

from fairseq_erpo.algorithm.answers import Answer, AnswersForAll
from fairseq_erpo.algorithm.batch import Expert, asks_model, previous_tokens
from fairseq_erpo.algorithm.estep import (
    Candidates,
    ExpertSettings,
    InverseTemperature,
    reward_log_weights,
)
from fairseq_erpo.algorithm.layouts import draw_experts
from fairseq_erpo.algorithm.sampler import Request, Sampler, Scan, length_caps
from fairseq_erpo.algorithm.step import Step, draw_step, product_tilt
from fairseq_erpo.algorithm.uniforms import Channel, Draws
from fairseq_erpo.mixture import MLE, Mixture
from fairseq_erpo.rewards import REWARDS, Gains, Reference, make_reward

N = 20_000
SHARP = InverseTemperature(number=math.inf)


def draw(
    y_star,
    mixture,
    vocabulary,
    *,
    experts=None,
    reward="edit",
    model=None,
    n=1,
    cap=None,
    ids=None,
    update=0,
    origin=None,
    pads=0,
    alpha=None,
):
    """n draws for one reference, or one for each of a list of references."""
    many = y_star if isinstance(y_star[0], (list, tuple)) else [y_star] * n
    width = max(map(len, many)) + 1 + pads
    target = torch.tensor([[*y, EOS, *[PAD] * (width - len(y) - 1)] for y in many])
    reference = Reference.from_target(target, vocabulary)
    draws = Draws(
        torch.arange(len(many)) if ids is None else torch.tensor(ids), seed=1, update=update
    )
    caps = length_caps(reference, cap or 10**6)
    if origin is None:
        origin = draw_experts(mixture, draws(Channel.ORIGIN, int(caps.max()) + pads))
    sampler = Sampler(
        make_reward(reward), experts or ExpertSettings(SHARP), vocabulary, alpha=alpha
    )
    model = model or TableModel(vocabulary)
    return sampler.draw(reference, origin, caps, draws, lambda: model)


def lines(sample):
    return [tuple(w for w in line if w != PAD) for line in sample.tokens.tolist()]


# Corners


def test_data_corner_returns_the_reference():
    references = [[4, 5, 6], [7], [4, 4, 4, 4, 4, 4], [UNK, 5]]
    sample = draw(references, MLE, world(4))
    assert lines(sample) == [(*y, EOS) for y in references]
    assert not sample.clipped.any()
    assert set(sample.origin.unique().tolist()) == {Expert.NONE, Expert.DATA}


def test_edit_reward_at_infinite_c_rebuilds_the_reference():
    references = [[4, 5, 6], [7], [4, 4, 5, 4, 4], [6, 5, 4, 5, 6, 7]]
    sample = draw(references, Mixture(0, 1, 0), world(4), experts=ExpertSettings(SHARP))
    assert lines(sample) == [(*y, EOS) for y in references]
    assert sample.reward.tolist() == [0] * 4


def test_model_corner_is_the_model():
    vocabulary = world(2)
    model = TableModel(vocabulary)
    sample = draw([4, 5], Mixture(1, 0, 0), vocabulary, model=model, n=N, cap=3)
    assert_distributed(
        lines(sample),
        {y: sequence_probability(y, model.drawable) for y in sequences(vocabulary, 3)},
    )


# Interior


def auto(prefix, y_star, vocabulary, eps):
    """c of `auto:EPS` by its definition, from ΔR of every token."""
    drawable = [
        w for w in range(vocabulary.size) if w not in vocabulary.never and (w != EOS or prefix)
    ]
    delta_r = {w: edit_delta_r(prefix, w, y_star) for w in drawable}
    own = set(y_star) - {UNK}
    misses = [w for w in drawable if w not in own and w != EOS]
    best = max(delta_r.values())
    gap = best - delta_r[misses[0]]
    k_best = sum(delta_r[w] == best for w in drawable if w in own or w == EOS)
    return 0 if gap == 0 else max(0, math.log(len(misses) * (1 - eps) / (eps * k_best))) / gap


@pytest.mark.parametrize("c", ["0", "1", "2.5", "inf", "auto:.1", "auto:.4"])
@pytest.mark.parametrize("mixture", [Mixture(0.3, 0.4, 0.3), Mixture(0, 1, 0)])
@pytest.mark.parametrize("y_star", [(4, 5), (4, 4), (UNK, 4)])
def test_interior_is_the_mixture_of_algorithm_1(c, mixture, y_star):
    vocabulary = world(3)
    model = TableModel(vocabulary, seed=3)
    temperature = InverseTemperature.parse(c)

    def q(prefix):
        number = (
            auto(prefix, y_star, vocabulary, temperature.eps)
            if temperature.eps
            else temperature.number
        )
        rewarded = reward_conditional(prefix, y_star, vocabulary, number)
        data = y_star[len(prefix)] if len(prefix) < len(y_star) else EOS
        p = model.drawable(prefix, power=2.0)
        return [
            mixture.model * p[w] + mixture.reward * rewarded[w] + mixture.data * (w == data)
            for w in range(vocabulary.size)
        ]

    sample = draw(
        y_star,
        mixture,
        vocabulary,
        experts=ExpertSettings(temperature, c_model=2.0),
        model=model,
        n=N,
        cap=3,
    )
    assert_distributed(
        lines(sample), {y: sequence_probability(y, q) for y in sequences(vocabulary, 3)}
    )


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_product_expert_is_eq_4(alpha):
    """Eq. 4 with β = 0: p_θ exp{ΔR / α}, EOS included; c of the model's own draws is not the
    product's.
    """
    vocabulary = world(3)
    model = TableModel(vocabulary, seed=4)
    y_star = (4, 5)

    def q(prefix):
        weights = [
            p * math.exp(edit_delta_r(prefix, w, y_star) / alpha) if p else 0.0
            for w, p in enumerate(model.drawable(prefix))
        ]
        return [weight / sum(weights) for weight in weights]

    origin = torch.full((N, 3), int(Expert.PRODUCT))
    experts = ExpertSettings(SHARP, c_model=2.0)
    sample = draw(
        y_star,
        None,
        vocabulary,
        experts=experts,
        alpha=alpha,
        model=model,
        n=N,
        cap=3,
        origin=origin,
    )
    assert_distributed(
        lines(sample), {y: sequence_probability(y, q) for y in sequences(vocabulary, 3)}
    )


def test_the_best_tokens_share_equally():
    """After a miss at t = 0 every reference token has the same ΔBLEU."""
    vocabulary = world(6)
    reference = Reference.from_target(torch.tensor([[4, 5, 6, 7, EOS]]), vocabulary)
    reward = make_reward("bleu")
    state = reward.advance(reward.start(reference), torch.tensor([9]), torch.tensor([True]))
    candidates = Candidates.from_reference(reference, vocabulary)
    weights = reward_log_weights(reward.gains(state), candidates, SHARP, t=1)
    assert reward_q(weights, candidates, vocabulary)[0, 4:8].tolist() == pytest.approx([0.25] * 4)


# c of the reward


def mass_on_reference(c, reward, size, r):
    vocabulary = world(size - 4)
    reference = Reference.from_target(torch.tensor([[*range(4, 4 + r), EOS]]), vocabulary)
    engine = make_reward(reward)
    candidates = Candidates.from_reference(reference, vocabulary)
    weights = reward_log_weights(
        engine.gains(engine.start(reference)), candidates, InverseTemperature.parse(c), t=0
    )
    return float(weights.softmax(1)[0, :-2].sum())


def test_c_one_is_uniform_noise_and_auto_is_not():
    """The older code's c = 1 puts a thousandth on all reference tokens together: V = 22,820, |y*| =
    20.

    Uniform noise would put 20 / 22,820 = .0009 there; the first token's ΔBLEU of 0 against -.159
    lifts that by 17 %.
    """
    assert mass_on_reference("1", "bleu", 22_820, 20) == pytest.approx(0.00103, abs=5e-6)
    for reward in REWARDS:
        if reward != "rouge2":  # its first step gains nothing: no bigram ends there
            assert mass_on_reference("auto:.1", reward, 22_820, 20) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("text", ["auto:0", "auto:1", "auto:x", "-1", "nan", "hot", ""])
def test_what_is_no_temperature_is_refused(text):
    with pytest.raises(ValueError, match="c must be a number"):
        InverseTemperature.parse(text)


def test_temperatures_are_read_to_their_bounds():
    for text, number in (("0", 0), ("5", 5), (" 1e6 ", 1e6), ("inf", math.inf), (".5", 0.5)):
        assert InverseTemperature.parse(text) == InverseTemperature(number=number)
    assert (
        InverseTemperature.parse("auto")
        == InverseTemperature.parse("auto:.1")
        == InverseTemperature(eps=0.1)
    )
    with pytest.raises(ValueError, match="c must be a number"):
        InverseTemperature.parse("1.5e6")
    assert ExpertSettings() == ExpertSettings(InverseTemperature.parse("auto"), 1.0)
    for c_model in (0.1, 1e6):
        assert ExpertSettings(c_model=c_model).c_model == c_model
    for c_model in (0, -1, 1.5e6, math.nan):
        with pytest.raises(ValueError, match="c of the model"):
            ExpertSettings(c_model=c_model)


def test_nothing_is_kept_that_was_not_asked_for():
    sample = draw([4, 5], Mixture(0.3, 0.4, 0.3), world(4), n=20)
    assert (sample.features, sample.reward_log_q) == (None, None)
    assert all(
        line[-1] == EOS
        for line, clipped in zip(lines(sample), sample.clipped.tolist(), strict=True)
        if not clipped
    )
    assert all(EOS not in line[:-1] for line in lines(sample))  # nothing is drawn behind it


def test_nothing_to_gain_is_uniform():
    """`rouge2` at t = 0: no token gains anything, so auto:EPS has no best to point at."""
    vocabulary = world(5)
    reference = Reference.from_target(torch.tensor([[4, 5, EOS]]), vocabulary)
    reward = make_reward("rouge2")
    candidates = Candidates.from_reference(reference, vocabulary)
    weights = reward_log_weights(
        reward.gains(reward.start(reference)), candidates, InverseTemperature(eps=0.1), t=0
    )
    q = reward_q(weights, candidates, vocabulary)[0]
    assert q.tolist() == pytest.approx([0, 0, 0, *[1 / 6] * 6])  # every drawable token but EOS


@pytest.mark.parametrize(
    ("best", "eps"), [(0.0, 0.1), (1.0, 0.9)], ids=["nothing to gain", "few misses"]
)
def test_auto_never_prefers_what_is_worse(best, eps):
    """Where nothing can be gained all weigh the same, EOS at a loss too; where EPS is more than
    uniform noise has, c is 0.
    """
    vocabulary = world(3)
    reference = Reference.from_target(torch.tensor([[4, 5, EOS]]), vocabulary)
    gains = Gains(
        hit=torch.tensor([[best, best, 0.0]]), miss=torch.zeros(1), eos=torch.tensor([-1.0])
    )
    candidates = Candidates.from_reference(reference, vocabulary)
    weights = reward_log_weights(gains, candidates, InverseTemperature(eps=eps), t=1)
    q = reward_q(weights, candidates, vocabulary)[0]
    assert q.tolist() == pytest.approx([0, 0, *[1 / 5] * 5])  # EOS, UNK and three words


# EOS and length


def test_the_cap_invents_no_eos():
    vocabulary = world(3)
    model = TableModel(vocabulary)
    # Never ends
    model.row = lambda prefix: torch.tensor([0.0, 0, -1e9, -1e9, 0, 0, 0]).log_softmax(0)
    sample = draw([4, 5, 6], Mixture(1, 0, 0), vocabulary, model=model, n=8)
    assert sample.clipped.all()
    assert sample.tokens.shape == (8, 3 * 3 // 2 + 5)
    assert not sample.tokens.eq(EOS).any()


def test_each_sentence_has_its_own_cap():
    vocabulary = world(3)
    model = TableModel(vocabulary)
    # Never ends
    model.row = lambda prefix: torch.tensor([0.0, 0, -1e9, -1e9, 0, 0, 0]).log_softmax(0)
    sample = draw([[4], [4, 5, 6]], Mixture(1, 0, 0), vocabulary, model=model)
    assert sample.tokens.ne(PAD).sum(1).tolist() == [1 * 3 // 2 + 5, 3 * 3 // 2 + 5]


def test_the_reward_expert_ends_no_sentence_before_its_first_token():
    """ΔROUGE(EOS) = 0 beats a miss, so only the rule keeps it from ending at once."""
    vocabulary = world(3)
    sample = draw(
        [4],
        Mixture(0, 1, 0),
        vocabulary,
        reward="rouge",
        experts=ExpertSettings(InverseTemperature(number=0.0)),
        n=500,
    )
    assert not sample.tokens[:, 0].eq(EOS).any()
    assert sample.tokens[:, 1].eq(EOS).any()


def test_rewards_add_up_and_padding_is_empty():
    vocabulary = world(4)
    sample = draw(
        [[4, 5, 6], [7, 4]] * 50,
        Mixture(0.4, 0.4, 0.2),
        vocabulary,
        reward="bleu",
        experts=ExpertSettings(),
    )
    padding = sample.tokens.eq(PAD)
    assert sample.delta_r[padding].eq(0).all()
    assert sample.origin[padding].eq(Expert.NONE).all()
    assert torch.allclose(sample.reward, 1 + sample.delta_r.sum(1))


# Relations


@pytest.mark.parametrize("reward", ["bleu", "rouge", "edit"])
def test_a_batch_draws_what_its_sentences_draw_alone(reward):
    vocabulary = world(6)
    references = [[4, 5, 6], [7], [9, 9, 4, 5, 9], [8, 7, 6, 5, 4, 4, 5, 6]]
    experts = ExpertSettings(InverseTemperature(eps=0.1))
    mixture = Mixture(0.3, 0.4, 0.3)
    together = draw(references * 10, mixture, vocabulary, reward=reward, experts=experts)
    for i, y in enumerate(references * 10):
        alone = draw([y], mixture, vocabulary, reward=reward, experts=experts, ids=[i])
        assert lines(alone)[0] == lines(together)[i]
        assert alone.reward[0] == together.reward[i]


@pytest.mark.parametrize("reward", ["bleu", "rouge", "edit"])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_asking_for_all_draws_what_asking_for_some_draws(reward, stride):
    """A GPU decodes every sentence at every position and asks now and then who has ended; all five
    experts draw.
    """
    vocabulary = world(6)
    references = [[4, 5, 6], [7], [9, 9, 4, 5, 9], [8, 7, 6, 5, 4, 4, 5, 6]] * 25
    target = torch.tensor([[*y, EOS, *[PAD] * (8 - len(y))] for y in references])
    reference, draws = Reference.from_target(target, vocabulary), Draws(torch.arange(100), 1, 0)
    origin = (draws(99, 17) * 5).long()
    model = TableModel(vocabulary)
    sampler = Sampler(
        make_reward(reward),
        ExpertSettings(InverseTemperature(eps=0.1), c_model=1.5),
        vocabulary,
        alpha=0.5,
        keep_reward_q=True,
        keep_features=True,
    )
    some = sampler.draw(reference, origin, length_caps(reference, 17), draws, lambda: model)
    request = Request.make(reference, origin, length_caps(reference, 17), draws, vocabulary)
    scan = Scan(sampler, request, AnswersForAll(model))
    scan.run(stride)
    for one, other in zip(some, scan.sample(), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("experts", [[Expert.MODEL], list(Expert)[1:6]])
def test_log_p_is_kept_while_drawing(experts):
    """What one pass over the drawn tokens says, where the model was asked."""
    vocabulary = world(6)
    target = torch.tensor([[4, 5, 6, 7, EOS], [9, 9, EOS, PAD, PAD]] * 20)
    reference, draws = Reference.from_target(target, vocabulary), Draws(torch.arange(40), 1, 0)
    origin = torch.tensor([int(z) for z in experts])[(draws(99, 11) * len(experts)).long()]
    model = TableModel(vocabulary)
    sampler = Sampler(make_reward("edit"), ExpertSettings(), vocabulary, alpha=0.5, keep_log_p=True)
    sample = sampler.draw(reference, origin, length_caps(reference, 100), draws, lambda: model)
    whole = model.log_probs(model.teacher_forced(previous_tokens(sample.tokens, vocabulary)))
    expected = whole.gather(2, sample.tokens[:, :, None])[:, :, 0].float()
    asked = asks_model(sample.origin) & sample.tokens.ne(PAD)
    assert sample.log_p is not None and torch.allclose(sample.log_p[asked], expected[asked])
    assert sample.log_p[~asked & sample.tokens.ne(PAD)].isnan().all()


def test_padding_changes_nothing():
    vocabulary = world(6)
    references = [[4, 5, 6], [7], [9, 9, 4, 5, 9]] * 20
    plain = draw(references, Mixture(0.3, 0.4, 0.3), vocabulary)
    padded = draw(references, Mixture(0.3, 0.4, 0.3), vocabulary, pads=7)
    assert all(torch.equal(a, b) for a, b in zip(plain[:5], padded[:5], strict=True))


def test_draws_belong_to_update_and_sentence():
    vocabulary = world(6)
    y = [4, 5, 6, 7, 8, 9]
    first = lines(draw([y], Mixture(1, 0, 0), vocabulary, ids=[3], update=5))
    assert first == lines(draw([y], Mixture(1, 0, 0), vocabulary, ids=[3], update=5))
    assert (
        len(
            {
                lines(draw([y], Mixture(1, 0, 0), vocabulary, ids=[3], update=u))[0]
                for u in range(20)
            }
        )
        > 10
    )
    assert len(set(lines(draw([y] * 20, Mixture(1, 0, 0), vocabulary)))) > 10


def test_the_model_is_not_asked_without_need():
    class Silent(TableModel):
        def step(self, previous):
            raise AssertionError("asked")

    vocabulary = world(4)
    sampler = draw([[4, 5]] * 9, Mixture(0, 0.5, 0.5), vocabulary, model=Silent(vocabulary))
    assert len(sampler.tokens) == 9


def test_only_sentences_that_still_ask_are_decoded():
    vocabulary = world(4)
    seen = []

    class Counting(TableModel):
        kept = torch.arange(3)

        def keep(self, rows):
            self.kept = self.kept[rows]

        def step(self, previous):
            assert len(previous) == len(self.kept)  # what is decoded is what was kept of the three
            seen.append(len(previous))
            return super().step(previous)

    origin = torch.full((3, 9), int(Expert.DATA))
    origin[0, 1] = origin[2, 4] = int(Expert.MODEL)
    draw([[4, 5, 6, 7, 4, 5]] * 3, None, vocabulary, model=Counting(vocabulary), origin=origin)
    assert seen[:2] == [2, 2]  # sentence 1 never asks
    assert max(seen[2:]) == 1  # sentence 0 asks no more
    assert len(seen) <= 5  # nobody asks after t = 4


def test_z_has_its_shares():
    u = Draws(torch.arange(2000), 1, 1)(Channel.ORIGIN, 20)
    z = draw_experts(Mixture(0.12, 0.16, 0.72), u)
    counts = [int(z.eq(expert).sum()) for expert in (Expert.MODEL, Expert.REWARD, Expert.DATA)]
    assert chisquare(counts, [4800, 6400, 28800]).pvalue > 1e-3
    assert draw_experts(Mixture(1, 0, 0), u).eq(Expert.MODEL).all()
    assert draw_experts(Mixture(0, 1, 0), u).eq(Expert.REWARD).all()


# Dense q


def test_product_and_mixture_agree_at_the_corners_only():
    vocabulary = world(3)
    reference = Reference.from_target(torch.tensor([[4, 5, EOS]]), vocabulary)
    reward = make_reward("edit")
    gains = reward.gains(reward.start(reference))
    candidates = Candidates.from_reference(reference, vocabulary)
    log_p = TableModel(vocabulary).row(())[None]
    log_p = model_q(log_p, 1.0, vocabulary).log()
    rewarded = reward_q(
        reward_log_weights(gains, candidates, InverseTemperature(number=1.0), t=1),
        candidates,
        vocabulary,
    )
    y_0 = torch.tensor([4])
    dense = dense_gains(gains, reference, vocabulary)
    for mixture, product in (
        (Mixture(0, 1, 0), log_q(log_p, dense, alpha=0, beta=1)),
        (Mixture(1, 0, 0), log_q(log_p, torch.zeros_like(dense), alpha=1, beta=0)),
    ):
        assert torch.allclose(
            mixture_q(mixture, log_p.exp(), rewarded, y_0), product.exp(), atol=1e-6
        )
    inside = log_q(log_p, dense, alpha=1, beta=1).exp()
    assert not torch.allclose(
        mixture_q(Mixture(0.5, 0.5, 0), log_p.exp(), rewarded, y_0), inside, atol=1e-2
    )


# Devices


@pytest.mark.parametrize("reward", sorted(REWARDS))
def test_drawing_runs_on_a_device_without_leaving_it(reward):
    """Fake CUDA tensors: a tensor on the wrong device, `.item()` and `bool(tensor)` raise."""
    vocabulary = world(50)
    experts = ExpertSettings(c_model=2.0)
    with fake_cuda():
        target = torch.empty(4, 9, dtype=torch.int64, device="cuda")
        draws = Draws(torch.empty(4, dtype=torch.int64, device="cuda"), 1, 2)
        reference = Reference.from_target(target, vocabulary)
        candidates = Candidates.from_reference(reference, vocabulary)
        engine = make_reward(reward)
        state = engine.start(reference)
        origin = draw_experts(Mixture(0.3, 0.4, 0.3), draws(Channel.ORIGIN, 12))
        at = torch.empty(2, dtype=torch.int64, device="cuda")
        half = {"device": "cuda", "dtype": torch.float16}
        some = Answer(at, torch.empty(2, vocabulary.size, **half), torch.empty(2, 8, **half))
        all_of_them = Answer(
            None, torch.empty(4, vocabulary.size, **half), torch.empty(4, 8, **half)
        )
        with StaysOnCuda():
            for t, answer in enumerate([some, all_of_them, None]):
                u = [
                    draws(channel, 12)[:, t]
                    for channel in (Channel.MODEL, Channel.REWARD, Channel.MISS)
                ]
                gains = engine.gains(state)
                step = Step(t, origin[:, t], gains, *u, product_tilt(gains, reference, 0.5))
                token, _ = draw_step(step, candidates, experts, vocabulary, answer)
                state = engine.advance(state, token, token.ne(EOS))
        assert token.device.type == "cuda"
        assert engine.value(state).dtype == torch.float32


def test_scheduled_sampling_earns_nothing_behind_its_eos() -> None:
    """It goes on reading what the model draws behind an EOS; the logged reward is that of the
    sequence up to there.
    """
    from fairseq_erpo.family import FAMILY
    from fairseq_erpo.tools.exploration import Moment

    row = FAMILY["scheduled_sampling"]
    settings = row.settings({"erpo_schedule": "constant"})
    moment = Moment("the model alone", settings, 0)
    batch = moment.batch(2000)
    drawn = row.draw(batch)
    assert drawn is not None
    ends = drawn.sample.tokens.eq(batch.vocabulary.eos)
    behind = ends.long().cumsum(1).sub(ends.long()).gt(0)
    assert behind.any() and drawn.sample.delta_r[behind].eq(0).all()
    assert drawn.sample.delta_r[~behind].ne(0).any()
