"""The criterions against fairseq's own, and what they promise of drawing: on real models and real
batches with padding.
"""

from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Built, assert_equal_bits, build
from torch import Tensor

from fairseq_erpo.algorithm.batch import Expert, previous_tokens
from fairseq_erpo.algorithm.graphs import MOST, Graphs, room_for
from fairseq_erpo.plugin import decoder
from fairseq_erpo.plugin.forward import Encoded

ARCHS = {
    "transformer": "--arch transformer_tiny --dropout .3",
    "lstm": "--arch lstm_luong_wmt_en_de --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-hidden-size 16 "
    "--decoder-hidden-size 16 --encoder-layers 1 --decoder-layers 1 --decoder-out-embed-dim 16 "
    "--dropout .3",
}
IDS = [3, 14, 15, 92, 65, 35, 89, 79]
POINTS = {
    "interior": "--erpo-lambda model=.3,reward=.3,data=.4",
    "model": "--erpo-lambda model=1",
    "reward": "--erpo-lambda reward=1",
    "model and reward": "--erpo-lambda model=3/7,reward=4/7 --erpo-reward bleu",
    "arg max of the reward": (
        "--erpo-lambda model=.2,reward=.5,data=.3 --erpo-reward rouge --erpo-c inf"
    ),
}


def interp(flags: str) -> str:
    robust = "--erpo-preset robust --erpo-targets drawn --erpo-schedule constant"
    return f"--criterion erpo_interp {robust} {flags}"


@pytest.fixture(scope="module", params=ARCHS)
def arch(request: pytest.FixtureRequest) -> str:
    return ARCHS[request.param]


def loss_and_gradients(
    built: Built, criterion: Any, sample: dict[str, Any], training: bool = True
) -> dict[str, Any]:
    """Everything that training takes from a criterion, with the dropout of one torch seed."""
    built.model.train(training)
    criterion.train(training)
    built.model.zero_grad()
    torch.manual_seed(5)
    loss, sample_size, log = criterion(built.model, sample)
    loss.backward()
    gradients = {
        name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None
    }
    assert gradients
    shared = ("loss", "nll_loss", "ntokens", "nsentences", "sample_size")
    return {
        "loss": loss.detach(),
        "size": sample_size,
        "gradients": gradients,
        "log": {key: log[key] for key in shared if key in log},
    }


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("--criterion erpo_mle", "--criterion cross_entropy"),
        ("--criterion erpo_mle --sentence-avg", "--criterion cross_entropy --sentence-avg"),
        (interp("--erpo-lambda data=1"), "--criterion cross_entropy"),
        (
            "--criterion erpo_mle --label-smoothing .1",
            "--criterion label_smoothed_cross_entropy --label-smoothing .1",
        ),
        (
            interp("--erpo-lambda data=1 --label-smoothing .1"),
            "--criterion label_smoothed_cross_entropy --label-smoothing .1",
        ),
    ],
)
def test_equals_fairseqs_own_bit_for_bit(
    tiny_data: Path, arch: str, ours: str, theirs: str, training: bool
) -> None:
    built = build(tiny_data, f"{ours} {arch}")
    own = build(tiny_data, f"{theirs} {arch}").criterion
    sample = built.batch(IDS)
    assert sample["target"].eq(1).any()  # there is padding
    expected = loss_and_gradients(built, own, sample, training)
    found = loss_and_gradients(built, built.criterion, sample, training)
    # cross_entropy logs no likelihood of its own
    expected["log"].setdefault("nll_loss", expected["loss"])
    assert_equal_bits(found, expected)


def test_loss_by_token_equals_cross_entropy(tiny_data: Path) -> None:
    """`reduce=False`, which fairseq's scorers use."""
    built = build(tiny_data, "--criterion erpo_mle")
    own = build(tiny_data, "--criterion cross_entropy").criterion
    built.model.eval()
    sample = built.batch(IDS)
    losses = [
        criterion.eval()(built.model, sample, reduce=False)[0]
        for criterion in (built.criterion, own)
    ]
    assert_equal_bits(*losses)


