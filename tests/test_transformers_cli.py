"""`python -m fairseq_erpo.huggingface` from the outside, without fairseq, and what reads its
runs.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT
from tiny_transformers import pairs

from fairseq_erpo.huggingface.run import main, parser_for
from fairseq_erpo.tools.training_log import read

SMALL = "--width 16 --layers 1 --pieces 60 --dropout 0 --use_cpu --per-device-train-batch-size 8"
# A finder before all others, as if fairseq were not installed
HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "fairseq_cli", "hydra", "omegaconf"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import runpy
sys.argv = ["erpo", *sys.argv[1:]]
runpy.run_module("fairseq_erpo.huggingface", run_name="__main__")
"""


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Flags that name three small parallel texts."""
    flags = []
    for seed, (split, number) in enumerate({"train": 24, "valid": 6, "test": 6}.items()):
        rows = pairs(number, seed=seed, longest=5)
        for side in ("source", "target"):
            (tmp_path / f"{split}.{side}").write_text("".join(f"{r[side]}\n" for r in rows))
        flags += [f"--{split}", f"{tmp_path}/{split}.source", f"{tmp_path}/{split}.target"]
    return " ".join(flags)


@pytest.mark.slow
def test_trains_resumes_and_is_read_without_fairseq(texts: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = f"{texts} {SMALL} --output-dir {run} --row interp --num-train-epochs 3"
    command = [sys.executable, "-c", HIDDEN, *f"{first} --logging-steps 1".split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^bleu \d+\.\d\d", done.stdout, re.MULTILINE)
    assert "--row interp" in (run / "README.md").read_text()
    assert len((run / "test.hypotheses").read_text().split("\n")) == 7
    scores = json.loads((run / "test.json").read_text())
    assert scores["sentences"] == 6 and {"bleu", "chrf", "rougeL"} <= scores.keys()
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads((run / "test.json").read_text()) == scores
    history = read(run)
    assert sorted(history.train_inner) == list(range(1, 10)) and len(history.valid) == 3
    assert history.metric == "bleu" and history.train_inner[9]["lambda_model"] == 1
    shown = subprocess.run(
        [sys.executable, "-m", "fairseq_erpo", "evaluate", f"interp={run}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert shown.returncode == 0, shown.stderr
    assert f"{scores['bleu']:.2f}" in shown.stdout


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--train {one} --output-dir {out}", "--train takes two files"),
        ("--train {one} {two} --output-dir {out}", "lines"),
        ("--train {one} {one}", "--output_dir"),
        ("--train {one} {one} --output-dir {out} --row mle --samples 3", "--samples"),
        ("--train {one} {one} --output-dir {out} --row interp --c -1", "--c"),
        ("--train {one} {one} --output-dir {out} --model /nothing/here", "--model /nothing/here"),
        ("--train {one} nothing.txt --output-dir {out}", "nothing.txt"),
        ("--train {one} {one} --output-dir {out} --nonsense 3", "nonsense"),
    ],
)
def test_wrong_input_is_one_line(flags: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a b\nc d\n")
    (tmp_path / "two").write_text("a b\n")
    paths = {name: str(tmp_path / name) for name in ("one", "two", "out")}
    with pytest.raises(SystemExit) as ended:
        main(f"{flags.format(**paths)} --use_cpu".split())
    assert named in str(ended.value) and "\n" not in str(ended.value)


def test_help_has_the_rows_flags_and_no_others() -> None:
    shown = parser_for(["--row", "raml"]).format_help()
    assert "--tau" in shown and "--mixture" not in shown and "--adam_beta1" not in shown
    assert "--erpo" not in parser_for([]).format_help()


@pytest.mark.parametrize("script", sorted((ROOT / "examples/huggingface").glob("*.sh")))
def test_recipes_have_flags_that_exist(script: Path, tmp_path: Path) -> None:
    """The trainings that a recipe would start, written down instead."""
    for split in ("train", "valid", "test"):
        for language in ("de", "en", "src", "tgt"):
            (tmp_path / f"{split}.{language}").write_text("a\n")
    said = tmp_path / "said"
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\necho "$*" >> {said}\n')
    python.chmod(0o755)
    env = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(
        [script, tmp_path, "2"], env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    *trainings, evaluation = said.read_text().splitlines()
    assert len(trainings) == 6 and evaluation.startswith("-m fairseq_erpo evaluate mle=")
    for line in trainings:
        argv = line.split()[2:]
        assert line.startswith("-m fairseq_erpo.huggingface")
        parsed, args = parser_for(argv).parse_args_into_dataclasses([*argv, "--use_cpu"])
        assert len(parsed.train) == 2 and args.output_dir.startswith("runs/huggingface/")
    head = script.read_text().split("set -euo")[0]
    assert f"examples/huggingface/{script.name}" in head and "Expected" in head
