"""The notebooks in examples/notebooks run from the first cell to the last, and show what they did
when they were run last.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LIMIT, ROOT

FOLDER = ROOT / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(path: Path) -> list[list[dict[str, Any]]]:
    """Of each code cell."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def shape(path: Path) -> list[list[str]]:
    """The same without what differs by machine: pictures, and the digits of what is printed."""
    return [
        [re.sub(r"\d", "", "".join(output.get("text", [output["output_type"]]))) for output in cell]
        for cell in outputs(path)
    ]


@each
def test_outputs_are_stored_and_small(path: Path) -> None:
    assert any(outputs(path)) and path.stat().st_size < 150_000


@pytest.mark.slow
@each
def test_a_notebook_runs_as_it_is_stored(path: Path, tmp_path: Path) -> None:
    """In a process of its own, in which fairseq stays unimported."""
    shutil.copy(path, tmp_path)
    code = (
        "import run, sys; from pathlib import Path; run.main([Path(sys.argv[1])]); "
        "assert 'fairseq' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": f"{FOLDER}:{ROOT}"}
    command = [sys.executable, "-c", code, str(tmp_path / path.name)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert shape(tmp_path / path.name) == shape(path)
