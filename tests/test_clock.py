"""The task's clock: what it keeps of validations, and when it warns."""

import json
import logging

import pytest

from fairseq_erpo.mixture import MLE, PAPER_END, Mixture
from fairseq_erpo.plugin.clock import Clock


def test_scores_of_a_lost_future_are_forgotten(tmp_path):
    path = tmp_path / "new" / "scores.json"
    clock = Clock(path=path, mixture=PAPER_END)
    for update, score in ((10, 3.0), (20, 2.0), (30, 2.5)):
        clock.validated(update, score, write=True)
    assert [p.name for p in path.parent.iterdir()] == ["scores.json"]
    resumed = Clock(path=path)
    resumed.resume(20)
    assert resumed.scores == {10: 3.0, 20: 2.0}
    resumed.resume(21)  # reads once
    assert resumed.update == 21
    fresh = Clock(path=path)
    fresh.resume(0)
    assert fresh.scores == {}


def test_only_one_rank_writes(tmp_path):
    clock = Clock(path=tmp_path / "scores.json", mixture=PAPER_END)
    clock.validated(10, 3.0, write=False)
    assert clock.scores == {10: 3.0} and not clock.path.exists()


def test_validations_before_annealing_do_not_count():
    clock = Clock(maximize=True)
    for update, score in enumerate((3.0, 2.0, 1.0)):
        clock.validated(update, score, write=False)
    assert clock.falls() == 0


@pytest.mark.parametrize("text", ["", "{", '{"scores": 3}', json.dumps([1])])
def test_a_damaged_history_is_said_and_survived(tmp_path, caplog, text):
    path = tmp_path / "scores.json"
    path.write_text(text)
    clock = Clock(path=path)
    clock.resume(5)
    assert clock.scores == {} and "damaged" in caplog.text


@pytest.mark.parametrize("maximize", [True, False])
def test_warns_when_validation_falls_for_two_stages(caplog, maximize):
    caplog.set_level(logging.WARNING)
    clock = Clock(metric="bleu", maximize=maximize)
    sign = 1 if maximize else -1
    stages = [MLE, Mixture(0.12, 0.16, 0.72), Mixture(0.24, 0.32, 0.44), Mixture(0.36, 0.48, 0.16)]
    for update, (mixture, score) in enumerate(zip(stages, (20, 21, 19, 18), strict=True)):
        clock.mixture = mixture
        clock.validated(2 * update, sign * (score - 1), write=False)
        clock.validated(2 * update + 1, sign * score, write=False)  # the best of a stage counts
        assert ("fell for two stages" in caplog.text) == (update == 3)
