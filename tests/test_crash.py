"""What a crash leaves behind: whole checkpoints, and runs that go on as if nothing had happened."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Fairseq, assert_equal_bits, load, records

ANNEALED = (
    "--criterion erpo_interp --erpo-preset paper --erpo-reward edit --erpo-schedule linear "
    "--erpo-anneal-every 30u --no-epoch-checkpoints --max-epoch 4 --save-interval-updates 4 "
    "--keep-interval-updates 2"
)
PLATEAU = (
    "--erpo-schedule plateau --best-checkpoint-metric loss --maximize-best-checkpoint-metric "
    "--validate-interval-updates 4"
)
LAST = "checkpoint_last.pt"
FIGURES = (
    "loss",
    "nll_loss",
    "lambda_",
    "z_",
    "dr_",
    "seq_reward",
    "sampled_length",
    "clipped",
    "gnorm",
    "lr",
)

WATCHED = '''"""The plugin, and a record of what each update draws.

From update $LIMIT on the disk is full.
"""
import hashlib
import json
import os
import resource

import fairseq_erpo.tasks
from fairseq_erpo.plugin.criterion import ErpoCriterion

original = ErpoCriterion.draw


def draw(self, model, sample, *encoded):
    drawn, update = original(self, model, sample, *encoded), self.task.clock.update
    if update == int(os.environ.get("LIMIT", -1)):
        # Less than a checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    parameters = hashlib.sha1(weights).hexdigest()
    tokens = None if drawn is None else drawn.sample.tokens.tolist()
    with open(os.environ["WATCHED"], "a") as file:
        ids = sample["id"].tolist()
        file.write(json.dumps([update, parameters, str(self.mixture), ids, tokens or []]) + "\\n")
    return drawn


ErpoCriterion.draw = draw
'''


class Run:
    """One run, started as often as it takes."""

    def __init__(self, fairseq: Fairseq, data: Path, folder: Path, flags: str) -> None:
        self.fairseq, self.data, self.folder = fairseq, data, folder
        self.plugin = folder.parent / "watched"
        self.plugin.mkdir(exist_ok=True)
        (self.plugin / "__init__.py").write_text(WATCHED)
        self.flags = f"{flags} --user-dir {self.plugin}"

    def start(self, **env: str) -> Any:
        env = {"WATCHED": str(self.folder / "watched.jsonl"), "PYTHONPATH": str(ROOT), **env}
        return self.fairseq.train(self.data, self.folder, self.flags, env=env)

    def lines(self) -> list[str]:
        """One for each batch drawn; a kill may cut the last one."""
        file = self.folder / "watched.jsonl"
        return (
            [line for line in file.read_text().splitlines() if line.endswith("]]")]
            if file.exists()
            else []
        )

    def seen(self) -> dict[int, set[str]]:
        """What was seen before each update, in every life of the run."""
        found: dict[int, set[str]] = {}
        for line in self.lines():
            found.setdefault(json.loads(line)[0], set()).add(line)
        return found

    def logged(self) -> dict[int, set[tuple[float, ...]]]:
        """What training logged for each update but times."""
        found: dict[int, set[tuple[float, ...]]] = {}
        for record in records(self.folder / "log"):
            if "loss" in record:
                figures = [
                    value
                    for name, value in record.items()
                    if name.startswith(FIGURES) and name != "loss_seconds"
                ]
                found.setdefault(int(record["num_updates"]), set()).add(tuple(figures))
        return found


def assert_same_end(one: Path, other: Path) -> None:
    a, b = load(one / LAST), load(other / LAST)
    assert_equal_bits(a["model"], b["model"], "model")
    assert_equal_bits(a["last_optimizer_state"], b["last_optimizer_state"], "optimizer")
    assert_equal_bits(
        a["extra_state"]["train_iterator"], b["extra_state"]["train_iterator"], "iterator"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("schedule", "kills"), [("", 10), (PLATEAU, 3)], ids=["linear", "plateau"])
def test_kills_change_nothing(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path, schedule: str, kills: int
) -> None:
    """SIGKILL at random moments, also while a checkpoint is written: parameters, draws, λ and log
    as if there had been none.

    What a life of the run repeats after a kill is the same too: each update is seen in one way
    only.
    """
    whole, doomed = (
        Run(fairseq, tiny_data, tmp_path / name, f"{ANNEALED} {schedule}")
        for name in ("whole", "doomed")
    )
    uninterrupted = whole.start()
    moments = random.Random(5)
    for _ in range(kills):
        job, before = doomed.start(), len(doomed.lines())
        steps = moments.randint(4, 8)
        job.wait_for(lambda before=before, steps=steps: len(doomed.lines()) >= before + steps)
        time.sleep(moments.uniform(0, 0.2))  # an update takes about as long
        job.kill()
        assert job.wait().code == -9
    doomed.start().succeed()
    uninterrupted.succeed()
    assert doomed.seen() == whole.seen() and all(len(ways) == 1 for ways in doomed.seen().values())
    assert doomed.logged() == whole.logged()
    assert len(doomed.lines()) >= len(whole.lines()) + kills  # the lives overlap
    assert_same_end(whole.folder, doomed.folder)


def test_a_full_disk_keeps_the_last_checkpoint(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    """No space from update 6 on: the checkpoint of update 4 stays whole, and with space the run
    goes on from it.
    """
    flags = f"{ANNEALED} --max-update 10 --disable-validation"
    whole, stopped = (
        Run(fairseq, tiny_data, tmp_path / name, flags) for name in ("whole", "stopped")
    )
    jobs = [whole.start(), stopped.start(LIMIT="6")]
    done = jobs[1].wait()
    assert done.code == 1
    (line,) = done.refusals
    assert line.startswith("erpo: --save-dir ") and "cannot be written: File too large" in line
    assert done.output.rstrip().endswith(line) and "Traceback" not in done.output
    assert load(stopped.folder / LAST)["optimizer_history"][-1]["num_updates"] == 4
    assert not list(stopped.folder.glob("*.part"))
    stopped.start().succeed()
    jobs[0].succeed()
    assert_same_end(whole.folder, stopped.folder)


def test_a_checkpoint_is_copied_whole_or_not_at_all(tmp_path: Path) -> None:
    """fairseq copies its checkpoint over `checkpoint_last.pt`; where that fails half-way, the old
    one must still be there.
    """
    from fairseq import checkpoint_utils

    import fairseq_erpo.tasks  # noqa: F401

    old, new = tmp_path / LAST, tmp_path / "checkpoint_1_4.pt"
    old.write_bytes(b"old")
    with pytest.raises(
        SystemExit, match=r"^erpo: --save-dir .*checkpoint_last.pt cannot be written: No such file"
    ):
        checkpoint_utils.PathManager.copy(str(new), str(old), overwrite=True)
    assert old.read_bytes() == b"old"
    new.write_bytes(b"new")
    inode = old.stat().st_ino
    assert checkpoint_utils.PathManager.copy(str(new), str(old), overwrite=True)
    assert old.read_bytes() == b"new" and old.stat().st_ino != inode  # another file took the name
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, LAST]


def test_what_cannot_be_written_or_read_is_named(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    unwritable = fairseq.train(tiny_data, tmp_path, f"{ANNEALED} --save-dir {tmp_path}/file/below")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / LAST).write_bytes(b"PK\x03\x04 torso")
    torso = fairseq.train(tiny_data, broken, ANNEALED)
    for job, words in ((unwritable, "--save-dir"), (torso, "--restore-file")):
        done = job.wait()
        assert done.code == 1 and "Traceback" not in done.output
        (line,) = done.refusals
        assert words in line
    assert (broken / LAST).read_bytes() == b"PK\x03\x04 torso"
