"""`--eval-rouge`: ROUGE of generated outputs during validation, as fairseq's `--eval-bleu` has
BLEU.
"""

# Without `from __future__ import annotations`: fairseq makes flags of the fields' types, and would
# find strings.
import json
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

from fairseq.data import encoders
from fairseq.logging import metrics
from fairseq.tasks.translation import TranslationConfig

from fairseq_erpo.plugin.texts import UNKNOWN_FOUND, UNKNOWN_WANTED, spelt
from fairseq_erpo.scores import ROUGE, rouge_f1


@dataclass
class RougeConfig(TranslationConfig):
    """fairseq's translation options, and one more."""

    eval_rouge: bool = field(
        default=False,
        metadata={
            "help": "validate on ROUGE: rouge1, rouge2, rougeL and their sum, rouge; "
            "--eval-bleu-* say how to generate"
        },
    )


class RougeValidation:
    """Mixed into a translation task.  Logs `rouge1`, `rouge2`, `rougeL` (mean F1, percent) and
    their sum `rouge` (0..300).

    The flags `--eval-bleu-args`, `-detok`, `-detok-args` and `-remove-bpe` say how to generate and
    to spell, for both scores.
    """

    cfg: Any

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        model = super().build_model(cfg, from_checkpoint)  # type: ignore[misc]
        if self.cfg.eval_rouge and not self.cfg.eval_bleu:  # which would have made both of these
            spelling = Namespace(
                tokenizer=self.cfg.eval_bleu_detok, **json.loads(self.cfg.eval_bleu_detok_args)
            )
            self.tokenizer = encoders.build_tokenizer(spelling)
            generation = Namespace(**json.loads(self.cfg.eval_bleu_args))
            self.sequence_generator = self.build_generator([model], generation)  # type: ignore[attr-defined]
        return model

    def valid_step(self, sample: Any, model: Any, criterion: Any) -> Any:
        loss, sample_size, log = super().valid_step(sample, model, criterion)  # type: ignore[misc]
        if self.cfg.eval_rouge:
            log |= self._rouge_sums(sample, model)
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        super().reduce_metrics(logging_outputs, criterion)  # type: ignore[misc]
        sentences = sum(log.get("_rouge_sentences", 0) for log in logging_outputs)
        if not sentences:  # training, or no --eval-rouge
            return
        means = {
            name: 100 * sum(log.get(f"_{name}", 0) for log in logging_outputs) / sentences
            for name in ROUGE
        }
        for name, mean in (means | {"rouge": sum(means.values())}).items():
            metrics.log_scalar(name, mean, sentences, round=2)

    def _rouge_sums(self, sample: Any, model: Any) -> dict[str, float]:
        """Sums over the batch: plain numbers under the same keys on every rank, which fairseq adds
        up.
        """
        found = self.inference_step(self.sequence_generator, [model], sample, prefix_tokens=None)  # type: ignore[attr-defined]
        sums = {f"_{name}": 0.0 for name in ROUGE} | {"_rouge_sentences": float(len(found))}
        for best, target in zip(found, sample["target"], strict=True):
            texts = (
                spelt(self, best[0]["tokens"], UNKNOWN_FOUND),
                spelt(self, target, UNKNOWN_WANTED),
            )
            for name, score in rouge_f1(*texts).items():
                sums[f"_{name}"] += score
        return sums
