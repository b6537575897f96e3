"""Data that fairseq cannot read end with one line, with or without --task: fairseq's own tasks
raise whatever they meet.
"""

from pathlib import Path
from typing import Any

from fairseq import tasks
from fairseq.utils import split_paths

from fairseq_erpo.files import cause_of

fairseqs_setup = tasks.setup_task
MAKE = "make it with fairseq-preprocess"


def setup_task(cfg: Any, **kwargs: Any) -> Any:
    """fairseq's `setup_task`, which reads the dictionaries; ends with one line that names the
    folder and what is wrong there.
    """
    data = getattr(cfg, "data", None)
    try:
        if isinstance(data, str):
            check_folders(split_paths(data))
        return fairseqs_setup(cfg, **kwargs)
    except Exception as error:  # fairseq raises anything here, Exception itself too
        if not isinstance(data, str):
            raise
        raise SystemExit(f"erpo: {explained(error, data)}") from None


def check_folders(folders: list[str]) -> None:
    """Raises ValueError for one that is none."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"there is no such folder ({folder}); {MAKE}")


def explained(error: Exception, data: str) -> str:
    """The folder, what is wrong with it, and the fix."""
    if "infer language pair" in str(error):
        return f"{data} was not made by fairseq-preprocess, or needs --source-lang, --target-lang"
    if isinstance(error, FileNotFoundError) and error.filename:
        languages = sorted(file.name.split(".")[1] for file in Path(data).glob("dict.*.txt"))
        there = (
            f"there are dictionaries of {', '.join(languages)}: see --source-lang, --target-lang"
            if languages
            else MAKE
        )
        return f"{data} has no {Path(error.filename).name}; {there}"
    return f"{data}: {cause_of(error)}"


tasks.setup_task = setup_task
