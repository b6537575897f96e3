"""From the command line to a checkpoint, its settings and sentences of its data: for every verb
that looks at a run.
"""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fairseq import checkpoint_utils, tasks, utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from torch import nn

from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.family import FAMILY
from fairseq_erpo.family.flags import FLAGS, metric_of
from fairseq_erpo.family.resolve import named, resolve
from fairseq_erpo.files import cause_of
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.plugin import register, translation_task  # noqa: F401 - known to fairseq from now on
from fairseq_erpo.plugin.decoder import check_model
from fairseq_erpo.plugin.dictionaries import check_dictionaries
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.rewards import REWARDS
from fairseq_erpo.text_rewards import TEXT_REWARDS
from fairseq_erpo.verbs import Option, add_options, dashed

SAMPLING = ("erpo_preset", "erpo_reward", "erpo_teacher", "erpo_c", "erpo_c_model")
# A.3.2: the second step of the paper's schedule
MIDWAY = Mixture(model=0.24, reward=0.32, data=0.44)


class Conditions(NamedTuple):
    """The conditions under which the sentences were drawn."""

    checkpoint: str
    data: str
    split: str
    flags: str  # as they would be typed
    mixture: Mixture
    seed: int
    update: int

    def line(self) -> str:
        drawn = f"seed {self.seed}, update {self.update}"
        return f"{self.split} of {self.data} · λ {self.mixture} · {self.flags} · {drawn}"


def add_arguments(
    parser: ArgumentParser, split: str, count: str, sentences: int, spread: bool = False
) -> None:
    """CHECKPOINT, DATA, and how to draw.  `count` is the flag that says how many sentences,
    `sentences` its default.

    `spread`: without --shuffle, sentences to look at, of middle length and from all over the split;
    else those at its start.
    """
    parser.set_defaults(spread=spread)
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a .pt file that fairseq-train wrote")
    made = "a folder that fairseq-preprocess made with the same dictionaries"
    add("data", metavar="DATA", help=made)
    mixture = (
        "the mixture of the experts, such as model=.12,reward=.16,data=.72 (default: where the "
        f"run's schedule ends; {MIDWAY} if it drew nothing but the data)"
    )
    add("--lambda", dest="mixture", metavar="λ", help=mixture)
    where = "spread over those of middle length" if spread else "from the split's start"
    many = f"how many sentences, {where} (default: {sentences})"
    add(count, dest="sentences", type=int, default=sentences, metavar="N", help=many)
    seed = "of the draws; a run's own, with --split train, shows what it drew next"
    options: dict[str, Option] = {
        "--split": ("SPLIT", split, "train, valid or test"),
        "--shuffle": ("", False, "choose them at random from all, by --seed, instead"),
        "--number": ("N", int, "only the sentence of this number, from 0"),
        "--seed": ("SEED", 1, seed),
        "--user-dir": ("DIR", str, "plugin with the run's own models or rewards"),
    }
    add_options(parser, options)
    left_out = "Left out: as in the checkpoint's run. --erpo-preset sets the run's aside."
    group = parser.add_argument_group("sampling", left_out)
    for name in SAMPLING:
        flag, metavar = FLAGS[name], name.removeprefix("erpo_").upper()
        group.add_argument(dashed(name), type=flag.type, help=flag.help, metavar=metavar)


def at_least(flag: str, value: int, least: int) -> None:
    """Raises ValueError naming the flag."""
    if value < least:
        raise ValueError(f"{flag} must be at least {least}, not {value}")


class Loaded(NamedTuple):
    """A checkpoint and sentences, ready to draw."""

    conditions: Conditions
    flags: Mapping[str, Any]  # the sampling flags, typed or the run's
    settings: Settings
    task: Any
    model: nn.Module
    dataset: Any
    chosen: Sequence[int]


