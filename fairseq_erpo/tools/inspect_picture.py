"""One sentence drawn at four points of λ, as an SVG that stands on light and dark paper alike."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from rich.cells import cell_len

from fairseq_erpo.algorithm.batch import Expert
from fairseq_erpo.mixture import MLE, NAMES, PAPER_END, Mixture
from fairseq_erpo.tools.inspect_draw import Inspection, Token
from fairseq_erpo.tools.load_run import MIDWAY, Loaded

# From the data alone, along the paper's schedule (A.3.2), to the model alone
POINTS = (MLE, MIDWAY, PAPER_END, Mixture(model=1, reward=0, data=0))
TITLES = ("maximum likelihood", "annealing", "no data left", "policy gradient")
START = "▁"  # sentencepiece's mark of a word's beginning

# Lengths are in pixels.
WIDTH, LEFT, EDGE = 900, 218, 6
LETTER, CHIP, ROUND = 8.43, 27, 5  # a monospaced letter at 14, a token's height and corners
PADDING, BETWEEN_PIECES, BETWEEN_WORDS = 5, 2, 7
LINE, ROW, BAR = 34, 22, 150  # a line of tokens, the space below a row, λ's bar
HEAD, FOOT = 66, 30

# A token's paper and ink: apart for colour-blind eyes, and by lightness too
COLOURS = {
    Expert.DATA: ("#d5dae0", "#1f2328"),
    Expert.REWARD: ("#f2a33a", "#1f2328"),
    Expert.MODEL: ("#1f63c8", "#ffffff"),
}
ORIGINS = {
    Expert.DATA: "from the data: the reference's own token",
    Expert.REWARD: "from the reward: what gains most here",
    Expert.MODEL: "from the model: its own guess",
}
STYLE = """
text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #5f6974; }
@media (prefers-color-scheme: dark) { text { fill: #9aa4ae; } }
.title { font-weight: 600; font-size: 14px; }
.small { font-size: 12px; }
.token { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
"""


class Chip(NamedTuple):
    """A token with its place in a row of the picture."""

    token: Token
    text: str
    x: float
    line: int
    wide: float


def four_points(loaded: Loaded) -> list[Inspection]:
    """The first chosen sentence, drawn at each of POINTS from the same random numbers."""
    first = loaded._replace(chosen=loaded.chosen[:1])
    return [
        Inspection.of(first._replace(conditions=first.conditions._replace(mixture=point)))
        for point in POINTS
    ]


def picture(inspections: Sequence[Inspection]) -> str:
    """The whole file: source and reference, then a row for each inspection's first sentence."""
    sentence = inspections[0].sentences[0]
    parts = [
        _text(EDGE, 18, "source", "title"),
        _text(LEFT, 18, _spelt(sentence.source or [])),
        _text(EDGE, 42, "reference", "title"),
        _text(LEFT, 42, _spelt(sentence.reference)),
    ]
    y = HEAD
    for title, inspection in zip(TITLES, inspections, strict=True):
        chips = list(_chips(inspection.sentences[0].words))
        parts += ["<g>", *_label(title, inspection.conditions.mixture, y)]
        parts += [_drawn(chip, y) for chip in chips] + ["</g>"]
        y += LINE * (1 + max((chip.line for chip in chips), default=0)) + ROW
    parts += _legend(y)
    conditions = inspections[0].conditions
    said = f"Sentence {sentence.number}, {conditions.split}; {conditions.flags}; seed {conditions.seed}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + FOOT}" '
            f'viewBox="0 0 {WIDTH} {y + FOOT}" role="img">',
            "<title>One sentence drawn at four points of λ, each token coloured by where it came "
            "from</title>",
            f"<desc>{escape(said)}</desc>",
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        )
    )


def _spelt(pieces: Sequence[str]) -> str:
    """Pieces joined to words."""
    return "".join(pieces).replace(START, " ").strip() if _in_pieces(pieces) else " ".join(pieces)


def _in_pieces(pieces: Sequence[str]) -> bool:
    return any(piece.startswith(START) for piece in pieces)


def _chips(tokens: Sequence[Token]) -> Iterator[Chip]:
    """Tokens side by side, on as many lines as they need."""
    pieces = _in_pieces([token.text for token in tokens])
    x, line = float(LEFT), 0
    begins = True
    for token in tokens:
        text = token.text.removeprefix(START) if pieces else token.text
        begins = begins or not pieces or token.text.startswith(START)
        if not text:  # the mark alone: the next piece begins the word
            continue
        wide = LETTER * cell_len(text) + 2 * PADDING
        x += BETWEEN_WORDS if begins and x > LEFT else 0
        if x + wide > WIDTH - EDGE and x > LEFT:
            x, line = float(LEFT), line + 1
        yield Chip(token, text, x, line, wide)
        x += wide + BETWEEN_PIECES
        begins = False


def _drawn(chip: Chip, y: float) -> str:
    paper, ink = COLOURS[chip.token.origin]
    top = y + LINE * chip.line
    return (
        f'<rect class="{chip.token.origin.name.lower()}" x="{chip.x:.1f}" y="{top}" '
        f'width="{chip.wide:.1f}" height="{CHIP}" rx="{ROUND}" fill="{paper}"/>'
        f'<text class="token" x="{chip.x + PADDING:.1f}" y="{top + 18}" '
        f'textLength="{chip.wide - 2 * PADDING:.1f}" style="fill: {ink}">{escape(chip.text)}</text>'
    )


def _label(title: str, mixture: Mixture, y: float) -> Iterator[str]:
    """A row's name, and its λ as a bar and in numbers."""
    yield _text(EDGE, y + 9, title, "title")
    x = float(EDGE)
    shares = {name: getattr(mixture, name) for name in reversed(NAMES)}  # as annealing goes
    for name, share in shares.items():
        if share:
            paper, _ = COLOURS[Expert[name.upper()]]
            yield f'<rect x="{x:.1f}" y="{y + 15}" width="{BAR * share:.1f}" height="6" fill="{paper}"/>'
            x += BAR * share
    numbers = ", ".join(f"{name} {_share(share)}" for name, share in shares.items() if share)
    yield _text(EDGE, y + 36, numbers, "small")


def _legend(y: float) -> Iterator[str]:
    for x, (expert, meaning) in zip((EDGE, 322, 634), ORIGINS.items(), strict=True):
        yield f'<rect x="{x}" y="{y + 6}" width="14" height="14" rx="3" fill="{COLOURS[expert][0]}"/>'
        yield _text(x + 21, y + 17, meaning)


def _share(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").removeprefix("0")


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x}" y="{y}">{escape(text)}</text>'
