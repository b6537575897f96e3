"""examples/huggingface/train.py: the cached decoder, the loss at λ_data = 1, and some updates of two rows."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fairseq_erpo import FAMILY, previous_tokens

pytestmark = pytest.mark.slow  # importing transformers takes five seconds

SCRIPT = Path(__file__).parents[1] / "examples/huggingface/train.py"
LINES = [" ".join("abcdefgh"[(i + j) % 8] * 2 for j in range(1 + i % 5)) for i in range(24)]
PAIRS = [(number, line, line[::-1]) for number, line in enumerate(LINES)]


@pytest.fixture(scope="module")
def train() -> ModuleType:
    from huggingface import train

    return train


@pytest.fixture
def learner(train: ModuleType) -> Any:
    """`learner("interp", erpo_preset="paper")`: a fresh tiny model without dropout."""

    def make(row: str, **flags: Any) -> Any:
        torch.manual_seed(1)
        model, tokenizer = train.new_model(LINES, pieces=40, width=16)
        model.eval()
        model.train = lambda mode=True: model  # no dropout at any time
        return train.Learner(model, tokenizer, FAMILY[row], flags, LINES, seed=1)

    return make


def test_cached_equals_teacher_forced(train: ModuleType, learner: Any) -> None:
    """Step by step with the cache, sentences leaving on the way, as in one pass over the whole prefix."""
    made = learner("mle")
    model, source, target = made.model.eval(), made.ids(LINES[:6]), made.ids([line for _, _, line in PAIRS[:6]])
    previous = previous_tokens(target, made.vocabulary)
    mask = source.ne(made.vocabulary.pad).long()
    with torch.no_grad():
        encoded = model.get_encoder()(input_ids=source, attention_mask=mask)[0]
        cached, whole = (train.CachedDecoder(model, encoded, mask) for _ in range(2))
        expected = whole.log_probs(whole.teacher_forced(previous))
        rows = torch.arange(6)
        for t in range(previous.size(1)):
            kept = target[rows, t].ne(made.vocabulary.pad)
            if not kept.all():
                cached.keep(kept.nonzero()[:, 0])
                rows = rows[kept]
            found = cached.log_probs(cached.step(previous[rows, : t + 1]))
            torch.testing.assert_close(found, expected[rows, t], rtol=0, atol=1e-5)  # float32, other shapes of the same products
    assert len(rows) < 6  # some sentence was shorter than another


@pytest.mark.parametrize("row", ["mle", "interp"])
def test_only_data_is_cross_entropy(learner: Any, row: str) -> None:
    made = learner(row, **({} if row == "mle" else {"erpo_schedule": "constant", "erpo_lambda": "data=1"}))
    source, target = made.ids([x for _, x, _ in PAIRS]), made.ids([y for _, _, y in PAIRS])
    labels = target.masked_fill(target.eq(made.vocabulary.pad), -100)
    expected = made.model(input_ids=source, attention_mask=source.ne(0).long(), labels=labels).loss
    torch.testing.assert_close(made.loss(PAIRS, (1, 0, 0)), expected, rtol=1e-5, atol=0)


def test_every_row_that_needs_no_more(learner: Any) -> None:
    for name in FAMILY.keys() - {"mixer", "mrt", "sequence_tutor"}:
        made = learner(name)
        loss = made.loss(PAIRS[:4], (3, 100_000, 0))  # late, so that every schedule has come to its end
        loss.backward()
        assert loss.isfinite(), name


def test_a_few_updates(tmp_path: Path) -> None:
    """The script from the outside: a model from scratch by `mle`, saved; then `interp` from it."""
    texts = tmp_path / "source", tmp_path / "target"
    for path, side in zip(texts, (1, 2), strict=True):
        path.write_text("".join(f"{pair[side]}\n" for pair in PAIRS))
    first = ["--row", "mle", "--save", tmp_path / "model", "--label-smoothing", ".1"]
    then = ["--row", "interp", "--model", tmp_path / "model", "--erpo-anneal-every", "1u", "--erpo-reward", "bleu"]
    for flags in (first, then):
        common = ["--epochs", "2", "--batch", "8", "--valid", "4", "--pieces", "40", "--width", "16"]
        command = [sys.executable, SCRIPT, *texts, *common, *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert [line.split(":")[0] for line in done.stdout.split("\n") if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
        assert "nan" not in done.stdout and "BLEU" in done.stdout


def test_no_fairseq_and_no_more_than_a_page(train: ModuleType) -> None:
    code = "import sys; from huggingface import train; print('fairseq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parents[1], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "False", done.stderr
    assert len(SCRIPT.read_text().splitlines()) <= 150
