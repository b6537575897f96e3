"""Rewards of whole texts in words, by name or as a function of your own, computed by worker
processes.

    --erpo-reward sacrebleu      sacreBLEU's sentence BLEU (effective order), 0..1
    --erpo-reward chrf           sacreBLEU's chrF, 0..1
    --erpo-reward ter            1 - TER, at least -1
    --erpo-reward rouge_score    mean of rouge-score's F1 of ROUGE-1, -2 and -L with stemming, 0..1
    --erpo-reward my_metric:score    score(sources, hypotheses, references) -> list of float, higher is better

A reward must be a pure function of the texts: a resumed run computes it again.  Nothing here
imports torch, so that workers start at once.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import IO, Any

from fairseq_erpo.processes import die_with_parent

Texts = Sequence[str]
# Of sources, hypotheses and references
TextReward = Callable[[Texts, Texts, Texts], Sequence[float]]


@cache
def _metric(name: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF, TER

    return BLEU(effective_order=True) if name == "sacrebleu" else {"chrf": CHRF, "ter": TER}[name]()


def _sacrebleu(name: str) -> TextReward:
    def score(sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
        metric = _metric(name)
        found = (
            metric.sentence_score(h, [r]).score / 100
            for h, r in zip(hypotheses, references, strict=True)
        )
        return [max(-1.0, 1 - value) for value in found] if name == "ter" else list(found)

    return score


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def _rouge_score(sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
    scores = (_rouge().score(r, h).values() for h, r in zip(hypotheses, references, strict=True))
    return [sum(score.fmeasure for score in three) / 3 for three in scores]


TEXT_REWARDS: Mapping[str, TextReward] = {
    "sacrebleu": _sacrebleu("sacrebleu"),
    "chrf": _sacrebleu("chrf"),
    "ter": _sacrebleu("ter"),
    "rouge_score": _rouge_score,
}


def find(name: str) -> TextReward:
    """The reward of that name, or the function of `module:function`.  Raises ValueError."""
    if name in TEXT_REWARDS:
        return TEXT_REWARDS[name]
    module, _, function = name.partition(":")
    # Fairseq-train does not look there
    sys.path[:0] = [] if os.getcwd() in sys.path else [os.getcwd()]
    try:
        found: TextReward = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--erpo-reward {name}: {error}") from None
    return found


def checked(name: str, sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
    """The scores of a batch.  Raises ValueError that shows the first sentence for which there is
    none.
    """

    def score(*texts: Texts) -> list[float]:
        found = [float(value) for value in find(name)(*texts)]
        if len(found) != len(texts[0]) or not all(map(math.isfinite, found)):
            raise ValueError(f"{len(found)} numbers for {len(texts[0])} texts: {found[:3]}")
        return found

    try:
        return score(sources, hypotheses, references)
    except Exception as whole:
        for one in zip(sources, hypotheses, references, strict=True):
            try:
                score(*([text] for text in one))
            except Exception as error:
                shown = ", ".join(
                    f"{side} {text!r}"
                    for side, text in zip(("source", "hypothesis", "reference"), one, strict=True)
                )
                raise ValueError(
                    f"--erpo-reward {name} failed: {type(error).__name__}: {error}; {shown}"
                ) from None
        raise ValueError(f"--erpo-reward {name} failed: {type(whole).__name__}: {whole}") from None


class Pool:
    """Worker processes that score parts of a batch at the same time; the order of the scores is
    that of the texts.

    They are plain children that read and write lines of JSON: a spawned worker of `multiprocessing`
    would import the training program first.
    """

    def __init__(self, name: str, workers: int) -> None:
        """Starts the workers.  Raises ValueError if there is no such reward."""
        find(name)
        self.name = name
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "fairseq_erpo.text_rewards", name]
        pipe = subprocess.PIPE
        self.workers = [
            subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                text=True,
                env=environment,
                preexec_fn=die_with_parent,
            )
            for _ in range(workers)
        ]

    def score(self, sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
        """One number for each text.  Raises ValueError, with the sentence that failed."""
        share = math.ceil(len(hypotheses) / len(self.workers))
        busy = []
        for number, worker in enumerate(self.workers):
            part = slice(number * share, (number + 1) * share)
            if hypotheses[part]:
                assert worker.stdin is not None
                print(
                    json.dumps([sources[part], hypotheses[part], references[part]]),
                    file=worker.stdin,
                    flush=True,
                )
                busy.append(worker)
        scores: list[float] = []
        failures: list[str] = []
        for worker in busy:  # all answers are read, or the next batch would get this one's
            assert worker.stdout is not None
            line = worker.stdout.readline()
            answer: Any = (
                json.loads(line) if line else f"--erpo-reward {self.name}: a worker process ended"
            )
            if isinstance(answer, str):
                failures.append(answer)
            else:
                scores += answer
        if failures:
            raise ValueError(failures[0])
        return scores

    def close(self) -> None:
        """End the workers, which end with this process anyway."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def serve(name: str, requests: IO[str], answers: IO[str]) -> None:
    """A worker: a line of JSON with sources, hypotheses and references in, a line with scores or an
    error's text out.
    """
    for line in requests:
        try:
            answer: Any = checked(name, *json.loads(line))
        except ValueError as error:
            answer = " ".join(str(error).split())
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # A metric that prints, or starts a program that does, must not disturb the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.argv[1], sys.stdin, answers)
