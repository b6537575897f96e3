"""What a training step costs on a GPU, beside fairseq's cross_entropy: time, memory, launches,
waits.

    python benchmarks/gpu.py --model base --out FOLDER           (all of it: benchmarks/gpu.sh)
    python benchmarks/gpu.py --model tiny --device cpu --out FOLDER      the same on a CPU, as a rehearsal

One process, the same batch for all cases, in alternation. A figure is the median over the updates
after the first ones; each precision is fairseq's own cast of the model (--bf16, --fp16).
"""

import argparse
import json
import logging
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

for at, word in enumerate(sys.argv):  # before `measure` and what builds on it are imported
    if word == "--device":
        os.environ["BENCHMARK_DEVICE"] = sys.argv[at + 1]
os.environ.setdefault("BENCHMARK_DEVICE", "cuda")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)

import torch  # noqa: E402
from measure import DEVICE, environment, now, operations  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from workload import TRANSFORMER, Workload, only  # noqa: E402

PACKAGES = ("torch", "fairseq-fixed", "numpy")
BASE = (
    "--arch transformer --encoder-layers 6 --decoder-layers 6 --encoder-embed-dim 512 "
    "--encoder-ffn-embed-dim 2048 --encoder-attention-heads 8 --decoder-attention-heads 8 "
    "--share-all-embeddings --dropout .1"
)
TINY = TRANSFORMER.replace("256", "64").replace("1024", "128")


class Size(NamedTuple):
    """A model and its batch: so many sentences of so many words."""

    flags: str
    sentences: int
    length: int
    words: int


SIZES = {
    "base": Size(BASE, 157, 25, 10_000),  # 4,096 target tokens
    "small": Size(TRANSFORMER, 60, 12, 8_000),  # that of docs/performance.md
    "tiny": Size(TINY, 8, 7, 100),  # a rehearsal
}
BLEU = "--erpo-reward bleu"  # corpus BLEU counts the training data, which this batch has none of
CONSTANT = "--erpo-schedule constant --erpo-lambda"
FIRST, LAST = "model=.12,reward=.16,data=.72", "model=3/7,reward=4/7"
CASES = {
    "cross_entropy": "cross_entropy",
    "erpo_mle": "erpo_mle",
    "interp paper, first point": f"erpo_interp --erpo-preset paper {CONSTANT} {FIRST}",
    "interp paper, last point": f"erpo_interp --erpo-preset paper {CONSTANT} {LAST}",
    "interp robust": "erpo_interp --erpo-preset robust --erpo-schedule constant",
    "interp corpus, last point": f"erpo_interp --erpo-preset corpus {BLEU} {CONSTANT} model=1",
    "interp risk, last point": f"erpo_interp --erpo-preset risk {BLEU} {CONSTANT} model=1",
    "self_critic": "erpo_self_critic",
}
CASTS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "fp32": torch.nn.Module.float,
    "bf16": torch.nn.Module.bfloat16,
    "fp16": torch.nn.Module.half,
}
# Names of the driver's and the runtime's calls in torch.profiler's table.
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def peak_memory(run: Callable[[], Any]) -> float:
    """Megabytes of the device that a step needs beyond what is there already; 0 on a CPU."""
    if DEVICE.type == "cpu":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    had = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - had) / 1e6


def profiled(run: Callable[[], Any], table: Path) -> dict[str, float]:
    """Launches, waits and milliseconds of kernels in one step; the costliest operations go to a
    file.
    """
    if DEVICE.type == "cpu":
        counted = operations(run)
        return {"operations": counted.count, "waits": counted.waits}
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    averages = profiler.key_averages()
    by_name = {event.key: event.count for event in averages}
    kernels = sum(
        event.self_device_time_total for event in averages if event.device_type.name == "CUDA"
    )
    table.write_text(
        averages.table(sort_by="self_cpu_time_total", row_limit=60, max_name_column_width=60)
        + averages.table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=60)
    )
    return {
        "launches": sum(by_name.get(name, 0) for name in LAUNCHES),
        "waits": sum(by_name.get(name, 0) for name in WAITS),
        "kernel_ms": kernels / 1e3,
    }


