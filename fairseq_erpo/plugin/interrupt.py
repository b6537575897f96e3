"""Ctrl-C ends fairseq's commands with one line instead of a traceback."""

import sys
from types import TracebackType

pythons_hook = sys.excepthook


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's `sys.excepthook`, but for KeyboardInterrupt."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nerpo: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    else:
        pythons_hook(kind, error, trace)


sys.excepthook = hook
