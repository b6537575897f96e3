"""The distributions: nothing is missing from the source, and what is installed from it trains in
another folder.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, TINY

import fairseq_erpo

# Everything that a user of the installed package does; $DATA is the tiny corpus.
USE = f"""
erpo="--user-dir $(python -m fairseq_erpo path) --cpu"
fairseq-train $DATA $erpo {" ".join(TINY)} --criterion erpo_interp --max-epoch 1 --save-dir run
fairseq-validate $DATA $erpo --path run/checkpoint_last.pt --task erpo_translation --max-tokens 150
fairseq-generate $DATA $erpo --path run/checkpoint_last.pt --max-tokens 150 --beam 2 > hypotheses
python -m fairseq_erpo inspect run/checkpoint_last.pt $DATA --sentences 2
"""


def run(command: list[str], folder: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("package", ["fairseq_erpo", "gail"])
def test_version(package: str) -> None:
    shown = run([sys.executable, "-m", package, "--version"], ROOT, {"PYTHONPATH": str(ROOT)})
    assert shown == f"{package}, of fairseq-erpo {fairseq_erpo.__version__}\n"


def test_the_changelog_and_the_pins_are_of_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first and first[1] == fairseq_erpo.__version__
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    needs = (
        (ROOT / "setup.py").read_text().partition("install_requires=[")[2].partition("    ],")[0]
    )
    for name in re.findall(r'^ +"([\w-]+)', needs, re.MULTILINE):
        assert name in pinned, f"{name} of setup.py is not pinned in constraints.txt"


@pytest.mark.slow
def test_what_is_built_is_complete_and_trains_elsewhere(tiny_data: Path, tmp_path: Path) -> None:
    """sdist, from it the wheel, from that an installation into an empty folder; no network."""
    ignored = [
        line.strip("/")
        for line in (ROOT / ".gitignore").read_text().split()
        if not line.startswith("#")
    ]
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", *ignored))
    repository = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    build = (
        "import setuptools.build_meta as b, sys; getattr(b, 'build_' + sys.argv[1])(sys.argv[2])"
    )
    run([sys.executable, "-c", build, "sdist", str(tmp_path)], copy, {})
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    packed = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert repository <= packed, sorted(repository - packed)
    assert all(
        name in {"PKG-INFO", "setup.cfg"} or ".egg-info/" in name for name in packed - repository
    )
    run([sys.executable, "-c", build, "wheel", str(tmp_path)], source, {})
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened_wheel:
        assert {name.split("/")[0].split("-")[0] for name in opened_wheel.namelist()} == {
            "fairseq_erpo",
            "gail",
        }
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--target",
        str(installed),
        str(wheel),
    ]
    run(pip, elsewhere, {})
    path = f"{installed / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {
        "PATH": path,
        "PYTHONPATH": str(installed),
        "DATA": str(tiny_data),
        "OMP_NUM_THREADS": "1",
    }
    for command in ("fairseq-erpo", "erpo-gail"):
        assert run([command, "--version"], elsewhere, env).endswith(
            f"fairseq-erpo {fairseq_erpo.__version__}\n"
        )
    assert run(["fairseq-erpo", "path"], elsewhere, env) == f"{installed / 'fairseq_erpo'}\n"
    shown = run(["bash", "-euo", "pipefail", "-c", USE], elsewhere, env)
    assert "sentence 1" in shown
    assert "Generate test with beam=2" in (elsewhere / "hypotheses").read_text()
