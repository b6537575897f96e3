"""Files and folders that could hurt: nothing in them is executed, nothing of the user's is removed,
no wrong score is printed.
"""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import torch
from conftest import LIMIT, ROOT, build, load
from recipes import Selection

import fairseq_erpo.tasks  # noqa: F401 - the plugin, as --user-dir loads it
from fairseq_erpo.__main__ import main
from fairseq_erpo.plugin import checkpoints
from fairseq_erpo.plugin.clock import Clock
from fairseq_erpo.plugin.criterion import check_restore_file
from fairseq_erpo.plugin.literals import literal
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.tools.evaluate import parse_systems
from fairseq_erpo.tools.generate import read
from fairseq_erpo.tools.report import sample_blocks
from fairseq_erpo.verbs import dashed


def code(folder: Path) -> str:
    """Evaluating this makes the folder `executed`."""
    return f"__import__('os').mkdir({str(folder / 'executed')!r})"


# ---- nothing executes ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(0.9, 0.98)", (0.9, 0.98)),
        ("[(512, 3)] * 3", [(512, 3)] * 3),
        ("[(512, 3)] * 2 + [(1024, 1)]", [(512, 3), (512, 3), (1024, 1)]),
        ("2 * [1]", [1, 1]),
        ("True", True),
        ("{'a': [1, -2.5]}", {"a": [1, -2.5]}),
        (" 7 ", 7),
    ],
)
def test_literals_are_evaluated(text: str, value: Any) -> None:
    assert literal(text) == value == eval(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "print(1)",
        "os",
        "[x for x in (1,)]",
        "(1).real",
        "f'{1}'",
        "9**9",
        "[0] * 10**9",
        "[0] * 99999999",
        "[[0] * 9999] * 9999",
        "'a' * 9",
        "",
        "(",
        "1 if 1 else 2",
        "lambda: 0",
        "[" * 5000,
        "1;2",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no literal, and is not evaluated"):
        literal(text)


def test_a_list_of_lists_is_bounded() -> None:
    with pytest.raises(ValueError, match="no literal"):
        literal("[0] * 9999 * 9999")


def test_fairseq_evaluates_literals_only(tmp_path: Path) -> None:
    """In its helpers and in the modules that call `eval` themselves."""
    from fairseq import utils
    from fairseq.models import fconv
    from fairseq.optim import adam

    for function in (
        utils.eval_bool,
        utils.eval_str_list,
        utils.eval_str_dict,
        fconv.eval,
        adam.eval,
    ):
        with pytest.raises(ValueError, match="no literal"):
            function(code(tmp_path))
    assert not (tmp_path / "executed").exists()
    assert utils.eval_bool("False") is False and utils.eval_str_list("[1, 2]", int) == [1, 2]
    eval(code(tmp_path))  # or the lines above would show nothing
    assert (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    ["fairseq_erpo.plugin.row_inputs", "fairseq_erpo.plugin.literals", "fairseq_erpo.tasks"],
)
def test_literals_only_whatever_is_imported_first(first: str) -> None:
    line = (
        f"import {first}; from fairseq.models import fconv; from fairseq.optim import adam; "
        "fconv.eval, adam.eval"
    )
    subprocess.run([sys.executable, "-c", line], check=True, cwd=ROOT)


FIELDS = ("adaptive_softmax_cutoff", "decoder_layers_to_keep", "encoder_layers_to_keep")


@pytest.mark.parametrize("verb", ["inspect", "variance", "evaluate"])
def test_no_verb_evaluates_what_a_checkpoints_configuration_says(
    verb: str, tmp_path: Path, tiny_checkpoint: Path, tiny_data: Path
) -> None:
    state = load(tiny_checkpoint)
    model = copy.deepcopy(state["cfg"]["model"])
    for field in FIELDS:
        (model.__setitem__ if isinstance(model, dict) else model.__setattr__)(field, code(tmp_path))  # type: ignore[operator]
    state["cfg"]["model"] = model
    # The report shows samples of annealed rows
    state["cfg"]["criterion"] = {"_name": "erpo_interp"}
    run = tmp_path / "run"
    run.mkdir()
    torch.save(state, run / "checkpoint_best.pt")
    arguments = {
        "inspect": [run / "checkpoint_best.pt", tiny_data],
        "variance": [run / "checkpoint_best.pt", tiny_data, "--draws", "4"],
        "evaluate": [run, "--data", tiny_data],
    }[verb]
    with pytest.raises(SystemExit) as stopped:
        main([verb, *map(str, arguments)])
    assert str(stopped.value).startswith("erpo: ") and "\n" not in str(stopped.value)
    # Of the report, which goes on
    assert "".join(sample_blocks([run], 1)).count("No samples: ") == 1
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("verb", ["inspect", "variance", "report", "validate"])
def test_a_reward_named_in_a_file_imports_no_module(
    verb: str,
    tmp_path: Path,
    tiny_checkpoint: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metrics of one's own are imported from the current folder; a file that names one must not
    choose what is imported.
    """
    (tmp_path / "evil_metric.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    state = load(tiny_checkpoint)
    for name in ("interp", "self_critic"):
        state["cfg"]["criterion"] = {
            "_name": f"erpo_{name}",
            "erpo_reward": "evil_metric:score",
            "erpo_baseline": "none",
        }
        torch.save(state, tmp_path / "checkpoint_best.pt")
        if verb == "report":
            assert (
                "type it, as --erpo-reward" in "".join(sample_blocks([tmp_path], 1))
                or name == "self_critic"
            )
        elif (
            verb == "validate"
        ):  # which builds the criterion that the file names, and takes its loss of the data
            built = build(tiny_data, f"--criterion erpo_{name} --erpo-reward evil_metric:score")
            built.model.eval()
            built.criterion.eval()(built.model, built.batch([3, 14]))
        else:
            with pytest.raises(
                SystemExit, match=r"^erpo: [^\n]*evil_metric:score[^\n]*type it, as --erpo-reward$"
            ):
                main([verb, "checkpoint_best.pt", str(tiny_data)])
        assert not (tmp_path / "executed").exists()


def test_a_broken_checkpoint_costs_the_report_its_samples_only(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_best.pt").write_bytes(b"none")
    (block,) = sample_blocks([tmp_path], 1)
    assert "No samples: " in block and "is not a checkpoint" in block


class Evil:
    """Unpickling this runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_torchs_switch_does_not_make_fairseq_execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": {}, "cfg": {"a": Evil(tmp_path / "executed")}}, tmp_path / "evil.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(SystemExit, match=r"asks for \w+\.mkdir, which could run code"):
        checkpoints.load(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "executed").exists()
    with pytest.warns(UserWarning, match="weights_only"):
        torch.load(tmp_path / "evil.pt")  # or the lines above would show nothing
    assert (tmp_path / "executed").exists()


def test_an_environment_named_in_a_file_imports_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gymnasium")
    from gail.__main__ import main as gail

    (tmp_path / "trap.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(
        {"env_id": "trap:X-v0", "policy": {}, "observation_norm": {}}, tmp_path / "policy.pt"
    )
    policy = str(tmp_path / "policy.pt")
    for words in (
        ["evaluate", policy],
        ["record", "--policy", policy, "--out", str(tmp_path / "d.npz")],
    ):
        with pytest.raises(SystemExit, match="if you trust it, add --env trap:X-v0"):
            gail(words)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(SystemExit):  # the user may say so: then there is no X-v0 in it
        gail(["evaluate", policy, "--env", "trap:X-v0"])
    assert (tmp_path / "executed").exists()


# ---- nothing is lost ----


def texts(folder: Path) -> list[Path]:
    files = [folder / "text.de", folder / "text.en"]
    for file, word in zip(files, ("Satz", "sentence"), strict=True):
        file.write_text("".join(f"{word} number {i}\n" for i in range(300)))
    return files


def test_prepare_removes_no_folder_that_is_not_a_corpus(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="out is there and holds no corpus; choose another --out"):
        corpus.prepare(texts(tmp_path), ("de", "en"), Selection(), False, out)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_corpus_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = texts(tmp_path)
    monkeypatch.setattr(
        corpus, "preprocess_command", lambda *_: ["fairseq-preprocess", "--nonsense"]
    )
    with pytest.raises(SystemExit, match="this failed"):
        corpus.prepare(sources, ("de", "en"), Selection(), False, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.de", "text.en"]


def test_a_restore_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    check_restore_file("checkpoint_last.pt", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"--restore-file: there is no file checkpoint_bset\.pt; give its whole path",
    ):
        check_restore_file("checkpoint_bset.pt", tmp_path)
    (tmp_path / "checkpoint_best.pt").touch()
    with pytest.raises(
        ValueError, match=f"the best one here is --restore-file {tmp_path}/checkpoint_best.pt"
    ):
        check_restore_file("checkpoint_best.pt", tmp_path)
    check_restore_file(str(tmp_path / "checkpoint_best.pt"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_interrupted_sweep_begins_no_further_run(tmp_path: Path) -> None:
    """SIGTERM raises what Ctrl-C does."""
    pytest.importorskip("gymnasium")
    from gail_worlds import PENDULUM
    from test_gail_sweep import demonstrations, write_demos

    write_demos(tmp_path, demonstrations())
    words = [
        "--env",
        PENDULUM,
        "--method",
        "gail",
        "--seed",
        "1",
        "2",
        "3",
        "--demos",
        str(tmp_path),
        "--workers",
        "1",
    ]
    command = [
        sys.executable,
        "-m",
        "gail",
        "sweep",
        *words,
        "--out",
        str(tmp_path / "out"),
        "--iterations",
        "100000",
    ]
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "out" / PENDULUM / "gail" / "n1"
    end = time.monotonic() + LIMIT
    while not (runs / "seed1" / "progress.csv").exists():
        assert sweep.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    sweep.terminate()
    _, said = sweep.communicate(timeout=LIMIT)
    assert (
        sweep.returncode == 1 and said.strip().endswith("interrupted") and "Traceback" not in said
    ), said
    assert [path.name for path in runs.iterdir()] == ["seed1"]
    # The run ended by SIGTERM
    assert (runs / "seed1" / "log").read_text().splitlines()[-1] == "gail: interrupted"


# ---- nothing is silently wrong ----


def test_a_flipped_bit_is_found(tmp_path: Path, tiny_checkpoint: Path) -> None:
    content = bytearray(tiny_checkpoint.read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(ValueError, match="does not match its checksum"):
        check_checkpoint(str(tmp_path / "flipped.pt"))


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_checkpoint_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, tenth: int
) -> None:
    content = tiny_checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(ValueError, match=r"cut\.pt is not a checkpoint"):
        check_checkpoint(str(tmp_path / "cut.pt"))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((0, 2), "D-1 is missing"), ((1, 2), "D-0 is missing"), ((0, 1, 1), "D-1 comes twice")],
)
def test_half_an_output_of_generate_is_not_scored(
    tmp_path: Path, numbers: tuple[int, ...], words: str
) -> None:
    (tmp_path / "out").write_text("".join(f"T-{n}\ta b\nD-{n}\t-0.5\ta b\n" for n in numbers))
    with pytest.raises(ValueError, match=f"is not one whole output of fairseq-generate: {words}"):
        read(tmp_path / "out")


def test_a_run_is_no_second_seed_of_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names one run twice"):
        parse_systems([f"a={tmp_path}/x,{tmp_path}/y/../x"], None)


def test_the_first_validation_subset_drives_the_plateau() -> None:
    from fairseq_erpo.mixture import Mixture

    clock = Clock(mixture=Mixture(model=0.5, reward=0.5, data=0))
    for update, score in ((1, 3.0), (1, 9.0), (2, 4.0), (2, 1.0)):
        clock.validated(update, score, write=False)
    assert clock.scores == {1: 3.0, 2: 4.0}


def test_a_title_cannot_leave_its_attribute() -> None:
    from fairseq_erpo.tools import curves

    hostile = '"><meta http-equiv=refresh>'
    panel = curves.dots("x", hostile, hostile, {"a": [1.0]}, curves.looks("a"))
    assert "<meta" not in curves.svg(panel) and np.isfinite(panel.figure.get_figwidth())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--erpo-lambda model=1e999999999", "finite"),
        ("--erpo-lambda model=.5,model=.2,data=.8", "model twice"),
        ("--erpo-lambda model=1/" + "9" * 400, "sum to one"),
        ("--erpo-c 1e308", "--erpo-c"),
        ("--erpo-c-model 1e308", "--erpo-c-model"),
        ("--erpo-anneal-every 1e-320u", "--erpo-anneal-every"),
        ("--erpo-anneal-every infe", "--erpo-anneal-every"),
        ("--seed -1", "--seed must not be negative"),
        ("--erpo-schedule plateau --disable-validation", "leave --disable-validation out"),
        ("--erpo-preset paper --erpo-pretrain 4e --max-epoch 4", "leaves nothing of --max-epoch 4"),
        ("--best-checkpoint-metric bleu", "needs --task erpo_translation --eval-bleu"),
        ("--best-checkpoint-metric rouge", "needs --task erpo_translation --eval-rouge"),
    ],
)
def test_flags_that_cannot_work_are_refused_at_once(
    tiny_data: Path, flags: str, words: str
) -> None:
    from conftest import configuration
    from fairseq import tasks

    cfg = configuration(tiny_data, f"--criterion erpo_interp {flags}")
    with pytest.raises(SystemExit) as stopped:
        tasks.setup_task(cfg.task).build_criterion(cfg.criterion)
    assert words in str(stopped.value) and "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "value",
    [
        "gamma=5",
        "gamma=-1",
        "gae_lambda=7",
        "ent_coef=-3",
        "vf_coef=-1",
        "clip_range=1e9",
        "gamma=.9,gamma=.8",
        "gamma=nan",
    ],
)
def test_ppos_values_by_their_meaning(value: str) -> None:
    pytest.importorskip("gymnasium")
    from gail.flags import parse_record
    from gail.settings import PPOSettings

    with pytest.raises(ValueError, match=value.partition("=")[0]):
        parse_record(PPOSettings, PPOSettings(), value, "--ppo")


