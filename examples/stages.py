"""Commands that build on one another: each is run once, resumed where it was interrupted, several
at a time, here or on Slurm.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from fairseq_erpo.files import lock, read_json, write_json, write_text
from fairseq_erpo.processes import die_with_parent, slurm_executor
from fairseq_erpo.tools.training_log import from_json

ROOT = Path(__file__).resolve().parents[1]
# Fairseq's commands stand beside the interpreter, activated or not
COMMANDS = Path(sys.executable).parent
LOG = "train.jsonl"
TIMES = ("seconds", "core_seconds")  # of a stage, in its done.json
# PASSIVE: threads that wait for each other by spinning are many times slower when another program
# wants the cores too.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True)
class Stage:
    """One command, and what it needs: other stages, and data with this digest."""

    name: str
    command: tuple[str, ...]
    after: tuple["Stage", ...] = ()
    data: str = ""
    epochs: int = 0  # 0: not a training stage

    @property
    def digest(self) -> str:
        parts = [self.command, self.data, [stage.digest for stage in self.after]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Process(Protocol):
    """A running stage."""

    core_seconds: float | None

    def poll(self) -> int | None: ...
    def stop(self) -> None: ...


class Worker(Protocol):
    """Starts a command whose output goes to a file."""

    def __call__(self, command: Sequence[str], output: Path, threads: int) -> Process: ...


class Failure(SystemExit):
    """One line that says which stages failed and where to look."""


# ---- where stages run ----


class Local:
    """A process of this machine; it ends with this one, whatever ends that."""

    # Which, unlike seconds, do not depend on what else the machine does
    core_seconds: float | None = None

    def __init__(self, command: Sequence[str], output: Path, threads: int) -> None:
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )

    def poll(self) -> int | None:
        if self.process.returncode is None:
            ended, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if ended:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self.core_seconds = usage.ru_utime + usage.ru_stime
        return self.process.returncode

    def stop(self) -> None:
        if self.poll() is None:
            self.process.terminate()
            self.process.wait()


class Slurm:
    """A job of a cluster, by submitit.  It goes on without this program, which finds it again by
    the number beside its output.
    """

    core_seconds: float | None = None  # Slurm's own accounting knows

    def __init__(self, command: Sequence[str], output: Path, threads: int, executor: Any) -> None:
        number = output.with_name("job")
        if number.is_file():
            self.job = executor.job_class(folder=executor.folder, job_id=number.read_text("utf-8"))
            if not self.job.done():
                return
        from submitit.helpers import CommandFunction

        words = [
            "env",
            *(f"{name}={value}" for name, value in ENVIRONMENT.items()),
            f"OMP_NUM_THREADS={threads}",
            *command,
        ]
        shell = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(words)} > {shlex.quote(str(output.resolve()))} 2>&1"
        self.job = executor.submit(CommandFunction(["bash", "-c", shell], verbose=False))
        number.write_text(self.job.job_id, "utf-8")

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        return 0 if self.job.exception() is None else 1

    def stop(self) -> None:
        """Jobs stay in the queue."""


def slurm_worker(parameters: str, folder: Path, cluster: str = "slurm") -> Worker:
    """One core a stage, unless the `parameters` of `slurm_executor` say more."""
    try:
        executor = slurm_executor(parameters, folder / "slurm", {"cpus_per_task": 1}, cluster)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return partial(Slurm, executor=executor._executor)


# ---- running them ----


@dataclass(frozen=True)
class Runner:
    """Runs stages in a folder, at most `jobs` at a time."""

    folder: Path
    jobs: int
    worker: Worker = Local
    # True: divide `jobs` threads among the running stages; False: one thread each
    share: bool = False
    force: bool = False  # remove finished stages of other settings

    def result(self, stage: Stage) -> dict[str, Any] | None:
        """What the stage left when it was done with these settings, or None."""
        done = self.folder / stage.name / "done.json"
        found = read_json(done) if done.exists() else {}
        if not isinstance(found, dict) or not all(
            isinstance(found.get(name, 0), int | float) for name in TIMES
        ):
            raise ValueError(f"{done} is damaged; remove it, and the stage is run again")
        return found if found.get("digest") == stage.digest else None

    def run(self, stages: Sequence[Stage]) -> None:
        """Do what is not done yet; stages that come first must stand first.

        What does not build on a failed stage is still done.  Raises Failure in the end.
        """
        waiting = [stage for stage in stages if self.result(stage) is None]
        with lock(self.folder), ExitStack() as cleanup:
            self.check_room(waiting)
            running: dict[str, tuple[Stage, Process, Progress]] = {}
            failed: list[Stage] = []
            while waiting or running:
                ready = [
                    stage for stage in waiting if all(self.result(needed) for needed in stage.after)
                ]
                threads = (
                    max(1, self.jobs // max(1, len(ready) + len(running))) if self.share else 1
                )
                for stage in ready[: self.jobs - len(running)]:
                    waiting.remove(stage)
                    self.make_room(stage)
                    process = self.worker(
                        self.command(stage), self.folder / stage.name / "output.txt", threads
                    )
                    cleanup.callback(process.stop)
                    running[stage.name] = (
                        stage,
                        process,
                        Progress(stage, self.folder / stage.name, len(running)),
                    )
                if not running:
                    break
                time.sleep(0.3)
                failed += self.look(running)
            if failed:
                raise Failure("\n".join(self.failure(stage) for stage in failed))

    def look(self, running: dict[str, tuple[Stage, Process, "Progress"]]) -> Iterator[Stage]:
        """Take away what has ended; the stages that failed."""
        for stage, process, progress in list(running.values()):
            code = process.poll()
            progress.show()
            if code is None:
                continue
            progress.close()
            del running[stage.name]
            (self.folder / stage.name / "job").unlink(missing_ok=True)
            if code != 0:
                yield stage
            else:
                times = {
                    "seconds": time.time() - progress.began,
                    "core_seconds": process.core_seconds,
                }
                rounded = {
                    name: round(value, 1) for name, value in times.items() if value is not None
                }
                write_json(
                    self.folder / stage.name / "done.json", {"digest": stage.digest, **rounded}
                )

    def command(self, stage: Stage) -> list[str]:
        return [str(COMMANDS / stage.command[0]), *stage.command[1:]]

    def check_room(self, stages: Sequence[Stage]) -> None:
        """Raises SystemExit where room could be made only by removing what the user may want to
        keep.
        """
        folders = [self.folder / stage.name for stage in stages]
        foreign = [
            str(folder)
            for folder in folders
            if folder.exists() and not (folder / "started").is_file()
        ]
        if foreign:
            raise SystemExit(
                f"{', '.join(foreign)}: not made by this program; move it away, or choose another --out"
            )
        # Slurm waits for a job of the same stage; any other one may still write into the folder.
        jobs = [
            folder / "job"
            for stage, folder in zip(stages, folders, strict=True)
            if (folder / "job").is_file()
            and (self.worker is Local or (folder / "started").read_text("utf-8") != stage.digest)
        ]
        if jobs:
            raise SystemExit(
                f"{', '.join(map(str, jobs))}: of an earlier call, whose jobs may still run; call it as then, or "
                f"scancel {' '.join(job.read_text('utf-8') for job in jobs)} and remove what is named here"
            )
        finished = [str(folder) for folder in folders if (folder / "done.json").exists()]
        if finished and not self.force:
            raise SystemExit(
                f"{', '.join(finished)}: finished, with other settings or data; choose another --out, or --force removes it"
            )

    def make_room(self, stage: Stage) -> None:
        """Keep what an interrupted run of the same stage left; remove what another one left (see
        `check_room`).
        """
        folder = self.folder / stage.name
        started = folder / "started"
        if folder.exists() and (not started.exists() or started.read_text("utf-8") != stage.digest):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(started, stage.digest)

    def failure(self, stage: Stage) -> str:
        output = self.folder / stage.name / "output.txt"
        lines = (
            [line for line in output.read_text("utf-8").splitlines() if line.strip()]
            if output.exists()
            else []
        )
        return f"{stage.name} failed: {lines[-1] if lines else 'no output'} (all of it: {output})"


class Progress:
    """A bar on a terminal, and a line for each validation anywhere."""

    def __init__(self, stage: Stage, folder: Path, position: int) -> None:
        self.stage, self.log = stage, folder / LOG
        self.began = time.time()
        self.size = -1
        self.told = len(from_json(stage.name, self.log).scores())
        if not stage.epochs:
            print(f"  {stage.name}", flush=True)
        self.bar = tqdm(
            total=stage.epochs, desc=f"  {stage.name}", position=position, leave=False,
            bar_format="{desc} {bar} epoch {n:.2f} of {total}, {elapsed}", disable=None if stage.epochs else True,
        )  # fmt: skip

    def show(self) -> None:
        size = self.log.stat().st_size if self.stage.epochs and self.log.exists() else -1
        if size == self.size:  # nothing new to read
            return
        self.size = size
        history = from_json(self.stage.name, self.log)
        self.bar.n = history.progress
        self.bar.refresh()
        scores = history.scores()
        for update, score in list(scores.items())[self.told :]:
            epoch = max(int(history.valid[update].get("epoch", 0)), 1)
            minutes = (time.time() - self.began) / 60
            tqdm.write(
                f"  {self.stage.name}: epoch {epoch} of {self.stage.epochs}, validation {history.metric.upper()} {score:.2f}, "
                f"{minutes:.1f} min"
            )
            sys.stdout.flush()
        self.told = len(scores)

    def close(self) -> None:
        self.bar.close()
