"""`python -m fairseq_erpo doctor`: is everything here that training needs, and are data and
checkpoint whole?

fairseq is imported within the checks: it may be what is missing.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_erpo.checkup import Check, machine, report
from fairseq_erpo.verbs import Option, add_options


def doctor(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `doctor`."""
    add = parser.add_argument
    add("data", metavar="DATA", nargs="?", help="a folder that fairseq-preprocess made")
    add("checkpoint", metavar="CHECKPOINT", nargs="?", help="a .pt file that fairseq-train wrote")
    options: dict[str, Option] = {
        "--out": ("DIR", Path(), "where runs are to go"),
        "--json": ("", False, "print the findings as JSON"),
    }
    add_options(parser, options)
    args = parser.parse_args(argv)
    report(checks(args), args.json)


def checks(args: Namespace) -> Iterator[Check]:
    """What to look at, given the command line."""
    compiler = "install a C++ compiler and Python's headers, then pip install '.[fairseq]' again"
    yield from machine(args.out, "fairseq")
    yield Check("fairseq's extensions", extensions, compiler)
    yield Check("device", device, "pip install '.[fairseq]'")
    if args.data:
        again = "run fairseq-preprocess again; README.md, 'Your own data', has the commands"
        yield Check(f"data {args.data}", lambda: look_at_data(args.data), again)
    if args.checkpoint:
        other = "take another checkpoint, or the data that it was trained on"
        look = partial(look_at_checkpoint, args.checkpoint, args.data)
        yield Check(f"checkpoint {args.checkpoint}", look, other)


def extensions() -> str:
    """The compiled parts that training loads."""
    from fairseq import libbleu
    from fairseq.data import data_utils_fast

    return ", ".join(Path(module.__file__).name for module in (libbleu, data_utils_fast))


def device() -> str:
    """The GPUs, or that training needs --cpu."""
    import torch

    if not torch.cuda.is_available():
        cpu = f"{torch.get_num_threads()} threads of {torch.backends.cpu.get_cpu_capability()}"
        return f"no GPU that torch can use, {cpu}; train with --cpu"
    return ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))


def task_of(data: str) -> Any:
    """The translation task on a folder of fairseq-preprocess."""
    from omegaconf import OmegaConf

    from fairseq_erpo.plugin import data_errors
    from fairseq_erpo.plugin.translation_task import ErpoTranslationConfig

    config = ErpoTranslationConfig(
        _name="erpo_translation",
        data=data,
        dataset_impl=None,  # this and the next two come from other flags
        train_subset="train",
        required_seq_len_multiple=1,
    )
    return data_errors.setup_task(OmegaConf.structured(config))


def look_at_data(data: str) -> str:
    """Load every split that is there."""
    task = task_of(data)
    splits = [split for split in ("train", "valid", "test") if task.has_binarised(split)]
    if "train" not in splits or "valid" not in splits:
        raise ValueError(
            f"there are {' and '.join(splits) or 'no splits'}; training needs train and valid"
        )
    for split in splits:
        task.load_dataset(split)
    sizes = ", ".join(f"{split} {len(task.dataset(split))}" for split in splits)
    return f"{sizes} pairs; {len(task.source_dictionary)} and {len(task.target_dictionary)} types"


def look_at_checkpoint(path: str, data: str | None) -> str:
    """Read it as training does; with `data`, compare the dictionaries."""
    from fairseq import checkpoint_utils

    from fairseq_erpo.plugin.safe_load import check_checkpoint
    from fairseq_erpo.tools.load_run import part_of, run_task

    state = check_checkpoint(path)
    if data:
        run_task(path, data)
    weights = checkpoint_utils.load_checkpoint_to_cpu(path)["model"]
    # Training refuses NaN only: a model of one's own may keep an infinite mask.
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{path}: {name} is not finite; it may be of a run that diverged")
    criterion = part_of(state, "criterion").get("_name")
    parameters = sum(value.numel() for value in weights.values())
    updates = (state.get("optimizer_history") or [{}])[-1].get("num_updates", 0)
    return f"{criterion}, {updates} updates, {parameters:,} numbers, all finite"
