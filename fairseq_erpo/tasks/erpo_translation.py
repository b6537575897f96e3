"""The task `erpo_translation`.  fairseq imports the files of this folder by themselves for
`--user-dir fairseq_erpo`.
"""

from fairseq_erpo.plugin.translation_task import ErpoTranslationTask

__all__ = ["ErpoTranslationTask"]
