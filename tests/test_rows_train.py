"""Every row of the family trains: in this process through fairseq's Trainer, by fairseq-train, and
in two processes.
"""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Built, Fairseq, build, by_update, configuration, load
from fake_cuda import StaysOnCuda, fake_cuda
from test_train import CONVOLUTIONS, LAST, LSTM, free_port, gloo
from torch import Tensor

from fairseq_erpo import family
from fairseq_erpo.algorithm import mstep
from fairseq_erpo.algorithm.baselines import BASELINES
from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert, Sample, previous_tokens
from fairseq_erpo.algorithm.draw import FromExperts
from fairseq_erpo.algorithm.estep import Candidates
from fairseq_erpo.algorithm.noising import NoiseStatistics, Noising
from fairseq_erpo.algorithm.uniforms import Draws, sample_ids
from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.vocabulary import Vocabulary

IDS = [3, 14, 15, 92, 65, 35, 89, 79]
PAD, EOS = 1, 2
# What a row needs besides its name, so that it draws something at its first update.
NEEDS = {
    "interp": "--erpo-preset robust",
    "mixer_alike": "--erpo-preset robust",
    "mixer": "--task erpo_translation",
    "scheduled_sampling": "--erpo-anneal-every 1u",
    "sequence_tutor": "--erpo-prior {prior}",
}


