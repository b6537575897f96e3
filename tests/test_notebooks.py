"""The notebooks in examples/notebooks run from the first cell to the last, and are committed
without outputs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, object]]:
    """The code cells."""
    return [
        cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs(path: Path) -> None:
    for cell in cells(path):
        assert not cell["outputs"] and cell["execution_count"] is None, (
            "clear the outputs before committing"
        )


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path) -> None:
    """As one program: the cells share their names, and fairseq stays unimported."""
    sources = ["".join(cell["source"]) for cell in cells(path)]  # type: ignore[arg-type]
    code = "\n\n".join([*sources, "import sys; assert 'fairseq' not in sys.modules"])
    env = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
