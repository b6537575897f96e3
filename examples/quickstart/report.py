"""Quickstart report: scores, the table, five translations, and the picture of the learning curves."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from fairseq_erpo.files import write_json, write_text
from fairseq_erpo.scores import bleu_signature, measures
from fairseq_erpo.tools.training_log import from_json, numbered

SYSTEMS = {"pretrain": "MLE, where both start", "mle": "MLE, continued", "interp": "interpolation"}
COLOURS = {"pretrain": "0.55", "mle": "tab:blue", "interp": "tab:orange"}
EXPERTS = {"model": "model", "reward": "reward", "data": "data"}
SAMPLES = 5


# ---- what fairseq logged ----


def validation(path: Path) -> dict[int, float]:
    """Validation BLEU by epoch; an epoch that was run twice, before and after an interruption, counts once."""
    return {int(figures["epoch"]): figures["bleu"] for figures in from_json("", path).valid.values() if "bleu" in figures}


def mixtures(path: Path) -> dict[int, dict[str, float]]:
    """λ by expert's name, by epoch."""
    return {
        int(figures["epoch"]): {name: figures[f"lambda_{name}"] for name in EXPERTS}
        for figures in from_json("", path).train.values()
        if "lambda_data" in figures
    }


# ---- scores ----


def score(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], str]:
    """Corpus BLEU, mean ROUGE-L F1 (both in percent) and length ratio, with sacreBLEU's signature."""
    if len(hypotheses) != len(references):
        raise SystemExit(f"quickstart: {len(hypotheses)} translations of {len(references)} sentences.")
    scores = {}
    for name, key in {"bleu": "bleu", "rouge_l": "rougeL", "length_ratio": "length_ratio"}.items():
        measure = measures()[key]
        scores[name] = round(measure.score(measure.counts(hypotheses, references).sum(0)), measure.digits)
    return scores, bleu_signature()


def table(systems: Mapping[str, Mapping[str, float]], signature: str) -> str:
    """The scores as text."""
    lines = [f"{'test set':24}{'BLEU':>8}{'ROUGE-L':>10}{'length ratio':>15}"]
    for name, row in systems.items():
        lines.append(f"{SYSTEMS[name]:24}{row['bleu']:8.2f}{row['rouge_l']:10.2f}{row['length_ratio']:15.3f}")
    gap = systems["interp"]["bleu"] - systems["mle"]["bleu"]
    verdict = "within what two seeds differ by" if abs(gap) < 0.5 else "more than two seeds usually differ by (0.5)"
    lines += [f"sacreBLEU {signature}", f"interpolation minus MLE: {gap:+.2f} BLEU, {verdict}; one seed."]
    return "\n".join(lines)


def samples(source: Sequence[str], reference: Sequence[str], hypotheses: Mapping[str, Sequence[str]]) -> str:
    """Translations of sentences of middle length, spread evenly over the test set."""
    middling = [i for i, text in enumerate(source) if 6 <= len(text.split()) <= 14] or list(range(len(source)))
    chosen = middling[:: max(1, len(middling) // SAMPLES)][:SAMPLES]
    blocks = []
    for i in chosen:
        rows = [("source", source[i]), ("reference", reference[i])]
        rows += [(SYSTEMS[name], hypotheses[name][i]) for name in ("mle", "interp")]
        blocks.append("\n".join(f"  {name:16}{text}" for name, text in rows))
    return "\n\n".join(blocks)


# ---- the picture ----


def plot(logs: Mapping[str, Path], path: Path) -> None:
    """Validation BLEU by epoch above, λ of the interpolated run below, on one time axis."""
    before = max(validation(logs["pretrain"]), default=0)
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), height_ratios=(3, 2), layout="constrained")
    curves = {name: validation(log) for name, log in logs.items()}
    best = max(curves["pretrain"], key=curves["pretrain"].__getitem__)
    for name, curve in curves.items():
        points = sorted(curve.items())
        if name != "pretrain":
            points = [(before, curves["pretrain"][best]), *((before + epoch, bleu) for epoch, bleu in points)]
        style = {"pretrain": "o-", "mle": "s--", "interp": "D-"}[name]
        above.plot(
            *zip(*points, strict=True),
            style,
            color=COLOURS[name],
            label=SYSTEMS[name].split(",")[0] if name == "pretrain" else SYSTEMS[name],
        )
    above.set_ylabel("validation BLEU (greedy)")
    above.legend(loc="best")

    annealed = mixtures(logs["interp"])
    edges = [0, before, *(before + epoch for epoch in sorted(annealed))]
    heights = {name: [1.0 if name == "data" else 0.0, *(annealed[epoch][name] for epoch in sorted(annealed))] for name in EXPERTS}
    bottom = [0.0] * (len(edges) - 1)
    for name, colour in zip(("data", "reward", "model"), ("tab:green", "gold", "tab:purple"), strict=True):
        top = [low + height for low, height in zip(bottom, heights[name], strict=True)]
        below.stairs(top, edges, baseline=bottom, fill=True, color=colour, alpha=0.6, linewidth=0, label=f"λ {EXPERTS[name]}")
        bottom = top
    below.set_ylim(0, 1)
    below.set_ylabel("λ, interpolation")
    below.set_xlabel("epoch")
    below.legend(loc="lower left", reverse=True)
    for axes in (above, below):
        axes.axvline(before, color="0.3", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.25)
    below.set_xlim(0, edges[-1] + 0.1)
    below.xaxis.get_major_locator().set_params(integer=True)
    unfinished = path.with_name("unfinished-" + path.name)
    figure.savefig(unfinished, dpi=120)
    pyplot.close(figure)
    os.replace(unfinished, path)


def write_report(folder: Path, languages: tuple[str, str], seconds: Mapping[str, Any]) -> None:
    """Print the table and the samples; leave result.json, report.txt and curves.png in the run's folder."""
    source, reference = ((folder / "data" / f"test.{language}").read_text("utf-8").splitlines() for language in languages)
    hypotheses = {name: numbered((folder / f"test-{name}" / "output.txt").read_text("utf-8"), "D") for name in SYSTEMS}
    scored = {name: score(texts, reference) for name, texts in hypotheses.items()}
    signature = scored["interp"][1]
    systems = {name: scores for name, (scores, _) in scored.items()}
    picture = folder / "curves.png"
    plot({name: folder / name / "train.jsonl" for name in SYSTEMS}, picture)
    text = f"{table(systems, signature)}\n\n{samples(source, reference, hypotheses)}\n"
    write_text(folder / "report.txt", text)
    stages = dict(seconds)
    # mle and interp run side by side, and so do the three tests: the seconds of a step are those of its slowest stage.
    steps = [[name for name in stages if name.startswith("test-")], ["mle", "interp"], ["pretrain"], ["bin"]]
    total = sum(max(stages[name] for name in step) for step in steps)
    write_json(
        folder / "result.json", {**systems, "signature": signature, "seconds": round(total, 1), "seconds_by_stage": stages}
    )
    print(f"\n{text}\nLearning curves and λ: {picture}\nAll numbers:           {folder / 'result.json'}")
