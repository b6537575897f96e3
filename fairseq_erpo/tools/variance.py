"""`python -m fairseq_erpo variance`: the gradient's variance on one real batch, with and without
each variance switch.

For K draws (the updates u = 1..K of one seed) g_k is the gradient of the normalised loss, sum /
size, as training has it but with dropout off: nothing differs between two g_k but what was drawn.
With the mean ḡ of the K,

    V = Σ_parameters Σ_k (g_k - ḡ)² / (K - 1)        the variance of one update's gradient
    V · n                                            per target token, n the mean size over the K draws

n is what the loss is divided by: the drawn target tokens, without those that are dropped.  V falls
as 1/S with S samples of a source by itself, V · n does not: the S times as many tokens have to earn
their cost.  ‖E g‖² is estimated by ‖ḡ‖² - V/K, for ḡ still carries noise; the signal-to-noise ratio
of one update is the root of that over the root of V.  Scaling the gradient does not change it, so
it is the figure to compare where a variant scales: policy gradient by the reward, and dropped
targets by dividing what is left by fewer tokens.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from fairseq_erpo.family import FAMILY
from fairseq_erpo.files import write_json
from fairseq_erpo.mixture import NAMES, Mixture
from fairseq_erpo.plugin.criterion import NEWEST
from fairseq_erpo.tools.load_run import Loaded, add_arguments, at_least, load
from fairseq_erpo.verbs import dashed

PAIRS = 2  # the least number of independent estimates that have a spread
NOTE = (
    "V · n: variance of the gradient of sum/size, times n, the mean number of target tokens. ±: its standard error. "
    "ratio: to the first line. SNR: of one update; 0 where {draws} draws cannot tell the mean from 0."
)


class Variant(NamedTuple):
    """One line of the table: a row of the family and the switches it is measured with."""

    label: str
    row: str
    switches: Mapping[str, Any]


# Hard targets, all kept: the paper to the letter, whatever the run had.
PLAIN = {"erpo_targets": "drawn", "erpo_baseline": "none", "erpo_samples": 1}
VARIANTS = (
    Variant("interp, targets drawn", "interp", PLAIN),
    Variant("· targets reward", "interp", PLAIN | {"erpo_targets": "reward"}),
    Variant("· 2 samples", "interp", PLAIN | {"erpo_samples": 2}),
    Variant("· 4 samples", "interp", PLAIN | {"erpo_samples": 4}),
    Variant("pg, no baseline", "pg", {}),
    Variant("· greedy baseline", "pg", {"erpo_baseline": "greedy"}),
    Variant(
        "· leave one out, 4 samples", "pg", {"erpo_baseline": "leave_one_out", "erpo_samples": 4}
    ),
)


class Moments:
    """Mean and variance of vectors one by one (Welford 1962): two vectors are kept, however many
    come.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.last = torch.zeros(())
        self.squares = 0.0  # Σ_k ‖g_k - ḡ‖²
        self.pairs: list[float] = []  # ½‖g_2j - g_2j+1‖²: independent estimates of the variance

    def add(self, vector: Tensor) -> None:
        self.count += 1
        before = vector - self.mean
        self.mean = self.mean + before / self.count
        self.squares += float(before.dot(vector - self.mean))
        if self.count % 2:
            self.last = vector
        else:
            self.pairs.append(float((vector - self.last).square().sum()) / 2)

    @property
    def variance(self) -> float:
        """Σ over the components of the sample variance."""
        return self.squares / (self.count - 1)

    @property
    def error(self) -> float:
        """Standard error of the variance, from the spread of the pairs' estimates."""
        pairs = torch.tensor(self.pairs, dtype=torch.float64)
        return float(pairs.std()) / math.sqrt(len(pairs))

    @property
    def mean_norm(self) -> float:
        """‖E[g]‖, its noise taken off: 0 where the mean cannot be told from it."""
        return math.sqrt(
            max(float(self.mean.double().square().sum()) - self.variance / self.count, 0)
        )


@dataclass(frozen=True)
class Measured:
    """One variant's figures (the module's docstring defines them)."""

    variant: Variant
    flags: Mapping[str, Any]  # all that the criterion was built with, the switches too
    tokens: float  # n
    variance: float  # V
    error: float  # of V
    mean_norm: float

    @property
    def per_token(self) -> float:
        return self.variance * self.tokens

    @property
    def snr(self) -> float | None:
        return self.mean_norm / math.sqrt(self.variance) if self.variance else None


