"""`python -m fairseq_erpo variance` against gradients that are stored and compared directly."""

import json
import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build, load
from rich.console import Console

from fairseq_erpo.__main__ import main
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.tools import load_run
from fairseq_erpo.tools.load_run import Conditions
from fairseq_erpo.tools.variance import (
    PLAIN,
    VARIANTS,
    Measured,
    Moments,
    Variant,
    flags_of,
    gradient,
    measure,
    show,
)

# At c = 1 the model's own targets teach nothing in expectation
WHOLE = {"erpo_targets": "reward"}
HALF = "--lambda model=.5,reward=.1,data=.4 --erpo-c-model 1"
# A reward expert that spreads over the vocabulary
REWARD = "--lambda reward=.8,data=.2 --erpo-reward edit --erpo-c 1"
Measure = Callable[..., Measured]


@pytest.fixture(scope="module")
def measured(tiny_data: Path, tiny_checkpoint: Path) -> Measure:
    def run(
        flags: str,
        row: str = "interp",
        switches: dict[str, Any] | None = None,
        draws: int = 6,
        sentences: int = 6,
    ) -> Measured:
        parser = ArgumentParser()
        load_run.add_arguments(parser, split="train", count="--batch", sentences=sentences)
        loaded = load_run.load(
            parser.parse_args([str(tiny_checkpoint), str(tiny_data), *flags.split()])
        )
        sample = loaded.dataset.collater([loaded.dataset[i] for i in loaded.chosen])
        return measure(Variant("", row, switches or {}), loaded, sample, draws)

    return run


def test_moments_are_those_of_the_stored_vectors() -> None:
    torch.manual_seed(1)
    vectors = 3 + torch.randn(40, 50) * torch.linspace(0.1, 2, 50)
    moments = Moments()
    for vector in vectors:
        moments.add(vector)
    variance = float(vectors.double().var(0).sum())
    assert moments.variance == pytest.approx(variance, rel=1e-5)
    assert moments.mean_norm == pytest.approx(
        math.sqrt(float(vectors.mean(0).square().sum()) - variance / 40), rel=1e-5
    )
    pairs = (vectors[::2] - vectors[1::2]).square().sum(1) / 2
    assert moments.error == pytest.approx(float(pairs.std()) / 20**0.5, rel=1e-5)