def load(args: Namespace) -> Loaded:
    """Load the checkpoint and choose the sentences.  Raises ValueError or OSError, with one line,
    for bad arguments or files.
    """
    with named("lambda"):
        mixture = Mixture.parse(args.mixture) if args.mixture is not None else None
    for folder in (*utils.split_paths(args.data), *filter(None, [args.user_dir])):
        if not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder}")
    utils.import_user_module(args)
    state = check_checkpoint(args.checkpoint)
    _check_known(args.checkpoint, state)
    given, end = _flags(state, {name: getattr(args, name) for name in SAMPLING})
    # Only how Algorithm 1 draws is shown: a row may also have several samples of each sentence, or
    # a baseline to draw for.
    metric = _metric(state)
    settings = replace(resolve(given, metric), samples=1, targets="drawn", baseline="none")
    task, model = _task_and_model(args.checkpoint, args.data)
    check_model(model)
    try:
        task.load_dataset(args.split)
    except (FileNotFoundError, SystemExit) as error:
        raise ValueError(f"--split {args.split}: {str(error).removeprefix('erpo: ')}") from None
    dataset = task.dataset(args.split)
    history = state.get("optimizer_history") or [{}]
    conditions = Conditions(
        checkpoint=args.checkpoint,
        data=args.data,
        split=args.split,
        flags=" ".join(
            f"{dashed(name)} {value}" for name, value in given.items() if name in SAMPLING
        ),
        mixture=mixture or end,
        seed=args.seed,
        update=history[-1].get("num_updates", 0),
    )
    return Loaded(
        conditions, given, settings, task, model, dataset, _choose(dataset, task, model, args)
    )


def _check_known(checkpoint: str, state: Mapping[str, Any]) -> None:
    """Raises ValueError if the run had something that only a plugin has that is not loaded."""
    registries: dict[str, Mapping[str, Any]] = {
        "task": TASK_REGISTRY,
        "model": ARCH_MODEL_REGISTRY | MODEL_REGISTRY,
        "criterion": CRITERION_REGISTRY,
    }
    used: list[tuple[str, Any, Mapping[str, Any]]] = [
        (part, part_of(state, part).get("_name"), known) for part, known in registries.items()
    ]
    rewards = {**REWARDS, **TEXT_REWARDS}
    used += [
        ("reward", part_of(state, "criterion").get(flag), rewards)
        for flag in ("erpo_reward", "erpo_teacher")
    ]
    for part, name, known in used:
        # Module:function is imported when it is used
        if name not in (None, "same", "metric", *known) and ":" not in name:
            fix = "give the --user-dir that has it"
            raise ValueError(f"there is no {part} {name!r}, which {checkpoint} is of; {fix}")


def _metric(state: Mapping[str, Any]) -> str | None:
    """What the run validated by."""
    task, best = part_of(state, "task"), part_of(state, "checkpoint").get("best_checkpoint_metric")
    return metric_of(bool(task.get("eval_bleu")), bool(task.get("eval_rouge")), str(best))


def _flags(state: Mapping[str, Any], typed: Mapping[str, Any]) -> tuple[dict[str, Any], Mixture]:
    """The sampling flags, typed or else the run's, and the λ at which the run's schedule ends; a
    constant one is its own.
    """
    config = part_of(state, "criterion")
    prefix, _, name = str(config.get("_name")).partition("_")
    row = FAMILY.get(name) if prefix == "erpo" else None
    run: dict[str, Any] = {}
    if row is not None:
        values = {**row.defaults, **flags_of(config)}
        run = {flag: values[flag] for flag in (*SAMPLING, "erpo_lambda") if flag in values}
        if "erpo_reward" not in row.flags:  # it has one for the log only
            run.pop("erpo_reward", None)
    end = MIDWAY
    if row is not None:
        own = resolve(run if "erpo_lambda" in row.flags else row.defaults).schedule.annealer.end
        end = own if own.data < 1 else MIDWAY
    given = {name: value for name, value in typed.items() if value is not None}
    if ":" in str(run.get("erpo_reward")) and not given.keys() & {"erpo_reward", "erpo_preset"}:
        why = "no file may name a module to import: type it, as --erpo-reward"
        raise ValueError(f"the run was paid by {run['erpo_reward']}, and {why}")
    if given.get("erpo_reward") in REWARDS:  # ΔR is shown of the reward that was asked for
        given.setdefault("erpo_teacher", "same")
    base = {"erpo_preset": FLAGS["erpo_preset"].default}
    return base | ({} if "erpo_preset" in given else run) | given, end


