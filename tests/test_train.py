"""fairseq's command line with the plugin: training, killing and resuming, several processes, and
the tools for checkpoints.
"""

import json
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import (
    LIMIT,
    QUIET,
    ROOT,
    TINY,
    Done,
    Fairseq,
    Job,
    assert_equal_bits,
    by_update,
    lambdas,
    load,
    records,
)

from fairseq_erpo.plugin.safe_load import check_checkpoint

# λ changes after each epoch: MLE, (.12, .16, .72), (.24, .32, .44), the paper's end.
ANNEALED = (
    "--criterion erpo_interp --erpo-preset paper --erpo-reward edit --erpo-pretrain 1e "
    "--erpo-anneal-every 1e --max-epoch 4"
)
PLATEAU = (
    "--criterion erpo_interp --erpo-preset robust --erpo-schedule plateau --erpo-lambda "
    "model=3/7,reward=4/7"
)
LSTM = (
    "--arch lstm_luong_wmt_en_de --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-hidden-size 16 --decoder-hidden-size 16 "
    "--encoder-layers 1 --decoder-layers 1 --decoder-out-embed-dim 16"
)
SHORT = "--max-update 3 --disable-validation --no-epoch-checkpoints"
LAST = "checkpoint_last.pt"


def assert_same_training(a: Path, b: Path) -> None:
    """Parameters, optimizer and position in the data, bit for bit; only times may differ."""
    one, other = load(a), load(b)
    assert_equal_bits(one["model"], other["model"], "model")
    assert_equal_bits(one["last_optimizer_state"], other["last_optimizer_state"], "optimizer")
    assert_equal_bits(
        one["extra_state"]["train_iterator"], other["extra_state"]["train_iterator"], "iterator"
    )


def kill_and_resume(
    fairseq: Fairseq, data: Path, folder: Path, flags: str, at: int, **how: Any
) -> tuple[Path, Path]:
    """One run to the end, and one that SIGKILL ends in the middle of an epoch after the checkpoint
    of update `at`.
    """
    whole, parts = folder / "whole", folder / "parts"
    flags += f" --save-interval-updates {at}"
    uninterrupted = fairseq.train(data, whole, flags, **how)
    doomed = fairseq.train(data, parts, flags, **how)
    # Past the update, so that its checkpoint is complete.
    doomed.wait_for(lambda: at + 2 in by_update(parts / "log"))
    doomed.kill()
    assert doomed.wait().code == -9
    stopped = load(parts / LAST)
    assert stopped["extra_state"]["train_iterator"]["iterations_in_epoch"] > 0  # inside an epoch
    (parts / "log").rename(parts / "log.before")
    fairseq.train(data, parts, flags, **how).succeed()
    uninterrupted.succeed()
    resumed = by_update(parts / "log")
    first = stopped["optimizer_history"][-1]["num_updates"] + 1
    assert min(resumed) == first and first > 1  # it went on, and did not start again
    expected = {n: mixture for n, mixture in lambdas(whole / "log").items() if n >= first}
    assert lambdas(parts / "log") == expected
    assert len(set(expected.values())) > 1  # λ changes in what was resumed
    assert_same_training(whole / LAST, parts / LAST)
    return whole, parts


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    """By the console script: every process starts from nothing. Killed in the first epoch in which
    anything is drawn.
    """
    whole, _ = kill_and_resume(
        fairseq, tiny_data, tmp_path, f"{ANNEALED} --no-epoch-checkpoints", at=33, console=True
    )
    by_epoch = {
        int(record["epoch"]): record for record in records(whole / "log") if "loss" in record
    }
    shares = [
        tuple(round(by_epoch[epoch][f"lambda_{name}"], 3) for name in ("model", "reward", "data"))
        for epoch in (1, 2, 3, 4)
    ]
    assert shares == [(0, 0, 1), (0.12, 0.16, 0.72), (0.24, 0.32, 0.44), (0.36, 0.48, 0.16)]


