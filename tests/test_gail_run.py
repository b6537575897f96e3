"""Runs in folders: exact resume after SIGKILL, what a folder holds, and what is refused."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, assert_equal_bits
from gail_worlds import BROKEN, PENDULUM, SHORT, demonstrations, go_on, settings, write_demos

from gail import checkpoints
from gail.__main__ import VERBS, main
from gail.archive import load
from gail.policies import ARRAYS
from gail.run import train
from gail.settings import RunSettings

KILLS = int(os.environ.get("KILLS", 1))  # ten by `make fuzz`
FLAGS = [
    "--env",
    PENDULUM,
    "--steps",
    "256",
    "--envs",
    "2",
    "--iterations",
    "4",
    "--eval-every",
    "2",
    "--eval-episodes",
    "2",
    "--quiet",
]
GAIL, INTERP, RANDOM = (
    ["train", "--out", "x", "--method", method] for method in ("gail", "gail_interp", "random")
)

RUN_EXPERT = [
    "expert",
    "--quiet",
    "--steps",
    "64",
    "--envs",
    "2",
    "--iterations",
    "4",
    "--eval-every",
    "9",
]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demos(tmp_path_factory.mktemp("demos"), demonstrations())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as source:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(source)
        ]


def kept(folder: Path) -> dict[str, Any]:
    return {
        name: value
        for name, value in checkpoints.load(folder / "checkpoint.pt").items()
        if name != "seconds"
    }


@pytest.mark.timeout(900)
def test_killed_and_resumed(demos: Path, tmp_path: Path) -> None:
    """Policy, discriminator, optimisers, norms, random numbers, λ_data, half-done episodes: as if
    never killed.
    """
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run = ["--method", "gail_interp", "--demos", str(demos), "--save-every", "1", *FLAGS]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "gail",
        "train",
        *run,
        "--iterations",
        "1000",
        "--until",
        ".002",
        "--out",
        str(broken),
    ]
    at, moments = 0, random.Random(5)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*command, "--resume"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        limit, until = time.monotonic() + 600, at + moments.randint(3, 5)
        while (
            not (table := broken / "progress.csv").exists()
            or not (lines := rows(table))
            or int(lines[-1]["iteration"]) < until
        ):
            assert process.poll() is None and time.monotonic() < limit, (
                process.stderr and process.stderr.read()
            )
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.2))  # an iteration takes about as long
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, at = at, checkpoints.load(broken / "checkpoint.pt")["iteration"]
        assert before + 2 <= at < 1000
    assert any(
        torch.count_nonzero(one["state"]) and len(one["actions"])
        for one in kept(broken)["environments"]
    )
    # The rest in this process, and only as far as it takes to see that it is the same.
    end = at + 2
    shape = {
        "demos": str(demos),
        "iterations": 1000,
        "until": 0.002,
        "ppo": RunSettings(PENDULUM, "random").ppo,
        "bc_steps": 2000,
    }
    goal = settings("gail_interp", **shape)
    go_on(goal, broken, end)
    go_on(goal, whole, end)
    assert_equal_bits(kept(broken), kept(whole))
    assert rows(broken / "progress.csv") == rows(whole / "progress.csv")
    assert rows(broken / "evaluations.csv") == rows(whole / "evaluations.csv")
    shares = [float(row["lambda_data"]) for row in rows(whole / "progress.csv")]
    assert shares[0] == 1 and shares[1] == 0.5 and shares[-1] == 0


@pytest.mark.parametrize(
    "method",
    [
        "random",
        "bc",
        "bc_gail",
        "gail_interp_reward",
        "gail_mixer",
        "gail_annealed_loss",
        "gail_untrained",
        "expert",
    ],
)
def test_rows_run(demos: Path, tmp_path: Path, method: str) -> None:
    """Every row from start to end, with all its files; asked for again, it is not run again."""
    run = settings(method, demos=str(demos), iterations=2)
    result = train(run, tmp_path, quiet=True)
    assert result["iterations"] == (0 if method in ("random", "bc") else 2)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json",
        "checkpoint.pt",
        "policy.pt",
        "progress.csv",
        "evaluations.csv",
        "tensorboard",
        "result.json",
    }
    stamp = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert train(run, tmp_path, resume=True) == result
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="--resume"):
        train(run, tmp_path)
    with pytest.raises(ValueError, match="--seed is 2, was 1"):
        train(settings(method, demos=str(demos), iterations=2, seed=2), tmp_path, resume=True)
    with pytest.raises(
        ValueError, match=rf"\(--ppo gamma is 0.9, was {run.ppo.gamma}\); type its, or"
    ):
        train(replace(run, ppo=replace(run.ppo, gamma=0.9)), tmp_path, resume=True)


def test_untrained_discriminator_is_untrained(demos: Path, tmp_path: Path) -> None:
    """Its reward is the same function at the end as at the start."""
    for name, iterations in (("one", 1), ("two", 2)):
        train(
            settings("gail_untrained", demos=str(demos), iterations=iterations),
            tmp_path / name,
            quiet=True,
        )
    assert_equal_bits(
        *(
            checkpoints.load(tmp_path / name / "checkpoint.pt")["discriminator"]
            for name in ("one", "two")
        )
    )


def test_replay_is_state(demos: Path, tmp_path: Path) -> None:
    """Recorded actions from the recorded start lead where the recorded state is, since the
    simulator repeats itself.
    """
    found = [
        train(
            settings(
                "gail_interp",
                demos=str(demos),
                iterations=1,
                pairs=0,
                prefix=prefix,
                schedule="0.03",
            ),
            tmp_path / prefix,
            quiet=True,
        )
        for prefix in ("state", "replay")
    ]
    first, second = (
        checkpoints.load(tmp_path / prefix / "checkpoint.pt") for prefix in ("state", "replay")
    )
    assert_equal_bits(first["policy"], second["policy"])
    assert found[0]["return"] == found[1]["return"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*GAIL, "--env", "Hopper-v5"], "needs --demos"),
        ([*GAIL, "--env", "Hopper-v5", "--demos", "nowhere.npz"], "there is no nowhere.npz"),
        ([*GAIL, "--env", "Hopper-v5", "--demos", "{demos}"], "give --env InvertedPendulum-v5"),
        ([*GAIL, *FLAGS, "--demos", "{demos}", "--n", "9"], "there are 2 demonstrations"),
        ([*GAIL, *FLAGS, "--demos", "{demos}", "--ppo", "gama=.9"], "--ppo gama"),
        (
            [*GAIL, *FLAGS, "--demos", "{demos}", "--discriminator", "steps=x"],
            "x is not of type int",
        ),
        ([*INTERP, *FLAGS, "--demos", "{demos}", "--schedule", "steep"], "--schedule steep"),
        ([*INTERP, *FLAGS, "--demos", "{demos}", "--prefix", "replay"], "--pairs 0"),
        ([*RANDOM, *FLAGS, "--steps", "255"], "multiple of --envs"),
        ([*RANDOM, *FLAGS, "--steps", "1", "--envs", "1"], "--steps 1"),
        ([*RANDOM, "--env", "CartPole-v1"], "must be boxes"),
        ([*RANDOM, "--env", "Hoper-v5"], "--env Hoper-v5"),
        ([*RANDOM, "--env", "Pendulum-v1"], "not a MuJoCo environment"),
        (["evaluate", "{demos}"], "cannot be read as a checkpoint"),
        (["evaluate"], "name a policy"),
        (["record", "--out", "x.npz"], "name one source"),
    ],
)
def test_refusals(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """One line that names what is wrong, and nothing written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as stopped:
        main([word.format(demos=demos) for word in arguments])
    assert str(stopped.value).startswith("gail: ") and "\n" not in str(stopped.value)
    assert not (tmp_path / "x" / "result.json").exists() and not (tmp_path / "x.npz").exists()


