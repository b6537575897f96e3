"""`python -m fairseq_erpo report`: one page with pictures from the logs of any runs; it loads
nothing from the network.
"""

import base64
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairseq_erpo.family import FAMILY
from fairseq_erpo.files import atomic_write, cause_of, read_json, write_text
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.scores import measures
from fairseq_erpo.tools import curves, training_log
from fairseq_erpo.tools.evaluate import check_distinct, legend, rows
from fairseq_erpo.tools.inspect_draw import Inspection
from fairseq_erpo.tools.inspect_page import STYLE, section
from fairseq_erpo.tools.load_run import add_arguments, load, part_of
from fairseq_erpo.tools.training_log import History, group_of

PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}
MORE_STYLE = """
body { max-width: 90rem; }
h2 { font-size: 1.1rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
.wide { overflow-x: auto; }
.wide th, .wide td { white-space: nowrap; border-bottom: 1px solid var(--line); text-align: right; }
.wide :is(th, td):first-child { text-align: left; }
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
@media (min-width: 75rem) { .panels > div { grid-column: span 2; } }
.blocks { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.blocks > section:not(.narrow) { grid-column: 1 / -1; }
summary { cursor: pointer; }
pre { white-space: pre-wrap; font-size: .875rem; }
figure { margin: 0; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure img { background: #fff; border-radius: .3rem; }
.whole { grid-column: 1 / -1; max-width: 60rem; }
figcaption { color: var(--quiet); font-size: .875rem; }
.samples section { padding: .75rem 0; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="conditions">{runs}</p>
<div class="blocks">
{body}
</div>
</body>
</html>
"""


def report(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `report`."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run's folder with its JSON log or TensorBoard events, or a log file; interp-1 and interp-2 are seeds of interp",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="where report.html and the pictures go"
    )
    parser.add_argument(
        "--scores", metavar="FILE", help="what evaluate --json wrote, for the table"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=3,
        metavar="N",
        help="sampled sentences of each annealed row (default: 3)",
    )
    parser.add_argument(
        "--gail", metavar="DIR", help="folder of pictures by `python -m gail plot`, to show as well"
    )
    args = parser.parse_args(argv)
    if args.samples < 0:
        raise ValueError(f"--samples must not be negative, and is {args.samples}")
    paths = [Path(run) for run in args.runs]
    groups = grouped(paths)
    scores = read_scores(args.scores) if args.scores else None
    looks = curves.looks([*groups, *(scores["systems"] if scores else ())])
    gail = gail_figures(Path(args.gail)) if args.gail else []
    out = Path(args.out)
    body = []
    if scores:
        panel = score_panel(scores, looks)
        save_panels([panel], out)
        table = "<div>" + "\n".join(score_table(scores)) + "</div>"
        body.append(_block("Scores", [_panels([table, _drawn(panel)])]))
    for title, panels in curves.panels(groups, looks).items():
        save_panels(panels, out)
        body.append(_block(title, [_panels(list(map(_drawn, panels)))], narrow=len(panels) == 1))
    body += (
        [_block("Samples", samples)]
        if (samples := list(sample_blocks(paths, args.samples)))
        else []
    )
    body += [_block("Imitation learning", [_panels(gail)])] if gail else []
    body.append(_block("Commands", list(commands(groups)) or [UNKNOWN]))
    described = ", ".join(
        f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name for name, runs in groups.items()
    )
    page = PAGE.format(
        title="Training report",
        style=STYLE + MORE_STYLE,
        runs=escape(described),
        body="\n".join(body),
    )
    write_text(out / "report.html", page, "--out")
    print(out / "report.html")


def save_panels(panels: Sequence[curves.Panel], out: Path) -> None:
    """Write each picture as a PNG file, too."""
    for panel in panels:
        with atomic_write(out / f"{panel.stem}.png", "--out") as part:
            part.write_bytes(curves.png(panel))


def grouped(paths: Sequence[Path]) -> dict[str, list[History]]:
    """Histories by name without seed.  Raises ValueError where there is no log, or one run twice."""
    groups: dict[str, list[History]] = {}
    for n, path in enumerate(paths):
        check_distinct(paths[: n + 1], str(path))
        history = training_log.read(path)
        groups.setdefault(group_of(history.name), []).append(history)
    return groups


# ---- the table ----


def read_scores(name: str) -> Mapping[str, Any]:
    """Read the file of `evaluate --json`.  Raises ValueError if it is something else."""
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--scores: there is no file {name}")
    try:
        result: Mapping[str, Any] = read_json(path)
        for _ in score_table(result):
            pass
        score_panel(result, curves.looks(result["systems"]))
    except Exception as error:  # whatever a file may hold: all that the page needs was tried
        made = "is not what `python -m fairseq_erpo evaluate --json` writes"
        raise ValueError(f"--scores {name} {made}: {cause_of(error)}") from None
    return result


