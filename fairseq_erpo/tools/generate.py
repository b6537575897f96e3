"""Hypotheses of a run on a test set: fairseq-generate's output, made once and kept beside the
checkpoint.
"""

import hashlib
import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from fairseq import options, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.translation import TranslationTask
from fairseq.utils import split_paths
from fairseq_cli import generate

from fairseq_erpo.files import cause_of, text_lines
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.tools.load_run import part_of, run_config
from fairseq_erpo.tools.training_log import numbered

# Room for any sensible output, so that a model that never ends costs little; fairseq's own limit is
# 200 tokens.
LENGTH = ("--max-len-a", "1.2", "--max-len-b", "10")
# With fairseq's default of 8 for the last, the longest 1-7 sentences are dropped without a word.
BATCHES = ("--batch-size", "64", "--required-batch-size-multiple", "1")


class Decoding(NamedTuple):
    """How to decode. None: as in the checkpoint's run."""

    data: str | None = None
    split: str = "test"
    beam: int = 5
    # Fairseq divides a hypothesis's log p by length^lenpen, which is not GNMT's formula
    lenpen: float = 0.6
    remove_bpe: str | None = None
    user_dir: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a table has to say of it."""
        return {"split": self.split, "beam": self.beam, "lenpen": self.lenpen}


class Output(NamedTuple):
    """Sentences in the order of the test set; no references where the file has none."""

    hypotheses: Sequence[str]
    references: Sequence[str] | None
    # `Decoding.settings`; None for a text that does not say how it was made
    settings: Mapping[str, Any] | None = None
    sources: Sequence[str] = ()


# Of --test, in a run's folder of the transformers front-end
TRANSLATED, WANTED = "test.hypotheses", "test.references"


def output_of(path: str, decoding: Decoding) -> Output:
    """Read a run's folder (its checkpoint_best.pt), a checkpoint, fairseq-generate's output, or a
    text of one hypothesis a line.

    Raises ValueError with one line.
    """
    found = Path(path)
    if (found / TRANSLATED).is_file():  # of `fairseq_erpo.huggingface`
        sides = [text_lines(found / name) for name in (TRANSLATED, WANTED)]
        return Output(sides[0], sides[1])
    if found.is_dir():
        found = found / "checkpoint_best.pt"
        if not found.is_file():
            fix = "train with --best-checkpoint-metric, or name a checkpoint"
            raise ValueError(f"{path} holds no checkpoint_best.pt; {fix}")
    if not found.is_file():
        raise ValueError(f"there is no checkpoint, folder or text at {path}")
    if found.suffix == ".pt":
        return read(decoded(found, decoding))._replace(settings=decoding.settings)
    return read(found)


def read(path: Path) -> Output:
    """fairseq-generate's lines `D-` and `T-` by their numbers, or a text as it is."""
    try:
        lines = text_lines(path)
    except ValueError:
        raise ValueError(f"{path} is neither a checkpoint (.pt) nor a text in UTF-8") from None
    text = "\n".join(lines)
    try:
        hypotheses, references, sources = (numbered(text, letter) for letter in "DTS")
    except ValueError as error:
        raise ValueError(f"{path} is not one whole output of fairseq-generate: {error}") from None
    if not hypotheses:
        return Output(lines, None)
    if references and len(references) != len(hypotheses):
        found = f"{len(hypotheses)} hypotheses and {len(references)} references"
        raise ValueError(f"{path} has {found}: it is not complete")
    whole = len(sources) == len(hypotheses)
    return Output(hypotheses, references or None, settings_in(text), sources if whole else ())


def settings_in(text: str) -> dict[str, Any] | None:
    """Split and beam by fairseq-generate's last line, and the length penalty if its log is there
    too; None without that line.
    """
    last = re.search(r"^Generate (\S+) with beam=(\d+)", text, re.MULTILINE)
    if last is None:
        return None
    penalty = re.search(r"'lenpen': ([-+.\de]+)", text)
    return {"split": last[1], "beam": int(last[2])} | (
        {"lenpen": float(penalty[1])} if penalty else {}
    )


