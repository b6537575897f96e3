"""A tiny translation task, and the fairseq command line as the tests call it.

Most of the time of a short `fairseq-train` is importing fairseq. So there are two ways to run a
command, with the same arguments and the same `main`: the console script itself, for what has to be
seen once from the outside, and a process forked from a server in which fairseq, but nothing of this
project, is imported already.
"""

import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Before torch is imported: 2 cores are shared by the runs that a test starts side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    f"fairseq-{tool}": f"fairseq_cli.{tool}"
    for tool in ("train", "preprocess", "generate", "validate", "interactive")
}
LIMIT = 800  # seconds for one command; a tiny run takes ten, and many times that beside other load
WORDS = 30
SPLITS = {"train": 300, "valid": 40, "test": 40}
# The longest sentence has 12 words, so that 150 tokens are some 12 sentences, and an epoch some 20
# updates.
TINY = [
    "--arch",
    "transformer_tiny",
    "--optimizer",
    "adam",
    "--lr",
    "2e-3",
    "--max-tokens",
    "150",
    "--num-workers",
    "0",
]
QUIET = ["--no-progress-bar", "--log-format", "json", "--log-interval", "1"]

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(MODULES.values()))


@dataclass(frozen=True)
class Done:
    """What a command left behind: `code` is negative if a signal ended it."""

    code: int
    output: str  # stdout and stderr

    @property
    def refusals(self) -> list[str]:
        """The lines in which the plugin says why it stops."""
        return [line for line in self.output.splitlines() if line.startswith("erpo: ")]


class Job:
    """A running command."""

    def __init__(self, process: subprocess.Popen[bytes] | BaseProcess, output: Path) -> None:
        self.process = process
        self.output = output

    @property
    def ended(self) -> bool:
        return (
            self.process.poll()
            if isinstance(self.process, subprocess.Popen)
            else self.process.exitcode
        ) is not None

    def kill(self) -> None:
        """SIGKILL: nothing is written, no handler runs."""
        self.process.kill()

    def wait(self) -> Done:
        if isinstance(self.process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LIMIT)
        else:
            self.process.join(LIMIT)
        if not self.ended:
            self.kill()
            raise TimeoutError(f"no end after {LIMIT} s:\n{self.output.read_text()[-3000:]}")
        code = (
            self.process.returncode
            if isinstance(self.process, subprocess.Popen)
            else self.process.exitcode
        )
        assert code is not None
        return Done(code, self.output.read_text())

    def succeed(self) -> Done:
        """Wait, and fail with what the command wrote unless it ended well."""
        done = self.wait()
        assert done.code == 0, done.output[-6000:]
        return done

    def wait_for(self, there: Callable[[], bool]) -> None:
        """Until the command has come as far as `there` says."""
        limit = time.monotonic() + LIMIT
        while not there():
            assert not self.ended and time.monotonic() < limit, self.output.read_text()[-3000:]
            time.sleep(0.01)