def flags_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags in a checkpoint's configuration of a criterion.  Raises ValueError for a value of
    another type.
    """
    found = {name: value for name, value in config.items() if name in FLAGS and value is not None}
    for name, value in found.items():
        kind, types = ("text", str) if FLAGS[name].type is str else ("number", (int, float))
        if not isinstance(value, types):
            raise ValueError(
                f"{dashed(name)} in the checkpoint's configuration is no {kind}: {value!r}"
            )
    return found


def part_of(state: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """A part of the run's configuration: fairseq's older models and criterions keep a Namespace."""
    config = (state.get("cfg") or {}).get(part) or {}
    return vars(config) if isinstance(config, Namespace) else config


def run_config(checkpoint: str, overrides: Mapping[str, Any]) -> Any:
    """The run's whole configuration, some of its values overridden.  Raises ValueError with one
    line.
    """
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint, dict(overrides))
    except SystemExit as error:  # by `plugin.checkpoints`
        raise ValueError(cause_of(error)) from None
    return (
        state["cfg"]
        if state.get("cfg") is not None
        else convert_namespace_to_omegaconf(state["args"])
    )


def run_task(checkpoint: str, data: str) -> Any:
    """The run's own task, on `data`.  Raises ValueError if it cannot be, or if the dictionaries are
    others.
    """
    # References have to be padded on the right, whatever the run did.
    config = run_config(checkpoint, {"data": data, "left_pad_target": False})
    try:
        task = tasks.setup_task(config.task, from_checkpoint=True)
    except (Exception, SystemExit) as error:  # fairseq raises anything here, Exception itself too
        raise ValueError(f"{checkpoint} cannot be used with {data}: {cause_of(error)}") from None
    check_dictionaries(check_checkpoint(checkpoint).get("task_state", {}), task, checkpoint)
    return task


def _task_and_model(checkpoint: str, data: str) -> tuple[Any, nn.Module]:
    """Both as fairseq builds them, on `data`."""
    task = run_task(checkpoint, data)
    try:
        (model,), _ = checkpoint_utils.load_model_ensemble(
            [checkpoint], arg_overrides={"data": data}, task=task
        )
    except (Exception, SystemExit) as error:  # fairseq raises anything here, Exception itself too
        mismatch = re.search(r"size mismatch for \S+: .*", str(error))
        if mismatch is None:
            why = f"{checkpoint} cannot be used with {data}: {cause_of(error)}"
            raise ValueError(why) from None
        why = f"{checkpoint} does not fit {data}"
        wanted = re.findall(r"\d+", mismatch[0].rpartition("current model")[2])
        types = {str(len(task.source_dictionary)), str(len(task.target_dictionary))}
        if types & set(wanted):
            why = f"the dictionaries in {data} are not those of {checkpoint}"
        raise ValueError(f"{why}: {mismatch[0]}") from None
    return task, model


def _choose(dataset: Any, task: Any, model: Any, args: Namespace) -> list[int]:
    """Indices of sentences that the model has room for."""
    room = utils.resolve_max_positions(task.max_positions(), model.max_positions())
    fitting, _ = dataset.filter_indices_by_size(np.arange(len(dataset)), room)
    if not len(fitting):
        raise ValueError(
            f"--split {args.split}: no sentence is short enough for the model's {room} positions"
        )
    if args.number is not None:
        if args.number not in fitting:
            raise ValueError(
                f"--number {args.number}: --split {args.split} has no such sentence, from 0 to "
                f"{len(dataset) - 1}, or it is longer than the model's {room} positions"
            )
        return [args.number]
    if args.shuffle:
        fitting = np.random.default_rng(args.seed).permutation(fitting)
    if args.shuffle or not args.spread:
        return list(map(int, fitting[: args.sentences]))
    lengths = np.array([dataset.size(i)[1] for i in fitting])
    low, high = np.quantile(lengths, (0.25, 0.75))
    middling = fitting[(lengths >= low) & (lengths <= high)]
    chosen = np.sort(middling if len(middling) >= args.sentences else fitting)
    apart = max(1, len(chosen) // args.sentences)
    return list(map(int, chosen[::apart][: args.sentences]))
