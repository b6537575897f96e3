"""Sampled sequences as one HTML file without scripts, pictures or addresses."""

from collections.abc import Iterator
from html import escape

from fairseq_erpo.tools.inspect_draw import LOOKS, Inspection, Sentence, Token, number

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --quiet: #5c656e; --paper: #fff; --line: #d8dde2;
  --model: #0b5cad; --model-paper: #deebfa; --reward: #8f4400; --reward-paper: #fde9d2;
  --data: #4d565f; --data-paper: #f0f2f4; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4e8ec; --quiet: #9da7b1; --paper: #14171a; --line: #353c43;
  --model: #86bdff; --model-paper: #14304f; --reward: #ffb366; --reward-paper: #46290c;
  --data: #b4bdc6; --data-paper: #24292e; } }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
h2 small, dt, .conditions, th { color: var(--quiet); font-weight: normal; }
h2 em { font-style: normal; font-weight: normal; border: 1px solid; border-radius: .3rem;
  padding: 0 .35rem; margin-left: .5rem; }
.conditions { font-size: .875rem; margin: 0 0 1rem; }
.summary { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: start;
  margin-bottom: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .2rem 1rem .2rem 0; text-align: left; font-variant-numeric: tabular-nums; }
dl { display: grid; gap: .2rem 1rem; margin: 0; }
dd { margin: 0; }
.summary dl { grid-template-columns: max-content 1fr; }
@media (min-width: 40rem) { dl { grid-template-columns: 5rem 1fr; } }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.tokens { display: flex; flex-wrap: wrap; gap: .35rem; list-style: none; margin: 0; padding: 0; }
.token { display: inline-flex; flex-direction: column; align-items: center; border-radius: .3rem;
  padding: .1rem .45rem; border-bottom: .2rem solid; min-width: 1.5rem; }
.token small { font-size: .75rem; font-variant-numeric: tabular-nums; }
.model { color: var(--model); background: var(--model-paper); border-bottom-style: solid; }
.reward { color: var(--reward); background: var(--reward-paper); border-bottom-style: dashed; }
.data { color: var(--data); background: var(--data-paper); border-bottom-color: transparent; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
BODY = """<p class="conditions">{conditions}</p>
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
{sentences}"""


def page(inspection: Inspection) -> str:
    """The whole file."""
    body = BODY.format(
        conditions=escape(inspection.conditions.line()),
        experts="\n".join(_experts(inspection)),
        figures="\n".join(entry(name, value) for name, value in inspection.figures().items()),
        legend=escape(inspection.legend),
        sentences="\n".join(map(section, inspection.sentences)),
    )
    title = escape(f"Sequences drawn from {inspection.conditions.checkpoint}")
    return PAGE.format(title=title, style=STYLE, body=body)


def _experts(inspection: Inspection) -> Iterator[str]:
    for expert, (look, share, drew, mean) in zip(LOOKS, inspection.experts(), strict=True):
        name = f'<span class="token {expert.name.lower()}">{look.letter} {look.name}</span>'
        cells = (name, f"{share:.3g}", f"{drew:.0%}", escape(mean))
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def section(sentence: Sentence) -> str:
    """One sentence."""
    title = f"Sentence {sentence.number} <small>reward {number(sentence.reward)}</small>"
    title += "<em>clipped at the length cap</em>" * sentence.clipped
    lines = [f"<section><h2>{title}</h2><dl>"]
    if sentence.source is not None:
        lines.append(entry("source", " ".join(sentence.source)))
    lines.append(entry("reference", " ".join(sentence.reference)))
    lines.append('<dt>sampled</dt><dd><ol class="tokens">')
    lines += [_box(t, token) for t, token in enumerate(sentence.tokens, start=1)]
    return "\n".join([*lines, "</ol></dd></dl></section>"])


def entry(name: str, value: str) -> str:
    """A name and a value of a definition list."""
    return f'<dt>{escape(name)}</dt><dd dir="auto">{escape(value)}</dd>'


def _box(t: int, token: Token) -> str:
    look = LOOKS[token.origin]
    known = "in" if token.in_reference else "not in"
    title = f"token {t}, drawn by {look.name}, ΔR {token.delta_r:.6f}, {known} the reference"
    return (
        f'<li class="token {token.origin.name.lower()}" title="{escape(title)}">'
        f"<bdi>{escape(token.text)}</bdi><small>{look.letter} {number(token.delta_r)}</small></li>"
    )
