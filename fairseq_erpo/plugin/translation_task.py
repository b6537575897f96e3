"""`erpo_translation`: fairseq's translation task with the annealer's clock, and with ROUGE in validation."""

from dataclasses import dataclass
from typing import Any, Self

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

    @classmethod
    def setup_task(cls, cfg: ErpoTranslationConfig, **kwargs: Any) -> Self:
        try:
            return super().setup_task(cfg, **kwargs)
        except FileNotFoundError as error:
            raise SystemExit(f"erpo: {cfg.data} is not a folder made by fairseq-preprocess: {error}") from None
        except Exception as error:
            if "infer language pair" not in str(error):
                raise
            raise SystemExit(
                f"erpo: {cfg.data} was not made by fairseq-preprocess, or needs --source-lang, --target-lang"
            ) from None