def test_what_is_not_finite_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The environment's fault is said to be the environment's, the update's to be --ppo's; what was
    kept is finite.
    """
    for what, named in (
        ("observation", "observation"),
        ("last", "observation"),
        ("reward", "reward"),
    ):
        with pytest.raises(SystemExit, match=rf"iteration 2: --env {BROKEN[what]}: .*{named}"):
            main([*RUN_EXPERT, "--env", BROKEN[what], "--out", str(tmp_path / what)])
    steep = ["--ppo", "learning_rate=1,ent_coef=10,batch_size=64"]
    with pytest.raises(SystemExit, match=r"iteration \d+: .*--ppo") as stopped:
        main(
            [
                *RUN_EXPERT,
                *steep,
                "--env",
                SHORT,
                "--iterations",
                "100",
                "--out",
                str(tmp_path / "steep"),
            ]
        )
    assert "\n" not in str(stopped.value)
    for folder in (*BROKEN, "steep"):
        checkpoints.load(tmp_path / folder / "checkpoint.pt")


@pytest.mark.parametrize("verb", VERBS)
def test_help(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m gail {verb}" in shown.split("example:")[1]
    if verb in ("record", "evaluate", "render"):
        others = (
            ", --sb3, --from-trajectories and --from-minari" if verb == "record" else " and --sb3"
        )
        assert f" with --expert{others}, or to trust" in shown and all(
            name in shown for name in ARRAYS
        )


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    """A pickle in a checkpoint's place is refused, and not run."""

    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"policy": Trap()}, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.load(tmp_path / "policy.pt")
    assert not (tmp_path / "sprung").exists()


def test_record_and_evaluate(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy's file is enough to record and to measure it; the file names its environment."""
    train(settings("expert", env=SHORT, iterations=1), tmp_path / "run", quiet=True)
    policy = str(tmp_path / "run" / "policy.pt")
    main(["record", "--policy", policy, "--trajectories", "3", "--out", str(tmp_path / "new.npz")])
    assert len(load(tmp_path / "new.npz", SHORT)) == 3
    main(["evaluate", policy, "--episodes", "12", "--json", str(tmp_path / "returns.json")])
    found = json.loads((tmp_path / "returns.json").read_text())[0]
    assert found["env"] == SHORT and len(found["returns"]) == 12
    assert f"return {found['return']:.1f}" in capsys.readouterr().out
