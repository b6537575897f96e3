"""The import direction of the packages, and that they stay light to import."""

import ast
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LIMIT

ROOT = Path(__file__).resolve().parents[1]

# Rooms of fairseq_erpo from the ground up: a module imports from its own room and from those below,
# never from above.
FLOORS = (
    {""},
    {"mixture", "vocabulary", "files", "processes", "verbs", "scores", "coverage", "provenance"},
    {"annealers", "rewards", "checkup", "text_rewards"},
    {"algorithm"},
    {"family"},
    {"plugin", "huggingface"},  # the two front-ends do not know each other
    {"tasks", "tools"},
    {"__main__"},
)
STANDARD_ONLY = {
    "",
    "mixture",
    "annealers",
    "vocabulary",
    "files",
    "verbs",
    "coverage",
    "provenance",
}
FAIRSEQ = {
    "plugin",
    "tasks",
    "tools.load_run",
    "tools.generate",
    "tools.variance",
    "tools.doctor",
    "tools.convert",
}
TRANSFORMERS = {"huggingface"}
SHARED_WITH_GAIL = {"mixture", "annealers", "files", "processes", "checkup", "verbs"}
STABLE_BASELINES = {"ppo", "demo_prefix", "recorder", "normalisers", "policies", "sb3_policy"}


def imports(path: Path, package: str) -> Iterator[str]:
    """Every module that a file names in an import, at any depth, relative ones resolved: `a.b` or
    `a.b.name`.
    """
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def modules(package: str) -> list[tuple[str, str, set[str]]]:
    """(file, its module's name without the package, what it imports)"""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        relative = path.relative_to(ROOT)
        within = [part for part in relative.with_suffix("").parts[1:] if part != "__init__"]
        name = ".".join(within)
        found.append((str(relative), name, set(imports(path, ".".join(relative.parts[:-1])))))
    return found


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def inside(names: set[str], package: str) -> set[str]:
    """The modules of `package` among `names`, which may be names in modules; "" for the package
    itself.
    """
    known = {name for _, name, _ in modules(package)}
    found = set()
    for name in names:
        if name.split(".")[0] == package:
            parts = name.split(".")[1:]
            found.add(
                next(
                    ".".join(parts[:n])
                    for n in range(len(parts), -1, -1)
                    if ".".join(parts[:n]) in known
                )
            )
    return found


def room_of(module: str) -> str:
    return module.split(".")[0]


def test_no_arrow_runs_up() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for file, name, found in modules("fairseq_erpo"):
        room = room_of(name)
        assert room in floor, f"{file}: give this room a floor"
        for other in {room_of(other) for other in inside(found, "fairseq_erpo")} - {room}:
            assert floor[other] < floor[room], f"{file} must not import {other}"


@pytest.mark.parametrize("package", ["fairseq_erpo", "gail"])
def test_no_circle(package: str) -> None:
    """Among modules, whatever an import is for: TYPE_CHECKING and imports inside of functions count
    too.
    """
    found = {name: imported for _, name, imported in modules(package)}
    rules = {
        name: {other for other in inside(imported, package) if other in found and other != name}
        for name, imported in found.items()
    }
    for name in rules:
        # A package's __init__ is imported for its parts, and its lazy exports import nothing.
        rules[name] -= {parent for parent in rules if f"{name}.".startswith(f"{parent}.")} | {""}
    while rules:
        free = {name for name, needs in rules.items() if not needs & rules.keys()}
        assert free, f"a circle among {sorted(rules)}"
        rules = {name: needs for name, needs in rules.items() if name not in free}


def test_foreign_packages() -> None:
    for file, name, found in modules("fairseq_erpo"):
        if name not in FAIRSEQ and room_of(name) not in FAIRSEQ:
            assert not tops(found) & {"fairseq", "fairseq_cli", "omegaconf", "hydra"}, (
                f"{file} must not know fairseq"
            )
        if room_of(name) not in TRANSFORMERS:
            foreign = tops(found) & {"transformers", "accelerate", "peft", "datasets"}
            assert not foreign, f"{file} must not know {sorted(foreign)}"
        assert "stable_baselines3" not in tops(found), f"{file} must not know stable-baselines3"
        assert "gail" not in tops(found), f"{file} must not know gail"
        if room_of(name) in STANDARD_ONLY:
            foreign = tops(found) - sys.stdlib_module_names - {"fairseq_erpo"}
            assert not foreign, (
                f"{file} may import the standard library only, not {sorted(foreign)}"
            )


def test_gail() -> None:
    for file, name, found in modules("gail"):
        assert not tops(found) & {"fairseq", "fairseq_cli"}, f"{file} must not know fairseq"
        extra = {room_of(other) for other in inside(found, "fairseq_erpo")} - SHARED_WITH_GAIL
        assert not extra, (
            f"{file} may import {sorted(SHARED_WITH_GAIL)} of fairseq_erpo, not {sorted(extra)}"
        )
        if name not in STABLE_BASELINES:
            assert "stable_baselines3" not in tops(found), f"{file} must not know stable-baselines3"


@pytest.mark.parametrize("package", ["fairseq_erpo", "gail"])
def test_every_public_name_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(set(module.__all__)) and set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import fairseq_erpo", ("fairseq", "torch")),
        ("import fairseq_erpo.annealers", ("fairseq", "torch")),
        ("import gail", ("fairseq", "torch")),
        ("import gail.__main__", ("fairseq", "torch", "gymnasium", "stable_baselines3")),
    ],
)
def test_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}, sys; print(*sorted(set({absent!r}) & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