def seconds_of(runs: dict[str, Callable[[], Any]], updates: int, warm_up: int) -> dict[str, Any]:
    """In alternation: every round runs each case once.  Seconds after the warm-up, or what broke."""
    found: dict[str, Any] = {case: [] for case in runs}
    for update in range(warm_up + updates):
        for case, run in runs.items():
            if not isinstance(found[case], list):
                continue
            began = now()
            try:
                run()
            except Exception as error:  # one case that breaks must not cost the others
                found[case] = f"{type(error).__name__}: {error}"
                continue
            if update >= warm_up:
                found[case].append(now() - began)
    return found


def drawn_positions(workload: Workload, flags: str) -> float:
    """The mean length of what the step draws: without it a figure cannot be read."""
    if not flags.startswith("erpo_") or flags == "erpo_mle":
        return 0.0
    drawn = workload.criterion(flags).draw(workload.model, workload.sample)
    return float(drawn.sample.tokens.ne(workload.dictionary.pad()).sum(1).float().mean())


def figures(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Precision by precision, case by case: an interrupted run leaves what it has."""
    size = SIZES[args.model]
    workload = Workload(size.flags, size.sentences, size.words, only(size.length), args.fit)
    cases = {name: flags for name, flags in CASES.items() if not args.cases or name in args.cases}
    for precision in args.precision:
        CASTS[precision](workload.model)
        runs = {name: workload.step(flags) for name, flags in cases.items()}
        seconds = seconds_of(runs, args.updates, args.warm_up)
        base: dict[str, float] = {}
        for name, flags in cases.items():
            record = {"precision": precision, "case": name}
            if isinstance(seconds[name], str):
                yield record | {"error": seconds[name]}
                continue
            found = {
                "ms": statistics.median(seconds[name]) * 1e3,
                "least_ms": min(seconds[name]) * 1e3,
                "largest_ms": max(seconds[name]) * 1e3,
                "peak_mb": peak_memory(runs[name]),
                "drawn": drawn_positions(workload, flags),
            }
            table = args.out / f"profile-{args.model}-{precision}-{name.replace(' ', '_')}.txt"
            found |= profiled(runs[name], table)
            base = base or found
            found["ratio"] = found["ms"] / base["ms"]
            found["memory"] = found["peak_mb"] / (base["peak_mb"] or 1)
            yield record | found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="base", help="size of model and batch")
    parser.add_argument("--precision", nargs="+", choices=CASTS, default=["bf16", "fp32", "fp16"])
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--updates", type=int, default=20, help="measured steps of a case")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parser.add_argument("--fit", type=int, default=40, help="MLE updates on the batch beforehand")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for the figures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    around = environment(*PACKAGES)
    print(json.dumps(around))
    found = []
    for record in figures(args):
        found.append(record)
        shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}
        print(json.dumps(shown), file=sys.stderr, flush=True)
        file = args.out / f"steps-{args.model}.json"
        file.write_text(json.dumps({"environment": around, "steps": found}, indent=1) + "\n")
    print(as_table(found))


COLUMNS = (
    "ms",
    "ratio",
    "peak_mb",
    "memory",
    "launches",
    "operations",
    "waits",
    "kernel_ms",
    "drawn",
)


def as_table(found: list[dict[str, Any]]) -> str:
    """In Markdown: a line a case, with the columns that this device has."""
    columns = [name for name in COLUMNS if any(name in record for record in found)]
    rows = [
        [record["precision"], record["case"]]
        + [record.get("error", "") if "error" in record else record[name] for name in columns]
        for record in found
    ]
    return tabulate(rows, ["precision", "step", *columns], tablefmt="github", floatfmt=".4g")


if __name__ == "__main__":
    main()