def score_table(result: Mapping[str, Any]) -> Iterator[str]:
    columns = [name for name in result["columns"] if name in measures()]
    titles, lines = rows(result, columns)
    yield '<div class="wide"><table>'
    yield "<tr>" + "".join(f"<th>{escape(title)}</th>" for title in titles) + "</tr>"
    for line in lines:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
    yield "</table></div>"
    yield f'<p class="conditions">{"<br>".join(map(escape, legend(result, columns)))}</p>'


def score_panel(result: Mapping[str, Any], looks: curves.Looks) -> curves.Panel:
    """The first column of the table, seed by seed."""
    key = result["columns"][0]
    values = {name: system["scores"][key]["values"] for name, system in result["systems"].items()}
    title = ", ".join(
        [measures()[key].title, *([result["decoding"]["split"]] if "decoding" in result else [])]
    )
    return curves.dots("scores", title, values, looks, result["baseline"])


# ---- samples ----


def sample_blocks(paths: Sequence[Path], count: int) -> Iterator[str]:
    """Sequences that training would draw from the best checkpoint of each annealed group's first
    run.
    """
    seen: set[str] = set()
    for path in tqdm(paths, "samples", unit="run", disable=None, leave=False):
        checkpoint = (path if path.is_dir() else path.parent) / "checkpoint_best.pt"
        group = group_of(checkpoint.absolute().parent.name)
        if not count or group in seen or not checkpoint.is_file():
            continue
        try:
            data = _annealed_on(checkpoint)
            lines = _samples(checkpoint, data, count) if data else []
        except (
            ValueError,
            OSError,
        ) as error:  # a file may be broken or elsewhere: the rest of the page is worth having
            lines = [f'<p class="conditions">No samples: {escape(str(error))}</p>']
        if lines:
            seen.add(group)
            yield "\n".join([f'<div class="samples"><h3>{escape(group)}</h3>', *lines, "</div>"])


def _annealed_on(checkpoint: Path) -> str | None:
    """The data folder of a run whose row has a λ of its own."""
    state = check_checkpoint(str(checkpoint))
    row = FAMILY.get(str(part_of(state, "criterion").get("_name")).removeprefix("erpo_"))
    return (
        part_of(state, "task").get("data")
        if row is not None and "erpo_lambda" in row.flags
        else None
    )


def _samples(checkpoint: Path, data: str, count: int) -> list[str]:
    parser = ArgumentParser()
    add_arguments(parser, split="valid", count="--sentences", sentences=count, spread=True)
    loaded = load(parser.parse_args([str(checkpoint), data]))
    inspection = Inspection.of(loaded)
    conditions = f'<p class="conditions">{escape(loaded.conditions.line())}<br>{escape(inspection.legend)}</p>'
    return [conditions, *map(section, inspection.sentences)]


# ---- commands ----

UNKNOWN = '<p class="conditions">The logs do not say how the runs were started.</p>'


def commands(groups: Mapping[str, Sequence[History]]) -> Iterator[str]:
    """How each run was started."""
    for history in (run for runs in groups.values() for run in runs):
        for start in history.commands:
            made = f"version {start['version']}" + f", commit {start['commit']}" * bool(
                start["commit"]
            )
            summary = f"<summary>{escape(history.name)}, {escape(made)}</summary>"
            yield f"<details>{summary}<pre>{escape(start['command'])}</pre></details>"


# ---- pictures ----


def gail_figures(folder: Path) -> list[str]:
    """Pictures of a folder, in the page.  Raises ValueError if there is none."""
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"--gail {folder} holds no .png or .svg; `python -m gail plot` makes them")
    return [_embedded(file) for file in files]


def _embedded(file: Path) -> str:
    encoded = base64.b64encode(file.read_bytes()).decode()
    name = escape(file.stem)
    source = f"data:{PICTURES[file.suffix.lower()]};base64,{encoded}"
    return f'<figure class="whole"><img alt="{name}" src="{source}"><figcaption>{name}</figcaption></figure>'


def _drawn(panel: curves.Panel) -> str:
    return f"<figure>{curves.svg(panel)}</figure>"


def _panels(figures: Sequence[str]) -> str:
    return '<div class="panels">\n' + "\n".join(figures) + "\n</div>"


def _block(title: str, content: Iterator[str] | Sequence[str], narrow: bool = False) -> str:
    """A section; two narrow ones stand side by side where there is room."""
    kind = ' class="narrow"' if narrow else ""
    return f"<section{kind}><h2>{escape(title)}</h2>\n" + "\n".join(content) + "\n</section>"