def variance(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `variance`: load, measure each variant, show."""
    add_arguments(parser, split="train", count="--batch", sentences=32)
    parser.add_argument(
        "--draws",
        type=int,
        default=16,
        metavar="K",
        help="gradients for each line of the table (default: 16)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON as well")
    args = parser.parse_args(argv)
    at_least("--batch", args.sentences, 1)
    at_least("--draws", args.draws, 2 * PAIRS)
    loaded = load(args)
    sample = loaded.dataset.collater([loaded.dataset[i] for i in loaded.chosen])
    measured = []
    with tqdm(total=len(VARIANTS) * args.draws, unit="draw", disable=None, leave=False) as bar:
        for variant in VARIANTS:
            bar.set_description(variant.label.removeprefix("· "))
            measured.append(measure(variant, loaded, sample, args.draws, bar))
    show(measured, loaded, args.draws, Console(highlight=False, emoji=False, markup=False))
    if args.json:
        write_json(args.json, report(measured, loaded, args.draws), "--json")


def measure(
    variant: Variant,
    loaded: Loaded,
    sample: Mapping[str, Any],
    draws: int,
    bar: tqdm[Any] | None = None,
) -> Measured:
    """The figures of one variant over the updates 1..draws."""
    flags = flags_of(variant, loaded.flags, loaded.conditions.mixture)
    criterion = criterion_of(variant.row, flags, loaded.task, loaded.conditions.seed)
    moments, tokens = Moments(), 0.0
    for update in range(1, draws + 1):
        vector, size = gradient(criterion, loaded.model, sample, update)
        moments.add(vector)
        tokens += size / draws
        if bar is not None:
            bar.update()
    loaded.model.zero_grad(set_to_none=True)
    return Measured(variant, flags, tokens, moments.variance, moments.error, moments.mean_norm)


def flags_of(variant: Variant, given: Mapping[str, Any], mixture: Mixture) -> dict[str, Any]:
    """The row's flags: the run's or the typed ones, λ held, the switches of the variant."""
    row = FAMILY[variant.row]
    # repr keeps every digit of λ; Mixture's own text rounds.
    held = {
        "erpo_schedule": "constant",
        "erpo_lambda": f"model={mixture.model!r},reward={mixture.reward!r},data={mixture.data!r}",
    }
    flags = {**given, **held, **variant.switches}
    return {name: value for name, value in flags.items() if name in row.flags}


def criterion_of(row: str, flags: Mapping[str, Any], task: Any, seed: int) -> Any:
    """The criterion as fairseq-train would build it, in training mode."""
    name = f"erpo_{row}"
    borrowed = {
        "sentence_avg": False,
        "seed": seed,
        "max_epoch": 0,
        "disable_validation": False,
        "save_dir": "",
        "restore_file": NEWEST,
        "finetune_from_model": None,
        "best_checkpoint_metric": "loss",
        "maximize_best_checkpoint_metric": False,
    }
    config = CRITERION_DATACLASS_REGISTRY[name](**flags, **borrowed)
    return CRITERION_REGISTRY[name].build_criterion(config, task).train()


def gradient(
    criterion: Any, model: nn.Module, sample: Mapping[str, Any], update: int
) -> tuple[Tensor, float]:
    """g of one update: of sum / size, dropout off.  -> [all parameters] float32, and the size"""
    criterion.task.clock.update = update
    model.eval()
    model.zero_grad(set_to_none=True)
    loss, size, _ = criterion(model, sample)
    (loss / max(float(size), 1)).backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
    ), float(size)


# ---- to read ----


def show(measured: Sequence[Measured], loaded: Loaded, draws: int, console: Console) -> None:
    """The table and what it was measured on."""
    # Fits 80 columns
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    grid.add_column("variant", no_wrap=True)
    for title in ("n", "V · n", "±", "ratio", "‖mean‖", "SNR"):
        grid.add_column(title, justify="right", no_wrap=True)
    first = measured[0].per_token
    for i, line in enumerate(measured):
        if i and line.variant.row != measured[i - 1].variant.row:
            grid.add_section()
        grid.add_row(
            line.variant.label,
            f"{line.tokens:.0f}",
            f"{line.per_token:.4g}",
            f"{line.error * line.tokens:.2g}",
            f"{line.per_token / first:.2f}" if first else "-",
            f"{line.mean_norm:.3g}",
            "-" if line.snr is None else f"{line.snr:.2f}",
        )
    console.print(grid)
    console.print(f"\n{NOTE.format(draws=draws)}")
    console.print(
        f"{len(loaded.chosen)} sentences, {draws} draws · {loaded.conditions.checkpoint} · {conditions_line(loaded)}"
    )


def conditions_line(loaded: Loaded) -> str:
    """λ and the flags, also those of policy gradient, which has its own reward unless one is named."""
    reward = loaded.flags.get("erpo_reward", FAMILY["pg"].default_text("erpo_reward"))
    return f"{loaded.conditions.line()} (draws: updates 1 and up) · pg: --erpo-reward {reward}"


def report(measured: Sequence[Measured], loaded: Loaded, draws: int) -> dict[str, Any]:
    """The same for programs; null stands for what is not defined."""
    conditions, first = loaded.conditions, measured[0].per_token
    return {
        **{name: getattr(conditions, name) for name in ("checkpoint", "data", "split", "seed")},
        "sentences": [int(i) for i in loaded.chosen],
        "draws": draws,
        "lambda": {name: getattr(conditions.mixture, name) for name in NAMES},
        "variants": [
            {
                "criterion": f"erpo_{line.variant.row}",
                "switches": {dashed(name): value for name, value in line.variant.switches.items()},
                "flags": {dashed(name): value for name, value in line.flags.items()},
                "target_tokens": line.tokens,
                "variance": line.variance,
                "variance_per_token": line.per_token,
                "standard_error_per_token": line.error * line.tokens,
                "ratio": line.per_token / first if first else None,
                "mean_norm": line.mean_norm,
                "snr": line.snr,
            }
            for line in measured
        ],
    }
