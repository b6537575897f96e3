"""Algorithm 1 to look at: the sequences that training would draw from a checkpoint, token by token.

`sentences_of` asks the very sampler of training; `show` prints to a terminal, `page` makes one HTML file.
"""

from __future__ import annotations

import unicodedata
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from fairseq.data import Dictionary
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from torch import Tensor

from fairseq_erpo.border import Resources, batch_of, vocabulary_of
from fairseq_erpo.decoding import sampling_mode
from fairseq_erpo.engine import Batch, Drawn
from fairseq_erpo.family import FAMILY
from fairseq_erpo.files import whole
from fairseq_erpo.loading import Conditions, Loaded, add_arguments, at_least, load
from fairseq_erpo.rewards.base import Reference, replay
from fairseq_erpo.sampler import Expert

LEGEND = "Below each token: the letter of the expert that drew it, and ΔR (Eq. 3), by which it changed the reward."
AT_ONCE = 64  # sentences in one pass of the model


class Look(NamedTuple):
    """How an expert's tokens look. The letter says it without colour."""

    letter: str
    name: str
    style: str  # of rich: apart for colour-blind eyes, legible on light and dark


LOOKS: Mapping[Expert, Look] = {
    Expert.MODEL: Look("m", "model", "bold #2f81f7"),
    Expert.TASK: Look("t", "task reward", "underline #d9730d"),
    Expert.DELTA: Look("d", "data", "#8a8a8a"),
}


class Token(NamedTuple):
    """One drawn token."""

    text: str
    origin: Expert
    delta_r: float  # Eq. 3
    in_reference: bool  # as the training log counts it: EOS and UNK never are


class Sentence(NamedTuple):
    """One drawn sequence and what it was drawn for."""

    number: int  # its index in the data
    source: Sequence[str] | None
    reference: Sequence[str]
    tokens: Sequence[Token]
    reward: float  # Φ(∅) + ΣΔR
    clipped: bool  # True where the length cap ended it

    @property
    def words(self) -> Sequence[Token]:
        """The tokens without EOS."""
        return self.tokens if self.clipped else self.tokens[:-1]


@dataclass(frozen=True)
class Inspection:
    """Drawn sentences, at least one, and their conditions."""

    conditions: Conditions
    sentences: Sequence[Sentence]

    @property
    def tokens(self) -> list[Token]:
        return [token for sentence in self.sentences for token in sentence.tokens]

    def experts(self) -> Iterator[tuple[Look, float, float, str]]:
        """Of each expert: its look, its λ, its share of the tokens, its mean ΔR."""
        for expert, look in LOOKS.items():
            gains = [token.delta_r for token in self.tokens if token.origin == expert]
            mean = number(sum(gains) / len(gains)) if gains else "-"
            yield look, getattr(self.conditions.mixture, expert.name.lower()), len(gains) / len(self.tokens), mean

    def figures(self) -> dict[str, str]:
        """What else sums the sentences up, by name."""
        n = len(self.sentences)
        words = [token for sentence in self.sentences for token in sentence.words]
        asked = sum(len(sentence.reference) for sentence in self.sentences) / n
        return {
            "in the reference": f"{sum(token.in_reference for token in words) / max(len(words), 1):.0%} of the tokens",
            "mean length": f"{len(words) / n:.1f} without EOS (reference {asked:.1f})",
            "mean reward": number(sum(sentence.reward for sentence in self.sentences) / n),
            "clipped": f"{sum(sentence.clipped for sentence in self.sentences)} of {n}",
        }