# ---- checkpoints and data that do not belong together, or are damaged ----


def test_a_dictionary_in_another_order_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, tiny_data: Path
) -> None:
    """As large as the checkpoint's, so that every tensor fits."""
    import shutil

    from conftest import configuration
    from fairseq import tasks

    from fairseq_erpo.plugin.dictionaries import KEY, digests

    other = tmp_path / "data"
    shutil.copytree(tiny_data, other)
    words = (other / "dict.en.txt").read_text().splitlines()
    words[0], words[1] = words[1], words[0]
    (other / "dict.en.txt").write_text("\n".join(words) + "\n")
    state = load(tiny_checkpoint)
    state["task_state"] = {
        KEY: digests(tasks.setup_task(configuration(tiny_data, "--criterion erpo_mle").task))
    }
    kept = tmp_path / "kept.pt"
    torch.save(state, kept)
    main(["inspect", str(kept), str(tiny_data), "--sentences", "1"])
    words_of = "was trained with another target dictionary, or with its words in another order"
    for verb, arguments in {"inspect": [], "variance": ["--draws", "4"]}.items():
        with pytest.raises(SystemExit, match=words_of):
            main([verb, str(kept), str(other), *arguments])
    with pytest.raises(SystemExit, match=words_of):
        main(["evaluate", str(kept), "--data", str(other)])
    (tmp_path / "run").mkdir()
    for flags in (
        f"--finetune-from-model {kept}",
        f"--restore-file {kept}",
        f"--criterion erpo_sequence_tutor --erpo-prior {kept}",
    ):
        cfg = configuration(other, f"--criterion erpo_interp --save-dir {tmp_path / 'run'} {flags}")
        with pytest.raises(SystemExit, match=words_of):
            tasks.setup_task(cfg.task).build_criterion(cfg.criterion).check_start()


