"""`python -m fairseq_erpo convert`: a checkpoint of an older fairseq or torch as one that
everything here reads safely.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fairseq_erpo.files import atomic_write, reason_of
from fairseq_erpo.plugin import safe_load  # noqa: F401 - lets torch read a Namespace, which holds no code
from fairseq_erpo.plugin.structure import check_structure

KEPT = ("args", "cfg", "model", "task_state")
# Objects of fairseq that old checkpoints hold beside the model.  What stands in for them holds
# their fields and does nothing.
METERS = ("AverageMeter", "MetersDict", "StopwatchMeter", "SumMeter", "TimeMeter")
HOMES = ("fairseq.meters", "fairseq.logging.meters")


class Inert(dict[str, Any]):
    """Stands in for an object of a checkpoint that is not kept."""

    def __setstate__(self, state: Any) -> None:
        pass


def convert(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `convert`."""
    parser.add_argument("old", metavar="OLD", help="a .pt file of any fairseq")
    parser.add_argument(
        "new",
        metavar="NEW",
        help="where to write it; training starts from it with --finetune-from-model NEW",
    )
    args = parser.parse_args(argv)
    if Path(args.new).exists():
        raise ValueError(f"{args.new} exists already; name another file")
    state = read_legacy(args.old)
    with atomic_write(args.new, "NEW") as part:
        torch.save(state, part)
    numbers = sum(value.numel() for value in state["model"].values())
    left_out = f"optimiser, clock and meters of {args.old} were left out"
    print(f"{args.new}: {numbers:,} numbers and the configuration; {left_out}")


def read_legacy(path: str) -> dict[str, Any]:
    """The model and the configuration of a checkpoint in any format of torch.save; nothing in it is
    executed.

    Raises ValueError with one line.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    known: list[Any] = [(Inert, f"{home}.{name}") for home in HOMES for name in METERS]
    try:
        with torch.serialization.safe_globals(known):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(
            f"{path} is not a checkpoint that is complete and safe to load: {reason_of(error)}"
        ) from None
    try:
        check_structure(state)
    except ValueError as error:
        raise ValueError(f"{path} holds no fairseq model: {error}") from None
    return {name: state[name] for name in KEPT if state.get(name) is not None} | {
        # fairseq looks at the last entry.
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        ],
        "extra_state": {},
        "last_optimizer_state": None,
    }
