"""Environments × demonstrations × methods × seeds, a folder for each run, and one tidy table.

    OUT/ENV/METHOD/nN/seedS/    one run, see run.py        OUT/results.csv    a row per finished run

Runs are processes of `python -m gail train --resume`, here or under Slurm: interrupted ones
continue, finished ones stay.
"""

import csv
import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fairseq_erpo.files import atomic_write, lock, read_record
from fairseq_erpo.processes import die_with_parent, slurm_executor
from gail.archive import read_manifest
from gail.flags import add_imitation, add_training, method_list, settings_from
from gail.methods import METHODS
from gail.simulator import check_env

COLUMNS = (
    "env",
    "method",
    "n",
    "seed",
    "return",
    "return_std",
    "return_last10",
    "return_best",
    "length",
    "episodes",
    "iterations",
    "timesteps",
    "seconds",
    "expert_return",
)
# Networks of 128 gain nothing from more, and side by side they lose
THREADS = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; n = 0 for a method that sees no demonstration."""

    env: str
    method: str
    n: int
    seed: int

    def folder(self, out: Path) -> Path:
        return out / self.env / self.method / f"n{self.n}" / f"seed{self.seed}"

    def command(self, out: Path, demos: Path, flags: Sequence[str]) -> list[str]:
        """Return the command line that trains it."""
        words = [
            sys.executable,
            "-m",
            "gail",
            "train",
            "--env",
            self.env,
            "--method",
            self.method,
            "--seed",
            str(self.seed),
        ]
        if self.n:
            words += ["--demos", str(demos), "--n", str(self.n)]
        return [*words, "--out", str(self.folder(out)), "--resume", "--quiet", *flags]


def cells(args: Namespace) -> list[Cell]:
    """List the runs seed by seed, so that one seed of everything finishes first; methods without
    demonstrations once.
    """
    found = [
        Cell(env, method, n if METHODS[method].needs_demos else 0, seed)
        for seed in args.seed
        for env in args.env
        for n in args.n
        for method in args.method
    ]
    return list(dict.fromkeys(found))


def demos_of(args: Namespace, env: str) -> Path:
    """Return the demonstrations' file of an environment."""
    return Path(args.demos) / f"{env}.npz"