def test_a_model_of_nan_is_refused(tmp_path: Path, tiny_checkpoint: Path, tiny_data: Path) -> None:
    state = load(tiny_checkpoint)
    name = next(
        name
        for name, value in state["model"].items()
        if value.is_floating_point() and value.numel() > 1
    )
    state["model"][name].view(-1)[1] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    for verb in ("inspect", "variance"):
        with pytest.raises(SystemExit, match="not a number"):
            main([verb, str(tmp_path / "nan.pt"), str(tiny_data)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "no samples"),
        (b"0\t1\tnowhere\n", "0.0% of the words"),
        (b"0_7\t1\ta\n", "underscore"),
        (b"\xff\n", ":1: expected"),
        (b"0\t1\n", ":1: expected"),
    ],
)
def test_a_samples_file_is_checked_before_training(
    tmp_path: Path, tiny_data: Path, content: bytes | None, words: str
) -> None:
    from conftest import configuration
    from fairseq import tasks

    file = tmp_path / "samples"
    if content is not None:
        file.write_bytes(content)
    cfg = configuration(tiny_data, f"--criterion erpo_raml --erpo-samples-file {file}")
    with pytest.raises(SystemExit, match=words) as stopped:
        tasks.setup_task(cfg.task).build_criterion(cfg.criterion)
    assert str(stopped.value).startswith("erpo: ")


