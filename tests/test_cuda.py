"""On a real GPU, what other tests run on fake CUDA tensors and on the CPU; skipped where there is none.

Draws are decided in float32 by the same uniforms, so that a CPU and a GPU draw the same wherever the model does not ask for
rounding to decide; without the model (λ_model = 0) they must agree exactly.
"""

import copy
from pathlib import Path

import pytest
import torch
from conftest import build
from fairseq.utils import move_to_cuda

from fairseq_erpo import REWARDS, Reference, make_reward, replay
from fairseq_erpo.plugin.batch import vocabulary_of

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]
IDS = [3, 14, 15, 92, 65, 35, 89, 79]
ROWS = "--criterion erpo_interp --erpo-preset robust --erpo-schedule constant --seed 7 --dropout 0 --erpo-lambda "
INTERIOR = "model=.3,reward=.3,data=.4"


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_rewards_are_those_of_the_cpu(name: str, tiny_data: Path) -> None:
    built = build(tiny_data, ROWS + INTERIOR)
    target, vocabulary = built.batch(IDS)["target"], vocabulary_of(built.task.target_dictionary)
    tokens = target.flip(0)
    on_cpu = replay(make_reward(name), Reference.from_target(target, vocabulary), tokens, vocabulary)
    on_gpu = replay(make_reward(name), Reference.from_target(target.cuda(), vocabulary), tokens.cuda(), vocabulary)
    assert on_gpu.delta_r.is_cuda
    torch.testing.assert_close(on_gpu.delta_r.cpu(), on_cpu.delta_r, rtol=0, atol=1e-6)  # float32 sums in another order


@pytest.mark.parametrize("sampler", ["cached", "parallel"])
def test_draws_without_the_model_are_those_of_the_cpu(sampler: str, tiny_data: Path) -> None:
    built = build(tiny_data, f"{ROWS}reward=.5,data=.5 --erpo-sampler {sampler}")
    sample = built.batch(IDS)
    on_cpu = built.criterion.draw(built.model, sample)
    on_gpu = built.criterion.draw(built.model.cuda(), move_to_cuda(sample))
    assert on_gpu.sample.tokens.is_cuda and torch.equal(on_gpu.sample.tokens.cpu(), on_cpu.sample.tokens)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "amp"])
def test_a_step_trains_every_parameter(precision: str, tiny_data: Path) -> None:
    """fp32, both half precisions as fairseq casts the model, and fp16 by autocast with a scaled loss."""
    built = build(tiny_data, ROWS + INTERIOR)
    model = copy.deepcopy(built.model).cuda().train()
    model = {"bf16": model.bfloat16, "fp16": model.half}.get(precision, model.float)()
    with torch.autocast("cuda", torch.float16, enabled=precision == "amp"):
        loss, size, _ = built.criterion.cuda().train()(model, move_to_cuda(built.batch(IDS)))
    assert loss.is_cuda and loss.dtype == torch.float32 and bool(loss.isfinite())
    (loss / float(size) * (128 if precision in ("fp16", "amp") else 1)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients.values())
