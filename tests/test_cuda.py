"""On a real GPU, what other tests run on fake CUDA tensors and on the CPU; skipped where there is
none.

Draws are decided in float32 by the same uniforms, so that a CPU and a GPU draw the same wherever
the model does not ask for rounding to decide; without the model (λ_model = 0) they must agree
exactly.  `CUDA_TESTS_ON=cpu` rehearses all of it on a CPU.
"""

import copy
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Built, Fairseq, assert_equal_bits, build, by_update, load
from fairseq.utils import apply_to_sample
from test_rows_train import prior, row_flags  # noqa: F401 - fixtures

from fairseq_erpo import REWARDS, Reference, make_reward, replay
from fairseq_erpo.algorithm.graphs import Graphs
from fairseq_erpo.family import FAMILY
from fairseq_erpo.plugin.batch import vocabulary_of

DEVICE = torch.device(os.environ.get("CUDA_TESTS_ON", "cuda"))
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(),
        reason="torch finds no CUDA device on this machine",
    ),
]
IDS = [3, 14, 15, 92, 65, 35, 89, 79]
ROWS = (
    "--criterion erpo_interp --erpo-preset robust --erpo-schedule constant --seed 7 --dropout 0 "
    "--erpo-lambda "
)
INTERIOR = "model=.3,reward=.3,data=.4"
CASTS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "fp32": torch.nn.Module.float,
    "bf16": torch.nn.Module.bfloat16,
    "fp16": torch.nn.Module.half,
    "amp": torch.nn.Module.float,
}
SCALE = 128  # of the loss in fp16, whose small gradients would be 0


def on_device(sample: Any) -> Any:
    return apply_to_sample(lambda tensor: tensor.to(DEVICE), sample)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_rewards_are_those_of_the_cpu(name: str, tiny_data: Path) -> None:
    built = build(tiny_data, ROWS + INTERIOR)
    target, vocabulary = built.batch(IDS)["target"], vocabulary_of(built.task.target_dictionary)
    tokens = target.flip(0)
    on_cpu = replay(
        make_reward(name), Reference.from_target(target, vocabulary), tokens, vocabulary
    )
    reference = Reference.from_target(target.to(DEVICE), vocabulary)
    on_gpu = replay(make_reward(name), reference, tokens.to(DEVICE), vocabulary)
    assert on_gpu.delta_r.device.type == DEVICE.type
    # Float32 sums in another order
    torch.testing.assert_close(on_gpu.delta_r.cpu(), on_cpu.delta_r, rtol=0, atol=1e-6)


def test_draws_without_the_model_are_those_of_the_cpu(tiny_data: Path) -> None:
    built = build(tiny_data, f"{ROWS}reward=.5,data=.5")
    sample = built.batch(IDS)
    on_cpu = built.criterion.draw(built.model, sample)
    on_gpu = built.criterion.draw(built.model.to(DEVICE), on_device(sample))
    assert on_gpu.sample.tokens.device.type == DEVICE.type
    assert torch.equal(on_gpu.sample.tokens.cpu(), on_cpu.sample.tokens)


def drawn(built: Built, sample: Any) -> torch.Tensor:
    return built.criterion.draw(built.model.to(DEVICE), on_device(sample)).sample.tokens.cpu()


def test_two_draws_are_equal(tiny_data: Path) -> None:
    built = build(tiny_data, ROWS + INTERIOR)
    sample = built.batch(IDS)
    assert torch.equal(drawn(built, sample), drawn(built, sample))


def test_a_batch_draws_what_its_sentences_draw_alone(tiny_data: Path) -> None:
    """Within rounding's reach: matrices of other shapes are multiplied in another order, which can
    decide a token.
    """
    built = build(tiny_data, ROWS + "model=1")
    sample, pad = built.batch(list(range(100))), built.task.target_dictionary.pad()
    equal = 0
    # Fairseq sorts a batch
    for row, number in zip(drawn(built, sample), sample["id"].tolist(), strict=True):
        equal += torch.equal(row[row.ne(pad)], drawn(built, built.batch([number]))[0])
    assert equal >= 97


RECORDED = {
    "interior": f"{ROWS}{INTERIOR}",
    "model": f"{ROWS}model=1",
    "reward": f"{ROWS}reward=.5,data=.5",
    "critic": "--criterion erpo_self_critic",
    "softmax": "--criterion erpo_spg",
    "mixer": "--criterion erpo_mixer --task erpo_translation",
    "risk": (
        "--criterion erpo_interp --erpo-preset risk --erpo-reward bleu --erpo-schedule constant"
    ),
}


