"""How much a step dispatches, which on a GPU with a small model is its time: counted, and held."""

import sys
from pathlib import Path

import pytest

# Behind all others: benchmarks/gail.py must not stand in for the package, here or in processes that
# inherit the path.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from measure import operations
from workload import TRANSFORMER, Workload, only

CAP = 17  # positions of references of 8 tokens: no draw is longer, whatever a model says
MOST = 230  # operations a position
LEAST = 50  # a count that misses most of them would hold any bound


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload(TRANSFORMER, 8, words=100, lengths=only(7), warm_up=0)


@pytest.mark.parametrize("mixture", ["model=.12,reward=.16,data=.72", "model=3/7,reward=4/7"])
def test_a_position_costs_so_many_operations_at_most(workload: Workload, mixture: str) -> None:
    """Beyond a step of cross-entropy, with all that is there once a batch: the encoder's second
    pass, the pieces of the loss.
    """
    plain = operations(workload.step("cross_entropy")).count
    flags = f"--erpo-preset paper --erpo-schedule constant --erpo-lambda {mixture}"
    drawn = operations(workload.step(f"erpo_interp {flags}")).count
    assert LEAST * CAP < drawn - plain <= MOST * CAP


def test_mle_dispatches_what_cross_entropy_does(workload: Workload) -> None:
    plain, mle = (operations(workload.step(name)) for name in ("cross_entropy", "erpo_mle"))
    assert mle.count <= plain.count + 2 and mle.waits == plain.waits
