"""Stages: each once, in order, several at a time, resumed after any end; on Slurm through submitit."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import stages
from conftest import LIMIT, ROOT
from stages import Failure, Runner, Stage, lock, slurm_worker


def shell(name: str, text: str, *after: Stage, data: str = "") -> Stage:
    return Stage(name, ("python", "-c", f"import os, time\n{text}"), after, data)


def wrote(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def note(path: Path, word: str) -> str:
    return f"print({word!r}, file=open({str(path)!r}, 'a'))"


def test_each_stage_runs_once_and_after_what_it_needs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = shell(
        "first",
        "end = time.process_time() + .3\nwhile time.process_time() < end: pass\ntime.sleep(1)\n"
        + note(log, "first"),
    )
    chain = [first, shell("other", note(log, "other")), shell("second", note(log, "second"), first)]
    Runner(tmp_path / "runs", 2).run(chain)
    assert sorted(wrote(log)) == ["first", "other", "second"]
    assert wrote(log).index("first") < wrote(log).index("second")
    done = json.loads((tmp_path / "runs" / "first" / "done.json").read_text())
    assert done["core_seconds"] >= 0.3 and done["seconds"] >= 1.3  # sleeping takes no core
    Runner(tmp_path / "runs", 2).run(chain)
    assert len(wrote(log)) == 3
    # Other settings start afresh, and so does what builds on them; the rest is left alone.
    changed = shell("first", note(log, "changed"))
    again = [changed, chain[1], shell("second", note(log, "second"), changed)]
    with pytest.raises(
        SystemExit, match=r"runs/first, \S+runs/second: finished, with other settings .* --force"
    ):
        Runner(tmp_path / "runs", 2).run(again)
    assert len(wrote(log)) == 3
    Runner(tmp_path / "runs", 2, force=True).run(again)
    assert wrote(log)[3:] == ["changed", "second"]
    # So do other data.
    Runner(tmp_path / "runs", 2, force=True).run([shell("other", note(log, "other"), data="new")])
    assert wrote(log)[5:] == ["other"]


def test_no_more_than_jobs_at_a_time(tmp_path: Path) -> None:
    text = f"d = {str(tmp_path)!r}\nopen(d + '/at' + str(os.getpid()), 'w')\ntime.sleep(.3)\n"
    text += "n = sum(f.startswith('at') for f in os.listdir(d))\nopen(d + '/n' + str(n), 'w')\n"
    text += "os.remove(d + '/at' + str(os.getpid()))"
    Runner(tmp_path / "runs", 2).run([shell(f"s{i}", text) for i in range(5)])
    assert {file.name for file in tmp_path.glob("n*")} <= {"n1", "n2"}


def test_a_failure_is_told_and_stops_only_what_builds_on_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bad = shell("bad", "print('some words'); raise SystemExit('the reason')")
    rest = [shell("after", note(log, "after"), bad), shell("beside", note(log, "beside"))]
    with pytest.raises(Failure, match=r"^bad failed: the reason \(all of it: .*bad/output.txt\)$"):
        Runner(tmp_path / "runs", 1).run([bad, *rest])
    assert wrote(log) == ["beside"]


def test_an_interrupted_stage_finds_what_it_left(tmp_path: Path) -> None:
    """A stage's folder is kept until its settings change."""
    runner = Runner(tmp_path, 1)
    stage = shell(
        "s",
        f"f = {str(tmp_path / 's' / 'left')!r}\nprint(os.path.exists(f)); open(f, 'w'); os._exit(os.path.getsize(f) + 1)",
    )
    for found in ("False", "True"):
        with pytest.raises(Failure):
            runner.run([stage])
        assert wrote(tmp_path / "s" / "output.txt")[-1] == found
    other = Stage("s", (*stage.command, "x"))
    with pytest.raises(Failure):
        runner.run([other])
    assert wrote(tmp_path / "s" / "output.txt") == ["False"]


def test_a_folder_of_the_users_own_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine").write_text("kept")
    with pytest.raises(SystemExit, match="s: not made by this program"):
        Runner(tmp_path, 1, force=True).run([shell("s", "")])
    assert (tmp_path / "s" / "mine").read_text() == "kept"


