"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(flag: str, name: str) -> Iterator[Path]:
    """A path to write to, which becomes the file that `flag` names once all is written.

    Ends the program with one line if that fails; the file is then as it was.
    """
    file = Path(name)
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())  # the move must not reach the disk before the content does
        os.replace(part, file)
    except OSError as error:
        raise SystemExit(f"erpo: {flag} {file} cannot be written: {error.strerror}; it is left as it was") from None
    finally:
        part.unlink(missing_ok=True)
