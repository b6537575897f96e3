"""Sampled sequences in the terminal: below each token the letter of its expert and its ΔR."""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fairseq_erpo.tools.inspect_draw import LOOKS, Inspection, Token, number

LABEL = 11  # columns: "reference" and two spaces


def show(inspection: Inspection, console: Console) -> None:
    """Print every sentence, then the conditions and the summary."""
    width = console.width - LABEL
    for sentence in inspection.sentences:
        end = ", clipped at the length cap" if sentence.clipped else ""
        _print(
            console,
            Text(f"sentence {sentence.number}: reward {number(sentence.reward)}{end}", "bold"),
        )
        if sentence.source is not None:
            _labelled(console, "source", Text(" ".join(sentence.source)).wrap(console, width))
        _labelled(console, "reference", Text(" ".join(sentence.reference)).wrap(console, width))
        _labelled(console, "sampled", _columns(sentence.tokens, width))
        console.print()
    conditions = inspection.conditions
    _print(console, Text(conditions.checkpoint, "bold"))
    _print(console, Text(conditions.line()))
    _print(console, Text(inspection.legend, "dim"))
    for look, share, realised, mean in inspection.experts():
        line = Text.assemble(
            (f"{look.letter} {look.name}", look.style), " " * (LABEL + 2 - len(look.name))
        )
        _print(
            console,
            line.append(f"λ {share:<6.3g} drew {realised:<5.0%} of the tokens, mean ΔR {mean}"),
        )
    _print(
        console, Text(" · ".join(f"{name} {value}" for name, value in inspection.figures().items()))
    )


def _print(console: Console, text: Text) -> None:
    """Print a paragraph without trailing blanks, which rich would leave."""
    _labelled(console, "", text.wrap(console, console.width), 0)


def _labelled(console: Console, label: str, lines: Iterable[Text], indent: int = LABEL) -> None:
    for line in lines:
        line.rstrip()
        console.print(Text.assemble((label.ljust(indent), "dim"), line), soft_wrap=True)
        label = ""


def _columns(tokens: Sequence[Token], width: int) -> list[Text]:
    """Pairs of lines, tokens above and their letters and ΔR below, as many columns as fit."""
    lines: list[Text] = []
    used = width
    for token in tokens:
        look = LOOKS[token.origin]
        below = f"{look.letter} {number(token.delta_r)}"
        wide = max(cell_len(token.text), len(below))
        if used + 2 + wide > width:
            lines += [Text(), Text()]
            used = 0
        else:
            for line in lines[-2:]:
                line.pad_right(used + 2 - line.cell_len)
            used += 2
        lines[-2].append(token.text, look.style)
        lines[-1].append(below, "dim")
        used += wide
    return lines