@pytest.fixture(scope="module")
def prior(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint by fairseq's Trainer whose model is near, but not at, the one that `build`
    makes.
    """
    arguments = "--criterion erpo_mle --no-save-optimizer-state"
    built = build(tiny_data, arguments)
    built.model.load_state_dict(
        {name: value * 1.1 for name, value in built.model.state_dict().items()}
    )
    path = tmp_path_factory.mktemp("prior") / "prior.pt"
    trainer(built, tiny_data, arguments).save_checkpoint(
        str(path), {"train_iterator": {"epoch": 1}}
    )
    return path


@pytest.fixture
def row_flags(prior: Path) -> Callable[[str], str]:
    """The command line of a row."""
    return lambda name: f"--criterion erpo_{name} {NEEDS.get(name, '').format(prior=prior)}"


def trainer(built: Built, data: Path, arguments: str) -> Any:
    from fairseq.trainer import Trainer

    return Trainer(configuration(data, arguments), built.task, built.model, built.criterion)


def train(data: Path, arguments: str, *updates: list[list[int]]) -> tuple[Built, dict[str, Tensor]]:
    """Updates of micro-batches of sentences, in float64 and without dropout.  -> what moved by how
    much

    Plain gradient descent, so that a wrong scale of the gradient is not divided out again.
    """
    arguments += " --optimizer sgd --lr .3 --dropout 0"
    built = build(data, arguments)
    built.model.double()
    before = parameters(built)
    run = trainer(built, data, arguments)
    # fairseq takes the norm in float32, which a float64 gradient refuses; nothing is clipped here.
    run.clip_grad_norm = lambda limit: torch.zeros(())
    for update in updates:
        log = run.train_step([built.batch(ids) for ids in update])
        assert all(math.isfinite(float(value)) for value in log.values())
    return built, {name: value - before[name] for name, value in parameters(built).items()}


def parameters(built: Built) -> dict[str, Tensor]:
    modules = {"model": built.model, "criterion": built.criterion}
    return {
        f"{place}.{name}": p.detach().clone()
        for place, module in modules.items()
        for name, p in module.named_parameters()
    }


# In this process


@pytest.mark.parametrize("name", FAMILY)
def test_two_micro_batches_are_one_double_batch(
    tiny_data: Path, row_flags: Callable[[str], str], name: str
) -> None:
    """`--update-freq 2`: draws belong to sentences, and the loss is a sum divided by what it summed
    over.
    """
    _, parts = train(tiny_data, row_flags(name), [IDS[:3], IDS[3:]])
    _, whole = train(tiny_data, row_flags(name), [IDS])
    largest = max(float(moved.abs().max()) for moved in whole.values())
    assert largest > 1e-4
    for parameter, moved in whole.items():
        # Rewards and weights are float32: relative to the largest step of the parameter. A key's
        # bias adds the same to all scores of a query, so that its gradient is zero but for
        # rounding, which depends on the CPU.
        tolerance = (
            1e-6 * largest
            if parameter.endswith("k_proj.bias")
            else 1e-5 * float(moved.abs().max()) + 1e-12
        )
        torch.testing.assert_close(
            parts[parameter], moved, rtol=0, atol=tolerance, msg=lambda m, p=parameter: f"{p}: {m}"
        )


@pytest.mark.parametrize("name", FAMILY)
def test_row_trains_update_after_update(
    tiny_data: Path, row_flags: Callable[[str], str], name: str
) -> None:
    """Other sentences at each update, the clock moving on; every parameter that the model uses has
    moved, and is finite.
    """
    updates = [
        [list(range(start, start + 4)), list(range(start + 4, start + 8))] for start in (0, 8, 16)
    ]
    built, moved = train(tiny_data, row_flags(name), *updates)
    assert built.task.clock.update == 2
    assert all(torch.isfinite(value).all() for value in moved.values())
    # A key's bias adds the same to all scores of a query: its gradient is zero but for rounding.
    assert all(
        value.abs().max() > 0 for name, value in moved.items() if not name.endswith("k_proj.bias")
    )
    drawn = built.criterion.train().draw(built.model, built.batch(IDS))
    assert (drawn is None) == (name == "mle")


def test_the_interpolation_grows_no_further_flags() -> None:
    """A limit on what a reader has to take in: who adds a flag takes another away."""
    assert len(FAMILY["interp"].flags) <= 21


def test_rows_expose_their_own_flags_only() -> None:
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

    from fairseq_erpo.plugin.register import BORROWED

    for name, row in FAMILY.items():
        exposed = {
            field.name for field in dataclasses.fields(CRITERION_DATACLASS_REGISTRY[f"erpo_{name}"])
        }
        assert exposed - {"_name"} == set(row.flags) | set(BORROWED), name


@pytest.fixture
def registries() -> Iterator[None]:
    """Gives the family and fairseq's registries back as they were."""
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
    from hydra.core.config_store import ConfigStore

    from fairseq_erpo.plugin import register

    tables = (
        FAMILY,
        CRITERION_REGISTRY,
        CRITERION_DATACLASS_REGISTRY,
        ConfigStore.instance().repo["criterion"],
        vars(register),
    )
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        for key in table.keys() - rows.keys():
            del table[key]


def test_a_row_is_added_at_run_time(tiny_data: Path, registries: None) -> None:
    """The example of the family's docstring, word for word and with its imports: one call, and
    fairseq trains with it.
    """
    assert family.__doc__ is not None
    # The indented paragraph.
    example = textwrap.dedent(
        "\n".join(
            line for line in family.__doc__.splitlines() if line.startswith("    ") or not line
        )
    )
    exec(example, {})
    built, moved = train(tiny_data, "--criterion erpo_half_model --erpo-reward rouge", [IDS])
    assert built.criterion.row is FAMILY["half_model"]
    assert max(float(value.abs().max()) for value in moved.values()) > 1e-4
    drawn = built.criterion.train().draw(built.model, built.batch(IDS))
    # Each z is fair: 3.5 standard deviations.
    origin = drawn.sample.origin[drawn.sample.origin.ne(Expert.NONE)]
    assert set(origin.tolist()) == {Expert.MODEL, Expert.REWARD}
    assert float(origin.float().mean()) == pytest.approx(0.5, abs=3.5 * 0.5 / len(origin) ** 0.5)


def test_registries_were_given_back() -> None:
    from fairseq.criterions import CRITERION_REGISTRY

    assert "half_model" not in FAMILY and "erpo_half_model" not in CRITERION_REGISTRY


# Several samples of a source


def drawing(data: Path, arguments: str) -> Built:
    """In training mode but for dropout, in float64."""
    built = build(data, f"{arguments} --dropout 0")
    built.model.double().train()
    built.criterion.train()
    return built


MANY = ["interp", "spg", "pg", "self_critic", "mixer", "mixer_alike", "sequence_tutor"]


def test_every_row_with_the_flag_draws_several_samples() -> None:
    assert {name for name, row in FAMILY.items() if "erpo_samples" in row.flags} == {
        *MANY,
        "raml",
        "mrt",
    }


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        *((name, "") for name in MANY),
        *(("self_critic", arch) for arch in (LSTM, CONVOLUTIONS["fconv"])),
    ],
)
def test_three_samples_are_three_copies(
    tiny_data: Path, row_flags: Callable[[str], str], name: str, arch: str
) -> None:
    """Sample s of sentence i is what a sentence with its id draws alone; one encoder pass for the
    draws, one for the loss.
    """
    arguments = f"{row_flags(name)} {arch}"
    together, alone = (
        drawing(tiny_data, f"{arguments} --erpo-samples {samples}") for samples in (3, 1)
    )
    sample = together.batch(IDS[:4])
    passes = []
    together.criterion.check(together.model, sample)  # what the first batch is asked besides
    # Only the encoder's own forward counts, not the prior's.
    together.model.encoder.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    loss, size, log = together.criterion(together.model, sample)
    loss.backward()
    assert passes == [False, True]
    total, sizes, tokens = 0.0, 0.0, 0
    for copy in range(3):
        ids = sample_ids(sample["id"], 3)[copy::3]
        part, part_size, part_log = alone.criterion(alone.model, {**sample, "id": ids})
        part.backward()
        total, sizes, tokens = (
            total + float(part.detach()),
            sizes + float(part_size),
            tokens + int(part_log["drawn_tokens"]),
        )
    assert (float(loss.detach()), float(size)) == (pytest.approx(total, rel=1e-6), sizes)
    assert log["drawn_tokens"] == tokens
    pairs = zip(together.model.parameters(), alone.model.parameters(), strict=True)
    for p, q in pairs:
        if p.grad is not None:
            torch.testing.assert_close(
                p.grad, q.grad, rtol=0, atol=1e-5 * float(q.grad.abs().max()) + 1e-12
            )


