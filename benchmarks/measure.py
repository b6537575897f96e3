"""How things are measured: in alternation, in one process, on one thread, in seconds of the
processor.

On a GPU it is seconds by the clock, from one moment at which the device is idle to the next.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

DEVICE = torch.device(os.environ.get("BENCHMARK_DEVICE", "cpu"))  # `run.py --device` sets it


class Figure(NamedTuple):
    """A case beside the first one of its table: ratios of the same round, over all rounds; seconds
    of the processor.
    """

    ratio: float  # median
    least: float
    largest: float
    # Ratio of the fastest rounds: on a machine with other work it is nearer to what the code itself
    # costs
    fastest: float
    seconds: float  # median


Case = Callable[[], Any]


def now() -> float:
    """Seconds: of the processor, or by the clock once the GPU has done all it was given."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(DEVICE)
    return time.perf_counter()


def alternate(cases: Mapping[str, Case], rounds: int, name: str) -> dict[str, Figure]:
    """Every round runs each case once, so that what else the machine does meets all of them alike.

    Processor time: with one thread it is the time of an idle machine, and waiting for others is not
    counted.
    """
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for turn in tqdm(range(rounds + 1), name, leave=False):
        for case, run in cases.items():
            began = now()
            run()
            if turn:  # the first round warms up
                seconds[case].append(now() - began)
    base = next(iter(seconds.values()))
    found = {}
    for case, times in seconds.items():
        ratios = [mine / first for mine, first in zip(times, base, strict=True)]
        found[case] = Figure(
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            min(times) / min(base),
            statistics.median(times),
        )
    return found


def peak(run: Case) -> int:
    """Bytes that `run` needs at most beyond what the process has already: measured in a fork, whose
    peak starts at its size.

    On a GPU it is the device's memory.
    """
    if DEVICE.type != "cpu":
        run()  # what stays, such as gradients, is not counted
        torch.cuda.reset_peak_memory_stats(DEVICE)
        had = torch.cuda.memory_allocated(DEVICE)
        run()
        return torch.cuda.max_memory_allocated(DEVICE) - had
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        os.write(writer, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return int(answer.read()) * 1024  # Linux counts in KiB


def peaks(cases: Mapping[str, Case]) -> dict[str, Figure]:
    """As `alternate`, of memory: the last column is megabytes."""
    return once({case: peak(run) / 1e6 for case, run in tqdm(cases.items(), "memory", leave=False)})


def once(found: Mapping[str, float]) -> dict[str, Figure]:
    """Figures that need no rounds, beside the first."""
    base = next(iter(found.values()))
    return {case: Figure(*[figure / base] * 4, figure) for case, figure in found.items()}


class Operations(TorchDispatchMode):
    """Counts what is dispatched inside, backward too, and how often the host waits for a number;
    views cost nothing.
    """

    WAITS = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.equal,
        torch.ops.aten.nonzero,
        torch.ops.aten.is_nonzero,
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        self.waits += func.overloadpacket in self.WAITS
        return func(*args, **(kwargs or {}))


def operations(run: Case) -> Operations:
    """What `run` dispatches."""
    with Operations() as counter:
        run()
    return counter


def counts(cases: Mapping[str, Case]) -> dict[str, Figure]:
    """As `alternate`, of dispatched operations: the last column is their number."""
    return once(
        {
            case: operations(run).count
            for case, run in tqdm(cases.items(), "operations", leave=False)
        }
    )


def arithmetic(cases: Mapping[str, Case]) -> dict[str, Figure]:
    """As `alternate`, of multiplications of matrices: the last column is billions of multiply-adds."""
    found = {}
    for case, run in tqdm(cases.items(), "arithmetic", leave=False):
        with FlopCounterMode(display=False) as counter:
            run()
        found[case] = counter.get_total_flops() / 2e9
    return once(found)


def table(title: str, found: Mapping[str, Figure], unit: str = "seconds") -> None:
    """Print one table."""
    print(f"\n{title}\n{'':44}{'ratio':>9}{'least':>9}{'largest':>9}{'fastest':>9}{unit:>10}")
    for case, figure in found.items():
        ratios = "".join(f"{ratio:9.3f}" for ratio in figure[:4])
        print(f"{case:44}{ratios}{figure.seconds:10.4f}")


def environment(*packages: str) -> dict[str, str]:
    """What the figures depend on, with the versions of these packages."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next(
            (
                line.partition(": ")[2]
                for line in info.read_text().splitlines()
                if line.startswith("model name")
            ),
            cpu,
        )
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        **({"gpu": torch.cuda.get_device_name(DEVICE)} if DEVICE.type == "cuda" else {}),
        "python": sys.version.split()[0],
        **{package: version(package) for package in packages},
        "commit": git.stdout.strip(),
        "command": " ".join(["python", *sys.argv]),
    }


def write(path: Path, tables: Mapping[str, Mapping[str, Figure]], *packages: str) -> None:
    """All tables as JSON, with their `environment`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        title: {case: figure._asdict() for case, figure in found.items()}
        for title, found in tables.items()
    }
    path.write_text(
        json.dumps({"environment": environment(*packages), "tables": figures}, indent=1) + "\n"
    )
