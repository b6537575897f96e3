"""The recipes: fairseq's own parser takes every flag of every row, task and profile; the scripts; a
table from text to end.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import table
from conftest import LIMIT, ROOT, write_corpus
from recipes import PROFILES, ROWS, TASKS, flags_of
from stages import Stage

from fairseq_erpo import FAMILY

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("translation/*.sh"), *EXAMPLES.glob("summarization/*.sh")])
REWARD = {"translation": "bleu", "summarization": "rouge"}


def plan(*arguments: str) -> table.Plan:
    return table.plan_of(table.arguments(arguments))[0]


def options_of(stage: Stage) -> Any:
    """The stage's command through fairseq's parser for it."""
    from fairseq import options

    import fairseq_erpo.tasks  # noqa: F401 - what --user-dir does in a process of its own

    assert stage.command[0] == "fairseq-train"
    return options.parse_args_and_arch(options.get_training_parser(), list(stage.command[1:]))


@pytest.mark.parametrize(("task", "profile"), PROFILES)
def test_fairseq_accepts_every_flag_of_every_row(task: str, profile: str, tmp_path: Path) -> None:
    stages = plan(task, "--profile", profile, "--out", str(tmp_path)).stages()
    parsed = {stage.name: options_of(stage) for stage in stages if stage.epochs}
    trained = [] if PROFILES[task, profile].start else ["pretrain-1"]
    assert [name for name in parsed] == [*trained, *(f"{row}-1" for row in ROWS)]
    for name, args in parsed.items():
        row = "mle" if name == "pretrain-1" else name[:-2]
        assert (args.task, args.criterion) == ("erpo_translation", f"erpo_{row}")
        assert (
            args.required_batch_size_multiple == 1
            and args.no_epoch_checkpoints
            and args.log_format == "json"
        )
        assert (args.best_checkpoint_metric, args.maximize_best_checkpoint_metric) == (
            TASKS[task].metric,
            True,
        )
        assert args.eval_bleu == (task == "translation") and args.eval_rouge == (
            task == "summarization"
        )
        assert json.loads(args.eval_bleu_args)["beam"] == 1
        assert args.cpu == (profile != "paper")
        # The criterion takes the values too, and they are this task's.
        flags = {flag: getattr(args, flag) for flag in FAMILY[row].flags}
        settings = FAMILY[row].settings(
            {flag: value for flag, value in flags.items() if value is not None}
        )
        if "--erpo-reward" in flags_of(row, PROFILES[task, profile].values):
            assert flags["erpo_reward"] == REWARD[task] and settings.reward
        start = args.finetune_from_model
        assert start == (
            None if name == "pretrain-1" else str(tmp_path / "pretrain-1" / "checkpoint_best.pt")
        )


@pytest.mark.parametrize(("task", "profile"), PROFILES)
def test_rows_differ_in_nothing_but_their_criterion_and_its_rate(task: str, profile: str) -> None:
    """Same model, batches, epochs and start; continued MLE is the control."""
    own = {
        "criterion",
        "save_dir",
        "log_file",
        "lr",
        *(flag for row in FAMILY.values() for flag in row.flags),
    }
    stages = [
        stage for stage in plan(task, "--profile", profile).stages() if stage.epochs and stage.after
    ]
    first, *others = [
        {key: value for key, value in vars(options_of(stage)).items() if key not in own}
        for stage in stages
    ]
    assert all(other == first for other in others) and len(others) == len(ROWS) - 1


def test_the_paper_profile_is_the_papers() -> None:
    """Section 5 and A.3.2, number by number."""
    found = {
        (task, stage.name): options_of(stage)
        for task in TASKS
        for stage in plan(task, "--profile", "paper").stages()
        if stage.epochs
    }
    first = found["translation", "pretrain-1"]
    assert (first.arch, first.encoder_layers, first.max_tokens, first.lr) == (
        "transformer",
        6,
        1792,
        [0.001],
    )
    assert (
        PROFILES["translation", "paper"].selection.words == 73197
        and not PROFILES["translation", "paper"].selection.pieces
    )
    first = found["summarization", "pretrain-1"]
    sizes = (
        first.encoder_embed_dim,
        first.encoder_hidden_size,
        first.decoder_embed_dim,
        first.decoder_hidden_size,
    )
    assert (first.arch, first.encoder_layers, first.decoder_layers, *sizes) == (
        "lstm",
        1,
        1,
        256,
        256,
        256,
        256,
    )
    assert first.decoder_attention == "1" and first.batch_size == 64 and first.lr == [0.001]
    assert PROFILES["summarization", "paper"].selection.train == 200_000
    assert [found[task, "raml-1"].erpo_samples for task in TASKS] == [6, 10]
    assert [found[task, "scheduled_sampling-1"].erpo_anneal_every for task in TASKS] == [
        "4000u",
        "600u",
    ]
    for task in TASKS:
        for row in ("interp-1", "mixer_alike-1"):
            args = found[task, row]
            assert (args.erpo_preset, args.erpo_anneal_every, args.erpo_reward) == (
                "paper",
                None,
                REWARD[task],
            )
            # The preset's: stairs to (3/7, 4/7, 0)
            assert args.erpo_lambda is None and args.erpo_schedule is None


def test_evaluation_reads_the_arguments_it_is_given(tmp_path: Path) -> None:
    made = plan("summarization", "--seeds", "2", "--rows", "mle,interp", "--out", str(tmp_path))
    words = made.table()
    assert words[:3] == ["-m", "fairseq_erpo", "evaluate"]
    assert (
        f"interp={tmp_path}/interp-1,{tmp_path}/interp-2" in words
        and words[words.index("--baseline") + 1] == "mle"
    )
    assert "--baseline" not in plan("summarization", "--rows", "interp").table()
    tests = [stage for stage in made.stages() if not stage.epochs]
    assert len(tests) == 6 and all(
        len(stage.after) == 1 and stage.name == f"test-{stage.after[0].name}" for stage in tests
    )


def test_greedy_search_judges_the_same_runs_by_the_first_column() -> None:
    beam = plan("translation", "--rows", "mle", "--seeds", "1")
    greedy = replace(beam, greedy=True)
    trained = [stage for stage in beam.stages() if stage.epochs]
    assert [stage for stage in greedy.stages() if stage.epochs] == trained, (
        "nothing is trained twice"
    )
    words = greedy.table()
    assert words[words.index("--beam") + 1] == "1" and words[words.index("--columns") + 1] == "bleu"
    assert "--beam" not in beam.table() and beam.scores != greedy.scores
    assert not {stage.name for stage in greedy.stages()[2:]} & {
        stage.name for stage in beam.stages()
    }


def test_all_seeds_may_continue_one_model() -> None:
    made = plan("translation", "--rows", "mle", "--seeds", "4,7", "--one-start")
    assert [stage.name for stage in made.stages() if stage.epochs] == [
        "pretrain-4",
        "mle-4",
        "mle-7",
    ]
    assert {options_of(stage).finetune_from_model for stage in made.stages()[1:3]} == {
        f"{made.folder}/pretrain-4/checkpoint_best.pt"
    }
    assert f"pretrain={made.folder}/pretrain-4" in made.table()


def test_a_row_of_ones_own() -> None:
    made = plan("translation", "--rows", "mle", "--row", "soft=interp --erpo-c 5", "--seeds", "7,9")
    names = [stage.name for stage in made.stages() if stage.epochs]
    assert names == ["pretrain-7", "pretrain-9", "mle-7", "soft-7", "mle-9", "soft-9"]
    args = options_of(made.stages()[3])
    assert (args.criterion, args.erpo_c, args.seed, args.erpo_preset) == (
        "erpo_interp",
        "5",
        7,
        "corpus",
    )


def test_every_row_has_the_same_trials_and_the_best_on_validation_is_what_is_tested(
    tmp_path: Path,
) -> None:
    tries = ("--try", "--lr 5e-5", "--try", "--lr 2e-4")
    args = table.arguments(
        ["translation", "--rows", "mle,interp", "--seeds", "2", *tries, "--out", str(tmp_path)]
    )
    made = table.plan_of(args)[0]
    trials = made.trials(args.trials)
    rates = {
        stage.name: options_of(stage).lr
        for stage in trials.stages()
        if stage.after and stage.epochs
    }
    wanted = {"mle.1-1": [5e-5], "mle.2-1": [2e-4], "interp.1-1": [5e-5], "interp.2-1": [2e-4]}
    assert rates == wanted, "a trial's flags count more than the row's"
    words = trials.table()
    assert (
        words[words.index("--split") + 1] == "valid" and f"interp.2={tmp_path}/interp.2-1" in words
    )
    judged = [stage.name for stage in trials.stages() if not stage.epochs]
    assert judged == [f"valid-{name}" for name in ("pretrain-1", *rates)], (
        "no trial is decoded on the test set"
    )

    def scored(**found: float) -> list[str]:
        systems = {
            name.replace("_", "."): {"scores": {"bleu": {"mean": value}}}
            for name, value in found.items()
        }
        trials.scores.write_text(json.dumps({"systems": systems}))
        return [*made.best(trials).rows]

    assert scored(pretrain=9, mle_1=2, mle_2=1, interp_1=3, interp_2=4) == ["mle.1", "interp.2"]
    choice = made.best(trials).choice(trials, args.trials).splitlines()
    assert choice[0] == "| row | `--lr 5e-5` | `--lr 2e-4` |"
    assert choice[2:] == ["| `mle` | **2.00** | 1.00 |", "| `interp` | 3.00 | **4.00** |"]
    assert scored(mle_1=2, mle_2=2, interp_1=3, interp_2=3) == ["mle.1", "interp.1"], (
        "the first of equals"
    )
    best = made.best(trials)
    assert best.stages()[2].digest == trials.stages()[1].digest, (
        "the first seed is not trained twice"
    )
    assert (
        f"mle={tmp_path}/mle.1-1,{tmp_path}/mle.1-2" in best.table()
        and "--split" not in best.table()
    )
    assert [stage.name for stage in best.stages() if not stage.epochs][2:] == [
        f"test-{row}.1-{seed}" for seed in (1, 2) for row in ("mle", "interp")
    ]


@pytest.mark.parametrize("flags", [["--try", "--lr '1"], ["--try", "--lr 1", "--try", "--lr 1"]])
def test_trials_that_cannot_be_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit, match="--try"):
        plan("translation", *flags)


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", [1]), ("3", [1, 2, 3]), ("4,7", [4, 7]), ("5,", [5])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert table.numbers(text) == seeds


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "mle,interpolation"], ["--rows", "interpolation", "interp"]),
        (["--rows", ""], ["name no row"]),
        (["--row", "mle=interp"], ["NAME='ROW --flags'"]),
        (["--row", "x=nothing"], ["NAME='ROW --flags'"]),
        (["--profile", "desktop"], ["--profile", "paper or laptop", "desktop"]),
        (["--epochs", "8"], ["--epochs", "8,4"]),
        (["--seeds", "many"], ["many", "4,7"]),
        (["--seeds", "0"], ["neither"]),
        (["--data", "{}/nothing"], ["there is no"]),
        (["--out", "{}"], ["no prepared corpus", "--data", "prepare_"]),
    ],
)
def test_wrong_arguments_name_the_fix(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        table.main(
            [
                "translation",
                "--out",
                str(tmp_path / "out"),
                *(word.format(tmp_path) for word in arguments),
            ]
        )
    message = f"{ended.value.code} {capsys.readouterr().err}"
    assert all(word in message for word in words), message


# ---- the scripts ----


def script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(
        [str(path), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=LIMIT,
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_script_is_a_record(path: Path) -> None:
    header = re.match(r"#!.*\n((?:#.*\n)+)", path.read_text())
    assert header and f"examples/{path.parent.name}/{path.name}" in header[1]
    assert re.search(r"^# Rows?\b", header[1], re.MULTILINE) and re.search(r"Table [12]", header[1])
    assert "# Measured  " in header[1]
    if path.name == "table.sh":
        assert (
            "interpolation " + {"translation": "33.35", "summarization": "36.72"}[path.parent.name]
            in header[1]
        )
        assert all(row in header[1] for row in ROWS)
    # An archive that is named is not downloaded.
    done = script(
        path,
        *(
            ["de-en.tgz"]
            if path.name == "prepare_iwslt14.sh"
            else ["mle"]
            if path.name == "train.sh"
            else []
        ),
        "--help",
    )
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["train.sh", "prepare_text.sh", "prepare_tatoeba.sh"])
def test_scripts_say_what_they_need(name: str) -> None:
    done = script(EXAMPLES / "translation" / name)
    assert done.returncode != 0 and f"usage: {name}" in done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_train_sh_is_one_row_and_seed_of_the_table(task: str) -> None:
    done = script(EXAMPLES / task / "train.sh", "raml", "4", "--profile", "paper", "--dry-run")
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    trained = [words for words in commands if words[0] == "fairseq-train"]
    assert [words[words.index("--criterion") + 1] for words in trained] == ["erpo_mle", "erpo_raml"]
    assert all(words[words.index("--seed") + 1] == "4" for words in trained)
    assert [words[3] for words in commands if words[0] == "python"] == ["evaluate"] * 3
    assert script(EXAMPLES / task / "train.sh", "mle", "--dry-run").stdout.count("--seed 1 ") == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three times as long beside three other slow tests
def test_a_table_from_two_text_files_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL in the middle of a stage; the second call leaves alone what was done, and both seeds'
    rows are in the table.
    """
    text = write_corpus(tmp_path / "text", {"all": 900})
    flags = [
        "--rows",
        "mle,raml,interp",
        "--seeds",
        "2",
        "--epochs",
        "2,1",
        "--pairs",
        "300",
        "--jobs",
        "2",
    ]
    flags += ["--data", str(text / "all.de"), str(text / "all.en"), "--out", str(tmp_path / "out")]
    command = [str(EXAMPLES / "translation" / "table.sh"), *flags]
    environment = os.environ | {"PYTHON": sys.executable}
    with (tmp_path / "first").open("w") as sink:
        first = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        limit = time.monotonic() + 600
        # One stage is done, and another one is running.
        while not (
            (tmp_path / "out/pretrain-1/done.json").exists()
            and (tmp_path / "out/mle-1/started").exists()
        ):
            assert first.poll() is None and time.monotonic() < limit, (
                tmp_path / "first"
            ).read_text()
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    time.sleep(1)  # its children die with it
    before = (tmp_path / "out/pretrain-1/done.json").stat().st_mtime
    finished = len(list((tmp_path / "out").glob("*/done.json")))
    assert not (tmp_path / "out/mle-1/done.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"table: {finished} of 16 stages are done" in done.stdout
    assert (tmp_path / "out/pretrain-1/done.json").stat().st_mtime == before
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert (
        list(scores["systems"]) == ["pretrain", "mle", "raml", "interp"]
        and scores["baseline"] == "mle"
    )
    assert all(
        len(system["scores"]["bleu"]["values"]) == 2 for system in scores["systems"].values()
    )
    assert (
        re.search(r"^interp +\d+\.\d\d ± ", done.stdout, re.MULTILINE)
        and "minutes (of one core): " in done.stdout
    )
    third = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert "table: 16 of 16 stages are done" in third.stdout and re.search(
        r"^interp +\d", third.stdout, re.MULTILINE
    )
