"""fairseq's checkpoints, written atomically and read with one-line errors.

fairseq writes its first checkpoint beside the old one and renames it, but copies it over
`checkpoint_last.pt` and `checkpoint_best.pt` in place: a kill or a full disk at that moment leaves
a truncated file that no run can resume from.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_erpo.files import WriteError, atomic_write, lock
from fairseq_erpo.plugin.safe_load import check_checkpoint

LOCKS: dict[str, IO[str]] = {}  # of --save-dir
fairseqs_save = checkpoint_utils.torch_persistent_save
fairseqs_load = checkpoint_utils.load_checkpoint_to_cpu
fairseqs_check = checkpoint_utils.verify_checkpoint_directory


@contextmanager
def exit_on_write_error() -> Iterator[None]:
    """End training with one line if a file cannot be written."""
    try:
        yield
    except WriteError as error:
        raise SystemExit(f"erpo: {error}") from None


def save(obj: Any, filename: Any, async_write: bool = False) -> None:
    """fairseq's `torch_persistent_save`, atomic; ends with one line that names --save-dir if the
    file cannot be written.
    """
    if async_write or not isinstance(filename, str) or not PathManager.supports_rename(filename):
        fairseqs_save(obj, filename, async_write)
        return
    with (
        exit_on_write_error(),
        atomic_write(filename, "--save-dir") as part,
        part.open("wb") as file,
    ):
        try:
            torch.save(obj, file)
        except RuntimeError as error:  # torch's zip writer hides the system's error
            file.close()  # which raises it again, if there is more to write
            raise OSError(
                0, getattr(error.__context__, "strerror", None) or str(error).partition("\n")[0]
            ) from None


class AtomicCopies(PathManager):
    """fairseq's file manager, with atomic copies."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not PathManager.supports_rename(dst_path):
            return bool(PathManager.copy(src_path, dst_path, overwrite))
        with exit_on_write_error(), atomic_write(dst_path, "--save-dir") as part:
            shutil.copyfile(src_path, part)
        return True


def another(path: str) -> str:
    """What to do about a checkpoint that cannot be gone on from."""
    best = Path(path).absolute().with_name("checkpoint_best.pt")
    there = best.is_file() and best != Path(path).absolute()
    return f"go on from another one with --restore-file{f' {best}' if there else ''}"


def load(path: str, *args: Any, **kwargs: Any) -> Any:
    """fairseq's `load_checkpoint_to_cpu`; ends with one line if the file is broken or would execute
    code.

    The check comes first: fairseq leaves `weights_only` to torch's default, which an environment
    variable can turn off.
    """
    # Only a trainer goes on from a checkpoint, and only it asks for this; fairseq-generate and
    # others know no --restore-file.
    fix = f"; {another(path)}" if "load_on_all_ranks" in kwargs else ""
    try:
        check_checkpoint(PathManager.get_local_path(path))
    except ValueError as error:
        raise SystemExit(f"erpo: {error}{fix}") from None
    state = fairseqs_load(path, *args, **kwargs)
    broken = [
        name
        for name, value in state["model"].items()
        if torch.is_tensor(value) and bool(value.isnan().any())
    ]
    if broken:
        raise SystemExit(
            f"erpo: {path} is of a run that diverged: {broken[0]} is not a number{fix}"
        )
    return state


def check_folder(save_dir: str) -> None:
    """fairseq's `verify_checkpoint_directory`; ends with one line that names --save-dir if nothing
    can be written there.

    The folder stays locked while this process lives: two runs would overwrite each other's
    checkpoints.
    """
    try:
        fairseqs_check(save_dir)
        LOCKS[save_dir] = LOCKS.get(save_dir) or lock(save_dir, "--save-dir")
    except OSError as error:
        raise SystemExit(
            f"erpo: --save-dir {save_dir} cannot be written: {error.strerror}"
        ) from None
    except ValueError as error:
        raise SystemExit(f"erpo: {error}") from None


checkpoint_utils.torch_persistent_save = save
checkpoint_utils.PathManager = AtomicCopies
checkpoint_utils.load_checkpoint_to_cpu = load
checkpoint_utils.verify_checkpoint_directory = check_folder
