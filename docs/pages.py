"""docs/api.md and docs/reward-values.md, generated from the code: `python docs/pages.py`.
docs/rows.md has a verb of its own.
"""

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

# Before docs/gail, which is no package
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fairseq_erpo import REWARDS

GENERATED = "Generated: `python docs/pages.py`."
VALUES = """Values of `--erpo-reward`. Those from `bleu` to `edit` give ΔR of Eq. 3, what each
next token would add, for the whole vocabulary; Φ(y_1:t) is the value of a prefix, y\\* the reference, r its length. Rewards of
whole texts, below, have no ΔR."""


def text_of(thing: Any) -> str:
    """A docstring as Markdown that shows y* as it is, also in front of a colon or a full stop."""
    lines = inspect.cleandoc(thing.__doc__ or "").split("\n")
    return "\n".join(
        line if line.startswith("    ") else line.replace("y*", "y\\*") for line in lines
    )


def first_line(thing: Any) -> str:
    """What a public name is, in one line: its docstring's first sentences, or a table's keys."""
    if isinstance(thing, Mapping):
        return f"A table: {', '.join(f'`{key}`' for key in thing)}."
    return text_of(thing).split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def api() -> str:
    """Every public name of both packages."""
    parts = ["# The public surface", f"{GENERATED} All else may change from version to version."]
    for package in ("fairseq_erpo", "gail"):
        module = import_module(package)
        lines = ["| name | home | what it is |", "| --- | --- | --- |"]
        for name in module.__all__:
            lines.append(
                f"| `{name}` | `{module._HOME[name]}` | {first_line(getattr(module, name))} |"
            )
        parts += [f"## {package}", text_of(module), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def rewards() -> str:
    """Every value of --erpo-reward, and how to add one, or a row."""
    parts = ["# The values of --erpo-reward", f"{GENERATED} {VALUES}"]
    for name, factory in REWARDS.items():
        parts += [f"## {name}", text_of(factory.func if isinstance(factory, partial) else factory)]
        if isinstance(factory, partial):
            parts.append(
                f"Here with {', '.join(f'{key} = {value}' for key, value in factory.keywords.items())}."
            )
    whole = {
        "Rewards of whole texts": "text_rewards",
        "A reward of your own": "rewards",
        "A row of your own": "family",
    }
    for title, module in whole.items():
        parts += [f"## {title}", text_of(import_module(f"fairseq_erpo.{module}"))]
    return "\n\n".join(parts) + "\n"


PAGES = {"api.md": api, "reward-values.md": rewards}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (Path(__file__).parent / name).write_text(make(), "utf-8")