def test_raml_draws_six_with_one_encoder_pass(tiny_data: Path) -> None:
    """And none at all without gradient: its neighbours need no model."""
    built = drawing(tiny_data, "--criterion erpo_raml")
    built.criterion.check(built.model, built.batch(IDS))  # what the first batch is asked besides
    passes = []
    built.model.encoder.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    _, size, log = built.criterion(built.model, built.batch(IDS))
    assert passes == [True]
    assert log["drawn"] == 6 * len(IDS)
    assert float(size) < log["drawn_tokens"] / 5  # the weights of a source's samples sum to one


# RAML from a file


def test_raml_reads_samples_drawn_before(tiny_data: Path, tmp_path: Path) -> None:
    """Tokens and rewards are the file's, the weights exp{R/τ} among the samples of a sentence."""
    built = build(tiny_data, "--criterion erpo_mle")
    built.task.load_dataset("train")
    words, lines, rewards = built.task.target_dictionary, {}, {}
    dataset = built.task.dataset("train")
    for i in range(len(dataset)):  # training may ask for any of them
        gold = words.string(dataset[i]["target"]).split()
        lines[i] = [" ".join(gold), " ".join(gold[1:]), " ".join([*gold, gold[0]])]
        rewards[i] = [1.0, 0.25 + i / 1000, -0.5]
    file = tmp_path / "samples.tsv"
    file.write_text(
        "".join(
            f"{i}\t{r}\t{text}\n"
            for i in lines
            for r, text in zip(rewards[i], lines[i], strict=True)
        )
    )
    built = drawing(tiny_data, f"--criterion erpo_raml --erpo-samples-file {file} --erpo-tau .8")
    sample = built.batch(IDS)
    drawn = built.criterion.draw(built.model, sample)
    assert drawn.samples == 3
    for row, i in enumerate(sample["id"].tolist()):
        mass = sum(math.exp(r / 0.8) for r in rewards[i])
        for s in range(3):
            tokens, weights = drawn.sample.tokens[3 * row + s], drawn.weights[3 * row + s]
            assert words.string(tokens[tokens.ne(PAD)]) == lines[i][s]
            assert tokens[tokens.ne(PAD)][-1] == EOS
            share = math.exp(rewards[i][s] / 0.8) / mass
            assert weights[tokens.ne(PAD)].tolist() == pytest.approx(
                [share] * int(tokens.ne(PAD).sum())
            )
            assert weights[tokens.eq(PAD)].eq(0).all()
    loss, size, _ = built.criterion(built.model, sample)
    assert math.isfinite(loss.item()) and float(size) == pytest.approx(float(drawn.weights.sum()))


