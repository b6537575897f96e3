"""`erpo_translation`: fairseq's translation task with the annealer's clock, and with ROUGE in
validation.
"""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationTask

from fairseq_erpo.plugin.clocked_task import Clocked
from fairseq_erpo.plugin.rouge_validation import RougeConfig, RougeValidation


@dataclass
class ErpoTranslationConfig(RougeConfig):
    """fairseq's translation options, and ROUGE in validation."""


@register_task("erpo_translation", dataclass=ErpoTranslationConfig)
class ErpoTranslationTask(Clocked, RougeValidation, TranslationTask):
    """Translation, summarization, or any pair of texts."""
