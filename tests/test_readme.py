"""README and the other pages: their commands exist, and README's lead from a clone and from two text
files to where it says.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, Done, Fairseq, write_corpus

from fairseq_erpo.__main__ import VERBS
from gail.__main__ import VERBS as GAIL_VERBS

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
OWN_DATA = "## Your own data"
# README's own words, and beside them what makes them small or is known here only.
SMALLER = ("text.de text.en runs/own\n", "text.de text.en runs/own --max-epoch 1 --cpu\n")
ADDRESS = "ADDRESS_OF_THIS_REPOSITORY"


def blocks(page: Path, below: str = "", language: str = "bash") -> list[str]:
    """The blocks of a page, or of its section `below`."""
    text = page.read_text("utf-8")
    if below:
        assert text.count(f"{below}\n") == 1
        text = re.split(r"^## ", text.partition(f"{below}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def environment(folder: Path) -> dict[str, str]:
    """Commands of this interpreter, and this copy of the project."""
    paths = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
    }
    return (
        os.environ
        | paths
        | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PWD": str(folder)}
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_bash_and_names_what_there_is(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page):
        parsed = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert parsed.returncode == 0 and not parsed.stderr, parsed.stderr
        for known, pattern in (
            (VERBS, r"python -m fairseq_erpo (\w+)"),
            (GAIL_VERBS, r"python -m gail (\w+)"),
            (targets, r"^make ([a-z-]+)"),
        ):
            assert set(re.findall(pattern, block, re.MULTILINE)) <= set(known), block
        for script in re.findall(r"(?<![\w/])(?:examples|benchmarks)/[\w/]+\.(?:sh|py)", block):
            assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("criterion", [[], ["--criterion", "erpo_interp"]])
def test_the_help_of_fairseq_train_says_where_the_flags_are(
    fairseq: Fairseq, criterion: list[str]
) -> None:
    shown = (
        fairseq.start("fairseq-train", ["--user-dir", "fairseq_erpo", *criterion, "--help"])
        .succeed()
        .output
    )
    assert "python -m fairseq_erpo family" in shown.partition("options:")[0]
    assert ("--erpo-preset" in shown) == bool(criterion)


def test_a_command_without_a_model_says_so(fairseq: Fairseq, tiny_data: Path) -> None:
    done = fairseq.start(
        "fairseq-train", [tiny_data, "--user-dir", "fairseq_erpo", "--criterion", "erpo_interp"]
    ).wait()
    assert done.code == 1 and "Traceback" not in done.output
    assert [line[:25] for line in done.refusals] == ["erpo: --arch is missing: "]


def bash(script: str, folder: Path) -> str:
    """What a script of README prints, run in a folder."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_own_data_block_works_as_printed(tmp_path: Path) -> None:
    """In a folder that looks like the repository, so that what it writes stays there."""
    write_corpus(tmp_path, {"text": 300})
    for name in ("examples", "fairseq_erpo"):
        (tmp_path / name).symlink_to(ROOT / name)
    (commands,) = blocks(ROOT / "README.md", OWN_DATA)
    assert commands.count(SMALLER[0]) == 1, "README no longer has this command"
    shown = bash(commands.replace(*SMALLER), tmp_path)
    assert re.search(r"^mle +\d+\.\d\d.*\ninterp +\d+\.\d\d", shown, re.MULTILINE)
    assert "<html" in (tmp_path / "report/report.html").read_text("utf-8")
    assert all((tmp_path / f"runs/own/{name}/done").exists() for name in ("start", "mle", "interp"))
    again = bash(commands.splitlines()[0], tmp_path)
    assert "is there already" in again and "epoch" not in again  # nothing is trained twice


@pytest.mark.slow
def test_a_clone_has_the_verbs_of_the_readme(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no repository to clone")
    script = blocks(ROOT / "README.md", "## Try it")[0]
    assert script.count(ADDRESS) == 1
    clone = script.splitlines()[0].replace(ADDRESS, shlex.quote(str(ROOT)))
    assert "examples/quickstart/run.sh" in bash(f"{clone}\nmake -n demo", tmp_path)


def python_files() -> dict[str, str]:
    """README's files of Python, by the name in the comment on top of each."""
    block = blocks(ROOT / "README.md", "## A reward or a row of your own", "python")[0]
    parts = re.split(r"^(?=# \S+\.py, for )", block, flags=re.MULTILINE)[1:]
    return {part.split(",")[0].removeprefix("# "): part for part in parts}


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--user-dir fairseq_erpo --criterion erpo_interp --erpo-reward my_metric:shared",
        "--user-dir {folder}/mine --criterion erpo_half",
    ],
)
def test_the_reward_and_the_row_of_the_readme_train(
    flags: str, tmp_path: Path, train: Callable[..., Done]
) -> None:
    files = python_files()
    assert list(files) == ["my_metric.py", "mine/__init__.py"]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert any(flags.split(" ", 2)[2] in text.splitlines()[0] for text in files.values())
    words = f"{flags.format(folder=tmp_path)} --task erpo_translation --max-epoch 1"
    train(tmp_path / "run", words, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