# On a device without leaving it


class FakeInputs:
    """`RowInputs` on a device."""

    predrawn = None

    def __init__(self, device: torch.device, vocabulary: Vocabulary) -> None:
        ones = torch.ones(vocabulary.size, device=device)
        self.noising = Noising(ones, ones.double(), vocabulary.pad, vocabulary.eos)
        self.words = torch.arange(4, vocabulary.size, device=device)

    def baseline(self, features: Tensor) -> Tensor:
        return features.sum(2)

    def prior(self, samples: int) -> "FakeDecoder":
        return FakeDecoder()


class FakeDecoder:
    """A `StepDecoder` that only reads whole sequences, of 54 words."""

    def teacher_forced(self, previous: Tensor) -> Tensor:
        return torch.zeros((*previous.shape, 54), device=previous.device)

    def log_probs(self, features: Tensor) -> Tensor:
        return features


def fake_batch(device: torch.device, row: Row, **flags: Any) -> Batch:
    vocabulary = Vocabulary(54, pad=1, eos=2, unk=3, never=(0, 1))
    return Batch(
        target=torch.empty(4, 9, dtype=torch.int64, device=device),
        draws=Draws(torch.empty(4, dtype=torch.int64, device=device), 1, 2),
        mixture=Mixture(0.3, 0.4, 0.3),
        stage=1,
        settings=row.settings(
            {"erpo_preset": "robust"} | flags if "erpo_preset" in row.flags else flags
        ),
        vocabulary=vocabulary,
        max_positions=20,
        start=lambda copies: FakeDecoder(),  # type: ignore[arg-type,return-value]
        inputs=FakeInputs(device, vocabulary),
    )


PAID = {"erpo_targets": "policy", "erpo_baseline": "learned", "erpo_samples": 2}
AT_RISK = {"erpo_samples": 2, "erpo_targets": "risk"}
DEVICE_FLAGS: dict[str, list[dict[str, Any]]] = {
    "raml": [{}, {"erpo_payoff": "hamming"}],
    "interp": [
        {},
        {"erpo_targets": "reward", "erpo_samples": 2},
        PAID,
        {**PAID, "erpo_layout": "sentence"},
        {**AT_RISK, "erpo_teacher": "edit", "erpo_reward": "corpus_bleu", "label_smoothing": 0.1},
    ],
    "pg": [
        {"erpo_baseline": baseline, "erpo_samples": 2}
        for baseline in ("none", "greedy", "leave_one_out", "learned")
    ],
}


