"""The training log: sums over a batch, and the figures made of them."""

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.utils import get_perplexity
from torch import Tensor

from fairseq_erpo.algorithm.batch import Drawn, Expert
from fairseq_erpo.mixture import NAMES, Mixture
from fairseq_erpo.rewards.base import Reference
from fairseq_erpo.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

EXPERTS = {
    "model": Expert.MODEL,
    "reward": Expert.REWARD,
    "data": Expert.DATA,
    "product": Expert.PRODUCT,
}
SUMS = ("drawn", "drawn_tokens", "words", "in_reference", "reward", "reward_squared", "clipped")


def sums(
    drawn: Drawn | None, target: Tensor, mixture: Mixture, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Sums over the batch on its device; the same keys on every rank and micro-batch, whatever was
    drawn.
    """
    nothing = torch.zeros((), device=target.device)
    log: dict[str, Any] = {
        f"lambda_{name}": getattr(mixture, name) * target.size(0) for name in NAMES
    }
    if drawn is None:
        return (
            log
            | {f"{kind}_{name}": nothing for name in EXPERTS for kind in ("z", "dr")}
            | dict.fromkeys(SUMS, nothing)
        )
    sample = drawn.explored
    for name, expert in EXPERTS.items():
        z = sample.origin.eq(expert)
        log |= {f"z_{name}": z.sum(), f"dr_{name}": sample.delta_r.masked_fill(~z, 0).sum()}
    reference = Reference.from_target(target, vocabulary)
    words = torch.zeros((len(target), vocabulary.size), dtype=torch.bool, device=target.device)
    words = words.scatter(1, torch.where(reference.owner, reference.tokens, vocabulary.pad), True)
    words[:, vocabulary.pad] = False
    known = words.gather(1, sample.tokens.reshape(len(target), -1))
    return log | {
        "drawn": nothing + len(sample.tokens),
        "drawn_tokens": sample.tokens.ne(vocabulary.pad).sum(),
        "words": (sample.tokens.ne(vocabulary.pad) & sample.tokens.ne(vocabulary.eos)).sum(),
        "in_reference": known.sum(),
        "reward": sample.reward.sum(),
        "reward_squared": sample.reward.square().sum(),
        "clipped": sample.clipped.sum(),
    }


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
        f"--erpo-reward is logged as seq_reward and not learnt from: with --erpo-targets {targets} what is learnt is "
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
            "every sample of this batch reached the length cap without EOS: the model may not have learnt to stop yet"
        )
    if len(sample.reward) > 1 and bool(sample.reward.eq(sample.reward[0]).all()):
        logger.warning(
            "all samples of this batch have the same reward: it says nothing about which is better"
        )
