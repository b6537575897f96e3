"""Importing this registers everything with fairseq: the task, the criterions, and safe, atomic checkpoints."""

from fairseq_erpo.plugin import checkpoints, data_errors, interrupt, literals, register, safe_load, translation_task  # noqa: F401
