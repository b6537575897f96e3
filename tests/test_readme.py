"""README and the other pages: their commands exist, and README's own-data block leads from two text
files to a table.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, Fairseq, write_corpus

from fairseq_erpo.__main__ import VERBS
from gail.__main__ import VERBS as GAIL_VERBS

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
OWN_DATA = "## Use it on your own data"
# README's sizes, made small; the commands are README's.
SMALLER = {
    "--pieces 8000": "--pieces 100",
    "--arch transformer_iwslt_de_en": "--arch transformer_tiny --max-source-positions 64 --max-target-positions 64 --cpu",
    "--max-epoch 20": "--max-epoch 1",
    "--max-epoch 2 ": "--max-epoch 1 ",
    "--lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000": "--lr 5e-3 --lr-scheduler fixed",
    "--beam 5": "--beam 2 --cpu",
}


def blocks(page: Path, below: str = "") -> list[str]:
    """The bash blocks of a page, or of its section `below`."""
    text = page.read_text("utf-8")
    if below:
        assert text.count(f"{below}\n") == 1
        text = re.split(r"^## ", text.partition(f"{below}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


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


@pytest.mark.slow
def test_the_own_data_block_works_as_printed(tmp_path: Path) -> None:
    """In a folder that looks like the repository, so that what it writes stays there."""
    write_corpus(tmp_path, {"text": 300})
    for name in ("examples", "fairseq_erpo"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands, looking, *_ = blocks(ROOT / "README.md", OWN_DATA)
    script = commands + looking
    for printed, smaller in SMALLER.items():
        assert printed in script, f"README no longer has {printed}"
        script = script.replace(printed, smaller)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Generate test with beam=2" in done.stdout
    assert re.search(r"^mle +\d+\.\d\d.*\ninterp +\d+\.\d\d", done.stdout, re.MULTILINE)
    for page in ("samples.html", "report/report.html"):
        assert "<html" in (tmp_path / page).read_text("utf-8")