def test_two_runners_in_one_folder_are_refused(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}\nfrom stages import Path, Runner; Runner(Path(sys.argv[1]), 1).run([])"
    other = partial(
        subprocess.run, [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    with lock(tmp_path):
        assert f"another process is working in {tmp_path}" in other().stderr
    assert other().returncode == 0


CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs the tests in the background has turned off
sys.path[:0] = [{examples!r}, {root!r}]
from pathlib import Path
from stages import Runner, Stage
Runner(Path({folder!r}), 1).run([Stage("s", ("python", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"))])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems leave the child running")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stage_ends_with_its_runner(tmp_path: Path, how: signal.Signals) -> None:
    code = CALLER.format(examples=str(ROOT / "examples"), root=str(ROOT), folder=str(tmp_path))
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + LIMIT
    while not wrote(tmp_path / "s" / "output.txt"):
        assert caller.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    child = int(wrote(tmp_path / "s" / "output.txt")[0])
    caller.send_signal(how)
    caller.wait()
    while (
        Path(f"/proc/{child}").exists()
        and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]
    ):
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert not (tmp_path / "s" / "done.json").exists()


def test_environment_of_a_stage(tmp_path: Path) -> None:
    Runner(tmp_path, 1).run(
        [
            shell(
                "s",
                "print(os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'], os.getcwd())",
            )
        ]
    )
    assert wrote(tmp_path / "s" / "output.txt") == ["1", "PASSIVE", str(ROOT)]


# ---- Slurm ----


def test_slurm_without_submitit_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(
        SystemExit, match=r"--slurm needs submitit: pip install 'fairseq-erpo\[slurm\]'"
    ):
        slurm_worker("", tmp_path)


class Queue:
    """A cluster's queue as submitit shows it: the job of an earlier call runs until it is asked
    three times.
    """

    folder, submit = None, None
    asked = 0

    class job_class:
        def __init__(self, folder: object, job_id: str) -> None:
            assert job_id == "4711"

        def done(self) -> bool:
            Queue.asked += 1
            return Queue.asked > 3

        def exception(self) -> None:
            return None


def test_a_job_of_an_earlier_call_is_waited_for(tmp_path: Path) -> None:
    stage = shell("s", "raise SystemExit('submitted again')")
    runner = Runner(tmp_path, 4, partial(stages.Slurm, executor=Queue), force=True)
    runner.make_room(stage)
    (tmp_path / "s" / "job").write_text("4711")
    # What may still run there would write into another stage's folder, or into the same beside a
    # process of this machine.
    for other, changed in ((runner, shell("s", "")), (Runner(tmp_path, 4), stage)):
        with pytest.raises(
            SystemExit, match=r"s/job: of an earlier call, .* scancel 4711 and remove"
        ):
            other.run([changed])
    runner.run([stage])
    assert runner.result(stage) and Queue.asked == 4


def test_jobs_run_by_submitit(tmp_path: Path) -> None:
    """Its local cluster stands in for Slurm."""
    pytest.importorskip("submitit")
    runner = Runner(tmp_path, 4, slurm_worker("timeout_min=5", tmp_path, cluster="local"))
    first = shell("first", "print(os.environ['OMP_NUM_THREADS'], os.getcwd())")
    with pytest.raises(Failure, match="bad failed: the reason"):
        runner.run([first, shell("bad", "raise SystemExit('the reason')", first)])
    assert wrote(tmp_path / "first" / "output.txt") == ["1", str(ROOT)]
    assert not list(tmp_path.glob("*/job"))  # so that another call submits it again


def test_slurm_parameters_are_submitits(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(SystemExit, match="--slurm nonsense=1: "):
        slurm_worker("nonsense=1", tmp_path, cluster="local")


def test_progress_tells_each_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage("mle-1", ("true",), epochs=3)
    progress = stages.Progress(stage, tmp_path, 0)
    entry = {"epoch": 1, "valid_loss": "3", "valid_bleu": "21.5", "valid_num_updates": "10"}
    with (tmp_path / stages.LOG).open("w") as file:
        for _ in range(2):  # fairseq writes lines more than once
            file.write(json.dumps(entry) + "\n")
    progress.show()
    progress.show()
    assert capsys.readouterr().out.count("mle-1: epoch 1 of 3, validation BLEU 21.50") == 1
    with (tmp_path / stages.LOG).open("a") as file:
        file.write(
            json.dumps(entry | {"epoch": 2, "valid_num_updates": "20", "valid_bleu": "23"}) + "\n"
        )
    progress.show()
    progress.close()
    assert "epoch 2 of 3, validation BLEU 23.00" in capsys.readouterr().out
