"""docs/api.md and the last part of docs/rewards.md, generated from the code: `python docs/pages.py`.
docs/rows.md has a verb of its own.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

# Before docs/gail, which is no package
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fairseq_erpo import REWARDS

FOLDER = Path(__file__).resolve().parent
GENERATED = "Generated: `python docs/pages.py`."
VALUES = "## The values, one by one"  # what follows in docs/rewards.md is generated
NOTE = """Values of `--erpo-reward` with ΔR of Eq. 3, for the whole vocabulary at once. Φ(y_1:t)
is the value of a prefix, y\\* the reference, r its length."""
WHOLE = {
    "Rewards of whole texts": "text_rewards",
    "A reward of your own": "rewards",
    "A row of your own": "family",
}


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
    """docs/rewards.md, its part on every value of --erpo-reward and on adding one made anew."""
    written, heading, _ = (FOLDER / "rewards.md").read_text("utf-8").partition(f"{VALUES}\n")
    parts = [f"{heading}\n{GENERATED} {NOTE}"]
    for names in alike(REWARDS):
        parts += [f"### {', '.join(names)}", text_of(maker(names[0]))]
        parts += [f"`{name}` has {settings}." for name in names if (settings := settings_of(name))]
    for title, module in WHOLE.items():
        parts += [f"### {title}", text_of(import_module(f"fairseq_erpo.{module}"))]
    return written + "\n\n".join(parts) + "\n"


def maker(name: str) -> Any:
    """The class of a reward."""
    factory = REWARDS[name]
    return factory.func if isinstance(factory, partial) else factory


def alike(names: Iterable[str]) -> list[list[str]]:
    """Names of one class after the other, in the order of the table."""
    return [list(group) for _, group in groupby(names, key=maker)]


def settings_of(name: str) -> str:
    """What distinguishes a reward from others of its class."""
    factory = REWARDS[name]
    given = factory.keywords if isinstance(factory, partial) else {}
    return ", ".join(f"{key} = {value}" for key, value in given.items())


PAGES = {"api.md": api, "rewards.md": rewards}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), "utf-8")
