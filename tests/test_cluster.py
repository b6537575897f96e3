"""The recipes for clusters, as far as a machine without GPUs can run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import LIMIT, QUIET, ROOT, TINY, load
from test_train import free_port

CLUSTER = ROOT / "examples" / "cluster"
SHORT = ["--max-update", "4", "--disable-validation", "--dropout", "0", "--no-epoch-checkpoints"]


def run(
    command: list[str], data: Path, save_dir: Path, flags: list[str], **env: str
) -> dict[str, torch.Tensor]:
    """The parameters after a training by a recipe, whose own flags come first and lose."""
    env = (
        os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        | env
    )
    words = [*command, data, "--save-dir", save_dir, *flags]
    done = subprocess.run(
        [str(w) for w in words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    model: dict[str, torch.Tensor] = load(save_dir / "checkpoint_last.pt")["model"]
    return model


@pytest.mark.slow
def test_two_processes_by_torchrun_and_by_submitit_are_one(tiny_data: Path, tmp_path: Path) -> None:
    """Two ranks against one process with --update-freq 2, through every recipe."""
    flags = [*TINY, *QUIET, *SHORT, "--seed", "7"]
    alone = run(
        [CLUSTER / "one_node.sh"], tiny_data, tmp_path / "alone", [*flags, "--update-freq", "2"]
    )
    # The README's rule: the best checkpoint is chosen by the task metric.
    assert (
        load(tmp_path / "alone" / "checkpoint_last.pt")["cfg"]["checkpoint"][
            "best_checkpoint_metric"
        ]
        == "bleu"
    )
    port = free_port()
    nodes = run(
        [CLUSTER / "nodes.sh"],
        tiny_data,
        tmp_path / "nodes",
        flags,
        GPUS="2",
        HEAD=f"localhost:{port}",
    )
    slurm = [
        sys.executable,
        CLUSTER / "slurm.py",
        "--gpus",
        "2",
        "--cluster",
        "local",
        "--logs",
        tmp_path / "logs",
        "--wait",
        "--",
    ]
    submitted = run(slurm, tiny_data, tmp_path / "slurm", flags)
    for name, value in alone.items():
        for other in (nodes, submitted):
            # Float32 sums in another order, through four Adam steps of about 2e-3 each: a twentieth
            # of one step.
            torch.testing.assert_close(
                other[name], value, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize(
    "flag", ["--save-dir {}", "--save-dir={}", "--save-dir={}/none --save-dir={}"]
)
def test_a_launch_that_saved_something_is_started_again(tmp_path: Path, flag: str) -> None:
    """However the folder is written; what is said last wins."""
    (tmp_path / "one_node.sh").write_text('#!/bin/sh\necho started "$@"\n')
    (tmp_path / "one_node.sh").chmod(0o755)
    words = [
        "bash",
        shutil.copy(CLUSTER / "rank.sh", tmp_path),
        "data",
        *flag.format(tmp_path, tmp_path).split(),
    ]
    torchrun = {
        "TORCHELASTIC_RESTART_COUNT": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
    }
    for saved in (False, True):
        done = subprocess.run(
            words, env=os.environ | torchrun, cwd=tmp_path, capture_output=True, text=True
        )
        assert (
            done.stdout.startswith("started data --save-dir") == saved == (done.returncode == 0)
        ), done.stderr
        (tmp_path / "checkpoint_last.pt").touch()


@pytest.mark.slow
def test_a_configuration_error_ends_a_launch_once(tiny_data: Path, tmp_path: Path) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GPUS": "1"}
    words = [
        CLUSTER / "nodes.sh",
        tiny_data,
        "--save-dir",
        tmp_path / "run",
        *TINY,
        "--erpo-c",
        "-1",
    ]
    env["HEAD"] = f"localhost:{free_port()}"
    done = subprocess.run(
        [str(w) for w in words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0 and output.count("erpo: --erpo-c") == 1, output[-3000:]
    assert output.count("not started again") == 1


@pytest.mark.slow
def test_the_command_for_several_processes_on_cpus(tiny_data: Path, tmp_path: Path) -> None:
    """As docs/log.md has it, but for the data, the folder and the port."""
    page = (
        (ROOT / "docs" / "log.md").read_text("utf-8").partition("## Several processes on CPUs")[2]
    )
    command = page.split("```bash\n")[1].split("```")[0]
    for word, here in (("DATA", tiny_data), ("RUN", tmp_path / "run"), ("29500", free_port())):
        assert word in command
        command = command.replace(word, str(here))
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    output = done.stdout + done.stderr
    assert "training on 2 devices" in output and "Traceback" not in output, output[-3000:]
    assert (
        load(tmp_path / "run" / "checkpoint_last.pt")["extra_state"]["train_iterator"]["epoch"] == 4
    )
