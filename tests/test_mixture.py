import pytest

from fairseq_erpo.mixture import MLE, PAPER_END, Mixture


def test_shares_go_by_name():
    assert Mixture(data=1, reward=0, model=0) == MLE
    assert (
        str(Mixture.parse("data=.72, model=.12,reward=.16")) == "model=0.12,reward=0.16,data=0.72"
    )
    assert Mixture.parse("model=3/7,reward=4/7") == PAPER_END
    assert Mixture.parse(str(Mixture(0.25, 0.25, 0.5))) == Mixture(0.25, 0.25, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=-.1,reward=.1,data=1", "negative"),
        ("model=.5,reward=.1,data=.1", "sums to 0.7"),
        ("model=nan,reward=0,data=1", "not a number"),
        ("model=1/0", "not a number"),
        (".12,.16,.72", "is written as model="),
        ("reward", "is written as model="),
        ("task=1", "is written as model="),
    ],
)
def test_what_is_no_mixture_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Mixture.parse(text)


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Mixture(float("nan"), 0, 1)


def test_rounded_shares_are_normalised():
    mixture = Mixture(0.4286, 0.5714, 0.0001)
    assert mixture.model + mixture.reward + mixture.data == pytest.approx(1, abs=1e-15)


def test_shares_may_miss_one_by_a_thousandth():
    assert (
        Mixture(0.5, 0.5005, 0).model == pytest.approx(0.5 / 1.0005)
        and Mixture(0.5, 0.4995, 0).model > 0.5
    )
    for sum_to in (1.0015, 0.9985):
        with pytest.raises(ValueError, match="sums to"):
            Mixture(0.5, sum_to - 0.5, 0)


def test_shares_that_sum_to_one_stay_as_they_are():
    """To the last bit, also where adding them one after the other gives another number."""
    assert 0.06 + 0.57 + 0.37 != 1
    mixture = Mixture(model=0.06, reward=0.57, data=0.37)
    assert (mixture.model, mixture.reward, mixture.data) == (0.06, 0.57, 0.37)
    with pytest.raises(ValueError, match="sums to inf"):
        Mixture(1.7e308, 1.7e308, 0)


def test_towards():
    assert MLE.towards(PAPER_END, 0) == MLE
    assert MLE.towards(PAPER_END, 1) == PAPER_END
    end = Mixture(0.3, 0.4, 0.3)
    for start in (
        MLE,
        Mixture(0.1, 0.2, 0.7),
        Mixture(0.7, 0.1, 0.2),
        Mixture(0.9, 0.05, 0.05),
        Mixture(0.8, 0, 0.2),
    ):
        assert start.towards(end, 1) == end  # to the last bit
    with pytest.raises(ValueError, match="leave the simplex"):
        MLE.towards(PAPER_END, 1.12)
