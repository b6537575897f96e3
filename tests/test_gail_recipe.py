"""The recipe's commands are commands of this package, and the rows learn what it says."""

import os
import shlex
import subprocess
from argparse import ArgumentParser
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from conftest import ROOT
from gail_worlds import PENDULUM, demonstrations, write_demos

from gail.__main__ import VERBS
from gail.run import train
from gail.settings import RunSettings

RECIPE = ROOT / "examples" / "gail" / "run_gail.sh"


class Parsed(Exception):
    """The flags were understood; the work itself is not done here."""


def test_flags_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the recipe, with its variables as bash sees them, is understood by its verb."""
    script = tmp_path / "examples" / "gail" / RECIPE.name
    script.parent.mkdir(parents=True)
    script.write_text(RECIPE.read_text())
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> calls; echo >> calls\n'
    )
    fake.chmod(0o755)
    env = os.environ | {"PYTHON": str(fake), "REACH": "3000", "EXPERT_ITERATIONS": "500"}
    done = subprocess.run(["bash", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = [line.split("\0")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[2] for call in calls] == [
        "expert",
        "evaluate",
        "record",
        "sweep",
        "evaluate",
        "plot",
    ]
    assert {"--reach 3000", "--iterations 500"} <= {" ".join(pair) for pair in pairwise(calls[0])}

    understood = ArgumentParser.parse_args

    def stop(self: ArgumentParser, *arguments: object) -> None:
        understood(self, *arguments)  # type: ignore[arg-type]
        raise Parsed

    for call in calls:
        verb = VERBS[call[2]].load()
        with monkeypatch.context() as patch, pytest.raises(Parsed):
            patch.setattr(ArgumentParser, "parse_args", stop)
            verb(ArgumentParser(exit_on_error=False), call[3:])


def test_examples_in_help() -> None:
    """What --help shows as an example is understood."""
    for name, verb in VERBS.items():
        words = shlex.split(verb.example)
        assert words[:4] == ["python", "-m", "gail", name]
        parser = ArgumentParser(exit_on_error=False)

        def stop(*arguments: object, parser: ArgumentParser = parser) -> None:
            ArgumentParser.parse_args(parser, *arguments)  # type: ignore[arg-type]
            raise Parsed

        parser.parse_args = stop  # type: ignore[method-assign,assignment]
        with pytest.raises(Parsed):
            verb.load()(parser, words[4:])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_learnt_from_one_demonstration(tmp_path: Path) -> None:
    """Four methods, three seeds, 40 iterations: GAIL and its interpolation balance the pendulum,
    cloning 50 pairs does not.
    """
    path = write_demos(tmp_path, demonstrations(trajectories=1))
    returns = {
        method: [
            train(
                RunSettings(PENDULUM, method, str(path), seed=seed, iterations=40, eval_every=10),
                tmp_path / method / str(seed),
                quiet=True,
            )["return"]
            for seed in (1, 2, 3)
        ]
        for method in ("random", "bc", "gail", "gail_interp")
    }
    print(returns)
    assert mean(returns["random"]) < 50
    # 50 pairs of one course leave much unseen; seeds differ widely
    assert mean(returns["bc"]) < 800
    assert min(returns["gail_interp"]) >= 900
    assert sorted(returns["gail"])[1] >= 900  # one seed of three may need more iterations
