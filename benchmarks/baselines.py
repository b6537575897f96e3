"""Baselines for the benchmarks: rewards computed anew for each token, and a sampler that asks the
model for everything.
"""

from collections.abc import Callable
from typing import Any

import torch
from measure import DEVICE, Case
from torch import Tensor
from workload import Workload

from fairseq_erpo.algorithm.answers import AnswersForAll
from fairseq_erpo.algorithm.sampler import Request, Scan
from fairseq_erpo.plugin.decoder import sampling_mode
from fairseq_erpo.rewards import Reference, make_reward
from fairseq_erpo.vocabulary import Vocabulary

WORDS = 8000
VOCABULARY = Vocabulary(WORDS, pad=1, eos=2, unk=3, never=(0, 1))


def references(batch: int, r: int) -> Tensor:
    return torch.randint(4, WORDS, (batch, r), generator=torch.Generator().manual_seed(1)).to(
        DEVICE
    )


def engine(reward: str, batch: int, r: int, steps: int | None = None) -> Case:
    """Eq. 3 for every token of the vocabulary, at each step along the reference."""
    target, made = references(batch, r), make_reward(reward)

    @torch.inference_mode()  # as in training
    def run() -> None:
        state, live = (
            made.start(Reference.from_target(target, VOCABULARY)),
            torch.ones(batch, dtype=torch.bool, device=DEVICE),
        )
        for t in range(steps or r):
            made.gains(state)
            state = made.advance(state, target[:, t], live)

    return run


def sacrebleus() -> Callable[[list[str], list[str]], Any]:
    """As sacrebleu's documentation scores a sentence."""
    from sacrebleu import sentence_bleu

    return lambda hypothesis, reference: sentence_bleu(" ".join(hypothesis), [" ".join(reference)])


def prepared_sacrebleus() -> Callable[[list[str], list[str]], Any]:
    """With everything prepared once that can be, and nothing tokenised."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(smooth_method="add-k", smooth_value=1, tokenize="none", effective_order=True)
    return lambda hypothesis, reference: bleu.sentence_score(
        " ".join(hypothesis), [" ".join(reference)]
    )


def rouge_scores() -> Callable[[list[str], list[str]], Any]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    return lambda hypothesis, reference: scorer.score(" ".join(reference), " ".join(hypothesis))


CANDIDATES = {
    "bleu": {"sacrebleu": sacrebleus, "sacrebleu, prepared": prepared_sacrebleus},
    "rouge": {"rouge-score": rouge_scores},
}


def recomputing(library: str, r: int) -> Case:
    """As older code does it, for one sentence: each step scores the prefix, and the prefix with
    each word of the reference, with EOS and with another word."""
    make = next(libraries[library] for libraries in CANDIDATES.values() if library in libraries)
    score = make()
    words = [str(w) for w in references(1, r)[0].tolist()]

    def run() -> None:
        for t in range(r):
            score(words[:t], words)
            score(words[:t], words)  # of EOS: the whole sentence's
            for word in (*words, "another"):
                score([*words[:t], word], words)

    return run


def drawing(workload: Workload, flags: str, plain: bool = False) -> Case:
    """The draw of a batch, without the loss."""
    criterion = workload.criterion(flags)

    def run() -> None:
        with sampling_mode(workload.model):
            batch = criterion.batch(workload.model, workload.sample)
            plan = criterion.row.draw.plan(batch)
            if not plain:
                plan.run(batch)
                return
            vocabulary = batch.vocabulary
            request = Request.make(plan.reference, plan.origin, plan.caps, plan.draws, vocabulary)
            scan = Scan(plan.sampler, request, AnswersForAll(batch.start(plan.rows)))
            scan.run(stride=1)
            scan.sample()

    return run
