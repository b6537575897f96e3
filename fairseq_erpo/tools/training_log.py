"""Logs of runs as figures by update: fairseq's JSON lines, or else its TensorBoard events.  No
fairseq needed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[int, dict[str, float]]  # update -> name -> value

# Where a run's folder may have its JSON lines, in this order
LOGS = ("*.jsonl", "log", "*.log", "*.txt")
# Folders of --tensorboard-logdir, and what `History` keeps
PARTS = ("train_inner", "train", "valid")
EVENTS = "events.out.tfevents.*"


@dataclass
class History:
    """One run.  Each epoch was logged once or several times, by restarts or by fairseq's own
    doubling; the last counts.
    """

    name: str
    train_inner: Figures = field(default_factory=dict)  # every --log-interval updates
    train: Figures = field(default_factory=dict)  # at the end of each epoch
    valid: Figures = field(default_factory=dict)
    progress: float = 0  # epochs done
    # Each start with another command, version or commit
    commands: list[dict[str, str]] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """The metric that selects the best checkpoint: fairseq logs its best value too, from the
        second validation on.
        """
        names = {name for figures in self.valid.values() for name in figures}
        best = sorted(name.removeprefix("best_") for name in names if name.startswith("best_"))
        return next((name for name in (*best, "bleu", "rouge") if name in names), "loss")

    def scores(self) -> dict[int, float]:
        """The validation metric by update."""
        return self.validation(self.metric)

    def validation(self, name: str) -> dict[int, float]:
        """A figure of validation by update."""
        return _by_update(self.valid, name)

    def curve(self, name: str) -> dict[int, float]:
        """A figure of training by update: the means of epochs where there are several, else of log
        intervals.
        """
        source = self.train if len(self.train) > 2 else self.train_inner or self.train
        return _by_update(source, name)


def _by_update(figures: Figures, name: str) -> dict[int, float]:
    found = {update: values.get(name) for update, values in sorted(figures.items())}
    return {update: value for update, value in found.items() if value is not None}


def group_of(name: str) -> str:
    """The name without its seed, a whole number at its end: interp-3 -> interp; those of mle-5e-4
    and dropout-0.1 are none.
    """
    return re.sub(r"(?<=[\w)])(?:[-_.]seed|(?<![\d.][eE])[-_]|(?<![\d_])\.)\d+$", "", name)


# ---- JSON lines ----


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a log, figures and starts, with or without a logger's prefix.

    A line that is still being written is left out.
    """
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        if match := re.search(r'\{"(?:epoch|erpo_run)".*', line):
            with suppress(ValueError, RecursionError):
                yield json.loads(match[0])


def numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an entry: fairseq logs rounded ones as strings."""
    found = {}
    for name, value in entry.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return {name: value for name, value in found.items() if math.isfinite(value)}


def from_json(name: str, path: Path) -> History:
    """A run's history from its JSON lines; empty if there are none."""
    history = History(name)
    for found in entries(path):
        if "erpo_run" in found:  # by `fairseq_erpo.provenance`
            with suppress(KeyError, TypeError):
                start = {
                    key: str(found["erpo_run"][key]) for key in ("command", "version", "commit")
                }
                if start not in history.commands:
                    history.commands.append(start)
            continue
        entry = numbers(found)
        for part in ("valid", "train"):
            if f"{part}_loss" in entry or f"{part}_nll_loss" in entry:
                values = {
                    key.removeprefix(f"{part}_"): value
                    for key, value in entry.items()
                    if key.startswith(f"{part}_")
                }
                values["epoch"] = entry.get("epoch", 0)
                update = int(values.get("num_updates", values["epoch"]))
                getattr(history, part)[update] = values
                if part == "train":
                    history.progress = max(history.progress, values["epoch"])
                break
        else:
            history.train_inner[int(entry.get("num_updates", 0))] = entry
            history.progress = max(history.progress, entry.get("update", 0))
    return history


