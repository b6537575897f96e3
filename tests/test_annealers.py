import itertools

import pytest

from fairseq_erpo.algorithm.schedule import Duration, Now, Run, Schedule
from fairseq_erpo.annealers import (
    SCHEDULES,
    Annealer,
    constant,
    falls,
    inverse_sigmoid,
    linear,
    make_annealer,
    stairs,
)
from fairseq_erpo.family.resolve import resolve
from fairseq_erpo.mixture import MLE, PAPER_END, Mixture


def named(mixture):
    return (round(mixture.model, 10), round(mixture.reward, 10), round(mixture.data, 10))


def test_the_printed_schedule_and_its_end():
    """A.3.2, until the step that would leave the simplex."""
    annealer = make_annealer("stairs", PAPER_END, every=4)
    assert [named(annealer(epoch)) for epoch in (0, 3, 4, 8, 12, 100)] == [
        (0.12, 0.16, 0.72),
        (0.12, 0.16, 0.72),
        (0.24, 0.32, 0.44),
        (0.36, 0.48, 0.16),
        named(PAPER_END),
        named(PAPER_END),
    ]


def test_stairs_held_at_an_earlier_point():
    annealer = make_annealer("stairs", Mixture(0.24, 0.32, 0.44), every=4)
    assert [named(annealer(epoch)) for epoch in (0, 4, 40)] == [
        (0.12, 0.16, 0.72),
        (0.24, 0.32, 0.44),
        (0.24, 0.32, 0.44),
    ]


def test_linear_moves_as_fast_as_the_stairs():
    annealer = make_annealer("linear", PAPER_END, every=4)
    assert annealer(0) == MLE
    assert named(annealer(4)) == (0.12, 0.16, 0.72)
    assert annealer(1000) == PAPER_END


def test_inverse_sigmoid_is_scheduled_sampling():
    shape = inverse_sigmoid(4000)
    assert shape(0) == pytest.approx(1 / 4001)
    assert shape(4000 * 8) == pytest.approx(1 - 4000 / (4000 + 2.718281828459045**8))
    assert shape(1e9) == 1.0  # exp would overflow


def test_constant_holds_its_point():
    point = Mixture(0.25, 0.25, 0.5)
    assert {make_annealer("constant", point, 4)(step) for step in (0, 1, 99)} == {point}


def test_a_path_passes_its_points_on_straight_legs_of_equal_length():
    half, most = Mixture(0.5, 0.5, 0), Mixture(0.8, 0.2, 0)
    annealer = make_annealer("linear", Mixture(1, 0, 0), every=0.28 * 30, through=(half, most))
    assert [named(annealer(at)) for at in (0, 5, 10, 15, 20, 25, 30, 99)] == [
        (0, 0, 1),
        (0.25, 0.25, 0.5),
        named(half),
        (0.65, 0.35, 0),
        named(most),
        (0.9, 0.1, 0),
        (1, 0, 0),
        (1, 0, 0),
    ]
    stairs = make_annealer("stairs", Mixture(1, 0, 0), every=20, through=(half,))
    assert [named(stairs(at)) for at in (0, 20, 60)] == [
        (0.28, 0.28, 0.44),
        (0.56, 0.44, 0),
        (1, 0, 0),
    ]
    settings = resolve({"erpo_lambda": "model=.5,reward=.5:model=1", "erpo_anneal_every": "20u"})
    assert settings.schedule.mixture(Now(1, 20, 0)) == stairs(20)


def test_a_constant_schedule_passes_nothing():
    with pytest.raises(
        ValueError,
        match="--erpo-schedule or --erpo-anneal-every: a constant schedule stays at one mixture",
    ):
        resolve({"erpo_lambda": "reward=1:model=1", "erpo_schedule": "constant"})


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "end", [PAPER_END, Mixture(0, 0.5, 0.5), Mixture(1, 0, 0), MLE, Mixture(0.12, 0.16, 0.72)]
)
def test_every_schedule_stays_on_the_segment_and_never_turns_back(schedule, end):
    points = [make_annealer(schedule, end, 3)(step / 2) for step in range(60)]
    shares = [point.data for point in points]
    assert shares == sorted(shares, reverse=True)
    for point in points:
        assert point.model * end.reward == pytest.approx(point.reward * end.model, abs=1e-12)


def test_a_shape_that_leaves_the_simplex_is_refused():
    with pytest.raises(ValueError, match="leave the simplex"):
        Annealer(lambda elapsed: 1.5, MLE, PAPER_END)(0)


def test_durations_have_bounds() -> None:
    for text, number in (
        ("1.5e-6u", 1.5e-6),
        ("1e-6e", 1e-6),
        ("1e12u", 1e12),
        ("0e", 0),
        (" 4e ", 4),
        ("60u", 60),
        ("8%", 8),
    ):
        units = {"e": "epoch", "u": "update", "%": "share"}
        found = Duration.parse(text)
        assert found == Duration(number, units[text.strip()[-1]])
        assert Duration.parse(str(found)) == found
    for text in ("5e-7u", "1.5e12u", "-1e"):
        with pytest.raises(ValueError, match="between"):
            Duration.parse(text)
    for text in ("4", "", "e", "4x"):
        with pytest.raises(ValueError, match="4e"):
            Duration.parse(text)