def sweep(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: train every run that is not done, and write the table after each."""
    parser.epilog = f"{method_list()}\n\n{parser.epilog}"
    parser.add_argument("--env", nargs="+", required=True, metavar="ID")
    parser.add_argument(
        "--method",
        nargs="+",
        required=True,
        choices=[name for name in METHODS if name != "expert"],
        metavar="METHOD",
    )
    parser.add_argument(
        "--n",
        nargs="+",
        type=int,
        default=[1],
        metavar="N",
        help="numbers of demonstrations, default 1",
    )
    parser.add_argument(
        "--seed", nargs="+", type=int, default=[1, 2, 3], metavar="S", help="default 1 2 3"
    )
    parser.add_argument(
        "--demos", required=True, metavar="FOLDER", help="with a file ENV.npz for each environment"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes, default: one a core",
    )
    slurm = (
        "submit to Slurm instead of running here, with submitit's parameters: "
        "slurm_partition=cpu,timeout_min=600"
    )
    parser.add_argument("--slurm", metavar="PARAMETERS", help=slurm)
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    add_training(parser)
    add_imitation(parser)
    args = parser.parse_args(argv)
    flags = training_flags(argv, parser)
    wanted = cells(args)
    for flag, values in (
        ("--n", args.n),
        ("--workers", [args.workers]),
        ("--save-every", [args.save_every]),
    ):
        if min(values) < 1:
            raise ValueError(f"{flag} must be at least 1, and is {min(values)}")
    for flag, chosen in (
        ("--env", args.env),
        ("--method", args.method),
        ("--n", args.n),
        ("--seed", args.seed),
    ):
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"{flag} {' '.join(map(str, chosen))} names one twice")
    for env_id in args.env:
        check_env(env_id)
    for cell in wanted:  # a wrong flag or a missing file ends the sweep before it begins
        settings_from(
            args, cell.env, cell.method, str(demos_of(args, cell.env)), cell.n or None, cell.seed
        )
        if cell.n and cell.n > len(read_manifest(demos_of(args, cell.env))["lengths"]):
            raise ValueError(f"--n {cell.n}: {demos_of(args, cell.env)} has fewer demonstrations")
    commands = {cell: cell.command(args.out, demos_of(args, cell.env), flags) for cell in wanted}
    if args.dry_run:
        print("\n".join(shlex.join(command) for command in commands.values()))
        return
    waiting = {
        cell: command
        for cell, command in commands.items()
        if not (cell.folder(args.out) / "result.json").exists()
    }
    if args.slurm:
        submit(list(waiting.values()), args)
        return
    with lock(args.out, "--out"):
        failed = run_all(args, wanted, waiting)
    print(f"{args.out / 'results.csv'}: {len(wanted) - len(failed)} of {len(wanted)} runs")
    if failed:
        raise ValueError(
            f"failed: {', '.join(str(cell.folder(args.out) / 'log') for cell in failed)}"
        )


def run_all(
    args: Namespace, wanted: Sequence[Cell], waiting: Mapping[Cell, Sequence[str]]
) -> list[Cell]:
    """Train what waits, write the table after each run, and return the cells that failed."""
    failed: list[Cell] = []
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(args.workers) as pool:
        running = {
            pool.submit(execute, cell.folder(args.out), command, started): cell
            for cell, command in waiting.items()
        }
        bar = tqdm(
            as_completed(running),
            "sweep",
            len(wanted),
            initial=len(wanted) - len(waiting),
            unit="run",
            disable=None,
        )
        try:
            for ended in bar:
                if ended.result():
                    failed.append(running[ended])
                write_table(args)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # no further run begins
            for process in started:
                process.terminate()
            raise
    write_table(args)
    return failed


def training_flags(argv: Sequence[str], parser: ArgumentParser) -> list[str]:
    """Return the flags that go to every run: those that are not the sweep's own."""
    own = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--env", "--method", "--n", "--seed"):
        own.add_argument(name, nargs="+")
    for name in ("--demos", "--out", "--workers", "--slurm"):
        own.add_argument(name)
    own.add_argument("--dry-run", action="store_true")
    return own.parse_known_args(list(argv))[1]


def execute(folder: Path, command: Sequence[str], started: list[subprocess.Popen[bytes]]) -> int:
    """Train one run, with its output in its folder; return the exit code.  The process is added to
    `started`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            env=THREADS | os.environ,
            preexec_fn=die_with_parent,  # the kernel's "parent" is the thread, which waits here
        )
        started.append(process)
        return process.wait()


def submit(commands: Sequence[Sequence[str]], args: Namespace) -> None:
    """Submit one array job; the same sweep without --slurm writes the table afterwards."""
    defaults = {"cpus_per_task": 1, "slurm_array_parallelism": args.workers, "name": "gail"}
    executor = slurm_executor(args.slurm, args.out / "slurm", defaults)
    with executor.batch():
        jobs = [
            executor.submit(subprocess.run, list(command), check=True, env=THREADS | os.environ)
            for command in commands
        ]
    print(
        f"{len(jobs)} jobs submitted; afterwards the same command without --slurm writes "
        f"{args.out / 'results.csv'}"
    )


def finished(out: Path) -> Iterator[Path]:
    """Yield the folders of finished runs."""
    return (path.parent for path in sorted(out.glob("**/n*/seed*/result.json")))


def write_table(args: Namespace) -> None:
    """Write the table atomically, a row per finished run."""
    with (
        atomic_write(args.out / "results.csv") as part,
        part.open("w", newline="", encoding="utf-8") as sink,
    ):
        writer = csv.DictWriter(sink, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for folder in finished(args.out):
            *names, method, n, seed = folder.relative_to(args.out).parts
            env = "/".join(names)  # an id may have a namespace
            returns = read_manifest(demos_of(args, env))["returns"]
            cell = {"env": env, "method": method, "n": int(n[1:]), "seed": int(seed[4:])}
            writer.writerow(
                read_record(folder / "result.json", ("return",))
                | cell
                | {"expert_return": sum(returns) / len(returns)}
            )