def decoded(checkpoint: Path, decoding: Decoding) -> Path:
    """fairseq-generate's output for this checkpoint, decoded now unless it is there.

    The output's name has a digest of the checkpoint, the data and the flags: what changed is
    decoded again.
    """
    task = part_of(check_checkpoint(str(checkpoint)), "task")
    data = data_of(checkpoint, decoding, task)
    remove = decoding.remove_bpe or task.get("eval_bleu_remove_bpe")
    files = [checkpoint]
    for folder in map(Path, split_paths(data)):
        files += [*sorted(folder.glob(f"{decoding.split}.*")), *sorted(folder.glob("dict.*"))]
    made_of = digest_of(files, f"{remove} {LENGTH} {BATCHES}")
    settings = [decoding.split, f"beam{decoding.beam}", f"lenpen{decoding.lenpen:g}", made_of[:10]]
    kept = checkpoint.with_name(f"{checkpoint.stem}.{'.'.join(settings)}.txt")
    if kept.is_file():
        return kept
    arguments = [
        data,
        "--path",
        str(checkpoint),
        "--task",
        "erpo_translation",
        "--num-workers",
        "0",
    ]
    arguments += ["--gen-subset", decoding.split, "--beam", str(decoding.beam)]
    arguments += ["--lenpen", str(decoding.lenpen), *LENGTH, *BATCHES]
    arguments += ["--remove-bpe", remove] if remove else []
    arguments += ["--user-dir", decoding.user_dir] if decoding.user_dir else []
    own = task_config(checkpoint, data, decoding.user_dir)
    with TemporaryDirectory(dir=checkpoint.parent, prefix="decoding-") as folder_name:
        _generate([*arguments, "--results-path", folder_name], own, checkpoint, data)
        os.replace(Path(folder_name) / f"generate-{decoding.split}.txt", kept)
    return kept


def data_of(checkpoint: Path, decoding: Decoding, task: Mapping[str, Any]) -> str:
    """The folders of the data, typed or the run's.  Raises ValueError if one is not there."""
    data = str(decoding.data or task.get("data") or "")
    for folder in split_paths(data):
        if folder and Path(folder).is_dir():
            continue
        if decoding.data:
            raise ValueError(f"--data: there is no folder {folder}")
        known = "does not say what it was trained on"
        if folder:
            known = f"was trained on {folder}, which is not a folder here"
        raise ValueError(f"{checkpoint} {known}; say where the data are with --data")
    return data


def task_config(checkpoint: Path, data: str, user_dir: str | None) -> Any:
    """The run's own task with its flags, such as --truncate-source, on `data`; fairseq's
    `translation` becomes ours.

    Raises ValueError for a task that decodes by flags that no verb here has.
    """
    utils.import_user_module(Namespace(user_dir=user_dir))
    unused = {"eval_bleu": False, "eval_rouge": False, "num_batch_buckets": 0}
    own = run_config(str(checkpoint), {"data": data, **unused}).task
    name = getattr(own, "_name", None) or own.task
    if name not in TASK_REGISTRY:
        raise ValueError(
            f"there is no task {name!r}, which {checkpoint} is of; give the --user-dir that has it"
        )
    if not issubclass(TASK_REGISTRY[name], TranslationTask):
        fix = "run fairseq-generate with --task and these, and give evaluate its output"
        known = f"--task {name}, which has flags of its own for decoding"
        raise ValueError(f"{checkpoint} was trained by {known}: {fix}")
    if name == "translation":
        own._name = "erpo_translation"
    return own


def digest_of(files: Sequence[Path], settings: str) -> str:
    """SHA-256 of the files' names and contents, and of the settings."""
    digest = hashlib.sha256(settings.encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def _generate(arguments: Sequence[str], task: Any, checkpoint: Path, data: str) -> None:
    """fairseq-generate in this process, with this configuration of its task."""
    # Else fairseq logs into the result's file, and goes on when that is closed
    logging.basicConfig()
    if sys.stderr.isatty():
        # Its bar obeys this logger
        logging.getLogger("fairseq.logging.progress_bar").setLevel(logging.INFO)
    try:
        parsed = options.parse_args_and_arch(options.get_generation_parser(), list(arguments))
        config = convert_namespace_to_omegaconf(parsed)
        config._set_flag("allow_objects", True)  # fairseq's older tasks have a Namespace
        config.task = task
        generate.main(config)
    except (Exception, SystemExit) as error:  # fairseq raises anything here, Exception itself too
        raise ValueError(f"{checkpoint} cannot decode {data}: {cause_of(error)}") from None
