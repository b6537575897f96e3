"""Ctrl-C ends fairseq's commands with one line instead of a traceback."""

import sys
from pathlib import Path
from types import TracebackType

pythons_hook = sys.excepthook


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's `sys.excepthook`, but for KeyboardInterrupt of a command of fairseq."""
    command = Path(sys.argv[0])
    if issubclass(kind, KeyboardInterrupt) and (
        command.stem.startswith("fairseq-") or command.parent.name == "fairseq_cli"
    ):
        resume = (
            "; the same command goes on from the last checkpoint"
            if command.stem.endswith("train")
            else ""
        )
        print(f"\nerpo: interrupted{resume}", file=sys.stderr)
    else:
        pythons_hook(kind, error, trace)


sys.excepthook = hook
