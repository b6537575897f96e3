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
from typing import Any, NamedTuple, Protocol

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
        root, sink = shlex.quote(str(ROOT)), shlex.quote(str(output.resolve()))
        shell = f"cd {root} && exec {shlex.join(words)} > {sink} 2>&1"
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
            running: dict[str, Running] = {}
            failed: list[Stage] = []
            while waiting or running:
                ready = [stage for stage in waiting if all(map(self.result, stage.after))]
                threads = 1
                if self.share:
                    threads = max(1, self.jobs // max(1, len(ready) + len(running)))
                for stage in ready[: self.jobs - len(running)]:
                    waiting.remove(stage)
                    running[stage.name] = self.started(stage, threads, len(running))
                    cleanup.callback(running[stage.name].process.stop)
                if not running:
                    break
                time.sleep(0.3)
                failed += self.look(running)
            if failed:
                raise Failure("\n".join(map(self.failure, failed)))

    def started(self, stage: Stage, threads: int, position: int) -> "Running":
        """A stage that runs from now on."""
        self.make_room(stage)
        folder = self.folder / stage.name
        command = [str(COMMANDS / stage.command[0]), *stage.command[1:]]
        process = self.worker(command, folder / "output.txt", threads)
        return Running(stage, process, Progress(stage, folder, position))

    def look(self, running: dict[str, "Running"]) -> Iterator[Stage]:
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
                continue
            done: dict[str, Any] = {"digest": stage.digest}
            done["seconds"] = round(time.time() - progress.began, 1)
            if process.core_seconds is not None:
                done["core_seconds"] = round(process.core_seconds, 1)
            write_json(self.folder / stage.name / "done.json", done)

    def check_room(self, stages: Sequence[Stage]) -> None:
        """Raises SystemExit where room could be made only by removing what the user may want to
        keep.
        """
        folders = {stage: self.folder / stage.name for stage in stages}
        there = {stage: folder for stage, folder in folders.items() if folder.exists()}
        foreign = [folder for folder in there.values() if not (folder / "started").is_file()]
        if foreign:
            fix = "move it away, or choose another --out"
            raise SystemExit(f"{_listed(foreign)}: not made by this program; {fix}")
        jobs = [folder / "job" for stage, folder in there.items() if self.may_write(stage, folder)]
        if jobs:
            numbers = " ".join(job.read_text("utf-8") for job in jobs)
            fix = f"call it as then, or scancel {numbers} and remove what is named here"
            raise SystemExit(
                f"{_listed(jobs)}: of an earlier call, whose jobs may still run; {fix}"
            )
        finished = [folder for folder in there.values() if (folder / "done.json").exists()]
        if finished and not self.force:
            fix = "choose another --out, or --force removes it"
            raise SystemExit(f"{_listed(finished)}: finished, with other settings or data; {fix}")

    def may_write(self, stage: Stage, folder: Path) -> bool:
        """Whether a job of an earlier call may still write there.  Slurm's worker waits for one of
        the same stage.
        """
        if not (folder / "job").is_file():
            return False
        return self.worker is Local or (folder / "started").read_text("utf-8") != stage.digest

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
        text = output.read_text("utf-8") if output.exists() else ""
        said = [line for line in text.splitlines() if line.strip()]
        return f"{stage.name} failed: {said[-1] if said else 'no output'} (all of it: {output})"


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


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
            total=stage.epochs,
            desc=f"  {stage.name}",
            position=position,
            leave=False,
            bar_format="{desc} {bar} epoch {n:.2f} of {total}, {elapsed}",
            disable=None if stage.epochs else True,
        )

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
            where = f"{self.stage.name}: epoch {epoch} of {self.stage.epochs}"
            found = f"validation {history.metric.upper()} {score:.2f}"
            tqdm.write(f"  {where}, {found}, {minutes:.1f} min")
            sys.stdout.flush()
        self.told = len(scores)

    def close(self) -> None:
        self.bar.close()


class Running(NamedTuple):
    """A stage, its process and its bar."""

    stage: Stage
    process: Process
    progress: Progress