@pytest.mark.slow
def test_statistics_of_the_corpus_are_resumed(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    """Counted at updates 0 and 50; killed after 62, it goes on with what was counted at 50."""
    flags = (
        "--criterion erpo_interp --erpo-reward corpus_bleu --erpo-anneal-every 22u --max-update 80 "
        "--disable-validation"
    )
    whole, parts = kill_and_resume(
        fairseq, tiny_data, tmp_path, f"{flags} --no-epoch-checkpoints", at=62
    )
    counted = [json.loads((folder / "erpo_corpus.json").read_text()) for folder in (whole, parts)]
    assert counted[0] == counted[1] and [entry["update"] for entry in counted[0]] == [0, 50]


@pytest.mark.slow
def test_shares_of_the_run_are_resumed(fairseq: Fairseq, tiny_data: Path, tmp_path: Path) -> None:
    """The recommended run: four steps of 8 % of 39 updates, so that the data are gone by
    update 11.
    """
    flags = "--criterion erpo_interp --max-epoch 3 --update-freq 2 --no-epoch-checkpoints"
    whole, _ = kill_and_resume(fairseq, tiny_data, tmp_path, flags, at=3)
    data = {n: share for n, (_, _, share) in lambdas(whole / "log").items()}
    steps = {round(share, 2) for share in data.values()}
    assert steps == {0.72, 0.44, 0.16, 0} and max(data) == 39
    assert data[9] > 0 == data[11]


@pytest.mark.slow
def test_plateau_schedule_is_resumed(fairseq: Fairseq, tiny_data: Path, tmp_path: Path) -> None:
    """λ steps when the validation score falls: here the loss, taken as something to maximise, which
    does fall.

    fairseq itself restores no such history.
    """
    flags = (
        f"{PLATEAU} --best-checkpoint-metric loss --maximize-best-checkpoint-metric --max-epoch 3 "
        "--validate-interval-updates 8 "
        "--no-epoch-checkpoints"
    )
    whole, parts = kill_and_resume(fairseq, tiny_data, tmp_path, flags, at=20)
    assert lambdas(whole / "log")[1] == (0.12, 0.16, 0.72)
    assert lambdas(parts / "log")[21] == (0.24, 0.32, 0.44)  # it had stepped before it was killed


SPY = '''"""The plugin, and a record of what each rank draws."""
import hashlib
import json
import os

import torch.distributed as dist

import fairseq_erpo.tasks
from fairseq_erpo.plugin.criterion import ErpoCriterion

original = ErpoCriterion.draw


def draw(self, model, sample, *encoded):
    drawn, mixture = original(self, model, sample, *encoded), self.mixture
    record = {
        "update": self.task.clock.update,
        "lambda": [mixture.model, mixture.reward, mixture.data],
        "parameters": hashlib.sha1(
            b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        ).hexdigest(),
        "drawn": dict(zip(sample["id"].tolist(), drawn.sample.tokens.tolist())),
    }
    rank = dist.get_rank() if dist.is_initialized() else 0
    with open(os.path.join(os.environ["SPY"], f"rank{rank}"), "a") as file:
        file.write(json.dumps(record) + "\\n")
    return drawn


ErpoCriterion.draw = draw
'''


@pytest.fixture
def spy(tmp_path: Path) -> Path:
    """A user directory that is the plugin, and writes down each batch's draws in the folder named
    by $SPY.
    """
    folder = tmp_path / "spy"
    folder.mkdir()
    (folder / "__init__.py").write_text(SPY)
    return folder


class Seen(NamedTuple):
    """What one rank did at one update."""

    mixture: list[float]
    parameters: str  # a digest of them, before the update
    drawn: dict[str, list[int]]  # sentence -> tokens, without padding


def seen(folder: Path, rank: int) -> dict[int, Seen]:
    """By update, micro-batches put together."""
    found: dict[int, Seen] = {}
    for line in (folder / f"rank{rank}").read_text().splitlines():
        record = json.loads(line)
        drawn = {
            sentence: [i for i in tokens if i != 1] for sentence, tokens in record["drawn"].items()
        }
        update = record["update"]
        before = found[update].drawn if update in found else {}
        found[update] = Seen(record["lambda"], record["parameters"], before | drawn)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gloo(port: int, world: int = 2) -> str:
    return (
        f"--distributed-world-size {world} --distributed-init-method tcp://127.0.0.1:{port} "
        "--distributed-backend gloo "
        "--ddp-backend legacy_ddp"
    )


def parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load(checkpoint)["model"]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path, spy: Path, world: int
) -> None:
    """Ranks draw for different sentences with equal λ, end with equal parameters, and do what one
    process with --update-freq does: rank r of n gets the batches r, r+n, ..., and draws belong to
    sentences, not to ranks.

    Four ranks run to the end of the epoch, where some of them have no batch left and get fairseq's
    dummy.
    """
    # λ changes at each update; without dropout, whose masks are the ranks' own.
    flags = (
        "--criterion erpo_interp --erpo-preset robust --erpo-schedule inverse_sigmoid "
        "--erpo-lambda model=.4,reward=.4,data=.2 "
        f"--dropout 0 --erpo-anneal-every 3u --disable-validation --user-dir {spy} "
    )
    flags += "--max-update 8" if world == 2 else "--max-epoch 1"
    port = free_port()
    ranks = [str(rank) for rank in range(world)]
    jobs: list[Job] = []
    for name in (*ranks, "alone"):
        folder = tmp_path / name
        folder.mkdir()
        extra = (
            f"--update-freq {world}"
            if name == "alone"
            else f"{gloo(port, world)} --distributed-no-spawn --distributed-rank {name}"
        )
        env = {"SPY": str(folder), "PYTHONPATH": str(ROOT)}
        jobs.append(
            fairseq.train(tiny_data, folder, f"{flags} {extra}", console=name != "alone", env=env)
        )
    for job in jobs:
        job.succeed()
    alone = seen(tmp_path / "alone", 0)
    together = [seen(tmp_path / rank, int(rank)) for rank in ranks]
    batches = len((tmp_path / "alone" / "rank0").read_text().splitlines())
    assert world == 2 or batches % world  # so that shards run empty
    updates = list(range(8 if world == 2 else -(-batches // world)))
    for update in updates:
        here, both = [rank[update] for rank in together], alone[update]
        assert {tuple(rank.mixture) for rank in here} == {tuple(both.mixture)}
        assert len({rank.parameters for rank in here}) == 1
        if world == 2 or update < updates[-1]:
            assert sorted(sentence for rank in here for sentence in rank.drawn) == sorted(
                both.drawn
            )
            assert len({str(sorted(rank.drawn.values())) for rank in here}) == world
    assert [list(rank) for rank in (alone, *together)] == [updates] * (world + 1)
    assert len({tuple(alone[update].mixture) for update in updates}) == len(updates)
    # Before the first update the parameters are the same bits, and so are the draws. (Rounding may
    # separate them later.)
    assert alone[0].parameters == together[0][0].parameters
    assert alone[0].drawn == {
        sentence: y for rank in together for sentence, y in rank[0].drawn.items()
    }
    # Float32 sums in another order, through some Adam steps of about 2e-3 each: a tenth of one
    # step.
    one, two = parameters(tmp_path / "0" / LAST), parameters(tmp_path / "alone" / LAST)
    for name, value in one.items():
        torch.testing.assert_close(
            value, two[name], rtol=0, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


SPAWN = """
import sys
import torch
# fairseq spawns one worker for each CUDA device, so that this is the only way to see it spawn
# without one.
torch.cuda.device_count = lambda: 2
from fairseq_cli.train import cli_main
cli_main()
"""


@pytest.mark.slow
def test_spawned_workers(tiny_data: Path, tmp_path: Path) -> None:
    """Workers unpickle their configuration before any --user-dir is imported. The plugin is found
    without being installed.
    """
    script = tmp_path / "spawn.py"
    script.write_text(f"if __name__ == '__main__':\n{textwrap.indent(SPAWN, '    ')}")
    flags = (
        f"--user-dir {ROOT / 'fairseq_erpo'} --task erpo_translation {SHORT} {gloo(free_port())}"
    )
    command = [
        sys.executable,
        script,
        tiny_data,
        *TINY,
        *QUIET,
        "--cpu",
        *["--criterion", "erpo_interp", "--erpo-preset", "robust"],
        *flags.split(),
        "--save-dir",
        tmp_path,
    ]
    done = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("initialized host") == 2 or done.stderr.count("initialized host") == 2
    assert load(tmp_path / LAST)["optimizer_history"][-1]["num_updates"] == 3


@pytest.mark.slow
def test_every_task_trains_the_same(fairseq: Fairseq, tiny_data: Path, tmp_path: Path) -> None:
    """The clock comes along with --task translation and with none."""
    flags = (
        "--criterion erpo_interp --erpo-preset robust --erpo-schedule linear --erpo-anneal-every "
        f"2u {SHORT}"
    )
    tasks = {"none": "", "ours": "--task erpo_translation", "theirs": "--task translation"}
    for job in [
        fairseq.train(tiny_data, tmp_path / name, f"{flags} {task}") for name, task in tasks.items()
    ]:
        job.succeed()
    assert len(set(lambdas(tmp_path / "none" / "log").values())) == 3
    for name in ("ours", "theirs"):
        assert lambdas(tmp_path / name / "log") == lambdas(tmp_path / "none" / "log")
        assert_same_training(tmp_path / name / LAST, tmp_path / "none" / LAST)


def test_tools(fairseq: Fairseq, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """fairseq-generate, -validate (which wants a --task) and -interactive."""
    common = [
        tiny_data,
        "--user-dir",
        "fairseq_erpo",
        "--path",
        tiny_checkpoint,
        "--cpu",
        "--num-workers",
        0,
    ]
    text = tmp_path / "text"
    text.write_text("w01 w02 w03\n")
    jobs = {
        "generate": fairseq.start(
            "fairseq-generate",
            [*common, "--max-tokens", 400, "--beam", 2, "--task", "erpo_translation"],
        ),
        "validate": fairseq.start(
            "fairseq-validate",
            [
                *common,
                "--max-tokens",
                150,
                "--task",
                "translation",
                *QUIET,
                "--valid-subset",
                "valid",
            ],
        ),
        "interactive": fairseq.start(
            "fairseq-interactive", [*common, "--beam", 2, "-s", "de", "-t", "en"], stdin=text
        ),
    }
    done: dict[str, Done] = {name: job.succeed() for name, job in jobs.items()}
    assert sum(line.startswith("H-") for line in done["generate"].output.splitlines()) == 40
    assert "H-0\t" in done["interactive"].output
    validated = re.search(r'"valid_loss": "([0-9.]+)"', done["validate"].output)
    trained = [
        record["valid_loss"]
        for record in records(tiny_checkpoint.parent / "log")
        if "valid_loss" in record
    ]
    assert validated and float(validated[1]) == trained[-1]


HYDRA = """
common:
  {{user_dir: {user_dir}, cpu: true, seed: 7, log_format: json, log_interval: 1,
    no_progress_bar: true, log_file: {folder}/log}}
task: {{_name: translation, data: {data}}}
criterion: {{_name: erpo_interp, erpo_preset: paper, erpo_lambda: "model=.2,reward=.3,data=.5",
  erpo_schedule: constant}}
model:
  _name: transformer
  encoder: {{embed_dim: 32, ffn_embed_dim: 32, layers: 1, attention_heads: 2}}
  decoder: {{embed_dim: 32, ffn_embed_dim: 32, layers: 1, attention_heads: 2}}
dataset: {{max_tokens: 150, num_workers: 0, disable_validation: true}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
optimization: {{lr: [0.002], max_update: 3}}
checkpoint: {{save_dir: {folder}/save, no_epoch_checkpoints: true}}
distributed_training: {{distributed_world_size: 1}}
"""


def test_hydra(fairseq: Fairseq, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        HYDRA.format(user_dir=ROOT / "fairseq_erpo", data=tiny_data, folder=tmp_path)
    )
    arguments = [
        "--config-dir",
        tmp_path,
        "--config-name",
        "run",
        f"hydra.run.dir={tmp_path / 'out'}",
    ]
    fairseq.start("fairseq-hydra-train", arguments).succeed()
    assert set(lambdas(tmp_path / "log").values()) == {(0.2, 0.3, 0.5)}
    assert load(tmp_path / "save" / LAST)["optimizer_history"][-1]["num_updates"] == 3


@pytest.mark.slow
def test_pretraining_by_another_command(
    fairseq: Fairseq, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The interpolation starts from the MLE checkpoint's parameters, with a clock, an optimizer and
    a log of its own; once it has a checkpoint, neither resuming nor validating needs the first one
    any more."""
    mle = tmp_path / "mle.pt"
    mle.write_bytes(tiny_checkpoint.read_bytes())
    flags = (
        f"--criterion erpo_interp --erpo-preset robust --finetune-from-model {mle} "
        "--no-epoch-checkpoints --disable-validation"
    )
    fairseq.train(tiny_data, tmp_path / "still", f"{flags} --lr 1e-30 --max-update 1").succeed()
    for name, value in parameters(tmp_path / "still" / LAST).items():
        torch.testing.assert_close(value, parameters(mle)[name], rtol=0, atol=1e-9)
    assert list(lambdas(tmp_path / "still" / "log")) == [1]
    mle.unlink()
    fairseq.train(tiny_data, tmp_path / "still", f"{flags} --lr 1e-30 --max-update 2").succeed()
    common = [
        tiny_data,
        "--user-dir",
        "fairseq_erpo",
        "--task",
        "translation",
        "--cpu",
        "--max-tokens",
        150,
    ]
    fairseq.start("fairseq-validate", [*common, "--path", tmp_path / "still" / LAST]).succeed()


def test_a_learned_baseline_starts_from_an_mle_checkpoint(
    fairseq: Fairseq, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """fairseq restores the parameters of a criterion, of which MLE's checkpoint has none; resuming
    finds them.
    """
    flags = (
        f"--criterion erpo_mixer --task erpo_translation --finetune-from-model {tiny_checkpoint} "
        "--no-epoch-checkpoints"
    )
    fairseq.train(
        tiny_data, tmp_path / "run", f"{flags} --disable-validation --max-update 2"
    ).succeed()
    learned = load(tmp_path / "run" / LAST)["criterion"]["baseline.weight"]
    assert learned.abs().sum() > 0
    fairseq.train(
        tiny_data, tmp_path / "run", f"{flags} --disable-validation --max-update 3 --lr 1e-30"
    ).succeed()
    torch.testing.assert_close(
        load(tmp_path / "run" / LAST)["criterion"]["baseline.weight"], learned, rtol=0, atol=1e-9
    )


@pytest.mark.slow
def test_what_a_run_started_from_may_be_gone_when_it_is_validated(
    fairseq: Fairseq, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Only a trainer goes on from --restore-file, and only it asks for the file."""
    start = tmp_path / "start.pt"
    start.write_bytes(tiny_checkpoint.read_bytes())
    flags = f"--criterion erpo_mle --lr 5e-3 --restore-file {start} --max-epoch 6"
    fairseq.train(tiny_data, tmp_path / "run", flags).succeed()
    start.unlink()
    words = [
        tiny_data,
        "--user-dir",
        "fairseq_erpo",
        "--task",
        "translation",
        "--cpu",
        "--max-tokens",
        500,
    ]
    fairseq.start(
        "fairseq-validate", [*words, "--path", tmp_path / "run" / "checkpoint_last.pt"]
    ).succeed()
    refused = fairseq.train(tiny_data, tmp_path / "other", flags).wait()
    assert refused.code == 1 and any("--restore-file" in line for line in refused.refusals)


@pytest.mark.slow
def test_checkpoints_selected_by_bleu_load_and_resume(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    """With --eval-bleu fairseq puts arrays into its checkpoints, which torch's safe loading has to
    be told of.
    """
    flags = (
        "--criterion erpo_interp --erpo-preset robust --no-epoch-checkpoints --eval-bleu "
        "--maximize-best-checkpoint-metric"
    )
    flags += " --best-checkpoint-metric bleu"
    fairseq.train(tiny_data, tmp_path / "run", f"{flags} --max-epoch 1").succeed()
    assert check_checkpoint(str(tmp_path / "run" / LAST))["extra_state"]["metrics"]
    again = fairseq.train(tiny_data, tmp_path / "run", f"{flags} --max-epoch 2").succeed()
    assert "Loaded checkpoint" in again.output
    fine = f"{flags} --max-epoch 1 --finetune-from-model {tmp_path / 'run' / 'checkpoint_best.pt'}"
    fairseq.train(tiny_data, tmp_path / "more", fine).succeed()


CONVOLUTIONS = {
    "fconv": "--arch fconv --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--decoder-out-embed-dim 16 --encoder-layers [(16,3)]*2 --decoder-layers [(16,3)]*2",
    "lightconv": "--arch lightconv_iwslt_de_en --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-ffn-embed-dim 16 "
    "--decoder-ffn-embed-dim 16 --encoder-layers 1 --decoder-layers 1 --encoder-conv-dim 16 "
    "--decoder-conv-dim 16 "
    "--encoder-attention-heads 2 --decoder-attention-heads 2 --encoder-kernel-size-list [3] "
    "--decoder-kernel-size-list [3]",
}


@pytest.mark.parametrize(
    "flags",
    [
        LSTM,
        "--arch transformer_tiny --share-decoder-input-output-embed --decoder-normalize-before",
        *CONVOLUTIONS.values(),
    ],
    ids=["lstm", "shared", *CONVOLUTIONS],
)
def test_models(fairseq: Fairseq, tiny_data: Path, tmp_path: Path, flags: str) -> None:
    fairseq.train(
        tiny_data,
        tmp_path,
        f"--criterion erpo_interp --erpo-preset robust --erpo-schedule constant {SHORT} {flags}",
    ).succeed()
    record = by_update(tmp_path / "log")[3]
    assert 0 < record["loss"] < 10 and record["z_model"] > 0 and record["z_reward"] > 0