# ---- fairseq-generate's output ----


def numbered(text: str, letter: str) -> list[str]:
    """The texts of the lines `LETTER-number`, in the order of the numbers; fairseq prints them by
    length.

    Raises ValueError if a number is missing or comes twice.
    """
    score = r"\S+\t" if letter in "DH" else ""
    found = re.findall(rf"^{letter}-(\d+)\t{score}(.*)$", text, re.MULTILINE)
    lines = sorted((int(number), line) for number, line in found)
    for expected, (number, _) in enumerate(lines):
        if number != expected:
            raise ValueError(
                f"{letter}-{number} comes twice"
                if number < expected
                else f"{letter}-{expected} is missing"
            )
    return [line for _, line in lines]


# ---- transformers ----

STATE = "trainer_state.json"
# transformers' names, and trl's -> fairseq's and the plugin's
RENAMED = {
    "reward": "seq_reward",
    "reward_std": "seq_reward_std",
    "completions/mean_length": "sampled_length",
    "completions/clipped_ratio": "clipped",
    "learning_rate": "lr",
    "grad_norm": "gnorm",
}
PREFIXES = {"lambda/": "lambda_", "from_": "z_", "delta_r/": "dr_"}


def from_trainer(name: str, path: Path) -> History:
    """A run's history from the state that transformers keeps in each checkpoint."""
    history = History(name)
    for entry in json.loads(path.read_text("utf-8"))["log_history"]:
        figures = {renamed(key): value for key, value in numbers(entry).items()}
        update = int(entry["step"])
        history.progress = max(history.progress, figures.get("epoch", 0))
        if "eval_loss" in figures:
            valid = {key[5:]: figures[key] for key in figures if key.startswith("eval_")}
            history.valid[update] = {**valid, "epoch": figures.get("epoch", 0)}
        elif "loss" in figures:
            history.train_inner[update] = figures
    return history


def renamed(key: str) -> str:
    """A figure's name as the plugin has it."""
    for theirs, ours in PREFIXES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return RENAMED.get(key, key)


def trainer_states(folder: Path) -> list[Path]:
    """The states that a run's folder has, the newest last."""
    found = [*folder.glob(f"checkpoint-*/{STATE}"), *folder.glob(STATE)]
    return sorted(found, key=lambda path: path.stat().st_mtime)


# ---- TensorBoard ----


def from_events(name: str, folder: Path) -> History:
    """A run's history from --tensorboard-logdir.  Raises ValueError if tensorboard is not
    installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        fix = "pip install tensorboard, or train with --log-format json"
        raise ValueError(f"{folder} has TensorBoard events only: {fix}") from None
    history = History(name)
    for part in PARTS:
        for file in sorted(folder.glob(f"**/{part}/{EVENTS}")):
            events = EventAccumulator(str(file), {"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                for event in events.Scalars(tag):
                    getattr(history, part).setdefault(event.step, {})[tag] = event.value
    return history


# ---- a run's folder ----


def read(path: Path) -> History:
    """A log file, or a folder with one or with TensorBoard events.  Raises ValueError if there is
    neither.
    """
    name = path.absolute().name if path.is_dir() else path.absolute().parent.name
    files = (
        [path]
        if path.is_file()
        else [file for pattern in LOGS for file in sorted(path.glob(pattern))]
    )
    for file in files:
        history = from_json(name, file)
        if history.valid or history.train_inner or history.train:
            return history
    if states := trainer_states(path):
        return from_trainer(name, states[-1])
    if path.is_dir() and any(path.glob(f"**/{EVENTS}")):
        return from_events(name, path)
    if not path.exists():
        raise ValueError(f"there is no folder or log {path}")
    folder = path if path.is_dir() else path.parent
    json_log = f"--log-format json --log-file {folder}/train.jsonl"
    raise ValueError(f"{path} has no log: train with {json_log}, or --tensorboard-logdir {folder}")
