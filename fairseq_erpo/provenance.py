"""Where a number came from: the command, the version and the commit, for logs and reports."""

import shlex
import subprocess
import sys
from pathlib import Path

from fairseq_erpo import __version__

ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, str]:
    """The command of this process, ready to paste, and what ran it."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "version": __version__, "commit": commit()}


def commit() -> str:
    """The commit of the checkout that this package stands in, with a + where files differ from it;
    elsewhere nothing.
    """
    if not (ROOT / ".git").exists():
        return ""
    try:
        head, changes = (
            _git(*words)
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + "+" * bool(changes)


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", ROOT, *words], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
