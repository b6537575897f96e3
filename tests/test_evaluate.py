"""`python -m fairseq_erpo evaluate`: decodes as fairseq-generate does, and compares what belongs
together.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fairseq, load
from sacrebleu.metrics import BLEU

from fairseq_erpo.__main__ import main
from fairseq_erpo.scores import measures
from fairseq_erpo.tools import evaluate as evaluation
from fairseq_erpo.tools import generate
from fairseq_erpo.tools.evaluate import parse_systems
from fairseq_erpo.tools.score_table import cell, rows, verdict

Run = Callable[..., str]
SENTENCES = [f"the sentence number {n} of {n * n} is here" for n in range(40)]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Run:
    """The verb in this process: what it prints."""

    def run(*arguments: Any) -> str:
        capsys.readouterr()
        main(["evaluate", *map(str, arguments)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """References and the outputs of three systems, one a line."""
    (tmp_path / "ref").write_text("\n".join(SENTENCES) + "\n")
    for name, change in {
        "a-1": ("number", "No"),
        "a-2": ("is", "was"),
        "b-1": ("x", "y"),
        "b-2": ("of", "in"),
    }.items():
        (tmp_path / name).write_text("\n".join(line.replace(*change) for line in SENTENCES) + "\n")
    return tmp_path


def test_a_checkpoint_is_decoded_as_fairseq_generate_does_and_only_once(
    evaluate: Run,
    fairseq: Fairseq,
    tiny_data: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_checkpoint, run / "checkpoint_best.pt")
    flags = "--user-dir fairseq_erpo --task erpo_translation --beam 5 --lenpen .6 --max-len-a 1.2"
    flags += f" --max-len-b 10 --cpu --batch-size 64 --path {tiny_checkpoint}"
    job = fairseq.start("fairseq-generate", [tiny_data, *flags.split()])
    printed = evaluate(run, "--json", tmp_path / "scores.json")
    both = evaluate(run, "--greedy")
    (greedy,) = run.glob("checkpoint_best.test.beam1.*.txt")
    score = measures()["bleu"]
    counts = score.counts(*generate.read(greedy)[:2]).sum(0)
    assert "greedy BLEU" in both and f" {score.score(counts):.2f}\n" in both
    theirs = job.succeed().output
    (kept,) = run.glob("checkpoint_best.test.beam5.lenpen0.6.*.txt")
    assert generate.read(kept).hypotheses == generate.numbered(theirs, "D")
    result = json.loads((tmp_path / "scores.json").read_text())
    ours = BLEU(force=True).corpus_score(
        generate.numbered(theirs, "D"), [generate.numbered(theirs, "T")]
    )
    assert result["systems"]["run"]["scores"]["bleu"]["mean"] == pytest.approx(ours.score)
    # fairseq scores token ids, without sacreBLEU's tokeniser, and smooths nothing: a tiny model
    # that never hits a 4-gram has BLEU 0 there. So the lengths are compared instead; words without
    # punctuation are the same to both.
    lengths = re.search(r"syslen=(\d+), reflen=(\d+)", theirs)
    assert lengths and (int(lengths[1]), int(lengths[2])) == (ours.sys_len, ours.ref_len)
    assert (
        f"{ours.score:.2f}" in printed
        and result["signature"] in printed
        and "beam 5, length penalty 0.6" in printed
    )
    # Shards: the test set is the first one's
    assert evaluate(run, "--data", f"{tiny_data}:{tiny_data}") == printed
    # The second time nothing is decoded, until the checkpoint is another one, however old.
    monkeypatch.setattr(generate, "_generate", lambda *_: pytest.fail("decoded again"))
    assert evaluate(run) == printed
    before = kept.stat().st_mtime - 1000
    torch.save({**load(tiny_checkpoint), "other": 1}, run / "checkpoint_best.pt")
    os.utime(run / "checkpoint_best.pt", (before, before))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        evaluate(run)


@pytest.mark.slow
def test_nothing_but_the_table_is_printed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Not what the libraries have to say to their programmers."""
    shutil.copy(tiny_checkpoint, tmp_path / "checkpoint_best.pt")
    command = [sys.executable, "-m", "fairseq_erpo", "evaluate", str(tmp_path), "--columns", "bleu"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("system ") and done.stderr == ""


def test_seeds_are_a_mean_and_a_spread_and_pooled_for_the_test(evaluate: Run, texts: Path) -> None:
    systems = [f"{name}={texts / name}-1,{texts / name}-2" for name in "ab"]
    printed = evaluate(
        *systems,
        "--reference",
        texts / "ref",
        "--baseline",
        "a",
        "--json",
        texts / "new" / "scores.json",
    )
    result = json.loads((texts / "new" / "scores.json").read_text())
    bleu = measures()["bleu"]
    values = [
        bleu.score(bleu.counts((texts / f"a-{n}").read_text().splitlines(), SENTENCES).sum(0))
        for n in (1, 2)
    ]
    ours = result["systems"]["a"]["scores"]["bleu"]
    assert ours["values"] == values and ours["mean"] == pytest.approx(sum(values) / 2)
    assert ours["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)  # of a sample: n - 1
    other = result["systems"]["b"]["scores"]["bleu"]
    assert other["difference"] == pytest.approx(other["mean"] - ours["mean"]) and other["p"] < 0.05
    assert "p" not in result["systems"]["b"]["scores"]["length_ratio"] and "p" not in ours
    assert f"{ours['mean']:.2f} ± {ours['std']:.2f}" in printed
    assert f"{other['difference']:+.2f}" in printed
    assert (
        "mean ± standard deviation over 2 seeds" in printed
        and f"against a, {result['test']}" in printed
    )
    # B-1 is the reference
    assert result["systems"]["b"]["scores"]["bleu"]["values"][0] == pytest.approx(100)


def test_seeds_are_pooled_by_adding_their_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seed counts in the test: here the first ones are equal."""
    seen: list[Any] = []
    monkeypatch.setattr(
        evaluation,
        "p_values",
        lambda measure, baseline, others: seen.append((baseline, others["b"])) or {"b": 1.0},
    )
    evaluation.compare({"a": [["x y"], ["x y"]], "b": [["x y"], ["x z"]]}, ["x z"], "a")
    bleu = measures()["bleu"]
    baseline, other = seen[0]
    assert (baseline == 2 * bleu.counts(["x y"], ["x z"])).all()
    assert (other == bleu.counts(["x y"], ["x z"]) + bleu.counts(["x z"], ["x z"])).all()


def test_markdown_and_columns(evaluate: Run, texts: Path) -> None:
    printed = evaluate(
        texts / "a-1", "--reference", texts / "ref", "--markdown", "--columns", "rougeL_021,rougeL"
    )
    head, rule, row = printed.splitlines()[:3]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "system",
        "ROUGE-L (0.2.1)",
        "ROUGE-L",
    ]
    assert set(rule) <= set("|:-") and row.startswith("| a-1")
    assert "repeats" not in printed  # nor explained
    assert "repeats: share of" in evaluate(texts / "a-1", "--reference", texts / "ref")


def test_rouge_of_another_script_is_said_to_be_nothing(evaluate: Run, texts: Path) -> None:
    (texts / "ru").write_text("сегодня очень хорошая погода\nя уже давно иду домой\n")
    arguments = [texts / "ru", "--reference", texts / "ru", "--json", texts / "scores.json"]
    printed = evaluate(*arguments)
    assert re.search(r"^ru +100\.00 +0\.00", printed, re.MULTILINE)
    assert (
        "ROUGE-1, ROUGE-2, ROUGE-L say nothing here, use BLEU or chrF" in printed.splitlines()[-1]
    )
    assert json.loads((texts / "scores.json").read_text())["usable"]["rouge"] == 0
    assert "rouge-score" not in evaluate(*arguments, "--columns", "bleu,rouge1_021")
    assert "rouge-score" not in evaluate(texts / "a-1", "--reference", texts / "ref")


def test_output_of_fairseq_generate_brings_its_references(evaluate: Run, tmp_path: Path) -> None:
    lines = [
        f"S-{n}\tx\nT-{n}\t{text}\nH-{n}\t-0.1\tx\nD-{n}\t-0.1\t{text}"
        for n, text in reversed(list(enumerate(SENTENCES)))
    ]
    (tmp_path / "out.txt").write_text("noise\n" + "\n".join(lines) + "\n")
    assert generate.read(tmp_path / "out.txt") == (SENTENCES, SENTENCES, None, ["x"] * 40)
    assert "100.00" in evaluate(tmp_path / "out.txt")


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (
            "{'generation': {'beam': 3, 'lenpen': 1.0}}\n",
            "",
            "valid, beam 3, length penalty 1 (fairseq's",
        ),
        ("", "", "valid, beam 3\n"),
        ("", "another beam", ""),
    ],
)
def test_only_what_is_known_of_the_decoding_is_printed(
    evaluate: Run, tmp_path: Path, first: str, second: str, line: str
) -> None:
    text = "".join(
        f"T-{n}\t{sentence}\nD-{n}\t-1\t{sentence}\n" for n, sentence in enumerate(SENTENCES)
    )
    (tmp_path / "a").write_text(f"{first}{text}Generate valid with beam=3: BLEU4 = 1\n")
    (tmp_path / "b").write_text(
        f"{text}Generate valid with beam=4: BLEU4 = 1\n" if second else text
    )
    runs = [tmp_path / "a"] + ([tmp_path / "b"] if second else [])
    printed = evaluate(*runs, "--json", tmp_path / "scores.json")
    assert line in printed and bool(line) == ("beam" in printed)
    assert ("decoding" in json.loads((tmp_path / "scores.json").read_text())) == bool(line)


@pytest.mark.parametrize(
    ("difference", "star"), [(0.01, ""), (-0.09, ""), (0.11, "**"), (-2, "**")]
)
def test_a_difference_of_nothing_has_no_star(difference: float, star: str) -> None:
    assert cell({"mean": 1, "std": None, "difference": difference, "p": 0.001}, 2) == f"1.00{star}"


def scored(difference: float, p: float) -> dict[str, Any]:
    """Scores of a baseline and of one system, as --json has them."""
    baseline = {"mean": 20.0, "std": None}
    other = {"mean": 20 + difference, "std": None, "difference": difference, "p": p}
    systems = {
        name: {"runs": 1, "scores": {"bleu": score}}
        for name, score in (("mle", baseline), ("pg", other))
    }
    return {"baseline": "mle", "systems": systems}


@pytest.mark.parametrize(
    ("beam", "greedy", "said"),
    [
        (
            (0.7, 0.06),
            (-0.5, 0.3),
            ["0.70 BLEU above mle (at the edge", "0.50 BLEU below", "No difference"],
        ),
        ((0.05, 0.001), (0.0, 1.0), ["level with mle", "No difference"]),
        ((2.0, 0.001), (-1.0, 0.02), ["(beyond noise)", "(probably beyond noise)", "Go by the"]),
        ((2.0, 0.001), (1.0, 0.02), ["2.00 BLEU above", "1.00 BLEU above"]),
    ],
)
def test_the_verdict_follows_from_the_numbers(
    beam: tuple[float, float], greedy: tuple[float, float], said: list[str]
) -> None:
    result = scored(*beam) | {"decoding": {"beam": 5}, "greedy": scored(*greedy)}
    words = verdict(result, ["bleu"])
    assert words.startswith("With beam 5, pg is ") and "one seed" in words
    assert all(part in words for part in said)
    for part in ("No difference", "Go by the"):
        assert (part in words) == (part in said)
    assert rows(result, ["bleu"])[1][1][-1].startswith(f"{20 + greedy[0]:.2f}")
    assert not verdict(result | {"baseline": None}, ["bleu"])


def test_examples_are_a_gain_and_a_loss_of_the_last_system(evaluate: Run, texts: Path) -> None:
    """The middle of the tenth that gains most, and of that which loses most, with their sources."""
    wrong = [text if n % 2 else text.replace("sentence", "s") for n, text in enumerate(SENTENCES)]
    other = [text.replace("number", "n") if n % 2 else text for n, text in enumerate(SENTENCES)]
    for name, outputs in (("mle", wrong), ("pg", other)):
        lines = [
            f"S-{n}\tQuelle {n}\nT-{n}\t{SENTENCES[n]}\nD-{n}\t-1\t{text}"
            for n, text in enumerate(outputs)
        ]
        (texts / name).write_text("\n".join(lines) + "\n")
    arguments = [texts / "mle", texts / "pg", "--baseline", "mle", "--json", texts / "s.json"]
    printed = evaluate(*arguments, "--examples", 2)
    gain, loss = json.loads((texts / "s.json").read_text())["examples"]
    assert (gain["kind"], loss["kind"]) == ("pg gains", "pg loses")
    assert gain["sentence"] % 2 == 0 and loss["sentence"] % 2 == 1
    assert gain["outputs"]["pg"] == {"text": SENTENCES[gain["sentence"]], "chrf": 100}
    assert gain["outputs"]["mle"]["chrf"] < 100 and loss["outputs"]["mle"]["chrf"] == 100
    assert f"Quelle {loss['sentence']}\n" in printed
    assert evaluate(*arguments, "--examples", 2) == printed
    assert "Quelle" not in evaluate(*arguments)
    evaluate(texts / "mle", "--examples", 3, "--json", texts / "s.json")
    spread = json.loads((texts / "s.json").read_text())["examples"]
    assert [one["sentence"] for one in spread] == [6, 20, 33]


def test_systems_by_name() -> None:
    assert parse_systems(["runs/mle", "x=a,b"], "mle") == {"mle": ["runs/mle"], "x": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], ["no checkpoint, folder or text at none"]),
        (["{}"], ["holds no checkpoint_best.pt", "--best-checkpoint-metric"]),
        (["{}/a-1"], ["no references", "--reference FILE"]),
        (["{}/a-1", "--reference", "{}/nothing"], ["--reference", "no file"]),
        (["{}/short", "--reference", "{}/ref"], ["1 hypotheses", "40 references"]),
        (["{}/short", "--reference", "{}/empty"], ["1 hypotheses", "0 references"]),
        (["{}/one", "{}/two"], ["different data", "--data", "--split"]),
        (["{}/torn"], ["is not complete"]),
        (["{}/binary", "--reference", "{}/ref"], ["neither a checkpoint (.pt) nor a text"]),
        (["{}/bad.pt"], ["bad.pt is not a checkpoint"]),
        (["a=x", "a=y"], ["two systems are called 'a'", "a=PATH,PATH"]),
        (["a="], ["'a='", "NAME=PATH"]),
        (["a=x", "--baseline", "b"], ["--baseline b", "a"]),
        (["a=x", "--columns", "bleu,meteor"], ["--columns", "meteor", "rouge1"]),
        (["a=x", "--tokenize", "words"], ["--tokenize", "13a", "none"]),
        (["a=x", "--tokenize", "ja-mecab"], ["--tokenize ja-mecab", "pip install sacrebleu[ja]"]),
        (["a=x", "--tokenize", "ko-mecab"], ["--tokenize ko-mecab", "pip install sacrebleu[ko]"]),
        (["a=x", "--beam", "0"], ["--beam", "at least 1"]),
        (["{}/a-1", "--reference", "{}/ref", "--greedy"], ["--greedy", "checkpoints"]),
    ],
)
def test_bad_input_names_the_flag_and_the_fix(
    arguments: list[str], words: list[str], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tokenizer in ("ja_mecab", "ko_mecab"):
        # As if it were not installed
        monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{tokenizer}.MeCab", None)
    (texts / "short").write_text("one\n")
    (texts / "empty").write_text("")
    (texts / "one").write_text("D-0\t-1\ta b\nT-0\ta b\n")
    (texts / "two").write_text("D-0\t-1\ta b\nT-0\ta c\n")
    (texts / "torn").write_text("D-0\t-1\ta b\nD-1\t-1\ta b\nT-0\ta b\n")
    (texts / "binary").write_bytes(b"\xff\xfe\x00")
    (texts / "bad.pt").write_text("no")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *(word.format(texts) for word in arguments)])
    message = str(ended.value.code)
    assert message.startswith("erpo: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_data_that_cannot_be_decoded(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    def refused(*arguments: Any, checkpoint: Path = tiny_checkpoint) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(checkpoint), *map(str, arguments)])
        return str(ended.value.code)

    none = tmp_path / "none"
    for data in (none, f"{tiny_data}:{none}"):
        assert refused("--data", data) == f"erpo: --data: there is no folder {none}"
    state = load(tiny_checkpoint)
    for data, known in (
        (none, f"was trained on {none}, which is not a folder here"),
        ("", "does not say what it was trained on"),
    ):
        state["cfg"]["task"]["data"] = str(data)
        torch.save(state, tmp_path / "x.pt")
        assert f"x.pt {known}; say where the data are with --data" in refused(
            checkpoint=tmp_path / "x.pt"
        )
    assert "cannot decode" in refused("--data", tmp_path)
    assert "--gen-subset dev" in refused("--split", "dev")
    assert not list(tiny_checkpoint.parent.glob("decoding-*"))
