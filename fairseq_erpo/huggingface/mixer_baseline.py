"""MIXER's learned baseline, trained beside the model: its parameters are a group of the same
optimizer, whose state transformers keeps, and its weights have a file of their own in each
checkpoint.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from fairseq_erpo.algorithm.baselines import StepBaseline
from fairseq_erpo.files import atomic_write

FILE = "erpo_baseline.pt"


class BaselineUpkeep(TrainerCallback):
    """What transformers does for a model's parameters only: gradients are averaged over ranks, and
    cleared after each update.
    """

    def __init__(self, baseline: StepBaseline, accelerator: Any) -> None:
        self.baseline, self.accelerator = baseline, accelerator

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        weight = self.baseline.weight
        if weight.grad is not None and args.world_size > 1:
            weight.grad = self.accelerator.reduce(weight.grad, "mean")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.baseline.zero_grad()


def save(baseline: StepBaseline, checkpoint: Path) -> None:
    """Into a checkpoint's folder."""
    with atomic_write(checkpoint / FILE, "--output-dir") as part:
        torch.save(baseline.state_dict(), part)


def load(baseline: StepBaseline, checkpoint: Path) -> None:
    """From a checkpoint's folder.  Raises ValueError where it has none."""
    file = checkpoint / FILE
    if not file.is_file():
        raise ValueError(f"{checkpoint} has no {FILE}: it is of a run without a learned baseline")
    baseline.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
