"""What a model's card says of how it was trained."""

from pathlib import Path

from fairseq_erpo import __version__
from fairseq_erpo.algorithm.schedule import Now
from fairseq_erpo.huggingface.config import in_our_words
from fairseq_erpo.huggingface.engine import Engine

HEADING = "## How it was trained"


def with_row(card: Path, engine: Engine, now: Now) -> None:
    """Put the row, its flags and λ at the end into a model card."""
    args, settings = engine.args, engine.settings
    flags = in_our_words(engine.row.spelt(args.flags(1), args.validated_by))
    reward = settings.reward if isinstance(settings.reward, str) else args.reward or "the preset's"
    if engine.inputs.rewards:
        rewards = engine.inputs.rewards
        reward = " + ".join(f"{one.weight:g} {one.name}" for one in rewards)
    lines = [
        HEADING,
        "",
        f"By the row `{args.row}` of fairseq-erpo {__version__}:",
        "",
        f"    --row {args.row} {flags}",
        "",
        "| | |",
        "| --- | --- |",
        f"| preset | {args.preset or 'the default'} |",
        f"| reward | {reward} |",
        f"| λ at the end | {settings.schedule.mixture(now)} |",
        f"| updates | {now.update} |",
        "",
    ]
    text = card.read_text("utf-8").split(HEADING)[0].rstrip()
    card.write_text("\n".join([text, "", *lines]), "utf-8")
