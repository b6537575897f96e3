"""Sweeps that go on, their table, and the figures' statistics."""

import csv
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gail_worlds import PENDULUM, demonstrations, write_demos

from fairseq_erpo.files import read_record
from gail.__main__ import main
from gail.results import (
    Row,
    aligned,
    by_cell,
    interquartile_mean,
    mean,
    normalised,
    probability_of_improvement,
    read_results,
    stratified_bootstrap,
    verdict,
)
from gail.sweep import Cell, write_table

SMALL = [
    "--steps",
    "128",
    "--envs",
    "2",
    "--iterations",
    "2",
    "--eval-every",
    "1",
    "--eval-episodes",
    "2",
    "--bc-steps",
    "10",
    "--ppo",
    "batch_size=64,n_epochs=1",
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as source:
        return list(csv.DictReader(source))


@pytest.mark.slow
def test_sweep_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods, one of them done before; a second call runs nothing anew; then the figures."""
    demos, out = tmp_path / "demos", tmp_path / "out"
    write_demos(demos, demonstrations())
    command = [
        "sweep",
        "--env",
        PENDULUM,
        "--method",
        "random",
        "gail_interp",
        "--demos",
        str(demos),
        "--out",
        str(out),
        *SMALL,
    ]
    main([*command, "--seed", "1", "--dry-run"])
    one = next(
        shlex.split(line) for line in capsys.readouterr().out.splitlines() if "gail_interp" in line
    )
    # A run that is done already, by the sweep's own command; the other is left to a process of the
    # sweep
    main(one[3:])
    main([*command, "--seed", "1"])
    rows = read(out / "results.csv")
    assert [(row["method"], row["n"], row["seed"]) for row in rows] == [
        ("gail_interp", "1", "1"),
        ("random", "0", "1"),
    ]
    assert {row["expert_return"] for row in rows} == {"1000.0"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    main([*command, "--seed", "1"])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")} == before and len(
        before
    ) == 2
    assert read(out / "results.csv") == rows
    capsys.readouterr()
    main(["plot", str(out), "--out", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        f"{name}.{suffix}" for name in ("figure3", "figure4", "score") for suffix in ("svg", "png")
    } | {"table.md"}
    table = (tmp_path / "figures" / "table.md").read_text().splitlines()
    assert (
        aligned("\n".join(table[:4])) in printed
        and str(tmp_path / "figures" / "figure4.png") in printed
    )
    assert [line.split(" | ")[1:4] for line in table[2:4]] == [
        ["-", "`random`", "1"],
        ["1", "`gail_interp`", "1"],
    ]
    assert table[2].endswith("| 0.00 |")
    returns = [
        float(row["return"])
        for row in read(out / PENDULUM / "gail_interp" / "n1" / "seed1" / "evaluations.csv")
    ]
    assert [line.split(" | ")[5] for line in table[2:4]] == [
        "-",
        f"{sum(returns) / len(returns):.0f}",
    ]
    svg = (tmp_path / "figures" / "figure4.svg").read_text()
    assert "gail_interp" in svg and f"{PENDULUM}, 1 demonstration" in svg
    curve = next(row for row in read_results(out) if row.method == "gail_interp").curve()
    assert curve[0].tolist() == [128, 256]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children only there")
def test_no_run_outlives_its_sweep(tmp_path: Path) -> None:
    """Else the sweep, started again, would train in a folder that another process still
    writes to.
    """
    write_demos(tmp_path, demonstrations())
    words = [
        "--env",
        PENDULUM,
        "--method",
        "gail",
        "--seed",
        "1",
        "--demos",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "gail", "sweep", *words, "--iterations", "100000"]
    )
    progress = tmp_path / "out" / PENDULUM / "gail" / "n1" / "seed1" / "progress.csv"
    try:
        until(progress.exists)
        (child,) = [
            int(pid)
            for tasks in Path(f"/proc/{sweep.pid}/task").glob("*/children")
            for pid in tasks.read_text().split()
        ]
    finally:
        sweep.kill()
        sweep.wait()
    until(
        lambda: (
            not Path(f"/proc/{child}").exists()
            or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
        )
    )


def until(done: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_commands_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seed by seed; methods without demonstrations once; the runs' own flags, and no other, are
    passed on.
    """
    write_demos(tmp_path, demonstrations())
    methods = ["--method", "random", "bc", "gail"]
    main(
        [
            "sweep",
            "--env",
            PENDULUM,
            *methods,
            "--n",
            "1",
            "2",
            "--demos",
            str(tmp_path),
            "--out",
            "o",
            *SMALL,
            "--dry-run",
        ]
    )
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3 * (1 + 2 + 2)
    flags = [dict(pairwise(line)) for line in lines]
    assert [flag["--seed"] for flag in flags] == ["1"] * 5 + ["2"] * 5 + ["3"] * 5
    assert [(flag["--method"], flag.get("--n")) for flag in flags[:5]] == [
        ("random", None),
        ("bc", "1"),
        ("gail", "1"),
        ("bc", "2"),
        ("gail", "2"),
    ]
    assert all(
        line[-len(SMALL) :] == SMALL and line[-len(SMALL) - 1] == "--quiet" for line in lines
    )


def test_a_sweep_that_cannot_work_does_not_begin(tmp_path: Path) -> None:
    write_demos(tmp_path, demonstrations())
    base = [
        "sweep",
        "--env",
        PENDULUM,
        "--method",
        "gail",
        "--demos",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    for wrong, message in (
        (["--n", "3"], "has fewer"),
        (["--until", "2"], "--until"),
        (["--env", "Hopper-v5"], "Hopper-v5.npz"),
        (["--seed", "4", "4"], "--seed 4 4 names one twice"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*base, *wrong])
    assert not (tmp_path / "o").exists()


def test_a_table_has_environments_of_a_namespace(tmp_path: Path) -> None:
    demos = demonstrations(trajectories=1)
    for env_id in (PENDULUM, "mine/Pendulum-v0"):
        write_demos(tmp_path / "demos", replace(demos, env_id=env_id))
        folder = Cell(env_id, "gail", 1, 2).folder(tmp_path / "out")
        folder.mkdir(parents=True)
        (folder / "result.json").write_text('{"return": 5}')
    write_table(Namespace(out=tmp_path / "out", demos=str(tmp_path / "demos")))
    found = [
        [row[name] for name in ("env", "method", "n", "seed")]
        for row in read(tmp_path / "out" / "results.csv")
    ]
    assert found == [[PENDULUM, "gail", "1", "2"], ["mine/Pendulum-v0", "gail", "1", "2"]]


def test_band_holds_seeds_within_cells() -> None:
    """Cells without spread have a band without width, however far apart they are; one shuffled set
    of seeds has not.
    """
    cells = [np.full(3, 0.0), np.full(3, 1.0)]
    assert stratified_bootstrap(cells, mean) == (0.5, 0.5)
    low, high = stratified_bootstrap([np.concatenate(cells)], mean)
    assert low < 0.3 and high > 0.7


def test_band_covers_the_mean() -> None:
    """Of 100 samples of 30 normal scores, the 95 % band has the true mean in at least 88 % (the
    bootstrap is a little narrow).
    """
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        low, high = stratified_bootstrap([rng.normal(2, 1, 30)], mean, seed=trial)
        hits += low <= 2 <= high
    assert 88 <= hits < 100


def test_middle_half() -> None:
    assert interquartile_mean(np.array([100.0, 1, 2, 3, -50, 2, 4, 0])) == pytest.approx(
        (1 + 2 + 2 + 3) / 4
    )
    assert interquartile_mean(np.array([1.0, 2, 6])) == 3


def test_normalised_score() -> None:
    assert [normalised(x, random=-20, expert=80) for x in (-20, 80, 30)] == [0, 1, 0.5]


def test_probability_of_improvement() -> None:
    """Pairs counted by hand: 3 wins and a tie of 4 pairs in one cell, 1 win of 2 in the other;
    certain where all win.
    """
    pairs = [(np.array([1.0, 3.0]), np.array([1.0, 0.0])), (np.array([5.0]), np.array([4.0, 6.0]))]
    chance, low, high = probability_of_improvement(pairs)
    assert chance == (3.5 / 4 + 1 / 2) / 2
    assert low <= chance <= high and (low, high) != (chance, chance)
    assert probability_of_improvement([(np.array([2.0, 3.0]), np.array([0.0, 1.0]))]) == (1, 1, 1)


def test_a_table_of_results_alone_is_compared_and_plotted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """results.csv without the runs' folders, as docs/gail has it: no learning curves, all else."""
    lines = [
        "env,method,n,seed,return_last10,return_best,expert_return",
        "Hopper-v5,random,0,1,0,0,100",
    ]
    lines += [
        f"Hopper-v5,{method},1,{seed},{value + seed},90,100"
        for method, value in (("gail", 40), ("gail_interp", 60))
        for seed in (1, 2)
    ]
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    main(["plot", str(tmp_path)])
    assert "Hopper-v5, 1 demonstration: gail_interp returns 62" in capsys.readouterr().out
    printed = (tmp_path / "table.md").read_text()
    assert "| `gail` | 1 | 0.41 (0.41 .. 0.42) | 1.00 (1.00 .. 1.00) |" in printed
    # Both seeds are drawn alike in one of sixteen resamples, so that the band reaches from 61 - 42
    # to 62 - 41.
    assert "| Hopper-v5 | 1 | 42 (41 .. 42) | 62 (61 .. 62) | +20 (+19 .. +21) |" in printed
    assert (tmp_path / "figure3.png").is_file() and not (tmp_path / "figure4.png").exists()
    main(["plot", str(tmp_path), "--method", "gail"])
    printed = (tmp_path / "table.md").read_text()
    assert "`gail`" in printed and "`gail_interp`" not in printed.split("| method |")[0]
    with pytest.raises(SystemExit, match=r"--method: .* has no run of bc"):
        main(["plot", str(tmp_path), "--method", "bc"])
    assert by_cell([row for row in read_results(tmp_path) if row.method == "random"]) == ""


def test_a_table_is_readable_in_a_terminal_and_has_a_verdict() -> None:
    shown = aligned("| env | `gail` | n |\n| --- | --- | --- |\n| A-v5 | 10 |  |\n")
    assert shown == "env   gail  n\nA-v5  10\n"
    rows = [
        Row("A-v5", method, n, 1, last, last, 100.0, Path())
        for method, n, last in (("gail", 1, 40.0), ("gail_interp", 1, 90.0), ("gail", 4, 50.0))
    ]
    assert verdict(rows) == (
        "A-v5, 1 demonstration: gail_interp returns 90, gail 40, the expert 100 (one seed each)."
    )
    assert verdict(rows[:1]) == ""


@pytest.mark.parametrize("content", ["[1, 2]", "{}", "3"])
def test_a_damaged_result_ends_a_sweep_with_its_name(tmp_path: Path, content: str) -> None:
    damaged = tmp_path / "A-v5" / "gail" / "n1" / "seed1" / "result.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        read_record(damaged, ("return",))
