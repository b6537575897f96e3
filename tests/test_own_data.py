"""examples/own_data.sh: its sizes follow the corpus, and fairseq understands its flags;
test_readme.py runs it.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from stages import Stage
from test_recipes import options_of

Words = list[str]
# In place of the project's interpreter and of fairseq-train: writes down what it is asked for.
STUB = """#!/bin/sh
for word; do printf "%s\\0" "$word"; done >> calls; echo >> calls
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder that looks like the repository, with stubs for all that takes time."""
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("python", "fairseq-train"):
        (folder / "bin" / name).write_text(STUB)
        (folder / "bin" / name).chmod(0o755)
    stubs = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHON": str(folder / "bin/python")}
    return subprocess.run(
        ["examples/own_data.sh", *arguments],
        cwd=folder,
        env=os.environ | stubs,
        capture_output=True,
        text=True,
    )


def commands(folder: Path, pairs: int, *arguments: str) -> tuple[Words, dict[str, Any]]:
    """What prepares the text, and the options of each training by the name of its folder."""
    for text in ("text.de", "text.en"):
        (folder / text).write_text("a\n" * pairs)
    for name in ("start", "mle", "interp"):
        (folder / "own" / name).mkdir(parents=True)
    done = call(folder, "text.de", "text.en", "own", *arguments)
    assert done.returncode == 0, done.stderr
    calls = [line.split("\0")[:-1] for line in (folder / "calls").read_text().splitlines()]
    # fairseq takes a plugin from one path in a process
    words = [
        [str(ROOT / "fairseq_erpo") if w.endswith("/fairseq_erpo") else w for w in line]
        for line in calls[1:]
    ]
    parsed = [options_of(Stage("", ("fairseq-train", *line))) for line in words]
    return calls[0], {Path(options.save_dir).name: options for options in parsed}


@pytest.mark.parametrize(
    ("pairs", "pieces", "arch", "epochs"),
    [
        (5_000, "2000", "transformer", 6),
        (49_999, "2000", "transformer", 6),
        (50_000, "8000", "transformer_iwslt_de_en", 2),
        (500_000, "16000", "transformer", 1),
    ],
)
def test_sizes_follow_the_corpus(
    pairs: int, pieces: str, arch: str, epochs: int, tmp_path: Path
) -> None:
    prepared, runs = commands(tmp_path, pairs)
    assert prepared[prepared.index("--pieces") + 1] == pieces
    assert list(runs) == ["start", "mle", "interp"]
    assert {run.arch for run in runs.values()} == {arch}
    assert [run.max_epoch for run in runs.values()] == [200, epochs, epochs]
    assert runs["start"].encoder_embed_dim == (128 if pairs < 50_000 else 512)


def test_mle_ends_by_itself_and_both_rows_go_on_from_its_best(tmp_path: Path) -> None:
    _, runs = commands(tmp_path, 10)
    start, mle, interp = runs.values()
    assert start.patience == 6 and start.lr_scheduler == "reduce_lr_on_plateau"
    assert [run.criterion for run in runs.values()] == ["erpo_mle", "erpo_mle", "erpo_interp"]
    assert interp.erpo_preset == "risk"
    for row in (mle, interp):
        assert row.finetune_from_model == "own/start/checkpoint_best.pt"
        assert (row.lr, row.lr_scheduler, row.dropout) == ([5e-5], "fixed", 0.1)
    for run in runs.values():
        assert run.eval_bleu and run.best_checkpoint_metric == "bleu" and run.log_interval == 20
        assert json.loads(run.eval_bleu_args) == {
            "beam": 5, "lenpen": 0.6, "max_len_a": 1.2, "max_len_b": 10
        }  # fmt: skip
        assert run.tensorboard_logdir == run.save_dir


def test_summaries_rates_and_flags_of_fairseq(tmp_path: Path) -> None:
    flags = "--metric rouge --rate 4.5e-4 --dropout .25 --cpu"
    _, runs = commands(tmp_path, 10, *shlex.split(flags))
    assert runs["mle"].lr == runs["interp"].lr == [4.5e-4] and runs["start"].lr == [2e-3]
    for run in runs.values():
        assert run.eval_rouge and not run.eval_bleu and run.best_checkpoint_metric == "rouge"
        assert run.dropout == 0.25 and run.cpu


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    commands(tmp_path, 10)
    (tmp_path / "calls").unlink()
    (tmp_path / "own/interp/done").unlink()
    again = call(tmp_path, "text.de", "text.en", "own")
    assert again.returncode == 0
    trained = [line for line in (tmp_path / "calls").read_text().splitlines() if "save-dir" in line]
    assert len(trained) == 1 and "own/interp" in trained[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: examples/own_data.sh"),
        (["text.de"], "usage: examples/own_data.sh"),
        (["no.de", "no.en", "own"], "no.de"),
        (["a", "b", "own", "--metric", "chrf"], "--metric"),
        (["a", "b", "own", "--rate"], "--rate"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = call(tmp_path, *arguments)
    assert done.returncode != 0 and said in done.stderr and not (tmp_path / "calls").exists()
