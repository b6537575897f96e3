"""Rewards of whole texts in words, by name or as a function of your own, computed by worker
processes.

    --erpo-reward sacrebleu        sacreBLEU's sentence BLEU (effective order), 0..1
    --erpo-reward chrf             sacreBLEU's chrF, 0..1
    --erpo-reward ter              1 - TER, at least -1
    --erpo-reward rouge_score      mean of rouge-score's F1 of ROUGE-1, -2 and -L, stemmed, 0..1
    --erpo-reward my_metric:score  score(sources, hypotheses, references) -> list of float,
                                   higher is better

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
def _scorers() -> Mapping[str, Callable[[str, str], float]]:
    """Of one hypothesis and its reference."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF, TER

    bleu, chrf, ter = BLEU(effective_order=True), CHRF(), TER()
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    def rouge_score(hypothesis: str, reference: str) -> float:
        found = rouge.score(reference, hypothesis).values()
        return float(sum(score.fmeasure for score in found)) / 3

    return {
        "sacrebleu": lambda text, reference: bleu.sentence_score(text, [reference]).score / 100,
        "chrf": lambda text, reference: chrf.sentence_score(text, [reference]).score / 100,
        "ter": lambda text, reference: max(
            -1, 1 - ter.sentence_score(text, [reference]).score / 100
        ),
        "rouge_score": rouge_score,
    }


def _by(name: str) -> TextReward:
    def score(sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
        return list(map(_scorers()[name], hypotheses, references))

    return score


TEXT_REWARDS: Mapping[str, TextReward] = {
    name: _by(name) for name in ("sacrebleu", "chrf", "ter", "rouge_score")
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
    try:
        return _finite(name, sources, hypotheses, references)
    except Exception as whole:  # a metric of one's own raises anything
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True):
            try:
                _finite(name, [source], [hypothesis], [reference])
            except Exception as error:
                shown = f"source {source!r}, hypothesis {hypothesis!r}, reference {reference!r}"
                raise ValueError(f"{_failure(name, error)}; {shown}") from None
        raise ValueError(_failure(name, whole)) from None


def _finite(name: str, sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
    """The scores.  Raises ValueError unless each text has one, and what the metric raises."""
    found = [float(value) for value in find(name)(sources, hypotheses, references)]
    if len(found) != len(sources) or not all(map(math.isfinite, found)):
        raise ValueError(f"{len(found)} numbers for {len(sources)} texts: {found[:3]}")
    return found


def _failure(name: str, error: Exception) -> str:
    return f"--erpo-reward {name} failed: {type(error).__name__}: {error}"


Worker = subprocess.Popen[str]


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
        self.workers = [self._started(command, environment) for _ in range(workers)]

    @staticmethod
    def _started(command: Sequence[str], environment: Mapping[str, str]) -> Worker:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=die_with_parent,
        )

    def score(self, sources: Texts, hypotheses: Texts, references: Texts) -> list[float]:
        """One number for each text.  Raises ValueError, with the sentence that failed."""
        share = math.ceil(len(hypotheses) / len(self.workers))
        busy = []
        for number, worker in enumerate(self.workers):
            part = slice(number * share, (number + 1) * share)
            if hypotheses[part]:
                assert worker.stdin is not None
                request = json.dumps([sources[part], hypotheses[part], references[part]])
                print(request, file=worker.stdin, flush=True)
                busy.append(worker)
        # All answers are read, or the next batch would get this one's.
        answers = [self._answer(worker) for worker in busy]
        for answer in answers:
            if isinstance(answer, str):
                raise ValueError(answer)
        return [score for answer in answers for score in answer]

    def _answer(self, worker: Worker) -> Any:
        """Scores, or the text of an error."""
        assert worker.stdout is not None
        line = worker.stdout.readline()
        return json.loads(line) if line else f"--erpo-reward {self.name}: a worker process ended"

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
