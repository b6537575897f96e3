"""What is asked when training starts: of fairseq's commands only the trainer goes on from other
files.

fairseq-validate builds the criterion of a checkpoint, too, and what that run once started from may
be gone.
"""

from typing import Any

from fairseq.trainer import Trainer

fairseqs_init = Trainer.__init__


def init(
    self: Any, cfg: Any, task: Any, model: Any, criterion: Any, *more: Any, **named: Any
) -> None:
    """fairseq's `Trainer`, whose criterion looks first at what it goes on from."""
    if hasattr(criterion, "check_start"):
        criterion.check_start()
    fairseqs_init(self, cfg, task, model, criterion, *more, **named)


Trainer.__init__ = init
