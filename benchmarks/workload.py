"""The workload of the benchmarks: a model, and a batch to train it on."""

import random
from collections.abc import Callable
from typing import Any

import torch
from fairseq import options
from fairseq.data import Dictionary, LanguagePairDataset, data_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.utils import apply_to_sample
from measure import DEVICE
from tqdm import tqdm

from fairseq_erpo.tasks.erpo_translation import ErpoTranslationTask

TRANSFORMER = (
    "--arch transformer --encoder-layers 3 --decoder-layers 3 --encoder-embed-dim 256 "
    "--encoder-ffn-embed-dim 1024 --encoder-attention-heads 4 --decoder-attention-heads 4 "
    "--share-all-embeddings --dropout .1"
)
LSTM = (
    "--arch lstm_luong_wmt_en_de --encoder-embed-dim 256 --encoder-hidden-size 256 "
    "--encoder-layers 1 --decoder-embed-dim 256 --decoder-hidden-size 256 --decoder-layers 1 "
    "--decoder-out-embed-dim 256"
)
# Words a sentence, per mille: 159,266 titles of arXiv papers. A source is as long, two words more
# or less.
LENGTHS = {
    6: 48,
    7: 88,
    8: 124,
    9: 145,
    10: 149,
    11: 137,
    12: 110,
    13: 80,
    14: 52,
    15: 33,
    16: 18,
    17: 10,
    18: 4,
    19: 2,
}
FROM_6_TO_25 = dict.fromkeys(range(6, 26), 1)
BUCKETS = 9  # so many batches are made of a corpus; the one in the middle is taken


def only(length: int) -> dict[int, int]:
    """Sentences of one length."""
    return {length: 1}


class Workload:
    """A dictionary of words by Zipf's law, one batch, and a model trained on it until it ends its
    sentences.
    """

    def __init__(
        self,
        model: str,
        sentences: int,
        words: int = 8000,
        lengths: dict[int, int] | None = None,
        warm_up: int = 25,
    ) -> None:
        self.model_flags = model
        rng = random.Random(1)
        self.dictionary = Dictionary()
        for i in range(words - self.dictionary.nspecial):
            self.dictionary.add_symbol(f"w{i}", n=10)
        self.sample = apply_to_sample(
            lambda tensor: tensor.to(DEVICE), self.batch(rng, sentences, lengths)
        )
        torch.manual_seed(1)
        task, cfg = self.build("--criterion cross_entropy")
        self.model = task.build_model(cfg.model).to(DEVICE)
        criterion = task.build_criterion(cfg.criterion)
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        for _ in tqdm(range(warm_up), "a model that ends its sentences", leave=False):
            optimizer.zero_grad()
            loss, size, _ = criterion(self.model, self.sample)
            (loss / size).backward()
            optimizer.step()

    @property
    def shape(self) -> str:
        """Sentences x positions."""
        return "x".join(str(size) for size in self.sample["target"].shape)

    def batch(
        self, rng: random.Random, sentences: int, lengths: dict[int, int] | None
    ) -> dict[str, Any]:
        """By `lengths`, all in one batch; without, the middle one of the batches that fairseq makes
        of LENGTHS.
        """
        histogram = lengths or LENGTHS
        count = sentences if lengths else sentences * BUCKETS
        sizes = rng.choices(list(histogram), list(histogram.values()), k=count)
        target = [self.sentence(rng, size) for size in sizes]
        source = [self.sentence(rng, max(2, size + rng.randint(-2, 2))) for size in sizes]
        data = LanguagePairDataset(
            source,
            [len(x) for x in source],
            self.dictionary,
            target,
            [len(y) for y in target],
            self.dictionary,
            shuffle=False,
        )
        batches = data_utils.batch_by_size(
            data.ordered_indices(), data.num_tokens, max_sentences=sentences
        )
        return data.collater([data[i] for i in batches[len(batches) // 2]])  # type: ignore[no-any-return]

    def sentence(self, rng: random.Random, length: int) -> torch.Tensor:
        words = (
            min(int(rng.paretovariate(0.6)), len(self.dictionary) - 5) + 3 for _ in range(length)
        )
        return torch.tensor([*words, self.dictionary.eos()])

    def build(self, flags: str) -> tuple[Any, Any]:
        """A task of its own, with the configuration that the flags mean."""
        training = "--optimizer adam --cpu --max-tokens 4000"
        words = f"data --task erpo_translation {flags} {self.model_flags} {training}".split()
        parsed = options.parse_args_and_arch(options.get_training_parser(), words)
        cfg = convert_namespace_to_omegaconf(parsed)
        return ErpoTranslationTask(cfg.task, self.dictionary, self.dictionary), cfg

    def criterion(self, flags: str) -> Any:
        task, cfg = self.build(f"--criterion {flags}")
        # Which MIXER's baseline asks for its width
        self.model_of_task = task.build_model(cfg.model)
        return task.build_criterion(cfg.criterion).to(DEVICE).train()

    def step(self, flags: str) -> Callable[[], None]:
        """Forward and backward of one training step."""
        criterion = self.criterion(flags)
        if not getattr(criterion, "checked", True):
            criterion.check(self.model, self.sample)  # what a run's first batch is asked besides

        def run() -> None:
            self.model.train()
            self.model.zero_grad()
            loss, _, _ = criterion(self.model, self.sample)
            loss.backward()

        return run
