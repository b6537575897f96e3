"""A run of another task, or with flags of its own for the data, is decoded and looked at by its
own; or a line says why not.
"""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import load

from fairseq_erpo.__main__ import main
from fairseq_erpo.plugin.dictionaries import KEY, digests
from fairseq_erpo.tools.doctor import task_of

Make = Any


@pytest.fixture
def run(tiny_checkpoint: Path, tmp_path: Path) -> Make:
    """`run(truncate_source=True, ...)`: the tiny checkpoint, of a task with these values."""

    def make(**values: Any) -> Path:
        state = load(tiny_checkpoint)
        state["cfg"]["task"] |= values
        (tmp_path / "run").mkdir()
        torch.save(state, tmp_path / "run" / "checkpoint_best.pt")
        return tmp_path / "run"

    return make


def decoded(folder: Path) -> dict[str, list[int]]:
    """How many words fairseq-generate read and wrote, by its letters."""
    (file,) = folder.glob("checkpoint_best.*.txt")
    found = re.findall(r"^([ST])-\d+\t(.*)$", file.read_text(), re.MULTILINE)
    return {
        letter: [len(text.split()) for each, text in found if each == letter] for letter in "ST"
    }


def test_a_run_that_cut_its_sources_cuts_them_in_evaluation(
    run: Make, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its flag fairseq would refuse the longer ones, and name a flag that evaluate does not
    have.
    """
    folder = run(truncate_source=True, max_source_positions=5)
    main(["evaluate", str(folder), "--data", str(tiny_data), "--split", "valid", "--beam", "1"])
    lengths = decoded(folder)
    assert len(lengths["S"]) == 40 and max(lengths["S"]) == 4 and max(lengths["T"]) > 5
    main(
        [
            "inspect",
            str(folder / "checkpoint_best.pt"),
            str(tiny_data),
            "--sentences",
            "2",
            "--shuffle",
        ]
    )
    capsys.readouterr()


def test_sources_too_long_for_the_run_are_said_without_a_foreign_flag(
    run: Make, tiny_data: Path
) -> None:
    folder = run(max_source_positions=5)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(folder), "--data", str(tiny_data), "--split", "valid", "--beam", "1"])
    message = str(stopped.value)
    assert message.startswith("erpo: ") and "\n" not in message and "--truncate-source" in message
    assert re.search(r"only \d+ of 40 pairs fit", message)


@pytest.mark.slow
def test_validation_flags_of_the_run_are_not_asked_for(run: Make, tiny_data: Path) -> None:
    """The detokeniser of its --eval-bleu may not be installed here."""
    folder = run(eval_bleu=True, eval_bleu_detok="nowhere", eval_bleu_args="{}")
    main(["evaluate", str(folder), "--data", str(tiny_data), "--split", "valid", "--beam", "1"])
    assert len(decoded(folder)["S"]) == 40


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "translation_multi_simple_epoch",
            ["--task translation_multi_simple_epoch", "fairseq-generate"],
        ),
        ("multilingual_translation", ["--task multilingual_translation", "fairseq-generate"]),
        ("of_my_own", ["of_my_own", "--user-dir"]),
    ],
)
def test_a_task_that_decodes_by_flags_of_its_own_is_named(
    run: Make, tiny_data: Path, name: str, words: list[str]
) -> None:
    folder = run()
    state = load(folder / "checkpoint_best.pt")
    state["cfg"]["task"] = Namespace(task=name, _name=name, data=str(tiny_data), lang_pairs="de-en")
    torch.save(state, folder / "checkpoint_best.pt")
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(folder), "--split", "valid"])
    message = str(stopped.value)
    assert (
        message.startswith("erpo: ")
        and "\n" not in message
        and all(word in message for word in words)
    ), message
    assert not list(folder.glob("*.txt"))


def test_the_doctor_compares_the_dictionaries_of_the_runs_own_task(
    run: Make, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task may add symbols, such as languages; fairseq's translation task on the same data has
    none of them.
    """
    task = task_of(str(tiny_data))
    for words in (task.source_dictionary, task.target_dictionary):
        for symbol in ("[de]", "[en]", "<mask>"):
            words.add_symbol(symbol)
    folder = run()
    state = load(folder / "checkpoint_best.pt")
    name = "translation_from_pretrained_bart"
    state["cfg"]["task"] = Namespace(
        **{
            **state["cfg"]["task"],
            "task": name,
            "_name": name,
            "langs": "de,en",
            "prepend_bos": False,
            "data": str(tiny_data),
        }
    )
    state["task_state"] = {KEY: digests(task)}
    torch.save(state, folder / "checkpoint_best.pt")
    main(["doctor", str(tiny_data), str(folder / "checkpoint_best.pt"), "--out", str(tmp_path)])
    assert "failed" not in capsys.readouterr().out


def test_a_broken_run_is_said_without_a_foreign_flag(run: Make, tiny_data: Path) -> None:
    folder = run()
    state = load(folder / "checkpoint_best.pt")
    name = next(
        name
        for name, value in state["model"].items()
        if value.is_floating_point() and value.numel() > 1
    )
    state["model"][name].view(-1)[1] = float("nan")
    torch.save(state, folder / "checkpoint_best.pt")
    for verb in ("evaluate", "inspect"):
        where = (
            [str(folder)]
            if verb == "evaluate"
            else [str(folder / "checkpoint_best.pt"), str(tiny_data)]
        )
        with pytest.raises(SystemExit) as stopped:
            main([verb, *where])
        assert "not a number" in str(stopped.value) and "--restore-file" not in str(stopped.value)
