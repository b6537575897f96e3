"""--eval-rouge: what validation logs is the score of greedy outputs, whatever the batches;
checkpoints and λ follow it.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Fairseq, build, load, records
from fairseq.logging import metrics

from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.scores import ROUGE, measures
from fairseq_erpo.tools.generate import numbered

FLAGS = "--task erpo_translation --criterion erpo_mle --eval-rouge"
GREEDY = ["--eval-bleu-args", '{"beam": 1}']


def validated(
    data: Path, checkpoint: Path, batches: list[list[int]], flags: str = FLAGS
) -> dict[str, float]:
    """The metrics of some batches of the validation data."""
    built = build(data, flags)
    built.model.load_state_dict(load(checkpoint)["model"])
    built.model.eval()
    logs = [
        built.task.valid_step(built.batch(ids, "valid"), built.model, built.criterion)[2]
        for ids in batches
    ]
    with metrics.aggregate(new_root=True) as found:
        built.task.reduce_metrics(logs, built.criterion)
    return dict(found.get_smoothed_values())


def test_it_is_the_score_of_greedy_outputs(
    fairseq: Fairseq, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Against fairseq-generate on the same data."""
    common = [
        tiny_data,
        "--user-dir",
        "fairseq_erpo",
        "--task",
        "erpo_translation",
        "--path",
        tiny_checkpoint,
        "--cpu",
    ]
    output = (
        fairseq.start("fairseq-generate", [*common, "--gen-subset", "valid", "--beam", 5])
        .succeed()
        .output
    )
    found = validated(tiny_data, tiny_checkpoint, [list(range(17)), list(range(17, 40))])
    hypotheses, references = numbered(output, "D"), numbered(output, "T")
    for name in ROUGE:
        measure = measures()[name]
        # fairseq rounds to two digits.
        assert found[name] == pytest.approx(
            measure.score(measure.counts(hypotheses, references).sum(0)), abs=0.006
        )
    assert found["rouge"] == pytest.approx(sum(found[name] for name in ROUGE), abs=0.02)
    assert 0 < found["rouge2"] < found["rouge1"] < 100


def test_batches_do_not_matter_and_bleu_may_stand_beside_it(
    tiny_data: Path, tiny_checkpoint: Path
) -> None:
    whole = validated(tiny_data, tiny_checkpoint, [list(range(40))])
    parts = validated(
        tiny_data,
        tiny_checkpoint,
        [[0], list(range(1, 30)), list(range(30, 40))],
        f"{FLAGS} --eval-bleu",
    )
    assert "bleu" in parts and "bleu" not in whole
    assert {name: parts[name] for name in (*ROUGE, "rouge")} == {
        name: whole[name] for name in (*ROUGE, "rouge")
    }


def test_without_the_flag_nothing_is_generated(tiny_data: Path, tiny_checkpoint: Path) -> None:
    found = validated(tiny_data, tiny_checkpoint, [[0, 1]], FLAGS.replace(" --eval-rouge", ""))
    assert "loss" in found and not {"rouge", "rouge1"} & set(found)


def test_unknown_words_never_match(
    tiny_data: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(tiny_data, FLAGS)
    batch = built.batch([0, 1], "valid")
    unknown = built.task.tgt_dict.unk()
    batch["target"][batch["target"].gt(unknown)] = unknown

    def generated(*_: Any, **__: Any) -> list[list[dict[str, Any]]]:
        return [[{"tokens": target}] for target in batch["target"]]

    monkeypatch.setattr(built.task, "inference_step", generated)
    sums = built.task.valid_step(batch, built.model, built.criterion)[2]
    assert sums["_rouge_sentences"] == 2 and sums["_rouge1"] == 0


@pytest.mark.slow
def test_checkpoints_are_selected_on_it_and_the_plateau_schedule_reads_it(
    fairseq: Fairseq, tiny_data: Path, tmp_path: Path
) -> None:
    """The smallest ROUGE is asked for here, so that learning is a fall, at which the plateau
    schedule takes its step.
    """
    flags = (
        "--task erpo_translation --eval-rouge --best-checkpoint-metric rouge --no-epoch-checkpoints"
    )
    plateau = (
        "--criterion erpo_interp --erpo-preset robust --erpo-schedule plateau --erpo-pretrain 1e"
    )
    fairseq.train(
        tiny_data,
        tmp_path,
        [*f"{flags} {plateau} --erpo-lambda model=3/7,reward=4/7 --max-epoch 4".split(), *GREEDY],
    ).succeed()
    log = {
        int(record["epoch"]): record
        for record in records(tmp_path / "log")
        if "valid_rouge" in record
    }
    scores = [log[epoch]["valid_rouge"] for epoch in (1, 2, 3, 4)]
    assert scores[0] == min(scores) and scores[1] < scores[2]
    assert log[4]["valid_best_rouge"] == scores[0]
    best = check_checkpoint(str(tmp_path / "checkpoint_best.pt"))
    assert best["extra_state"]["best"] == pytest.approx(scores[0])
    assert best["extra_state"]["train_iterator"]["epoch"] == 2  # the one that follows the best
    steps = {
        int(record["epoch"]): record["lambda_data"]
        for record in records(tmp_path / "log")
        if "lambda_data" in record
    }
    assert [round(steps[epoch], 2) for epoch in (1, 2, 3, 4)] == [1, 0.72, 0.72, 0.44]


def test_a_language_that_rouge_does_not_count_is_refused_before_training(
    tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    dictionary = data / "dict.en.txt"
    words = (line.split() for line in dictionary.read_text("utf-8").splitlines())
    russian = str.maketrans("W0123456789", "Жабвгдеёзик")
    dictionary.write_text(
        "".join(f"{word.translate(russian)} {count}\n" for word, count in words), "utf-8"
    )
    with pytest.raises(
        SystemExit, match=r"^erpo: --eval-rouge .* 0\.0% .* valid references: use --eval-bleu"
    ):
        build(data, FLAGS).task.load_dataset("valid")
    build(data, FLAGS.replace("--eval-rouge", "--eval-bleu")).task.load_dataset("valid")