def test_validation_is_cross_entropy_at_every_mixture(tiny_data: Path, arch: str) -> None:
    built = build(tiny_data, f"{interp(POINTS['interior'])} {arch}")
    own = build(tiny_data, f"--criterion cross_entropy {arch}").criterion
    sample = built.batch([3, 14, 15, 35], "valid")
    expected = loss_and_gradients(built, own, sample, training=False)
    expected["log"]["nll_loss"] = expected["loss"]
    assert_equal_bits(loss_and_gradients(built, built.criterion, sample, training=False), expected)


def test_sampler_with_data_everywhere_returns_the_batch(tiny_data: Path) -> None:
    """λ = (0, 0, 1) through the sampler itself, not past it: Drawn is then what fairseq's collater
    made.
    """
    from fairseq_erpo.algorithm.batch import Drawn
    from fairseq_erpo.algorithm.sampler import Sampler, length_caps
    from fairseq_erpo.algorithm.uniforms import Draws
    from fairseq_erpo.rewards.base import Reference

    built = build(tiny_data, interp("--erpo-lambda model=1"))
    sample, criterion = built.batch(IDS), built.criterion
    reference = Reference.from_target(sample["target"], criterion.vocabulary)
    origin = torch.full((len(IDS), sample["target"].size(1) + 7), int(Expert.DATA))
    sampler = Sampler(criterion.settings.reward, criterion.settings.experts, criterion.vocabulary)

    def never() -> Any:
        raise AssertionError("the model was asked")

    drawn = Drawn(
        sampler.draw(
            reference, origin, length_caps(reference, 1024), Draws(sample["id"], 1, 1), never
        )
    )
    assert_equal_bits(drawn.sample.tokens, sample["target"])
    assert_equal_bits(
        previous_tokens(drawn.sample.tokens, criterion.vocabulary),
        sample["net_input"]["prev_output_tokens"],
    )
    # The edit reward of y* itself
    assert drawn.sample.reward.eq(0).all() and not drawn.sample.clipped.any()


def test_loss_is_the_likelihood_of_what_was_drawn(tiny_data: Path, arch: str) -> None:
    """- Σ_t log p(y_t | y_<t), the prefix being the drawn one too, and sample_size the number of
    drawn tokens.
    """
    built = build(tiny_data, f"{interp(POINTS['interior'])} {arch}")
    sample, criterion = built.batch(IDS), built.criterion.train()
    built.model.eval()  # no dropout: the loss can be recomputed
    loss, size, _ = criterion(built.model, sample)
    drawn = criterion.draw(built.model, sample)
    total = 0.0
    assert not torch.equal(drawn.sample.tokens[:, :3], sample["target"][:, :3])
    for tokens, source in zip(drawn.sample.tokens, sample["net_input"]["src_tokens"], strict=True):
        y = tokens[tokens.ne(1)]
        x = source[source.ne(1)][None]
        out = built.model(
            x, torch.tensor([x.size(1)]), torch.cat([torch.tensor([2]), y[:-1]])[None]
        )
        total -= built.model.get_normalized_probs(out, True)[0].gather(1, y[:, None]).sum().item()
    assert loss.item() == pytest.approx(total, rel=1e-5)  # float32, summed in another order
    assert size == drawn.sample.tokens.ne(1).sum()


