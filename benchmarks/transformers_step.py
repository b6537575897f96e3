"""What a step costs with transformers: T5 2+2x256, 32 sentences of 12 words, 8,000 words.

    python benchmarks/transformers_step.py [--quick] [--json FILE]        (a part of `make bench`)

In alternation, beside the row `mle`: median, least and largest over the rounds.  The time is the
processor's, of one thread.  A sentence's t-th word comes from the t-th twelfth of the vocabulary,
so that after some updates samples end where sentences do.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from measure import Case, alternate, environment, table, write  # noqa: E402

from fairseq_erpo.huggingface import ErpoConfig, ErpoTrainer  # noqa: E402
from fairseq_erpo.huggingface.new_model import new_model  # noqa: E402

WORDS, LENGTH, SENTENCES, SPECIAL = 8000, 12, 32, 3
PACKAGES = ("torch", "transformers", "accelerate")
POINT = {"preset": "paper", "schedule": "constant", "mixture": "model=.12,reward=.16,data=.72"}
RISK = {"preset": "risk", "reward": "bleu", "schedule": "constant", "mixture": "model=1"}
CASES: dict[str, dict[str, Any]] = {
    "mle": {"row": "mle"},
    "interp (.12, .16, .72)": {"row": "interp", **POINT},
    "interp, risk, 5 samples": {"row": "interp", **RISK},
}


def rows() -> list[dict[str, list[int]]]:
    """32 sentences, each its own translation."""
    draw = torch.Generator().manual_seed(1)
    part = (WORDS - SPECIAL) // LENGTH
    words = torch.randint(part, (SENTENCES, LENGTH), generator=draw)
    words = words + SPECIAL + part * torch.arange(LENGTH)
    closed = [[*row, 1] for row in words.tolist()]
    return [{"input_ids": row, "labels": row, "attention_mask": [1] * len(row)} for row in closed]


def trainer(model: Any, flags: dict[str, Any], updates: int, rate: float) -> ErpoTrainer:
    """One step holds all sentences."""
    args = ErpoConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        per_device_train_batch_size=SENTENCES,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_steps=updates,
        **flags,
    )

    def collate(found: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in found]) for name in found[0]}

    return ErpoTrainer(model, args, data_collator=collate, train_dataset=rows())


def case(model: Any, flags: dict[str, Any]) -> Case:
    """A whole update at a rate of 0, which leaves the model as it is: the E-step, the M-step and
    the optimizer's.
    """
    made = trainer(model, flags, 1, 0.0)
    made.train()
    assert made.optimizer is not None
    batch = next(iter(made.get_train_dataloader()))

    def step() -> None:
        samples, size = made.get_batch_samples(iter([dict(batch)]), 1, made.args.device)
        made.training_step(made.model, samples[0], size)
        made.optimizer.step()
        made.model.zero_grad()

    return step


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = new_model(WORDS, 256, 2, 0.1)
    trainer(model, {"row": "mle"}, 60, 1e-3).train()
    cases = {name: case(model, flags) for name, flags in CASES.items()}
    found = alternate(cases, 3 if args.quick else 9, "transformers")
    title = f"A step beside mle: T5 2+2x256, {SENTENCES} sentences of {LENGTH} words"
    print(environment(*PACKAGES))
    table(title, found)
    if args.json:
        write(args.json, {title: found}, *PACKAGES)


if __name__ == "__main__":
    main()
