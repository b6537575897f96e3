"""What the algorithms cost beside fairseq's cross_entropy: training steps in alternation, in one process, on one thread.

    python benchmarks/run.py [--quick] [--json FILE]        (or `make bench`)

Machines are noisy: each round times every case once, one after the other, and a case is quoted as the median over rounds of its
ratio to the first case of the same round. Synthetic sentences of 6-25 words; 8,000 words by Zipf's law; the model is trained
for some steps first, so that it ends its sentences.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)

import torch  # noqa: E402
from fairseq import options  # noqa: E402
from fairseq.data import Dictionary, LanguagePairDataset  # noqa: E402
from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # noqa: E402
from tqdm import tqdm  # noqa: E402

from fairseq_erpo.rewards import Reference, make_reward  # noqa: E402
from fairseq_erpo.tasks.erpo_translation import ErpoTranslationTask  # noqa: E402
from fairseq_erpo.vocabulary import Vocabulary  # noqa: E402

WORDS = 8000
ARCHITECTURES = {
    "transformer 3+3x256": "--arch transformer --encoder-layers 3 --decoder-layers 3 --encoder-embed-dim 256 "
    "--encoder-ffn-embed-dim 1024 --encoder-attention-heads 4 --decoder-attention-heads 4 --share-all-embeddings --dropout .1",
    "lstm 256": "--arch lstm_luong_wmt_en_de --encoder-embed-dim 256 --encoder-hidden-size 256 --encoder-layers 1 "
    "--decoder-embed-dim 256 --decoder-hidden-size 256 --decoder-layers 1 --decoder-out-embed-dim 256",
}
POINTS = {
    "(.12, .16, .72)": "model=.12,task=.16,delta=.72",
    "(.24, .32, .44)": "model=.24,task=.32,delta=.44",
    "(.36, .48, .16)": "model=.36,task=.48,delta=.16",
    "(3/7, 4/7, 0)": "model=3/7,task=4/7",
    "(0, .5, .5)": "task=.5,delta=.5",
}
PLAIN = "--erpo-preset paper --erpo-schedule constant"
CASES = {
    "cross_entropy": "--criterion cross_entropy",
    "erpo_mle": "--criterion erpo_mle",
    **{f"erpo_interp {point}": f"--criterion erpo_interp {PLAIN} --erpo-lambda {value}" for point, value in POINTS.items()},
    "erpo_interp (.12, .16, .72), robust": "--criterion erpo_interp",
    "erpo_interp (.12, .16, .72), parallel": f"--criterion erpo_interp {PLAIN} --erpo-lambda {POINTS['(.12, .16, .72)']} "
    "--erpo-sampler parallel",
    **{
        f"erpo_{row}": f"--criterion erpo_{row}"
        for row in ("raml", "spg", "pg", "self_critic", "mixer_alike", "scheduled_sampling")
    },
}


class World:
    """A dictionary, a batch and a model."""

    def __init__(self, architecture: str, sentences: int, warm_up: int) -> None:
        self.architecture = architecture
        numbers = random.Random(1)
        self.dictionary = Dictionary()
        for i in range(WORDS - self.dictionary.nspecial):
            self.dictionary.add_symbol(f"w{i}", n=10)
        texts = [[self.sentence(numbers) for _ in range(sentences)] for _ in range(2)]
        lengths = [[len(text) for text in side] for side in texts]
        data = LanguagePairDataset(texts[0], lengths[0], self.dictionary, texts[1], lengths[1], self.dictionary)
        self.sample = data.collater([data[i] for i in range(sentences)])
        torch.manual_seed(1)
        self.task, self.cfg = self.build(CASES["cross_entropy"])
        self.model = self.task.build_model(self.cfg.model)
        criterion = self.task.build_criterion(self.cfg.criterion)
        optimizer = torch.optim.Adam(self.model.parameters(), 5e-4)
        for _ in tqdm(range(warm_up), "warm-up", leave=False):
            optimizer.zero_grad()
            loss, size, _ = criterion(self.model, self.sample)
            (loss / size).backward()
            optimizer.step()

    def sentence(self, numbers: random.Random) -> torch.Tensor:
        words = (min(int(numbers.paretovariate(0.6)), WORDS - 5) + 3 for _ in range(numbers.randint(6, 25)))
        return torch.tensor([*words, self.dictionary.eos()])

    def build(self, flags: str) -> tuple[Any, Any]:
        arguments = f"data {flags} {self.architecture} --optimizer adam --cpu --max-tokens 4000".split()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
        return ErpoTranslationTask(cfg.task, self.dictionary, self.dictionary), cfg

    def step(self, flags: str) -> Callable[[], None]:
        """Forward and backward of one training step."""
        task, cfg = self.build(flags)
        criterion = task.build_criterion(cfg.criterion).train()

        def run() -> None:
            self.model.train()
            self.model.zero_grad()
            loss, _, _ = criterion(self.model, self.sample)
            loss.backward()

        return run


def alternate(cases: Mapping[str, Callable[[], None]], rounds: int, name: str) -> dict[str, dict[str, float]]:
    """Median, least and largest ratio of each case to the first of the same round, and its median seconds."""
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for turn in tqdm(range(rounds + 1), name, leave=False):
        for case, run in cases.items():
            began = time.perf_counter()
            run()
            if turn:  # the first round warms up
                seconds[case].append(time.perf_counter() - began)
    base = next(iter(seconds.values()))
    found = {}
    for case, times in seconds.items():
        ratios = [mine / first for mine, first in zip(times, base, strict=True)]
        found[case] = {
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "largest": max(ratios),
            "seconds": statistics.median(times),
        }
    return found


def recomputing(r: int, batch: int) -> dict[str, Callable[[], None]]:
    """ΔBLEU of every reference token along y*: by the engine, and by scoring each extension anew with sacrebleu (the old way)."""
    from sacrebleu.metrics import BLEU

    vocabulary = Vocabulary(WORDS, 1, 2, 3, (0, 1))
    target = torch.randint(4, WORDS, (batch, r), generator=torch.Generator().manual_seed(1))
    reward = make_reward("bleu")
    bleu = BLEU(smooth_method="add-k", smooth_value=1, tokenize="none", effective_order=True)

    def engine() -> None:
        reference = Reference.of(target, vocabulary)
        state, live = reward.start(reference), torch.ones(batch, dtype=torch.bool)
        for t in range(r):
            reward.gains(state)
            state = reward.advance(state, target[:, t], live)

    def anew() -> None:
        # One sentence stands for the batch: the old way has no batch, so its time is a multiple.
        words = [str(w) for w in target[0].tolist()]
        for t in range(r):
            for word in words:
                bleu.sentence_score(" ".join([*words[:t], word]), [" ".join(words)])

    return {"engine": engine, "sacrebleu, one sentence of the batch": anew}


def table(title: str, found: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{title}\n{'':44}{'ratio':>9}{'least':>9}{'largest':>9}{'seconds':>10}")
    for case, figures in found.items():
        print(f"{case:44}{figures['ratio']:9.3f}{figures['least']:9.3f}{figures['largest']:9.3f}{figures['seconds']:10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer models, cases, sentences and rounds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sentences, rounds, warm_up = (40, 3, 10) if args.quick else (180, 7, 30)
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "sentences": sentences,
        "rounds": rounds,
    }
    for name, architecture in list(ARCHITECTURES.items())[: 1 if args.quick else None]:
        world = World(architecture, sentences, warm_up)
        steps = {case: world.step(flags) for case, flags in list(CASES.items())[: 7 if args.quick else None]}
        figures[name] = alternate(steps, rounds, name)
        table(f"{name}: a training step beside cross_entropy, {sentences} sentences", figures[name])
    batch = 64
    scores = alternate(recomputing(r=25, batch=batch), rounds, "rewards")
    figures["rewards"] = scores
    table("ΔBLEU of all tokens along 25 steps, 64 sentences", scores)
    ratio = scores["sacrebleu, one sentence of the batch"]["ratio"] * batch
    print(f"recomputing the whole batch, reference tokens only: {ratio:,.0f} times the engine's time")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
