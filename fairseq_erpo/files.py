"""Lines of text, atomic file writes, and JSON files with errors that name the file.  For the
plugin, `gail` and the examples.
"""

import fcntl
import gzip
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any


class WriteError(OSError):
    """A file could not be written.  Its text is one line that names the flag, the file and the
    reason.
    """


def reason_of(error: BaseException) -> str:
    """One line of an exception's text; where torch refuses to unpickle a file, what the file asks
    for.
    """
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks for {asked[1]}, which could run code"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    lines = list(filter(None, (line.strip() for line in str(error).splitlines())))
    # A line that ends with a colon is a title: what is wrong follows.
    return next(
        (line for line in lines if not line.endswith(":")),
        lines[0] if lines else type(error).__name__,
    )[:200]


def cause_of(error: BaseException) -> str:
    """An exception of other people's code as it is, for a catch-all: class, text and place, in one
    line without advice.

    What this project says when it ends a program, and what the system says of a file, needs no
    class.
    """
    if isinstance(error, (SystemExit, OSError)):
        return reason_of(error).removeprefix("erpo: ")
    place, trace = "", error.__traceback__
    while trace is not None:
        place, trace = (
            f" (in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})",
            trace.tb_next,
        )
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}{': ' * bool(text)}{text}{place}"


def text_lines(path: str | Path) -> list[str]:
    """The lines of a text in UTF-8, gzipped (.gz) or not, with or without a byte order mark.

    A line ends at a line feed, before which a carriage return may stand, and nowhere else. Python's
    splitlines() and its text files would also split at a lone carriage return, at U+0085, U+2028
    and others, which are characters of a sentence: two sides of a corpus would be shifted.

    Raises ValueError that names the file, and OSError.
    """
    path = Path(path)
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no text in UTF-8, or a damaged .gz: {error}") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def check_archive(path: str | Path) -> None:
    """Raises ValueError unless `path` is a whole zip archive, as torch.save writes; torch does not
    look at its checksums.

    Raises OSError if it cannot be read.
    """
    Path(path).open("rb").close()  # OSError where it cannot be read, which is_zipfile() hides
    if not zipfile.is_zipfile(path):
        raise ValueError("it was cut short, or torch.save did not write it")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it does not match its checksum")


def lock(folder: str | Path, flag: str = "") -> IO[str]:
    """Lock a folder against other processes until the file that is returned is closed, at the
    latest when this process ends.

    Child processes do not inherit the lock.  Raises ValueError if another process has it or the
    folder cannot be written.
    """
    folder = Path(folder)
    name = f"{flag} {folder}".strip()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise ValueError(f"{name} cannot be written: {error.strerror}") from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise ValueError(f"another process is working in {name}; wait for it, or end it") from None
    except OSError:  # a file system without locks
        pass
    return file


@contextmanager
def atomic_write(file: str | Path, flag: str = "") -> Iterator[Path]:
    """Yield a path to write to; when the block ends, what was written replaces `file` at once.

    After an error, or a kill at any moment, `file` is as it was before.  Raises WriteError, which
    names the `flag` that asked for the file, if the disk is full or the folder is not writable.
    """
    file = Path(file)
    # Two writers of one file, perhaps on two machines, must not write to one part.
    part = file.with_name(f"{file.name}.{os.getpid()}-{token_hex(4)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())  # the content must reach the disk before the rename does
        os.replace(part, file)
    except OSError as error:
        name = f"{flag} {file}".strip()
        raise WriteError(
            f"{name} cannot be written: {error.strerror or error}; it is left as it was"
        ) from None
    finally:
        with suppress(OSError):  # the folder may be a file
            part.unlink()


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
    except (ValueError, RecursionError) as error:  # a deep nesting
        raise ValueError(f"{file} is not JSON: {error}") from None


def read_record(file: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Read a JSON object with these keys.  Raises ValueError naming the file."""
    found = read_json(file)
    if not isinstance(found, dict) or not found.keys() >= set(keys):
        raise ValueError(
            f"{file} is damaged: it has no {', '.join(keys) or 'settings'}; remove it, or name "
            "another folder"
        )
    return found