def test_steps_are_counted_from_the_start_of_annealing() -> None:
    """1 with the first step; 0 before; on the clock that the period has, or that of falls."""
    annealer = make_annealer("stairs", PAPER_END, 2)
    epochs = Schedule(annealer, Duration(2, "epoch"), Duration(3, "epoch"))
    assert [epochs.stage(Now(epoch, 99, 99)) for epoch in range(1, 9)] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert [epochs.elapsed(Now(epoch, 99, 99)) for epoch in (3, 4, 6)] == [None, 0, 2]
    updates = Schedule(annealer, Duration(2, "update"))
    assert [updates.stage(Now(99, update, 99)) for update in range(5)] == [1, 1, 2, 2, 3]
    assert updates.mixture(Now(99, 0, 99)) == annealer(0) and epochs.mixture(Now(3, 99, 99)) == MLE
    plateau = Schedule(annealer, Duration(9, "epoch"), plateau=True)
    assert [plateau.stage(Now(50, 99, falls)) for falls in range(3)] == [
        1,
        2,
        3,
    ] and plateau.elapsed(Now(50, 99, 7)) == 7
    for wrong in (Duration(1, "update"), Duration(1.5, "epoch")):
        with pytest.raises(ValueError, match="--erpo-pretrain"):
            Schedule(annealer, Duration(2, "epoch"), wrong)
    assert (
        Schedule(annealer, Duration(2, "epoch"), Duration(0, "update")).elapsed(Now(1, 99, 99)) == 0
    )


def test_a_share_is_one_of_what_is_left_behind_pretraining() -> None:
    """8 % of 1,000 updates are 80; behind 2 epochs of 100 updates, 8 % of 800 are 64."""
    for pretrain, start, every in ((0, 0, 80), (2, 200, 64)):
        schedule = Schedule(
            make_annealer("stairs", Mixture(1, 0, 0), 8),
            Duration(8, "share"),
            Duration(pretrain, "epoch"),
        )
        run = Run(updates=1000, per_epoch=100)
        moments = [Now(1 + at // 100, at, 0, run) for at in range(1000)]
        data = [schedule.mixture(now).data for now in moments]
        assert data[:start] == [1] * start
        corners = [at for at, (one, two) in enumerate(itertools.pairwise(data), 1) if two < one]
        expected = [start + step * every for step in range(pretrain == 0, 4)]
        assert corners == pytest.approx(expected, abs=1) and data[-1] == 0
        assert schedule.stage(moments[-1]) == 13


def test_a_share_needs_a_schedule_that_counts_in_shares() -> None:
    with pytest.raises(ValueError, match="--erpo-anneal-every 8%"):
        resolve({"erpo_schedule": "inverse_sigmoid", "erpo_anneal_every": "8%"})
    with pytest.raises(ValueError, match="--erpo-pretrain 8%"):
        resolve({"erpo_pretrain": "8%"})


def test_a_way_shorter_than_a_step_is_one_step() -> None:
    """Of the period's length, where λ moves evenly."""
    near = Mixture(model=0.1, reward=0, data=0.9)
    assert (
        make_annealer("stairs", near, 4)(0) == near and make_annealer("plateau", near, 4)(0) == near
    )
    even = make_annealer("linear", near, 4)
    assert [even(at).data for at in (0, 1, 2, 3, 4, 5)] == pytest.approx(
        [1, 0.975, 0.95, 0.925, 0.9, 0.9]
    )


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="unknown schedule 'cosine'; known: stairs"):
        make_annealer("cosine", PAPER_END, 4)
    with pytest.raises(ValueError, match="positive period"):
        make_annealer("stairs", PAPER_END, 0)


def test_plateau_counts_falls_below_the_best_of_the_stage():
    assert falls([], maximize=True) == 0
    # 11 < 12; then a new stage: 11.5, and 11.2 below it
    assert falls([10, 12, 11, 11.5, 11.2], maximize=True) == 2
    assert falls([3.0, 2.9, 2.9, 3.1], maximize=False) == 1
    assert falls([3.0, 2.9, 2.8], maximize=False) == falls([2.8, 2.9, 3.0], maximize=True) == 0
    assert (
        falls([3.0, 2.9, 2.8, 2.7], maximize=True)
        == falls([2.7, 2.8, 2.9, 3.0], maximize=False)
        == 2
    )
    # Level is no fall
    assert falls([3.0, 3.0, 3.0], maximize=True) == falls([3.0, 3.0], maximize=False) == 0


def test_lambda_is_a_function_of_epoch_and_update_only():
    settings = resolve({"erpo_pretrain": "2e", "erpo_anneal_every": "1e"})
    assert settings.schedule.mixture(Now(epoch=2, update=10, falls=0)) == MLE
    assert named(settings.schedule.mixture(Now(epoch=3, update=999, falls=0))) == (0.12, 0.16, 0.72)
    assert settings.schedule.mixture(Now(epoch=9, update=0, falls=0)) == PAPER_END
    updates = resolve({"erpo_anneal_every": "4u", "erpo_pretrain": "100u"})
    assert updates.schedule.mixture(Now(epoch=50, update=99, falls=0)) == MLE
    assert named(updates.schedule.mixture(Now(epoch=1, update=104, falls=0))) == (0.24, 0.32, 0.44)
    plateau = resolve({"erpo_schedule": "plateau"})
    assert [plateau.schedule.mixture(Now(5, 0, n)).data for n in (0, 1)] == pytest.approx(
        [0.72, 0.44]
    )


def test_shapes_are_usable_by_themselves():
    assert constant()(0) == 1
    assert linear(0.5)(0.25) == 0.5  # gail: over half of training
    assert stairs(2, 0.25)(5) == 0.75
