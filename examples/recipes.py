"""The recipes as data: tasks, profiles and rows.  `corpus.py` and `table.py` run them; a row is a
line here, not a script.

`paper` is the paper's section 5 and A.3; what those leave open is marked `open:`. `laptop` is for
two cores: ten minutes of one core for the MLE checkpoint, then one for a row like MLE and up to
three for one that draws from the model. Within a profile all rows share the MLE checkpoint of their
seed, whose rate has fallen to where MLE gains little, and then train for equally many epochs; the
row `mle`, which goes on as before, is the control. Rows that learn from what the model drew have a
rate of their own, `gentle`: at the data's rate they fall apart (docs/research-log.md, 6).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Task:
    """What is translated into what, and how it is judged."""

    languages: tuple[str, str]
    metric: str  # of validation, for the best checkpoint and early stopping
    validate: str  # flags that compute it
    columns: str  # of the table, the task metric first


@dataclass(frozen=True)
class Selection:
    """Which pairs, and which vocabulary."""

    train: int = 0  # pairs, 0 for all; so for the other parts
    valid: int = 0
    test: int = 0
    min_target: int = 1  # words between blanks
    max_target: int = 175
    max_source: int = 175
    pieces: int = 0  # size of a joint subword model; 0: the vocabulary is the words between blanks
    # Keep only this many of the most frequent words, special symbols included; 0 keeps all
    words: int = 0
    joined: bool = True  # one dictionary for both sides
    # A folder of examples/ whose pieces.model and dict.txt are used instead of new ones
    given: str = ""


@dataclass(frozen=True)
class Profile:
    """One size of a task."""

    selection: Selection
    model: str
    optimiser: str
    pretrain: str  # the learning rate's flags
    pretrain_epochs: int
    more: str  # the same for the phase that rows differ in
    more_epochs: int
    values: Mapping[str, str]  # what the names in ROWS stand for
    # A script of examples/ that unpacks the model where all rows start, instead of MLE
    start: str = ""


TASKS: Mapping[str, Task] = {
    "translation": Task(
        languages=("de", "en"),
        metric="bleu",
        validate="--eval-bleu",
        columns="bleu,chrf,rougeL,length_ratio,repetition",
    ),
    "summarization": Task(
        languages=("src", "tgt"),
        metric="rouge",
        validate="--eval-rouge",
        columns="rouge1,rouge2,rougeL,rouge1_021,rouge2_021,rougeL_021,length_ratio,repetition",
    ),
}

# Flags of each row's criterion erpo_<row>; the last of two equal flags counts.
ROWS: Mapping[str, str] = {
    "mle": "",
    "noising": "",
    "raml": "--erpo-reward {reward} --erpo-samples {samples}",
    "spg": "--erpo-reward {reward} {gentle}",
    "pg": "--erpo-reward {reward} {gentle}",
    "self_critic": "--erpo-reward {reward} {critic} {gentle}",
    "mrt": "--erpo-reward {reward} {gentle}",
    "mixer": "--erpo-reward {reward} {mixer} {gentle}",
    "mixer_alike": "{interp}",
    "scheduled_sampling": "--erpo-anneal-every {k}",
    "interp": "{interp}",
}

SMALL_TRANSFORMER = (
    "--arch transformer --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 "
    "--decoder-embed-dim 128 --encoder-ffn-embed-dim 512 --decoder-ffn-embed-dim 512 "
    "--encoder-attention-heads 4 --decoder-attention-heads 4 --encoder-normalize-before "
    "--decoder-normalize-before --share-all-embeddings --dropout .2"
)
# Section 5.1: 6 blocks. open: widths and dropout; these are the base model's and what IWSLT14 is
# commonly trained with.
BASE_TRANSFORMER = "--arch transformer --share-all-embeddings --dropout .3"


def lstm(size: int) -> str:
    """Section 5.2: one layer each side, attention of Luong et al. 2015, `size` everywhere.  open:
    dropout.
    """
    sides = " ".join(
        f"--{side}-embed-dim {size} --{side}-hidden-size {size} --{side}-layers 1"
        for side in ("encoder", "decoder")
    )
    return f"--arch lstm {sides} --decoder-out-embed-dim {size} --decoder-attention 1 --dropout .2"


ADAM = "--optimizer adam --adam-betas '(.9, .98)' --clip-norm 1"
# What the names in ROWS stand for, as A.3.2 has it, and on two cores
PAPER = {
    "mixer": "--erpo-anneal-every 2e",
    "critic": "",
    "gentle": "--lr 3e-5",
    "interp": "--erpo-preset paper --erpo-reward {reward}",
}
SMALL = {
    "reward": "bleu",
    "samples": "2",
    "k": "90u",
    "mixer": "--erpo-anneal-every 50u",
    "critic": "--erpo-baseline leave_one_out --erpo-samples 3",
    "gentle": "--lr 5e-5",
}
PROFILES: Mapping[tuple[str, str], Profile] = MappingProxyType(
    {
        # Table 1. open: epochs, rates after pretraining, clipping.
        ("translation", "paper"): Profile(
            selection=Selection(words=73197),
            model=BASE_TRANSFORMER,
            optimiser=f"{ADAM} --max-tokens 1792 --patience 8",
            pretrain="--lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 4000 "
            "--warmup-init-lr 1e-7",
            pretrain_epochs=20,
            more="--lr 1e-4 --lr-scheduler fixed",
            more_epochs=16,  # four steps of the schedule, A.3.2
            values=PAPER | {"reward": "bleu", "samples": "6", "k": "4000u"},  # A.3.2
        ),
        # Table 2. open: vocabulary, epochs, rates after pretraining, clipping.
        ("summarization", "paper"): Profile(
            selection=Selection(train=200_000, words=30_000, joined=False),
            model=lstm(256),
            optimiser=f"{ADAM} --batch-size 64 --patience 8",
            pretrain="--lr 1e-3 --lr-scheduler fixed",
            pretrain_epochs=12,
            more="--lr 1e-4 --lr-scheduler fixed",
            more_epochs=16,
            values=PAPER | {"reward": "rouge", "samples": "10", "k": "600u"},
        ),
        ("translation", "laptop"): Profile(
            selection=Selection(
                train=20_000,
                valid=1_000,
                test=2_000,
                min_target=6,
                max_target=25,
                max_source=40,
                pieces=3_000,
            ),
            model=SMALL_TRANSFORMER,
            optimiser=f"{ADAM} --max-tokens 1000 --cpu",
            pretrain=f"--lr {8 * '2e-3,'}1.5e-3,1.5e-3,1e-3,1e-3,5e-4,5e-4,2e-4,1e-4 "
            "--lr-scheduler fixed --warmup-updates 400",
            pretrain_epochs=16,
            more="--lr 2e-4 --lr-scheduler fixed",
            more_epochs=2,
            values=SMALL | {"interp": "--erpo-preset corpus {gentle}"},
        ),
        # The demo: all rows go on from a model that MLE has finished with, at the dropout it was
        # trained with (docs/results.md).
        ("translation", "quickstart"): Profile(
            selection=Selection(
                min_target=2, max_target=40, max_source=40, pieces=3_000, given="quickstart/model"
            ),
            model=SMALL_TRANSFORMER,
            optimiser=f"{ADAM} --max-tokens 1000 --cpu",
            pretrain="",
            pretrain_epochs=0,
            more="--lr 5e-5 --lr-scheduler fixed",
            more_epochs=2,
            start="quickstart/model.py",
            values=SMALL | {"interp": ""},
        ),
        ("summarization", "laptop"): Profile(
            selection=Selection(
                train=15_000, valid=1_000, test=1_500, max_target=25, max_source=40, pieces=3_000
            ),
            model=f"{lstm(128)} --share-all-embeddings",
            optimiser=f"{ADAM} --batch-size 64 --cpu",
            pretrain=f"--lr {6 * '3e-3,'}2e-3,2e-3,1e-3,5e-4,2e-4,1e-4 "
            "--lr-scheduler fixed --warmup-updates 200",
            pretrain_epochs=12,
            more="--lr 2e-4 --lr-scheduler fixed",
            more_epochs=2,
            values=SMALL
            | {
                "reward": "rouge",
                "k": "70u",
                "mixer": "--erpo-anneal-every 40u",
                "critic": "",
                "interp": "--erpo-preset corpus --erpo-reward {reward} {gentle}",
            },
        ),
    }
)


def profile_of(task: str, name: str) -> Profile:
    """Ends the program with one line if there is none."""
    known = [profile for other, profile in PROFILES if other == task]
    if name not in known:
        raise SystemExit(f"--profile must be {' or '.join(known)}, not {name!r}")
    return PROFILES[task, name]


def flags_of(row: str, values: Mapping[str, str]) -> str:
    """The row's flags with the profile's values; a value may name others."""
    flags = ROWS[row]
    while "{" in flags:
        flags = flags.format_map(values)
    return flags