def inspect(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `inspect`: load, draw, show."""
    add_arguments(parser, split="valid", count="--sentences", sentences=8)
    parser.add_argument("--sources", action=BooleanOptionalAction, default=True, help="print the source sentences")
    parser.add_argument("--html", metavar="FILE", help="write a page for the browser as well")
    args = parser.parse_args(argv)
    try:
        at_least("--sentences", args.sentences, 1)
        loaded = load(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"erpo: {error}") from None
    inspection = Inspection(loaded.conditions, list(sentences_of(loaded, args.sources)))
    show(inspection, Console(highlight=False, emoji=False))
    if args.html:
        with whole("--html", args.html) as part:
            part.write_text(page(inspection), "utf-8")


# ---- drawing ----


def sentences_of(loaded: Loaded, with_sources: bool = True) -> Iterator[Sentence]:
    """Draw for the chosen sentences, in their order."""
    conditions, task = loaded.conditions, loaded.task
    vocabulary = vocabulary_of(task.target_dictionary)
    for start in range(0, len(loaded.chosen), AT_ONCE):
        chosen = loaded.chosen[start : start + AT_ONCE]
        sample = loaded.dataset.collater([loaded.dataset[i] for i in chosen])
        with sampling_mode(loaded.model):
            batch = batch_of(
                sample,
                loaded.model,
                Resources(task, loaded.settings, vocabulary, None),
                seed=conditions.seed,
                update=conditions.update,
                mixture=conditions.mixture,
                stage=1,
            )
            drawn = FAMILY["interp"].draw(batch) or _data(batch)
        reference = Reference.of(batch.target, vocabulary)
        inside = drawn.tokens[:, :, None].eq(reference.keys[:, None, :]).any(2)
        # fairseq sorts a batch by length.
        row = {int(number): i for i, number in enumerate(sample["id"])}
        for i in (row[number] for number in chosen):
            length = int(drawn.tokens[i].ne(vocabulary.pad).sum())
            parts = (drawn.origin[i].tolist(), drawn.delta_r[i].tolist(), inside[i].tolist())
            words = _words(drawn.tokens[i, :length], task.target_dictionary)
            yield Sentence(
                number=int(sample["id"][i]),
                source=_words(sample["net_input"]["src_tokens"][i], task.source_dictionary, bare=True) if with_sources else None,
                reference=_words(batch.target[i], task.target_dictionary, bare=True),
                tokens=[Token(word, Expert(z), gain, known) for word, z, gain, known in zip(words, *parts, strict=False)],
                reward=float(drawn.reward[i]),
                clipped=bool(drawn.clipped[i]),
            )


def _data(batch: Batch) -> Drawn:
    """λ_delta = 1, where training takes y* without drawing: the same with its ΔR."""
    target, pad = batch.target, batch.target.eq(batch.vocabulary.pad)
    along = replay(batch.settings.reward, Reference.of(target, batch.vocabulary), target, batch.vocabulary)
    origin = pad.long().mul(int(Expert.NONE)).masked_fill(~pad, int(Expert.DELTA))
    return Drawn(target, origin, along.delta_r, along.total, clipped=pad.all(1))


def _words(tokens: Tensor, dictionary: Dictionary, bare: bool = False) -> list[str]:
    """As the dictionary spells them, subword marks kept; `bare` leaves PAD and EOS out."""
    hidden = (dictionary.pad(), dictionary.eos()) if bare else ()
    return [_visible(dictionary[i]) for i in tokens.tolist() if i not in hidden]


def _visible(text: str) -> str:
    """Control characters spelt out, for terminals obey them."""
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" else c for c in text)


def number(value: float) -> str:
    """Signed, three decimals at most: -1, +0.083, 0."""
    return f"{round(value, 3):+g}" if round(value, 3) else "0"


# ---- to the terminal ----

LABEL = 11  # columns: "reference" and two spaces


def show(inspection: Inspection, console: Console) -> None:
    """Print everything. Below each token stand the letter of its expert and its ΔR."""
    width = console.width - LABEL
    for sentence in inspection.sentences:
        end = ", clipped at the length cap" if sentence.clipped else ""
        _print(console, Text(f"sentence {sentence.number}: reward {number(sentence.reward)}{end}", "bold"))
        if sentence.source is not None:
            _labelled(console, "source", Text(" ".join(sentence.source)).wrap(console, width))
        _labelled(console, "reference", Text(" ".join(sentence.reference)).wrap(console, width))
        _labelled(console, "sampled", _columns(sentence.tokens, width))
        console.print()
    conditions = inspection.conditions
    _print(console, Text(conditions.checkpoint, "bold"))
    _print(console, Text(conditions.line()))
    _print(console, Text(LEGEND, "dim"))
    for look, share, realised, mean in inspection.experts():
        line = Text.assemble((f"{look.letter} {look.name}", look.style), " " * (LABEL + 2 - len(look.name)))
        _print(console, line.append(f"λ {share:<6.3g} drew {realised:<5.0%} of the tokens, mean ΔR {mean}"))
    _print(console, Text(" · ".join(f"{name} {value}" for name, value in inspection.figures().items())))


def _print(console: Console, text: Text) -> None:
    """A paragraph; rich would leave blanks at the ends of its lines."""
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


# ---- to a page ----

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --quiet: #5c656e; --paper: #fff; --line: #d8dde2;
  --model: #0b5cad; --model-paper: #deebfa; --task: #8f4400; --task-paper: #fde9d2; --delta: #4d565f; --delta-paper: #f0f2f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --quiet: #9da7b1; --paper: #14171a; --line: #353c43;
  --model: #86bdff; --model-paper: #14304f; --task: #ffb366; --task-paper: #46290c; --delta: #b4bdc6; --delta-paper: #24292e; } }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
h2 small, dt, .conditions, th { color: var(--quiet); font-weight: normal; }
h2 em { font-style: normal; border: 1px solid; border-radius: .3rem; padding: 0 .35rem; margin-left: .5rem; font-weight: normal; }
.conditions { font-size: .875rem; margin: 0 0 1rem; }
.summary { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: start; margin-bottom: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .2rem 1rem .2rem 0; text-align: left; font-variant-numeric: tabular-nums; }
dl { display: grid; gap: .2rem 1rem; margin: 0; }
dd { margin: 0; }
.summary dl { grid-template-columns: max-content 1fr; }
@media (min-width: 40rem) { dl { grid-template-columns: 5rem 1fr; } }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.tokens { display: flex; flex-wrap: wrap; gap: .35rem; list-style: none; margin: 0; padding: 0; }
.token { display: inline-flex; flex-direction: column; align-items: center; border-radius: .3rem; padding: .1rem .45rem;
  border-bottom: .2rem solid; min-width: 1.5rem; }
.token small { font-size: .75rem; font-variant-numeric: tabular-nums; }
.model { color: var(--model); background: var(--model-paper); border-bottom-style: solid; }
.task { color: var(--task); background: var(--task-paper); border-bottom-style: dashed; }
.delta { color: var(--delta); background: var(--delta-paper); border-bottom-color: transparent; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="conditions">{conditions}</p>
<div class="summary">
<table>
<tr><th>drawn by</th><th>λ</th><th>share</th><th>mean ΔR</th></tr>
{experts}
</table>
<dl>
{figures}
</dl>
</div>
<p class="conditions">{legend}</p>
{sentences}
</body>
</html>
"""


def page(inspection: Inspection) -> str:
    """One HTML file without scripts, pictures or addresses."""
    experts = [
        f'<tr><td><span class="token {expert.name.lower()}">{look.letter} {look.name}</span></td>'
        f"<td>{share:.3g}</td><td>{realised:.0%}</td><td>{escape(mean)}</td></tr>"
        for expert, (look, share, realised, mean) in zip(LOOKS, inspection.experts(), strict=True)
    ]
    return PAGE.format(
        title=escape(f"What {inspection.conditions.checkpoint} draws"),
        style=STYLE,
        conditions=escape(inspection.conditions.line()),
        experts="\n".join(experts),
        figures="\n".join(_entry(name, value) for name, value in inspection.figures().items()),
        legend=escape(LEGEND),
        sentences="\n".join(map(section, inspection.sentences)),
    )


def section(sentence: Sentence) -> str:
    clipped = "<em>clipped at the length cap</em>" if sentence.clipped else ""
    source = [_entry("source", " ".join(sentence.source))] if sentence.source is not None else []
    return "\n".join(
        (
            f"<section><h2>Sentence {sentence.number} <small>reward {number(sentence.reward)}</small>{clipped}</h2><dl>",
            *source,
            _entry("reference", " ".join(sentence.reference)),
            '<dt>sampled</dt><dd><ol class="tokens">',
            *(_box(t, token) for t, token in enumerate(sentence.tokens, start=1)),
            "</ol></dd></dl></section>",
        )
    )


def _entry(name: str, value: str) -> str:
    return f'<dt>{escape(name)}</dt><dd dir="auto">{escape(value)}</dd>'


def _box(t: int, token: Token) -> str:
    look = LOOKS[token.origin]
    known = "in" if token.in_reference else "not in"
    title = f"token {t}, drawn by {look.name}, ΔR {token.delta_r:.6f}, {known} the reference"
    return (
        f'<li class="token {token.origin.name.lower()}" title="{escape(title)}">'
        f"<bdi>{escape(token.text)}</bdi><small>{look.letter} {number(token.delta_r)}</small></li>"
    )
