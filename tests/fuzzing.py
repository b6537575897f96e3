"""What a fuzzed input may do: be accepted with a meaning, or be refused in at most two lines that
name the flag or the file.
"""

import contextlib
import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings

TABLE = os.environ.get("FUZZ_TABLE")  # of `make fuzz`: where it wants the table
LONG = TABLE is not None
LINES, SECONDS = 2, 30
TALLY: Counter[tuple[str, str]] = Counter()  # (kind, how it ended) -> cases


def fuzzed(long: int, quick: int = 15) -> settings:
    """How many cases a test has: `long` of them by `make fuzz`.  The quick ones are the same each
    time.
    """
    checks = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ]
    return settings(
        max_examples=long if LONG else quick,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=checks,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),  # an explanation takes minutes
    )


class Hang(BaseException):
    """No `except Exception` of the program may swallow it."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raises Hang in the block after SECONDS; the timer of the test itself goes on behind it."""

    def ring(*_: Any) -> None:
        raise Hang

    handler, left = (
        signal.signal(signal.SIGALRM, ring),
        signal.setitimer(signal.ITIMER_REAL, SECONDS),
    )
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, handler)


def judged(kind: str, run: Callable[[], Any], *names: str) -> Any:
    """What `run` returns, or None if it refused.  Fails for any other end, and if the refusal has
    none of `names`.
    """
    said = io.StringIO()
    try:
        with alarm(), contextlib.redirect_stderr(said):
            found = run()
    except (ValueError, OSError, SystemExit) as error:
        code = error.code if isinstance(error, SystemExit) else None
        # 2: argparse's usage, then the reason
        text = str(error) if code != 2 else said.getvalue().strip().splitlines()[-1]
        assert len(text.splitlines()) <= LINES and any(name in text for name in names), (
            f"refused by {text!r}, without {names}"
        )
        TALLY[kind, "refused"] += 1
        return None
    TALLY[kind, "accepted"] += 1
    return found


def table() -> str:
    """The tally in Markdown."""
    ends = ("accepted", "refused")
    rows = [
        (kind, *(TALLY[kind, end] for end in ends))
        for kind in dict.fromkeys(kind for kind, _ in TALLY)
    ]
    rows.append(("all", *(sum(row[i] for row in rows) for i in (1, 2))))
    lines = ["| what | cases | accepted | refused |", "| --- | --- | --- | --- |"]
    return "\n".join(
        [*lines, *(f"| {kind} | {yes + no} | {yes} | {no} |" for kind, yes, no in rows)]
    )
