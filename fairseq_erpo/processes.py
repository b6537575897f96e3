"""Processes that this one starts."""

from __future__ import annotations

import ctypes
import signal
import sys


def die_with_parent() -> None:
    """For `preexec_fn`, on Linux: two processes in one folder would spoil it, so none outlives who could start it again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
