"""What `python -m fairseq_erpo doctor` and `python -m gail doctor` share: checks that are run one
by one, and their page.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from fairseq_erpo.files import cause_of, reason_of

LEAST_DISK = 2e9  # bytes: a few checkpoints of a small model


class Check(NamedTuple):
    """One thing to look at: `look` returns what it found, or raises; `fix` says what to do then."""

    name: str
    look: Callable[[], str]
    fix: str
    needed: bool = True  # False: something works without it


class Finding(NamedTuple):
    """What a check came to."""

    name: str
    state: str  # ok, failed, or missing (but not needed)
    found: str
    fix: str


def examine(check: Check) -> Finding:
    """Run one check; whatever it raises is a finding.  The fix is said of what this project
    refuses, and of nothing else.
    """
    state = "failed" if check.needed else "missing"
    try:
        return Finding(check.name, "ok", check.look(), "")
    except (ValueError, ImportError, OSError, SystemExit) as error:
        return Finding(check.name, state, reason_of(error).removeprefix("erpo: "), check.fix)
    except Exception as error:
        return Finding(check.name, state, cause_of(error), "")


def report(checks: Iterable[Check], as_json: bool) -> None:
    """Print all findings.  Raises ValueError if something failed that is needed."""
    findings = []
    for check in checks:
        findings.append(finding := examine(check))
        if not as_json:
            print(f"{finding.state:8}{finding.name}: {finding.found}")
            print(f"        -> {finding.fix}\n" * bool(finding.fix), end="")
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1, ensure_ascii=False))
    failed = [finding.name for finding in findings if finding.state == "failed"]
    if failed:
        count = f"{len(failed)} of {len(findings)} checks failed"
        raise ValueError(f"doctor found {count}: {', '.join(failed)}")


def machine(folder: Path, extra: str) -> list[Check]:
    """Checks that both packages need: Python, the libraries (those of `extra` too), and the folder
    that runs go to.
    """
    install = f"pip install --no-build-isolation '.[{extra}]'"
    room = "choose another --out, or free some disk"
    return [
        Check("python", python, "make a virtual environment of Python 3.11 or 3.12"),
        Check("libraries", lambda: libraries(extra), install),
        Check(f"folder {folder}", lambda: writable(folder), room),
    ]


def python() -> str:
    major, minor, _ = platform.python_version_tuple()
    if (int(major), int(minor)) < (3, 11):
        raise ValueError(f"{platform.python_version()} is too old")
    return platform.python_version()


def libraries(extra: str) -> str:
    """Versions of what setup.py asks for.  Raises ValueError naming what is missing or of another
    version.
    """
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("fairseq-erpo") or []]
    except PackageNotFoundError:
        raise ValueError("fairseq-erpo is not installed in this environment") from None
    found: list[str] = []
    wrong: list[str] = []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        have = installed(one.name)
        if have and one.specifier.contains(have.partition("+")[0], prereleases=True):
            found.append(f"{one.name} {have}")
        else:
            wrong.append(f"{one.name} {have or 'missing'}, wanted {one.specifier or 'any'}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return ", ".join(found)


def installed(name: str) -> str:
    """The version of a distribution; empty if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def writable(folder: Path) -> str:
    """Write a file there, and look at the free disk."""
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    with TemporaryFile(dir=folder) as file:
        file.write(os.urandom(4096))
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK:
        raise ValueError(f"only {free / 1e9:.1f} GB are free")
    return f"writable, {free / 1e9:.0f} GB free"
