"""Importing this registers everything with fairseq: the task, the criterions, and safe, atomic
checkpoints.
"""

from fairseq_erpo.plugin import (  # noqa: F401
    bf16,
    checkpoints,
    data_errors,
    help,
    interrupt,
    literals,
    register,
    safe_load,
    search,
    start,
    translation_task,
)