# ---- the doctor ----


def test_the_doctor_finds_nothing_where_all_is_well(
    tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    main(["doctor", str(tiny_data), str(tiny_checkpoint), "--out", str(tmp_path), "--json"])
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {finding["state"] for finding in found.values()} == {"ok"}
    assert "all finite" in found[f"checkpoint {tiny_checkpoint}"]["found"]


def test_the_doctor_names_the_extra_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fairseq", None)
    with pytest.raises(SystemExit, match="1 of 5 checks failed: fairseq's extensions"):
        main(["doctor", "--out", str(tmp_path)])
    assert "'.[fairseq]'" in capsys.readouterr().out


def test_the_doctor_finds_infinite_weights(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, capsys: Any
) -> None:
    state = load(tiny_checkpoint)
    name = next(
        name
        for name, value in state["model"].items()
        if value.is_floating_point() and value.numel() > 1
    )
    state["model"][name].view(-1)[1] = float("-inf")
    torch.save(state, tmp_path / "inf.pt")
    with pytest.raises(SystemExit, match=r"1 of 7 checks failed: checkpoint .*inf\.pt"):
        main(["doctor", str(tiny_data), str(tmp_path / "inf.pt"), "--out", str(tmp_path)])
    assert (
        f"inf.pt: {name} is not finite; it may be of a run that diverged" in capsys.readouterr().out
    )


def test_the_doctor_says_what_is_wrong(
    tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    damaged = shutil.copytree(tiny_data, tmp_path / "data")
    file = damaged / "train.de-en.en.bin"
    file.write_bytes(bytes(file.stat().st_size))
    (tmp_path / "cut.pt").write_bytes(tiny_checkpoint.read_bytes()[:-900])
    with pytest.raises(SystemExit, match=r"2 of 7 checks failed: data .*, checkpoint"):
        main(["doctor", str(damaged), str(tmp_path / "cut.pt"), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (
        "300 of 300 targets do not end with </s>" in printed
        and "-> run fairseq-preprocess again" in printed
    )
    assert "cut.pt is not a checkpoint: it was cut short" in printed


def test_gails_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium")
    from gail_worlds import PENDULUM
    from test_gail_sweep import demonstrations, write_demos

    from gail.__main__ import main as gail

    write_demos(tmp_path, demonstrations())
    gail(["doctor", str(tmp_path / f"{PENDULUM}.npz"), "--out", str(tmp_path)])
    assert f"of {PENDULUM}" in capsys.readouterr().out
    with (tmp_path / f"{PENDULUM}.npz").open("r+b") as file:
        file.seek(100)
        file.write(b"xxxx")
    with pytest.raises(SystemExit, match="checks failed: demonstrations"):
        gail(["doctor", str(tmp_path / f"{PENDULUM}.npz"), "--out", str(tmp_path)])


# ---- every way in ----

READS = {
    "inspect": ["inspect", "{file}", "{data}"],
    "variance": ["variance", "{file}", "{data}"],
    "evaluate": ["evaluate", "{file}", "--data", "{data}"],
    "doctor": ["doctor", "{data}", "{file}"],
}
FLAGS_THAT_READ = {
    "--restore-file": "--criterion erpo_interp --restore-file",
    "--finetune-from-model": "--criterion erpo_interp --finetune-from-model",
    "--erpo-prior": "--criterion erpo_sequence_tutor --erpo-prior",
}
GAIL_READS = {
    "evaluate": ["evaluate", "{file}"],
    "record": ["record", "--policy", "{file}", "--out", "{out}/d.npz"],
    "render": ["render", "{file}", "--out", "{out}/film.png"],
    "expert": ["evaluate", "--env", "InvertedPendulum-v5", "--expert", "{file}"],
    "trajectories": [
        "record",
        "--env",
        "InvertedPendulum-v5",
        "--from-trajectories",
        "{file}",
        "--out",
        "{out}/d.npz",
    ],
    "demos": [
        "train",
        "--env",
        "InvertedPendulum-v5",
        "--method",
        "gail",
        "--demos",
        "{file}",
        "--out",
        "{out}/run",
    ],
    "doctor": ["doctor", "{file}"],
}


def malicious(kind: str, folder: Path, suffix: str) -> Path:
    """A file that makes the folder `executed` if it is unpickled, with a manifest that fits it."""
    import hashlib
    import json
    import pickle

    evil, path = Evil(folder / "executed"), folder / f"evil{suffix}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"model": evil, "policy": evil, "cfg": {"a": 1}}))
    elif kind == "torch":
        torch.save({"model": evil, "policy": evil, "cfg": {"a": 1}, "env_id": "trap:X-v0"}, path)
    else:
        with path.open("wb") as file:
            np.savez(
                file,
                **dict.fromkeys(
                    ("observations", "obs", "W0", "policy", "model"), np.array([evil], dtype=object)
                ),
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "format": "gail-demonstrations",
        "version": 1,
        "env_id": "InvertedPendulum-v5",
        "sha256": digest,
    }
    path.with_suffix(".json").write_text(json.dumps(manifest | {"returns": [1.0], "lengths": [1]}))
    return path


@pytest.mark.parametrize("kind", ["pickle", "torch", "npz"])
def test_no_way_in_executes_a_file(kind: str, tmp_path: Path, tiny_data: Path) -> None:
    from conftest import configuration
    from fairseq import checkpoint_utils, tasks

    file = malicious(kind, tmp_path, ".pt")
    (tmp_path / "checkpoint_best.pt").write_bytes(file.read_bytes())
    for words in READS.values():
        with pytest.raises(SystemExit, match=r"^erpo: "):
            main([word.format(file=file, data=tiny_data) for word in words])
    assert "No samples: " in "".join(sample_blocks([tmp_path], 1))
    for flags in FLAGS_THAT_READ.values():
        cfg = configuration(tiny_data, f"{flags} {file} --save-dir {tmp_path}")
        with pytest.raises(SystemExit, match=r"^erpo: "):
            tasks.setup_task(cfg.task).build_criterion(cfg.criterion).check_start()
    # Fairseq-generate --path, and all that resumes
    with pytest.raises(SystemExit, match=r"^erpo: "):
        checkpoint_utils.load_model_ensemble_and_task([str(file)])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["pickle", "torch", "npz"])
def test_no_way_into_gail_executes_a_file(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    from gail import checkpoints as gails
    from gail.__main__ import main as gail

    file = malicious(kind, tmp_path, ".npz")
    for words in GAIL_READS.values():
        with pytest.raises(SystemExit, match=r"^gail: "):
            gail([word.format(file=file, out=tmp_path) for word in words])
    with pytest.raises(ValueError, match=r"evil\.npz"):  # train --resume
        gails.load(file)
    assert not (tmp_path / "executed").exists()


# ---- files of other shapes ----


def changed(**parts: Any) -> dict[str, Any]:
    """A checkpoint, so far as its structure is looked at."""
    good: dict[str, Any] = {
        "model": {"w": torch.zeros(4, 4)},
        "cfg": {
            "model": {"encoder_layers": 1, "encoder_embed_dim": 4},
            "task": {},
            "criterion": None,
        },
        "optimizer_history": [{"num_updates": 3}],
    }
    return good | parts


def test_the_structure_of_a_checkpoint() -> None:
    from argparse import Namespace

    from fairseq_erpo.plugin.structure import check_structure

    check_structure(changed())
    # Of the trainer
    check_structure(changed(cfg=None, args=Namespace(encoder_layers=1, all_gather_list_size=16384)))
    for wrong in (
        [1],
        changed(model=[1]),
        changed(model={}),
        changed(model={"w": 1}),
        changed(cfg="x"),
        changed(cfg={"task": "x"}),
        changed(cfg=None, args=5),
        changed(extra_state="x"),
        changed(task_state=[1]),
        changed(optimizer_history="x"),
        changed(optimizer_history=[1]),
        changed(optimizer_history=[{"num_updates": "x"}]),
        changed(cfg={"model": {"encoder_layers": 10**9}}),
        changed(cfg={"model": {"encoder_embed_dim": 10**9}}),
    ):
        with pytest.raises(ValueError):
            check_structure(wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("erpo_reward", [1]),
        ("erpo_reward", {"a": 1}),
        ("erpo_c", 5),
        ("erpo_c_model", "5"),
        ("erpo_samples", [2]),
    ],
)
def test_a_flag_of_a_configuration_has_its_type(name: str, value: Any) -> None:
    from fairseq_erpo.tools.load_run import flags_of

    with pytest.raises(ValueError, match=f"^{dashed(name)} "):
        flags_of({name: value})
    kept = {"erpo_c": "5", "erpo_c_model": 5, "erpo_samples": 2}
    assert (
        flags_of(
            {**kept, "_name": "erpo_interp", "erpo_reward": None, "erpo_of_somebody_else": [1]}
        )
        == kept
    )


def test_a_damaged_index_is_named(tmp_path: Path, tiny_data: Path) -> None:
    from fairseq_erpo.plugin.binarised import check_index

    index, data = tmp_path / "x.idx", tmp_path / "x.bin"
    good = [(tiny_data / f"valid.de-en.en.{suffix}").read_bytes() for suffix in ("idx", "bin")]

    def write(of_index: bytes, of_data: bytes) -> None:
        index.write_bytes(of_index)
        data.write_bytes(of_data)
        check_index(index)

    write(*good)
    for broken in (
        (good[0][:10], good[1]),
        (good[0][:-9], good[1]),
        (good[0], good[1][:-9]),
        (bytes(900), good[1]),
    ):
        with pytest.raises(ValueError, match=r"x\.(idx|bin) is damaged"):
            write(*broken)


@pytest.mark.parametrize("task", ["translation", "erpo_translation"])
def test_data_that_are_none_cost_one_line(task: str, tmp_path: Path, tiny_data: Path) -> None:
    import shutil

    from conftest import configuration
    from fairseq import tasks

    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, content in (
        ("bad", "word without number x\n"),
        ("twice", "a 1\na 1\n"),
        ("binary", "\udcff\n"),
    ):
        shutil.copytree(tiny_data, tmp_path / name)
        (tmp_path / name / "dict.en.txt").write_text(content, errors="surrogateescape")
    shutil.copytree(tiny_data, tmp_path / "nodict", ignore=shutil.ignore_patterns("dict.*"))
    parsed = configuration(tiny_data, f"--criterion erpo_interp --task {task}").task
    for name, languages, words in (
        ("nowhere", None, "there is no such folder"),
        ("file", None, "there is no such folder"),
        ("empty", None, "not made by fairseq-preprocess"),
        ("nodict", None, r"has no dict\.de\.txt; make it with fairseq-preprocess"),
        ("bad", None, "Incorrect dictionary format"),
        ("twice", None, "Duplicate word"),
        ("binary", None, r"^erpo: .*binary: "),
        (
            "bad",
            ("fr", "en"),
            r"has no dict\.fr\.txt; there are dictionaries of de, en: see --source-lang",
        ),
    ):
        cfg = copy.deepcopy(parsed)
        cfg.data = str(tmp_path / name)
        cfg.source_lang, cfg.target_lang = languages or (None, None)
        with pytest.raises(SystemExit, match=words) as stopped:
            tasks.setup_task(cfg)
        assert str(stopped.value).startswith("erpo: ") and "\n" not in str(stopped.value)


def test_arrays_are_as_large_as_they_say(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    import io
    import zipfile

    from gail.arrays import read_arrays

    def archive(name: str, **members: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as opened:
            for member, content in members.items():
                opened.writestr(f"{member}.npy", content)
        return tmp_path / name

    whole, header = io.BytesIO(), io.BytesIO()
    np.save(whole, np.arange(3.0))
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 4)}
    )
    good = archive("good.npz", a=whole.getvalue())
    assert read_arrays(good, ["a"])["a"].tolist() == [0, 1, 2]
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "one.npz").write_bytes(whole.getvalue())
    for path, words in (
        (
            archive("large.npz", a=header.getvalue()),
            "a is damaged: its header promises 320000000000000 bytes",
        ),
        (archive("other.npz", b=whole.getvalue()), "no array a"),
        (archive("text.npz", a=b"text"), "EOF"),
        (tmp_path / "cut.npz", "not an .npz archive"),
        (tmp_path / "one.npz", "not an .npz archive"),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}: .*{words}"):
            read_arrays(path, ["a"])


def test_policies_of_other_shapes(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    from gail.policies import load_policy

    norm = {"mean": torch.zeros(4), "var": torch.ones(4)}
    for content, words in (
        ({"policy": 5}, "no tensors"),
        ({"policy": {"w": torch.tensor(float("nan"))}}, "diverged"),
        ({"policy": {}, "env_id": 5, "observation_norm": norm}, "env_id is no text"),
        (
            {"policy": {}, "env_id": "InvertedPendulum-v5", "observation_norm": norm},
            "does not fit InvertedPendulum",
        ),
    ):
        torch.save(content, tmp_path / "policy.pt")
        with pytest.raises(ValueError, match=rf"policy\.pt.*{words}"):
            load_policy(tmp_path / "policy.pt")


def test_experts_of_other_shapes() -> None:
    pytest.importorskip("gymnasium")
    from gail.policies import check_expert

    box = (np.zeros(1), np.ones(1))
    good = {
        "obs_mean": np.zeros(4),
        "obs_meansq": np.ones(4),
        "W0": np.zeros((4, 3)),
        "b0": np.zeros(3),
    }
    good |= {"W_out": np.zeros((3, 1)), "b_out": np.zeros(1), "log_std": np.zeros(1)}
    check_expert(good, box)
    for name, array in (
        ("W0", np.full((4, 3), np.nan)),
        ("log_std", np.array([1e9])),
        ("W0", np.zeros((9, 3))),
    ):
        with pytest.raises(ValueError, match=name):
            check_expert(good | {name: array}, box)


@pytest.mark.parametrize("lengths", [[2, 9], [-2, 7], [2.0, 3.0], [[2, 3]], [0, 5], [2**62, 2**62]])
def test_trajectories_whose_lengths_do_not_fit(lengths: Any) -> None:
    pytest.importorskip("gymnasium")
    from gail.trajectories import check_fit

    good = {
        "obs": np.zeros((7, 4)),
        "acts": np.zeros((5, 1)),
        "rews": np.zeros(5),
        "terminal": np.zeros(2, dtype=bool),
    }
    check_fit(good | {"lengths": np.array([2, 3])})
    with pytest.raises(ValueError, match="lengths"):
        check_fit(good | {"lengths": np.array(lengths)})


def test_a_run_whose_tables_are_gone_is_not_resumed(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    from types import SimpleNamespace

    from fairseq_erpo.files import read_record
    from gail.run import Run

    run: Any = SimpleNamespace(folder=tmp_path, iteration=2, settings=SimpleNamespace(eval_every=1))
    (tmp_path / "progress.csv").write_text("iteration,return\n1,1\n2,1\n")
    with pytest.raises(ValueError, match=r"evaluations\.csv has 0 of the 2 rows"):
        Run.check_tables(run)
    (tmp_path / "evaluations.csv").write_text("iteration,return\n1,1\nx,1\n")
    with pytest.raises(ValueError, match=r"evaluations\.csv is damaged"):
        Run.check_tables(run)
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        read_record(tmp_path / "result.json", ["return"])


def test_a_run_whose_checkpoint_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    from gail_worlds import settings

    from gail.run import Run

    run = Run(settings("random"), tmp_path)
    run.begin(resume=False)
    assert (tmp_path / "checkpoint.pt").is_file()  # of iteration 0: without it, no row was written
    (tmp_path / "checkpoint.pt").unlink()
    run.begin(resume=True)
    (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / "progress.csv").write_text("iteration,return\n1,1\n")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is gone, but .*progress\.csv has rows"):
        run.begin(resume=True)


def test_demonstrations_have_the_steps_that_their_lengths_say() -> None:
    pytest.importorskip("gymnasium")
    from dataclasses import replace

    from gail_worlds import demonstrations, settings

    from gail.build import check_fit

    demos = demonstrations(trajectories=1)
    check_fit(demos, settings("gail"))
    with pytest.raises(
        ValueError, match="lengths are of 1000000 steps and there are 1000; record anew"
    ):
        check_fit(replace(demos, lengths=demos.lengths * 1000), settings("gail"))


def test_data_that_were_binarised_anew_are_decoded_again(tmp_path: Path) -> None:
    """The kept output is named by contents: sizes, and time stamps that may be older, say
    nothing.
    """
    from fairseq_erpo.tools.generate import digest_of

    files = [tmp_path / name for name in ("checkpoint_best.pt", "test.de-en.de.bin", "dict.de.txt")]
    for file in files:
        file.write_bytes(b"old")
    names = {digest_of(files, "")}
    for count, file in enumerate(files, 2):
        file.write_bytes(b"new")
        os.utime(file, (0, 0))
        names.add(digest_of(files, ""))
        assert len(names) == count
    assert digest_of(files, "") in names and digest_of(files, "beam 1") not in names


# ---- folders ----


def test_a_folder_is_locked_against_other_processes(tmp_path: Path) -> None:
    from fairseq_erpo.files import lock

    command = [
        sys.executable,
        "-c",
        "import sys; from fairseq_erpo.files import lock; lock(sys.argv[1], '--out')",
        str(tmp_path),
    ]
    with lock(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True)
        assert f"another process is working in --out {tmp_path}" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_two_writers_of_a_file_have_two_parts(tmp_path: Path) -> None:
    from fairseq_erpo.files import WriteError, atomic_write

    with atomic_write(tmp_path / "a") as one, atomic_write(tmp_path / "a") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / "a").read_text() == "1" and len(list(tmp_path.iterdir())) == 1
    with (
        pytest.raises(WriteError, match=r"--out .*cannot be written"),
        atomic_write(tmp_path / "a" / "b", "--out"),
    ):
        pass  # a file where a folder should be


FULL = """
import resource, sys
from pathlib import Path
import torch, corpus
from recipes import Selection
from gail.checkpoints import save

out, (source, target) = Path(sys.argv[1]), map(Path, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.RLIM_INFINITY))
for write in (
    lambda: save({"policy": {"w": torch.zeros(9_000)}}, out / "checkpoint.pt"),
    lambda: corpus.prepare(
        [source, target], ("de", "en"), Selection(pieces=60), False, out / "data"
    ),
):
    try:
        write()
    except (OSError, SystemExit) as error:
        print(error)
"""


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """Files of 8 kB at most: a checkpoint and a subword model are larger, the corpus's text
    is not.
    """
    sources = texts(tmp_path)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", FULL, str(tmp_path), *map(str, sources)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.stdout.splitlines() == [
        f"--out {tmp_path / 'checkpoint.pt'} cannot be written: File too large; it is left as it "
        "was",
        f"corpus: {tmp_path / 'data'} cannot be written: File too large",
    ], ran.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_corpus_that_holds_more_is_not_replaced(tmp_path: Path) -> None:
    for name in ("corpus.json", "train.de", "test.en"):
        (tmp_path / name).touch()
    corpus.check_own(tmp_path, ("de", "en"))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit, match=r"also holds thesis\.tex"):
        corpus.check_own(tmp_path, ("de", "en"))
    keyed = (
        '{"digest": "0", "languages": {"0": null, "1": null}, "selection": {"pieces": 1}, '
        '"moses": false}'
    )
    for content in ("{", "[]", "{}", keyed):
        (tmp_path / "corpus.json").write_text(content)
        with pytest.raises(SystemExit, match=r"^corpus: .*corpus\.json is"):
            corpus.corpus_of(tmp_path / "corpus.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.de", b"Gr\xf6\xdfe"), ("a.de.gz", b"xx"), ("a.zip", b"xx"), ("a.tgz", b"xx")],
)
def test_texts_and_archives_that_are_none(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    sources = [tmp_path / name] if name.endswith(("zip", "tgz")) else [tmp_path / name] * 2
    with pytest.raises(SystemExit, match=rf"^corpus: .*{name} is no"):
        corpus.read(sources, ("de", "en"))


@pytest.mark.parametrize(
    "words", ["--pairs -5", "--epochs 0,0", "--jobs 0", "--seeds 4,4", "--row a=interp_'x"]
)
def test_a_tables_flags_are_refused_up_front(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import table

    flag, value = words.split()
    with pytest.raises(SystemExit) as stopped:
        table.plan_of(table.arguments(["translation", flag, value.replace("_", " ")]))
    assert flag in f"{stopped.value}{capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "bin/fairseq-train",
            "erpo: interrupted; the same command goes on from the last checkpoint",
        ),
        (
            "fairseq_cli/train.py",
            "erpo: interrupted; the same command goes on from the last checkpoint",
        ),
        ("bin/fairseq-generate", "erpo: interrupted"),
        ("train.py", "KeyboardInterrupt"),
    ],
)
def test_ctrl_c_is_one_line(
    command: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq_erpo.plugin.interrupt import hook

    monkeypatch.setattr("sys.argv", [command])
    hook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.strip() == line