@pytest.mark.skipif(DEVICE.type != "cuda", reason="graphs are CUDA's")
@pytest.mark.parametrize("row", RECORDED)
def test_recorded_draws_are_those_of_the_same_operations(row: str, tiny_data: Path) -> None:
    """Bit for bit, while weights and sentences change; a batch of its own shape is recorded when it
    comes again.
    """
    built = build(tiny_data, RECORDED[row])
    built.model.to(DEVICE)
    criterion, recorded = built.criterion.to(DEVICE).train(), built.criterion.cache.graphs
    for turn, first in enumerate([0, 0, 0, 100, 100, 100]):
        with torch.no_grad():
            for parameter in built.model.parameters():
                parameter.mul_(1.02)
        built.task.clock.update = turn
        sample = on_device(built.batch(list(range(first, first + 37))))
        criterion.cache.graphs = recorded
        replayed = criterion.draw(built.model, sample)
        criterion.cache.graphs = Graphs()  # which has recorded nothing yet
        plain = criterion.draw(built.model, sample)
        assert_equal_bits(replayed._asdict(), plain._asdict())
    assert recorded.replays >= 2 and None not in recorded.recordings.values()


@pytest.mark.parametrize("precision", CASTS)
@pytest.mark.parametrize("name", FAMILY)
def test_a_step_trains_every_parameter(
    name: str,
    precision: str,
    tiny_data: Path,
    row_flags: Callable[[str], str],  # noqa: F811
) -> None:
    """fp32, both half precisions as fairseq casts the model, and fp16 by autocast with a scaled
    loss.
    """
    built = build(tiny_data, f"{row_flags(name)} --dropout 0")
    model = CASTS[precision](copy.deepcopy(built.model).to(DEVICE).train())
    with torch.autocast(DEVICE.type, torch.float16, enabled=precision == "amp"):
        loss, size, _ = built.criterion.to(DEVICE).train()(model, on_device(built.batch(IDS)))
    assert loss.device.type == DEVICE.type and loss.dtype == torch.float32 and bool(loss.isfinite())
    (loss / float(size) * (SCALE if precision in ("fp16", "amp") else 1)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(
        gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients.values()
    )


TRAINERS = {
    "fp32": "",
    "bf16": "--bf16",
    "fp16": "--fp16 --fp16-init-scale 4",
    "amp": "--amp --fp16-init-scale 4",
}
TRAINED = {
    "mle": "--criterion erpo_mle",
    "interp": "--criterion erpo_interp --erpo-preset robust --erpo-anneal-every 2u",
    "risk": (
        "--criterion erpo_interp --erpo-preset risk --erpo-anneal-every 2u --eval-bleu --task "
        "erpo_translation"
    ),
}


def train(fairseq: Fairseq, data: Path, folder: Path, flags: str, updates: int) -> Path:
    """fairseq-train on DEVICE, on top of what the folder holds."""
    on_gpu = DEVICE.type == "cuda"
    env = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")} if on_gpu else {}
    words = (
        f"{flags} --max-update {updates} --no-epoch-checkpoints --required-batch-size-multiple 1"
    )
    fairseq.train(data, folder, words, cpu=not on_gpu, env=env).succeed()
    return folder


@pytest.mark.parametrize("row", TRAINED)
@pytest.mark.parametrize("precision", TRAINERS if DEVICE.type == "cuda" else ["fp32"])
def test_fairseq_train(
    precision: str, row: str, fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    flags = f"{TRAINED[row]} {TRAINERS[precision]}"
    log = by_update(train(fairseq, tiny_data, tmp_path / "run", flags, 30) / "log")
    assert max(log) == 30 and all(math.isfinite(record["loss"]) for record in log.values())


@pytest.mark.parametrize("row", ["mle", "interp"])
def test_a_resumed_run_is_the_uninterrupted_one(
    row: str, fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    """Bit for bit: one sample a source, so that no sum depends on the order in which the GPU
    adds.
    """
    whole = train(fairseq, tiny_data, tmp_path / "whole", TRAINED[row], 24)
    train(fairseq, tiny_data, tmp_path / "parts", TRAINED[row], 12)
    parts = train(fairseq, tiny_data, tmp_path / "parts", TRAINED[row], 24)
    one, other = (load(folder / "checkpoint_last.pt")["model"] for folder in (whole, parts))
    assert_equal_bits(one, other)