def forked(
    module: str, arguments: list[str], output: str, env: Mapping[str, str], stdin: str | None
) -> None:
    """In a process of the server: what the console script does after its imports."""
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    if stdin is not None:
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, encoding="utf-8")
    os.environ.update(env)
    sys.path[:0] = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = [module, *arguments]
    assert "fairseq_erpo" not in sys.modules  # so that --user-dir does its work
    try:
        importlib.import_module(module).cli_main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Fairseq:
    """Starts fairseq's commands in the repository's folder, one output file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def start(
        self,
        tool: str,
        arguments: list[Any],
        console: bool = False,
        env: Mapping[str, str] | None = None,
        stdin: Path | None = None,
    ) -> Job:
        """`console`: the script itself, where the difference could matter."""
        self.count += 1
        output = self.folder / f"{self.count}.{tool}.out"
        output.touch()
        words = [str(argument) for argument in arguments]
        env = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
        if not console:
            process = SERVER.Process(
                target=forked,
                args=(
                    f"fairseq_cli.{tool.removeprefix('fairseq-').replace('-', '_')}",
                    words,
                    str(output),
                    env,
                    stdin and str(stdin),
                ),
            )
            process.start()
            return Job(process, output)
        command = [str(executable(tool)), *words]
        with output.open("wb") as sink, open(stdin or os.devnull, "rb") as source:
            return Job(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=os.environ | env,
                    stdin=source,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                ),
                output,
            )

    def train(
        self, data: Path, save_dir: Path, arguments: str | list[Any], cpu: bool = True, **how: Any
    ) -> Job:
        """`fairseq-train` with tiny settings; what `arguments` says again wins.  The log:
        save_dir/log.
        """
        words = arguments.split() if isinstance(arguments, str) else arguments
        save_dir.mkdir(parents=True, exist_ok=True)
        base = [data, "--user-dir", "fairseq_erpo", *TINY, *QUIET, *["--cpu"] * cpu, "--seed", 7]
        return self.start(
            "fairseq-train",
            [*base, "--save-dir", save_dir, "--log-file", save_dir / "log", *words],
            **({"console": False} | how),
        )


def executable(tool: str) -> Path:
    """The console script that belongs to this interpreter."""
    beside = Path(sys.executable).parent / tool
    found = beside if beside.exists() else shutil.which(tool)
    assert found, f"{tool} is not installed"
    return Path(found)


def records(log: Path) -> list[dict[str, float]]:
    """The lines of `--log-format json --log-file`, as numbers."""
    found = []
    for line in log.read_text().splitlines() if log.exists() else ():
        # Complete, while the command is still writing
        if line.startswith('{"epoch"') and line.endswith("}"):
            found.append(
                {key: float(value) for key, value in json.loads(line).items() if value is not None}
            )
    return found


def by_update(log: Path) -> dict[int, dict[str, float]]:
    """What was logged after each update; after a restart, the later record counts."""
    return {
        int(record["num_updates"]): record
        for record in records(log)
        if "num_updates" in record and "loss" in record
    }


def lambdas(log: Path) -> dict[int, tuple[float, float, float]]:
    """λ = (model, reward, data) by update."""
    return {
        n: (r["lambda_model"], r["lambda_reward"], r["lambda_data"])
        for n, r in by_update(log).items()
    }


def load(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, by torch's safe loading."""
    import fairseq_erpo.plugin.safe_load  # noqa: F401 - allows argparse.Namespace

    return torch.load(checkpoint, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def assert_equal_bits(a: Any, b: Any, where: str = "") -> None:
    """Nested dictionaries and lists with tensors, equal to the last bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), (
            f"{where}: differs by {(a - b).abs().max()}"
        )
    elif isinstance(a, Mapping):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal_bits(x, y, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a} != {b}"


class Built(NamedTuple):
    """What fairseq-train makes of its command line, before it reads data."""

    task: Any
    model: Any
    criterion: Any

    def batch(self, ids: list[int], split: str = "train") -> dict[str, Any]:
        """These sentences as fairseq would hand them to the criterion."""
        if split not in self.task.datasets:
            self.task.load_dataset(split)
        dataset = self.task.dataset(split)
        return dataset.collater([dataset[i] for i in ids])  # type: ignore[no-any-return]


@functools.cache  # fairseq takes most of a second to parse a command line
def configuration(data: Path, arguments: str) -> Any:
    """fairseq-train's command line as its configuration."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_erpo.tasks  # noqa: F401 - what --user-dir does in a process of its own

    words = [str(data), *TINY, "--cpu", *arguments.split()]
    return convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), words)
    )


def build(data: Path, arguments: str) -> Built:
    """Task, model (from the same torch seed) and criterion in this process."""
    from fairseq import tasks

    cfg = configuration(data, arguments)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(1)
    model = task.build_model(cfg.model)
    return Built(task, model, task.build_criterion(cfg.criterion))


def write_corpus(folder: Path, splits: Mapping[str, int] = SPLITS, seed: int = 1) -> Path:
    """Text of a language whose translation is the sentence read backwards in capitals."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"w{i:02d}" for i in range(WORDS)]
    for split, size in splits.items():
        source = [rng.choices(words, k=rng.randint(3, 12)) for _ in range(size)]
        (folder / f"{split}.de").write_text("".join(" ".join(line) + "\n" for line in source))
        (folder / f"{split}.en").write_text(
            "".join(" ".join(reversed(line)).upper() + "\n" for line in source)
        )
    return folder


@pytest.fixture(scope="session")
def fairseq(tmp_path_factory: pytest.TempPathFactory) -> Fairseq:
    return Fairseq(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, fairseq: Fairseq) -> Path:
    """A binarised German-English corpus of 300/40/40 sentences over 30 words."""
    text = write_corpus(tmp_path_factory.mktemp("tiny") / "text")
    data = text.parent / "data"
    prefixes = [word for split in SPLITS for word in (f"--{split}pref", text / split)]
    fairseq.start(
        "fairseq-preprocess", ["-s", "de", "-t", "en", *prefixes, "--destdir", data, "--workers", 1]
    ).succeed()
    return data


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, fairseq: Fairseq, tiny_data: Path
) -> Path:
    """What `fairseq-train --criterion erpo_mle` writes after a few epochs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    flags = "--criterion erpo_mle --max-epoch 5 --no-epoch-checkpoints --lr 5e-3"
    fairseq.train(tiny_data, folder, flags, console=True).succeed()
    return folder / "checkpoint_last.pt"


@pytest.fixture
def train(fairseq: Fairseq, tiny_data: Path) -> Callable[..., Done]:
    """`train(save_dir, "--criterion ...")` on the tiny corpus; fails unless fairseq-train ends
    well.
    """

    def run(save_dir: Path, arguments: str | list[Any], **how: Any) -> Done:
        return fairseq.train(tiny_data, save_dir, arguments, **how).succeed()

    return run