@pytest.mark.parametrize(
    ("name", "flags"), [(name, flags) for name in FAMILY for flags in DEVICE_FLAGS.get(name, [{}])]
)
def test_row_runs_on_a_device_without_leaving_it(name: str, flags: dict[str, Any]) -> None:
    """Layout, weights, baseline and loss of each row on fake CUDA tensors: a tensor elsewhere,
    `.item()` and `bool()` raise.

    The sampler's own loop asks once a step who goes on; test_sampler has its pieces.
    """
    row = FAMILY[name]
    with fake_cuda() as device:
        batch = fake_batch(device, row, **flags)
        vocabulary, samples = batch.vocabulary, batch.settings.samples
        baseline = BASELINES[batch.settings.baseline]
        candidates = Candidates.from_reference(
            Reference.from_target(batch.copies(samples)[0], vocabulary), vocabulary
        )
        with StaysOnCuda():
            drawn = (
                planned(row.draw, batch) if isinstance(row.draw, FromExperts) else row.draw(batch)
            )
            if drawn is None:
                return
            drawn = row.weigh(batch, drawn)
            tokens = drawn.sample.tokens
            assert len(tokens) == 4 * drawn.samples
            assert previous_tokens(tokens, vocabulary).shape == tokens.shape
            at = torch.arange(tokens.numel(), device=device)
            log_p = torch.zeros((len(at), vocabulary.size), device=device)
            assert mstep.drawn_losses(log_p, drawn, at, candidates, 0.1).shape == at.shape
            assert (drawn.sample.features is not None) == baseline.learned
            if drawn.sample.features is not None:
                assert (
                    mstep.baseline_loss(batch.inputs.baseline(drawn.sample.features), drawn).dim()
                    == 0
                )


def planned(draw: FromExperts, batch: Batch) -> Drawn:
    """A draw with zeros in the place of the sampler's loop."""
    plan = draw.plan(batch)
    n, steps = plan.origin.shape
    assert n == 4 * plan.rows and plan.origin.dtype == torch.int64

    def zeros(*last: int) -> Tensor:
        return torch.zeros(n, steps, *last, device=plan.origin.device)

    sampler, width = plan.sampler, batch.target.size(1)
    sample = Sample(
        tokens=plan.origin,
        origin=plan.origin,
        delta_r=zeros(),
        reward=zeros()[:, 0],
        clipped=zeros()[:, 0].bool(),
        features=zeros(8) if sampler.keep_features else None,
        reward_log_q=zeros(width + 2) if sampler.keep_reward_q else None,
    )
    return draw.finish(batch, sample, plan.rows)


def test_statistics_of_noise_follow_the_batch() -> None:
    """Counted once on the host, then moved."""
    counts = torch.ones(10, dtype=torch.int64)
    vocabulary = Vocabulary(10, pad=1, eos=2, unk=3, never=(0, 1))
    moved = Noising.from_statistics(
        "unigram", NoiseStatistics(counts, counts, counts), vocabulary
    ).to("meta")
    assert moved.rate.device.type == moved.cdf.device.type == "meta"


# By fairseq-train


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_fairseq_train_runs_every_row(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path, row_flags: Callable[[str], str], name: str
) -> None:
    """An epoch in one process with --update-freq 2, and the same epoch in two: equal draws and
    losses at the first update.
    """
    flags = f"{row_flags(name)} --max-epoch 1 --no-epoch-checkpoints --dropout 0"
    port = free_port()
    jobs = {"alone": fairseq.train(tiny_data, tmp_path / "alone", f"{flags} --update-freq 2")}
    for rank in ("0", "1"):
        ranked = f"{flags} {gloo(port)} --distributed-no-spawn --distributed-rank {rank}"
        jobs[rank] = fairseq.train(tiny_data, tmp_path / rank, ranked, console=True)
    for job in jobs.values():
        job.succeed()
    alone, both = by_update(tmp_path / "alone" / "log"), by_update(tmp_path / "0" / "log")
    assert alone.keys() == both.keys() and len(alone) >= 8
    for key in (
        "loss",
        "nll_loss",
        "seq_reward",
        "sampled_length",
        "in_reference",
        "clipped",
        "z_model",
        "z_reward",
        "gnorm",
    ):
        assert (key in alone[1]) == (key in both[1])
        if key in alone[1]:
            # What rounding to 3 digits leaves
            assert alone[1][key] == pytest.approx(both[1][key], rel=2e-3, abs=2e-3), key
    assert ("seq_reward" in alone[1]) == (name != "mle")
    for folder in ("alone", "0"):
        state = load(tmp_path / folder / LAST)
        assert all(
            torch.isfinite(value).all()
            for value in state["model"].values()
            if value.is_floating_point()
        )
        assert all(
            math.isfinite(record["loss"])
            for record in by_update(tmp_path / folder / "log").values()
        )
