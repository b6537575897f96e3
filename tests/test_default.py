"""What erpo_interp does when nothing is said: it is paid by the metric that the run validates by,
and anneals in the first quarter of the run.
"""

import math
from pathlib import Path

import pytest
from conftest import build

from fairseq_erpo.algorithm.schedule import Run
from fairseq_erpo.family.flags import metric_of
from fairseq_erpo.plugin.clock import Clock
from fairseq_erpo.rewards.bleu import Bleu
from fairseq_erpo.rewards.corpus_bleu import CorpusBleu
from fairseq_erpo.rewards.rouge import Rouge

BOTH = "--task erpo_translation --eval-bleu --eval-rouge"


@pytest.mark.parametrize("row", ["interp", "self_critic", "mrt"])
@pytest.mark.parametrize(
    ("flags", "reward"),
    [
        ("", Bleu),
        ("--task erpo_translation --eval-bleu", CorpusBleu),
        ("--task erpo_translation --eval-rouge", Rouge),
        (f"{BOTH} --best-checkpoint-metric bleu", CorpusBleu),
        (f"{BOTH} --best-checkpoint-metric rouge", Rouge),
        ("--task erpo_translation --eval-rouge --erpo-reward bleu", Bleu),
    ],
)
def test_the_metric_of_validation_pays(tiny_data: Path, row: str, flags: str, reward: type) -> None:
    criterion = build(tiny_data, f"--criterion erpo_{row} {flags}").criterion
    assert type(criterion.settings.reward) is reward
    spelt = {Bleu: "bleu", CorpusBleu: "corpus_bleu", Rouge: "rouge"}[reward]
    assert f"--erpo-reward {spelt}" in criterion.spelt.replace("  ", " ")


def test_a_run_that_validates_by_neither_is_said_to() -> None:
    assert metric_of(bleu=False, rouge=False, best="loss") is None
    assert metric_of(bleu=True, rouge=True, best="loss") == "rouge"


def test_the_paper_and_robust_keep_rewards_of_their_own(tiny_data: Path) -> None:
    for preset, reward in (("paper", "Bleu"), ("robust", "Edit")):
        flags = f"--criterion erpo_interp --erpo-preset {preset} {BOTH}"
        found = build(tiny_data, flags).criterion.settings.reward
        assert type(found).__name__ == reward


@pytest.mark.parametrize(
    ("limits", "batches", "expected"),
    [
        ({"max_epoch": 2}, 21, Run(42, 21)),
        ({"max_epoch": 2, "update_freq": (4,)}, 21, Run(12, 6)),
        ({"max_epoch": 2, "max_update": 30}, 21, Run(30, 21)),
        ({"max_epoch": 2, "max_update": 90}, 21, Run(42, 21)),
        ({"max_update": 90}, 21, Run(90, 21)),
        ({"max_epoch": 9, "update_freq": (1, 3), "epoch": 1}, 21, Run(189, 21)),
        ({"max_epoch": 9, "update_freq": (1, 3), "epoch": 5}, 21, Run(63, 7)),
    ],
)
def test_a_run_is_as_long_as_its_limits_say(
    limits: dict[str, int], batches: int, expected: Run
) -> None:
    assert Clock(**limits, batches=range(batches)).run() == expected


def test_a_run_without_an_end_anneals_by_updates(tiny_data: Path) -> None:
    schedule = build(tiny_data, "--criterion erpo_interp").criterion.settings.schedule
    assert str(schedule.every) == "40u"
    bounded = build(tiny_data, "--criterion erpo_interp --max-epoch 3").criterion.settings.schedule
    assert str(bounded.every) == "8%" and math.isclose(4 * bounded.every.number, 32)
    with pytest.raises(SystemExit, match="--erpo-anneal-every 9%"):
        build(tiny_data, "--criterion erpo_interp --erpo-anneal-every 9%")