def test_the_loss_in_pieces_is_the_loss(
    tiny_data: Path, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences of like length read apart, without padding: loss and gradients of the whole batch,
    but for float32.
    """
    from fairseq_erpo.algorithm import packing

    built = build(
        tiny_data, f"{interp(POINTS['interior'])} {arch} --label-smoothing .1 --dropout 0"
    )
    sample = built.batch(IDS)
    found = []
    # A cut wherever one saves anything, and none
    for worth, several in ((0.0, True), (1.0, False)):
        monkeypatch.setattr(packing, "WORTH", worth)
        found.append(loss_and_gradients(built, built.criterion, sample))
        drawn = built.criterion.draw(built.model, sample)
        assert (len(packing.Packing.from_targets(drawn.learnt, 1).pieces) > 2) == several
    pieces, whole = found
    torch.testing.assert_close(pieces["loss"], whole["loss"], rtol=1e-6, atol=0)
    assert pieces["gradients"].keys() == whole["gradients"].keys()
    for name, gradient in whole["gradients"].items():
        # Sums over 300 or so
        torch.testing.assert_close(
            pieces["gradients"][name], gradient, rtol=1e-4, atol=1e-4, msg=name
        )


class Backward:
    """As much of an optimizer as train_step uses."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()


@pytest.mark.parametrize("flags", ["--criterion erpo_mle", interp(POINTS["interior"])])
def test_dummy_batch_leaves_no_gradient(tiny_data: Path, flags: str) -> None:
    """A rank without a batch runs one with ignore_grad: nothing of it, and no NaN, may reach the
    others.
    """
    built = build(tiny_data, flags)
    built.model.zero_grad()
    loss, _, _ = built.task.train_step(
        built.batch(IDS), built.model, built.criterion.train(), Backward(), 3, ignore_grad=True
    )
    assert loss == 0
    gradients = [p.grad for p in built.model.parameters() if p.grad is not None]
    assert gradients and all(g.eq(0).all() for g in gradients)


def test_dropout_is_off_in_drawing_and_on_in_the_loss(tiny_data: Path, arch: str) -> None:
    built = build(tiny_data, f"{interp(POINTS['model'])} {arch}")
    sample, criterion, model = built.batch(IDS), built.criterion.train(), built.model.train()
    drawn, losses = [], []
    for torch_seed in (1, 2):
        torch.manual_seed(torch_seed)
        state = torch.get_rng_state()
        drawn.append(criterion.draw(model, sample))
        # Drawing takes nothing of the generator that dropout uses
        assert torch.equal(torch.get_rng_state(), state)
        assert all(module.training for module in model.modules())
        losses.append(criterion(model, sample)[0].item())
    assert_equal_bits(drawn[0]._asdict(), drawn[1]._asdict())
    assert losses[0] != losses[1]


def test_drawing_gives_back_training_mode_after_an_error(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(tiny_data, interp(POINTS["model"]))
    model = built.model.train()

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(model.encoder), "forward", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        built.criterion.draw(model, built.batch(IDS))
    assert all(module.training for module in model.modules())


def test_padding_has_no_log_p(tiny_data: Path) -> None:
    """What a frozen prior says of a sentence is a sum over its tokens."""
    built = build(tiny_data, "--criterion erpo_raml")
    sample = built.batch([0, 1, 2, 3])
    batch = built.criterion.batch(built.model, sample)
    log_p = batch.log_p(batch.start(1), sample["target"])
    padding = sample["target"].eq(1)
    assert padding.any() and log_p[padding].eq(0).all() and log_p[~padding].lt(0).all()


def test_every_micro_batch_logs_the_same_keys(tiny_data: Path) -> None:
    """fairseq sums the logs of ranks and micro-batches key by key; one may be drawn and another not
    (pretraining ends).
    """
    logs = []
    for flags in (
        "--criterion erpo_mle",
        interp("--erpo-lambda data=1"),
        interp(POINTS["interior"]),
        interp(POINTS["model"]),
    ):
        built = build(tiny_data, flags)
        logs.append(built.criterion.train()(built.model, built.batch(IDS))[2])
    assert all(log.keys() == logs[0].keys() for log in logs)
    # Scalars, tensors or numbers: what fairseq's fast synchronisation takes.
    assert all(torch.as_tensor(value).numel() == 1 for log in logs for value in log.values())


def test_logged_mixture_is_the_rows(tiny_data: Path) -> None:
    """λ by name; MLE's is (0, 0, 1) whatever the presets of other rows say."""
    for flags, expected in (
        ("--criterion erpo_mle", (0, 0, 1)),
        (interp(POINTS["interior"]), (0.3, 0.3, 0.4)),
    ):
        built = build(tiny_data, flags)
        log = built.criterion.train()(built.model, built.batch(IDS))[2]
        assert [
            log[f"lambda_{name}"] / len(IDS) for name in ("model", "reward", "data")
        ] == pytest.approx(expected)


@pytest.mark.parametrize("point", POINTS)
def test_one_batch_draws_what_its_sentences_draw_alone(
    tiny_data: Path, arch: str, point: str
) -> None:
    """A draw belongs to a sentence: neighbours, padding and micro-batches change nothing.

    In float64, so that padding's rounding (1e-16) does not move a probability across a uniform
    (spaced 1e-7).
    """
    built = build(tiny_data, f"{interp(POINTS[point])} {arch}")
    built.model.double()
    criterion = built.criterion.train()
    batch = built.batch(IDS)
    together = criterion.draw(built.model, batch).sample
    for row, sentence in enumerate(batch["id"].tolist()):  # the collater sorts by length
        alone = criterion.draw(built.model, built.batch([sentence])).sample
        width = alone.tokens.size(1)
        for name in ("tokens", "origin", "delta_r"):
            assert_equal_bits(getattr(together, name)[row, :width], getattr(alone, name)[0], name)
        assert together.tokens[row, width:].eq(1).all()
        assert together.reward[row] == alone.reward[0] and together.clipped[row] == alone.clipped[0]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    "before", ["", "--encoder-normalize-before --decoder-normalize-before --decoder-learned-pos"]
)
def test_own_steps_draw_what_fairseqs_steps_draw(
    tiny_data: Path, point: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TransformerSteps` against fairseq's incremental state: the same tokens.  In float64 as
    above.
    """
    found = []
    for ours in (True, False):
        with monkeypatch.context() as patch:
            if not ours:
                patch.setattr(decoder, "takes", lambda _: False)
            built = build(tiny_data, f"{interp(POINTS[point])} {before} --erpo-samples 2")
            built.model.double()
            found.append(built.criterion.train().draw(built.model, built.batch(IDS)))
    assert_equal_bits(found[0]._asdict(), found[1]._asdict())
    assert found[0].sample.origin.eq(int(Expert.MODEL)).any() or point == "reward"


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("targets", ["drawn", "reward"])
def test_a_batch_that_is_filled_up_draws_what_it_draws(
    tiny_data: Path, point: str, targets: str
) -> None:
    """As a GPU's graphs want it, sentences, references, sources and steps added; here without the
    graphs.  In float64.
    """
    built = build(tiny_data, f"{interp(POINTS[point])} --erpo-samples 2 --erpo-targets {targets}")
    criterion, model = built.criterion, built.model.double()
    with decoder.sampling_mode(model):
        batch = criterion.batch(model, built.batch(IDS[:5]))
        plan = criterion.row.draw.plan(batch)
        start = partial(batch.start, plan.rows)
        asked = (plan.reference, plan.origin, plan.caps, plan.draws, start)
        plain = plan.sampler.draw(*asked)
        with torch.inference_mode():
            filled = Graphs().draw(plan.sampler, *asked)
    assert len(filled.tokens) == 10 != room_for(10)
    for one, other in zip(plain, filled, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


ADDED = {  # where fairseq's layers have what `TransformerSteps` does not know
    "attn_ln": lambda layer: layer,
    "c_attn": lambda layer: layer,
    "ffn_layernorm": lambda layer: layer,
    "w_resid": lambda layer: layer,
    "bias_k": lambda layer: layer.self_attn,
    "use_xformers": lambda layer: layer.encoder_attn,
    "add_zero_attn": lambda layer: layer.encoder_attn,
}


@pytest.mark.parametrize("name", ADDED)
def test_own_steps_are_taken_where_the_layers_are_known(tiny_data: Path, name: str) -> None:
    transformer = build(tiny_data, interp(POINTS["model"])).model.decoder
    assert decoder.takes(transformer)
    setattr(ADDED[name](transformer.layers[1]), name, True)
    assert not decoder.takes(transformer)


@pytest.mark.parametrize(
    "part", ["fc1", "self_attn.q_proj", "encoder_attn.out_proj", "encoder_attn", "bias"]
)
def test_own_steps_are_not_taken_of_other_parts(tiny_data: Path, part: str) -> None:
    """A subclass may compute something else, and the joined projection needs all three biases."""
    transformer = build(tiny_data, interp(POINTS["model"])).model.decoder
    layer = transformer.layers[0]
    if part == "bias":
        layer.self_attn.k_proj.bias = None
    elif part == "encoder_attn":
        layer.encoder_attn = None
    else:
        module = layer.get_submodule(part)
        module.__class__ = type("Other", (type(module),), {})
    assert not decoder.takes(transformer)


@pytest.mark.parametrize(
    "flag", ["--cross-self-attention", "--quant-noise-pq .1", "--no-cross-attention"]
)
def test_own_steps_are_not_taken_of_other_decoders(tiny_data: Path, flag: str) -> None:
    assert not decoder.takes(build(tiny_data, f"{interp(POINTS['model'])} {flag}").model.decoder)


@pytest.mark.parametrize("length", [2, 40])
def test_steps_are_the_teacher_forced_pass(tiny_data: Path, arch: str, length: int) -> None:
    """Features step by step, sentences dropped on the way, against one pass over the whole
    prefix.
    """
    built = build(tiny_data, f"{interp(POINTS['model'])} {arch}")
    model, sample = built.model.double().eval(), built.batch(IDS)
    previous = torch.randint(4, 30, (len(IDS), length), generator=torch.Generator().manual_seed(3))
    previous[:, 0] = 2
    with torch.no_grad():
        source = Encoded(model, sample).read(1)
        expected = decoder.IncrementalDecoder(model, source).teacher_forced(previous)
        steps, rows = decoder.IncrementalDecoder(model, source), torch.arange(len(IDS))
        for t in range(length):
            if t in (1, 20):
                steps.keep(torch.arange(1, len(rows)))
                rows = rows[1:]
            found = steps.step(previous[rows, : t + 1])
            # Fairseq's softmax is float32
            torch.testing.assert_close(found, expected[rows, t], rtol=1e-5, atol=1e-5)


def test_a_draw_in_bfloat16_is_decided_in_float32(tiny_data: Path, arch: str) -> None:
    """Reward, ΔR, cumulative probabilities and loss are float32 whatever the model's precision.

    The bfloat16 model's own answers, raised to float32 before they are drawn from, give the same
    tokens: nothing else rounds.
    """
    built = build(tiny_data, f"{interp(POINTS['interior'])} {arch}")
    criterion, batch = built.criterion.train(), built.batch(IDS)
    built.model.bfloat16()
    drawn = criterion.draw(built.model, batch)
    assert drawn.sample.delta_r.dtype == drawn.sample.reward.dtype == torch.float32
    normalised = built.model.get_normalized_probs
    seen = set()

    def raised(*args: Any, **kwargs: Any) -> Tensor:
        log_p = normalised(*args, **kwargs)
        seen.add(log_p.dtype)
        return log_p.float()

    built.model.get_normalized_probs = raised
    again = criterion.draw(built.model, batch)
    assert seen == {torch.float32}  # fairseq's softmax raises the logits itself
    assert_equal_bits(drawn._asdict(), again._asdict())
    loss, _, _ = criterion(built.model, batch)
    assert loss.dtype == torch.float32 and bool(loss.isfinite())
    loss.backward()
    assert all(p.grad is None or p.grad.dtype == torch.bfloat16 for p in built.model.parameters())


def test_mixed_precision_reaches_every_parameter(tiny_data: Path, arch: str) -> None:
    """Autocast keeps cast weights: those of the draw know no gradient, and must not serve
    the loss.
    """
    built = build(tiny_data, f"{interp(POINTS['interior'])} {arch} --dropout 0")
    sample = built.batch(IDS)
    exact = loss_and_gradients(built, built.criterion, sample)["gradients"]
    with torch.autocast("cpu", torch.bfloat16):
        built.model.zero_grad()
        loss, _, _ = built.criterion(built.model, sample)
    loss.backward()
    found = {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}
    assert found.keys() == exact.keys()
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


# Passes of the encoder


@pytest.mark.parametrize(
    "row", ["interp", "self_critic", "mixer_alike", "spg", "scheduled_sampling", "mrt"]
)
def test_the_encoder_runs_once_for_the_draw_and_once_for_the_loss(
    tiny_data: Path, arch: str, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant = (
        "--erpo-schedule constant" if row in ("interp", "mixer_alike", "scheduled_sampling") else ""
    )
    preset = "--erpo-preset robust" if row in ("interp", "mixer_alike") else ""
    learns: list[bool] = []

    def counted(*inputs: Any, forward: Any, **named: Any) -> Any:
        learns.append(torch.is_grad_enabled())
        return forward(*inputs, **named)

    built = build(tiny_data, f"--criterion erpo_{row} {constant} {preset} {arch}")
    built.task.clock.epoch = 30  # beyond the pretraining that a row may have
    built.criterion.check(built.model, built.batch(IDS))  # what the first batch is asked besides
    kind = type(built.model.encoder)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", partialmethod(counted, forward=kind.forward))
        loss_and_gradients(built, built.criterion, built.batch(IDS))
    assert sorted(learns) == [False, True]


@pytest.mark.parametrize("least", [16_000, 16_001])
@pytest.mark.parametrize("rows", [1, 2, 9, 40])
def test_few_rows_are_projected_in_the_other_order(
    rows: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq_erpo.plugin.decoder import FewRows

    monkeypatch.setattr(FewRows, "LEAST", least)
    torch.manual_seed(rows)
    features = torch.randn(rows, 1, 8, dtype=torch.float64)
    for bias in (False, True):
        layer = torch.nn.Linear(8, 2000, bias, dtype=torch.float64)
        with FewRows():
            found = layer(features)
        torch.testing.assert_close(found, layer(features), rtol=1e-12, atol=1e-12)
        assert found.is_contiguous() and found.shape == (rows, 1, 2000)
    products = []
    monkeypatch.setattr(
        torch, "mm", lambda *parts, mm=torch.mm: products.append(parts) or mm(*parts)
    )
    with FewRows():
        layer(features)
    assert bool(products) == (rows in (2, 9) and least == 16_000)


def test_draws_depend_on_seed_and_update_alone(tiny_data: Path) -> None:
    def draw(seed: int, update: int) -> list[list[int]]:
        built = build(tiny_data, f"{interp(POINTS['interior'])} --seed {seed}")
        built.task.clock.update = update
        drawn = built.criterion.train().draw(built.model, built.batch(IDS))
        return [[i for i in tokens if i != 1] for tokens in drawn.sample.tokens.tolist()]

    first = draw(1, 10)
    assert draw(1, 10) == first
    for other in (draw(1, 11), draw(2, 10)):
        assert sum(a != b for a, b in zip(first, other, strict=True)) > len(IDS) // 2


@pytest.mark.parametrize(
    ("row", "sequences"), [("interp", 3), ("self_critic", 3), ("raml", 1), ("mle", 1)]
)
def test_sentence_average_counts_drawn_sequences(tiny_data: Path, row: str, sequences: int) -> None:
    """S samples of a source are S sentences, but for RAML, whose samples' weights sum to one."""
    samples = "" if row == "mle" else "--erpo-samples 3"
    built = build(
        tiny_data, f"--criterion erpo_{row} --sentence-avg {samples} --arch transformer_tiny"
    )
    _, size, _ = built.criterion.train()(built.model, built.batch(IDS))
    assert size == sequences * len(IDS)


def test_graphs_of_filled_up_batches_are_kept_for_the_latest_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = Graphs()
    monkeypatch.setattr(graphs, "_record", lambda leaves, scan: object())
    for key in range(MOST + 2):
        assert graphs._recording(key, [], None) is None  # met for the first time
        assert graphs._recording(key, [], None) is not None
    assert [*graphs.recordings] == [*range(2, MOST + 2)]
    graphs._recording(2, [], None)  # met again: the next one goes
    graphs._recording("new", [], None)
    graphs._recording("new", [], None)
    assert 2 in graphs.recordings and 3 not in graphs.recordings