@pytest.mark.parametrize("flags", ["", "--erpo-targets drawn --erpo-samples 2"])
def test_equals_the_variance_of_stored_gradients(
    flags: str, tiny_data: Path, tiny_checkpoint: Path, measured: Measure
) -> None:
    """The criterion as fairseq-train builds it from the same flags, five gradients kept."""
    share = "model=.3,reward=.3,data=.4"
    constant = f"--erpo-preset robust --erpo-schedule constant --erpo-lambda {share}"
    built = build(tiny_data, f"--criterion erpo_interp --seed 3 {constant} {flags}")
    built.model.load_state_dict(load(tiny_checkpoint)["model"])
    sample = built.batch(list(range(6)))
    built.criterion.train()
    built.model.eval()
    gradients, sizes = [], []
    for update in (1, 2, 3, 4, 5):
        built.task.clock.update = update
        built.model.zero_grad()
        loss, size, _ = built.criterion(built.model, sample)
        loss.backward()
        gradients.append(
            {
                name: p.grad.double() / float(size)
                for name, p in built.model.named_parameters()
                if p.grad is not None
            }
        )
        sizes.append(float(size))
    variance = sum(
        float(torch.stack([g[name] for g in gradients]).var(0).sum()) for name in gradients[0]
    )
    means = sum(
        float(torch.stack([g[name] for g in gradients]).mean(0).square().sum())
        for name in gradients[0]
    )
    words = flags.split()
    switches = {
        flag[2:].replace("-", "_"): value
        for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    switches = {name: int(value) if value.isdigit() else value for name, value in switches.items()}
    found = measured(
        f"--erpo-preset robust --lambda {share} --seed 3", switches=switches, draws=5, sentences=6
    )
    # float32 sums of some hundred thousand terms
    assert found.variance == pytest.approx(variance, rel=1e-3)
    assert found.tokens == pytest.approx(sum(sizes) / 5) and found.per_token == pytest.approx(
        variance * sum(sizes) / 5, rel=1e-3
    )
    assert found.mean_norm == pytest.approx(math.sqrt(means - variance / 5), rel=1e-2)
    assert found.snr == pytest.approx(math.sqrt(max(means - variance / 5, 0) / variance), rel=1e-2)


# The margins: over five seeds soft / hard lay in .23-.28, four samples in .23-.26 (variance) and
# .95-1.01 (per token), leave one out / none in .09-.14.


def test_the_rewards_whole_distribution_takes_variance_away(measured: Measure) -> None:
    hard, soft = measured(REWARD, switches=PLAIN), measured(REWARD, switches=PLAIN | WHOLE)
    assert hard.tokens == soft.tokens  # the same draws
    assert soft.per_token < 0.5 * hard.per_token
    assert soft.mean_norm == pytest.approx(hard.mean_norm, rel=0.25)  # the same expected gradient


def test_more_samples_count_by_their_tokens(measured: Measure) -> None:
    one, four = measured(HALF, switches=PLAIN), measured(HALF, switches=PLAIN | {"erpo_samples": 4})
    assert four.tokens == pytest.approx(4 * one.tokens, rel=0.1)
    assert four.variance < 0.4 * one.variance and four.per_token == pytest.approx(
        one.per_token, rel=0.35
    )
    assert four.snr > 1.3 * one.snr


def test_a_baseline_takes_variance_away(measured: Measure) -> None:
    none = measured("", "pg")
    others = measured("", "pg", {"erpo_baseline": "leave_one_out", "erpo_samples": 4})
    assert others.per_token < 0.4 * none.per_token


def test_nothing_is_drawn_and_nothing_varies_on_the_data(measured: Measure) -> None:
    found = measured("--lambda data=1")
    assert found.variance == pytest.approx(0, abs=1e-9) and found.mean_norm > 0


def test_flags_are_the_rows_own_with_lambda_to_the_last_digit() -> None:
    given = {
        "erpo_preset": "paper",
        "erpo_c": "7",
        "erpo_reward": "rouge",
        "erpo_lambda": "model=1",
    }
    mixture = Mixture(1 / 7, 2 / 7, 4 / 7)
    flags = flags_of(VARIANTS[1], given, mixture)
    assert Mixture.parse(flags.pop("erpo_lambda")) == mixture
    expected = {
        "erpo_preset": "paper",
        "erpo_c": "7",
        "erpo_reward": "rouge",
        "erpo_schedule": "constant",
    }
    assert flags == expected | PLAIN | WHOLE
    assert flags_of(Variant("", "pg", {"erpo_baseline": "greedy"}), given, mixture) == {
        "erpo_reward": "rouge",
        "erpo_baseline": "greedy",
    }


def test_every_line_of_the_table_is_another_and_no_preset_changes_one() -> None:
    lines = {(variant.row, *sorted(variant.switches.items())) for variant in VARIANTS}
    assert len(lines) == len(VARIANTS)
    interp = [variant.switches for variant in VARIANTS if variant.row == "interp"]
    assert interp[0] == PLAIN and PLAIN["erpo_targets"] == "drawn"
    assert all(switches.keys() >= interp[0].keys() for switches in interp)


def test_dropout_stays_off(tiny_data: Path) -> None:
    built = build(
        tiny_data,
        "--criterion erpo_interp --erpo-preset robust --erpo-schedule constant --dropout .5",
    )
    sample = built.batch([1, 2, 3])
    built.model.train()
    (first, size), (second, _) = (
        gradient(built.criterion.train(), built.model, sample, 4) for _ in range(2)
    )
    assert (
        torch.equal(first, second)
        and size > 0
        and len(first) == sum(p.numel() for p in built.model.parameters())
    )


# ---- the command line ----


def test_table_and_json(
    tiny_data: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    file = tmp_path / "new" / "x.json"
    where = [str(tiny_checkpoint), str(tiny_data)]
    flags = ["--batch", "3", "--draws", "4", "--lambda", "model=.4,reward=.3,data=.3"]
    main(["variance", *where, *flags, "--json", str(file)])
    output = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found.keys() == {
        "checkpoint",
        "data",
        "split",
        "sentences",
        "draws",
        "seed",
        "lambda",
        "variants",
    }
    assert [
        found[key] for key in ("checkpoint", "data", "split", "sentences", "draws", "seed")
    ] == [*where, "train", [0, 1, 2], 4, 1]
    lines = found["variants"]
    assert len(lines) == len(VARIANTS) and {
        name for line in lines for name in line["switches"]
    } == {"--erpo-targets", "--erpo-samples", "--erpo-baseline"}
    keys = "criterion switches flags target_tokens variance variance_per_token standard_error_per_token ratio mean_norm snr"
    for line, variant in zip(lines, VARIANTS, strict=True):
        assert line.keys() == set(keys.split()) and line["criterion"] == f"erpo_{variant.row}"
        assert line["variance_per_token"] == pytest.approx(line["variance"] * line["target_tokens"])
        assert line["ratio"] == pytest.approx(
            line["variance_per_token"] / lines[0]["variance_per_token"]
        )
        row = next(
            text for text in output.splitlines() if re.match(re.escape(variant.label) + r"  ", text)
        )
        assert row.split()[-6:-4] == [
            f"{line['target_tokens']:.0f}",
            f"{line['variance_per_token']:.4g}",
        ]
        assert row.split()[-3] == f"{line['ratio']:.2f}" and len(row.rstrip()) <= 80
    assert "\x1b" not in output and "λ model=0.4,reward=0.3,data=0.3" in " ".join(output.split())
    assert not list(tmp_path.rglob("*.part"))


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    conditions = Conditions("x.pt", "data", "train", "", Mixture(0.2, 0.3, 0.5), 1, 2)
    loaded: Any = Namespace(conditions=conditions, flags={}, chosen=[1])
    lines = [
        Measured(variant, {}, 12345, 1.2345e-8 / 9**n, 1.2345e-9, 1.2345e-4 / 3**n)
        for n, variant in enumerate(VARIANTS)
    ]
    show(lines, loaded, 16, Console(width=80))
    table = capsys.readouterr().out.split("\n\n")[0]
    assert "…" not in table and table.split()[:8] == [
        "variant",
        "n",
        "V",
        "·",
        "n",
        "±",
        "ratio",
        "‖mean‖",
    ]
    assert "· leave one out, 4 samples  12345  " in table and all(
        f" {line.per_token:.4g} " in table for line in lines
    )


def test_nothing_is_written_where_it_is_run(
    tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that follows the model keeps its counts beside its checkpoints: those here are another
    run's.
    """
    monkeypatch.chdir(tmp_path)
    main(
        [
            "variance",
            str(tiny_checkpoint),
            str(tiny_data),
            "--batch",
            "2",
            "--draws",
            "4",
            "--erpo-preset",
            "corpus",
        ]
    )
    assert not list(tmp_path.iterdir())


def test_what_can_be_wrong_is_one_line(
    tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["variance", *map(str, arguments)])
        message = str(ended.value.code)
        assert (
            message.startswith("erpo: ") and "\n" not in message and capsys.readouterr().out == ""
        )
        return message

    assert "no checkpoint at" in refused(tmp_path / "none.pt", tiny_data)
    assert "there is no folder" in refused(tiny_checkpoint, tmp_path / "none")
    assert "--split dev" in refused(tiny_checkpoint, tiny_data, "--split", "dev")
    assert "--batch must be at least 1, not 0" in refused(tiny_checkpoint, tiny_data, "--batch", 0)
    assert "--draws must be at least 4, not 3" in refused(tiny_checkpoint, tiny_data, "--draws", 3)
    assert "--lambda: λ must sum to one" in refused(
        tiny_checkpoint, tiny_data, "--lambda", "model=.5"
    )
    assert "--erpo-reward 'blue' is unknown" in refused(
        tiny_checkpoint, tiny_data, "--erpo-reward", "blue"
    )
