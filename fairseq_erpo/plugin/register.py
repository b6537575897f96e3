"""Register every row of the family with fairseq, as the criterion `erpo_<row>` with the row's own
flags.
"""

import dataclasses
import sys
from typing import Any, Optional

from fairseq.criterions import CRITERION_REGISTRY, register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II

from fairseq_erpo.family import FAMILY, Row, add_row
from fairseq_erpo.family.flags import FLAGS
from fairseq_erpo.plugin.criterion import ErpoCriterion

# Fields that other parts of fairseq's configuration fill: name -> (type, source).
BORROWED: dict[str, tuple[Any, str]] = {
    "sentence_avg": (bool, "optimization.sentence_avg"),
    "seed": (int, "common.seed"),
    "max_epoch": (int, "optimization.max_epoch"),
    "max_update": (int, "optimization.max_update"),
    "update_freq": (list[int], "optimization.update_freq"),
    "disable_validation": (bool, "dataset.disable_validation"),
    "save_dir": (str, "checkpoint.save_dir"),
    "restore_file": (str, "checkpoint.restore_file"),
    "finetune_from_model": (Optional[str], "checkpoint.finetune_from_model"),
    "best_checkpoint_metric": (str, "checkpoint.best_checkpoint_metric"),
    "maximize_best_checkpoint_metric": (bool, "checkpoint.maximize_best_checkpoint_metric"),
}


def register(row: Row) -> type[ErpoCriterion]:
    """Make `erpo_<row>` known to fairseq.  Registering a row twice is harmless."""
    name = f"erpo_{row.name}"
    if name in CRITERION_REGISTRY:
        return CRITERION_REGISTRY[name]
    title = "".join(part.capitalize() for part in name.split("_"))
    fields: list[tuple[str, Any, Any]] = []
    for flag in row.flags:
        text = f"{FLAGS[flag].help} (default: {row.default_text(flag)})"
        # None stands for a flag that was not typed; the row's settings know its default. The preset
        # is written into checkpoints.
        default = FLAGS[flag].default if flag == "erpo_preset" else None
        fields.append(
            (
                flag,
                Optional[FLAGS[flag].type],
                dataclasses.field(default=default, metadata={"help": text.replace("%", "%%")}),
            )
        )
    for field, (kind, source) in BORROWED.items():
        fields.append((field, kind, dataclasses.field(default=II(source))))
    made_here = {"__module__": __name__}
    config = dataclasses.make_dataclass(
        f"{title}Config", fields, bases=(FairseqDataclass,), namespace=made_here
    )
    criterion = type(title, (ErpoCriterion,), {"row": row, "__doc__": row.page, **made_here})
    # Spawned workers unpickle the configuration by its class's name in this module.
    setattr(sys.modules[__name__], config.__name__, config)
    setattr(sys.modules[__name__], title, criterion)
    return register_criterion(name, dataclass=config)(criterion)


def register_row(row: Row) -> type[ErpoCriterion]:
    """Add a row to the family, and make it the criterion `erpo_<row>`.  Raises ValueError if
    another row has its name.
    """
    return register(add_row(row))


for _row in FAMILY.values():
    register(_row)
