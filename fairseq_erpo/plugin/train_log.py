"""The training log: the figures made of a batch's sums, and warnings."""

import logging
import math
from collections.abc import Iterable
from typing import Any

from fairseq.logging import metrics
from fairseq.utils import get_perplexity

from fairseq_erpo.algorithm.batch import Drawn
from fairseq_erpo.algorithm.log_sums import EXPERTS
from fairseq_erpo.mixture import NAMES

logger = logging.getLogger(__name__)


def reduce(logging_outputs: list[dict[str, Any]]) -> None:
    """From sums over ranks and micro-batches to the figures of fairseq's log."""

    def total(key: str) -> Any:
        return sum(log.get(key, 0) for log in logging_outputs)

    size, ntokens = total("sample_size"), total("ntokens")
    # Dropped targets can leave nothing to divide by.
    metrics.log_scalar("loss", total("loss") / max(size, 1) / math.log(2), size, round=3)
    metrics.log_scalar("nll_loss", total("nll_loss") / ntokens / math.log(2), ntokens, round=3)
    metrics.log_derived("ppl", lambda meters: get_perplexity(meters["nll_loss"].avg))
    if not any("lambda_data" in log for log in logging_outputs):
        return
    sentences = total("nsentences")
    for name in NAMES:
        metrics.log_scalar(
            f"lambda_{name}", total(f"lambda_{name}") / sentences, sentences, round=4
        )
    for name in ("draw_seconds", "loss_seconds"):
        metrics.log_scalar(name, total(name), round=3)
    drawn, tokens = total("drawn"), total("drawn_tokens")
    if not drawn:
        return
    for name in EXPERTS:
        z = total(f"z_{name}")
        metrics.log_scalar(f"z_{name}", z / tokens, tokens, round=4)
        metrics.log_scalar(f"dr_{name}", total(f"dr_{name}") / max(z, 1), z, round=4)
    mean = total("reward") / drawn
    spread = max(total("reward_squared") / drawn - mean * mean, 0) ** 0.5
    metrics.log_scalar("seq_reward", mean, drawn, round=4)
    metrics.log_scalar("seq_reward_std", spread, drawn, round=4)
    words = total("words")
    metrics.log_scalar("in_reference", total("in_reference") / max(words, 1), words, round=4)
    metrics.log_scalar("sampled_length", tokens / drawn, drawn, round=2)
    metrics.log_scalar("clipped", total("clipped") / drawn, drawn, round=4)


def warn_if_only_logged(targets: str) -> None:
    """Say that --erpo-reward, which differs from the teacher, is not learnt from."""
    logger.warning(
        "--erpo-reward is logged as seq_reward and not learnt from: with --erpo-targets "
        f"{targets} what is learnt is "
        "--erpo-teacher's; name the reward there, or use --erpo-targets policy"
    )


def warn_of_idle(lines: Iterable[str]) -> None:
    """Say which typed flags change nothing at the λ that is asked for."""
    for line in lines:
        logger.warning(line)


def warn_if_useless(drawn: Drawn) -> None:
    """Warn of samples that cannot teach anything."""
    sample = drawn.explored
    if bool(sample.clipped.all()):
        logger.warning(
            "every sample of this batch reached the length cap without EOS: the model may not "
            "have learnt to stop yet"
        )
    if len(sample.reward) > 1 and bool(sample.reward.eq(sample.reward[0]).all()):
        logger.warning(
            "all samples of this batch have the same reward: it says nothing about which is better"
        )
