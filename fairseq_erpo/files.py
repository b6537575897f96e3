"""Atomic file writes, and JSON files with errors that name the file.  Shared by the plugin, `gail` and the examples."""

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file could not be written.  Its text is one line that names the flag, the file and the reason."""


def reason_of(error: BaseException) -> str:
    """One line of an exception's text; where torch refuses to unpickle a file, what the file asks for."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks for {asked[1]}, which could run code"
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:200]


def check_archive(path: str | Path) -> None:
    """Look at the checksums of a zip archive, as torch's checkpoints are; torch does not, and a flipped bit would train on.

    Raises ValueError, BadZipFile, or anything else that a damaged archive makes Python raise.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it does not match its checksum")


@contextmanager
def atomic_write(file: str | Path, flag: str = "") -> Iterator[Path]:
    """Yield a path to write to; when the block ends, what was written replaces `file` at once.

    After an error, or a kill at any moment, `file` is as it was before.  Raises WriteError, which names the `flag` that asked
    for the file, if the disk is full or the folder is not writable.
    """
    file = Path(file)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())  # the content must reach the disk before the rename does
        os.replace(part, file)
    except OSError as error:
        name = f"{flag} {file}".strip()
        raise WriteError(f"{name} cannot be written: {error.strerror or error}; it is left as it was") from None
    finally:
        part.unlink(missing_ok=True)


def write_text(file: str | Path, text: str, flag: str = "") -> None:
    """Write UTF-8 text atomically.  Raises WriteError."""
    with atomic_write(file, flag) as part:
        part.write_text(text, "utf-8")


def write_json(file: str | Path, content: Any, flag: str = "") -> None:
    """Write JSON atomically.  Raises WriteError."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n", flag)


def read_json(file: str | Path) -> Any:
    """Read JSON.  Raises ValueError, with the file's name, if the file holds anything else."""
    try:
        return json.loads(Path(file).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
