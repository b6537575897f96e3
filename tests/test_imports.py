"""The import direction of the packages, and that they stay light to import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# mixture <- annealers <- family/estep/rewards <- sampler <- criterions/tasks, and beside them what each may use of this package.
# A module that is missing here fails the test: give it a place.
MATHS = {"mixture", "annealers", "vocabulary", "uniforms", "rewards", "estep", "noising"}
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "mixture": set(),
    "vocabulary": set(),
    "uniforms": set(),
    "annealers": {"mixture"},
    "rewards": {"vocabulary"},
    "estep": {"mixture", "rewards", "vocabulary"},
    "noising": {"uniforms", "vocabulary"},
    "sampler": MATHS,
    "settings": MATHS,
    "engine": MATHS | {"sampler", "settings"},
    "mstep": MATHS | {"sampler", "engine"},
    "family": {"engine", "settings"},
    "compat": set(),
    "files": set(),
    "packing": set(),
    "processes": set(),
    "saving": {"files"},
    "decoding": MATHS | {"sampler"},
    "border": MATHS | {"sampler", "settings", "engine", "compat", "decoding", "packing"},
    "logs": MATHS | {"sampler", "engine"},
    "scores": set(),
    "tasks": {"mixture", "annealers", "compat", "criterions", "decoding", "files", "saving", "scores"},
    "criterions": MATHS
    | {"sampler", "settings", "engine", "mstep", "family", "compat", "decoding", "border", "logs", "packing", "tasks"},
}
# May import everything; nothing but each other imports them.
TOOLS = {
    "__main__",
    "curves",
    "evaluation",
    "exploration",
    "family_table",
    "inspection",
    "loading",
    "outputs",
    "report",
    "runlogs",
    "pictures",
    "variance",
}
BORDER = {"criterions", "tasks", "decoding", "compat", "border", "logs", "saving"} | TOOLS
STANDARD_ONLY = {"", "mixture", "annealers", "vocabulary", "files", "processes"}
# Only these know stable-baselines3.
CONTROL = {"ppo", "envs", "evaluate"}


def imports(path: Path, package: str) -> Iterator[str]:
    """Every module that a file names in an import, at any depth, relative ones resolved: `a.b` or `a.b.name`."""
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(package: str) -> Iterator[tuple[str, str, set[str]]]:
    """(file, its top-level module's name without the package, what it imports)"""
    for path in sorted((ROOT / package).rglob("*.py")):
        relative = path.relative_to(ROOT)
        within = relative.with_suffix("").parts[1:]
        name = "" if within == ("__init__",) else within[0]
        yield str(relative), name, set(imports(path, ".".join(relative.parts[:-1])))


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def inside(names: set[str], package: str) -> set[str]:
    """The top-level modules of `package` among `names`; "" for the package itself."""
    return {name.split(".")[1] if "." in name else "" for name in names if name.split(".")[0] == package}


def test_direction() -> None:
    for file, name, found in modules("fairseq_erpo"):
        if name in TOOLS:
            continue
        assert name in ALLOWED, f"{file}: the import rules do not know this module"
        extra = inside(found, "fairseq_erpo") - ALLOWED[name] - {name}
        assert not extra, f"{file} must not import {sorted(extra)} of fairseq_erpo"


def test_rules_have_no_circle_but_the_registration() -> None:
    """criterions and tasks name each other, since fairseq imports only the folder tasks/ by itself. Nothing else does."""
    rules = {name: allowed - ({"criterions"} if name == "tasks" else set()) for name, allowed in ALLOWED.items()}
    placed: set[str] = set()
    while rules:
        free = {name for name, allowed in rules.items() if allowed - {name} <= placed}
        assert free, f"a circle among {sorted(rules)}"
        placed |= free
        rules = {name: allowed for name, allowed in rules.items() if name not in free}


def test_border() -> None:
    for file, name, found in modules("fairseq_erpo"):
        if name not in BORDER:
            assert not tops(found) & {"fairseq", "fairseq_cli", "omegaconf", "hydra"}, f"{file} must not know fairseq"
        assert "stable_baselines3" not in tops(found), f"{file} must not know stable-baselines3"
        assert "gail" not in tops(found), f"{file} must not know gail"
        if name in STANDARD_ONLY:
            foreign = tops(found) - sys.stdlib_module_names - {"fairseq_erpo"}
            assert not foreign, f"{file} may import the standard library only, not {sorted(foreign)}"


def test_gail() -> None:
    for file, name, found in modules("gail"):
        assert not tops(found) & {"fairseq", "fairseq_cli"}, f"{file} must not know fairseq"
        extra = inside(found, "fairseq_erpo") - {"mixture", "annealers", "processes"}
        assert not extra, f"{file} may import mixture, annealers and processes of fairseq_erpo, not {sorted(extra)}"
        if name not in CONTROL:
            assert "stable_baselines3" not in tops(found), f"{file} must not know stable-baselines3"


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
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
