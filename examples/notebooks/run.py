"""Run notebooks as Jupyter would, and keep what they print and draw in them, without Jupyter.

python examples/notebooks/run.py [NOTEBOOK ...]    all of this folder, if none is named
"""

import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fairseq_erpo.files import write_text

DPI = 72


def execute(notebook: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The outputs of each code cell in turn: what it prints, then its figures."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            with redirect_stdout(io.StringIO()) as printed:
                exec("".join(cell["source"]), names)
            yield [*stream(printed.getvalue()), *map(picture, plt.get_fignums())]
            plt.close("all")


def stream(text: str) -> Iterator[dict[str, Any]]:
    if text:
        lines = text.splitlines(keepends=True)
        yield {"output_type": "stream", "name": "stdout", "text": lines}


def picture(number: int) -> dict[str, Any]:
    sink = io.BytesIO()
    plt.figure(number).savefig(sink, format="png", dpi=DPI, metadata={"Software": None})
    data = {"image/png": base64.b64encode(sink.getvalue()).decode()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def main(paths: list[Path]) -> None:
    for path in paths:
        notebook = json.loads(path.read_text("utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, (cell, outputs) in enumerate(zip(cells, execute(notebook), strict=True), 1):
            cell["outputs"], cell["execution_count"] = outputs, number
        write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        print(path)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb")))
