"""`python -m fairseq_erpo report`: one page with pictures from the logs of any runs; it loads
nothing from the network.
"""

import base64
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairseq_erpo.family import FAMILY
from fairseq_erpo.files import atomic_write, cause_of, read_json, write_text
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.scores import measures
from fairseq_erpo.tools import curves, training_log
from fairseq_erpo.tools.curves import Groups
from fairseq_erpo.tools.evaluate import check_distinct
from fairseq_erpo.tools.inspect_draw import Inspection
from fairseq_erpo.tools.inspect_page import PAGE, STYLE, entry, section
from fairseq_erpo.tools.load_run import MIDWAY, add_arguments, load, part_of
from fairseq_erpo.tools.score_table import legend, rows, verdict
from fairseq_erpo.tools.training_log import History, group_of
from fairseq_erpo.verbs import Option, add_options

BEST = "checkpoint_best.pt"
SCORES = "scores.json"  # where --scores looks by itself
PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}
MORE_STYLE = """
body { max-width: 90rem; }
h2 { font-size: 1.1rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
p, figcaption { max-width: 70ch; }
.wide { overflow-x: auto; }
.wide :is(th, td) { white-space: nowrap; border-bottom: 1px solid var(--line); text-align: right; }
.wide :is(th, td):first-child { text-align: left; }
.panels, .blocks { display: grid; gap: 1.5rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.blocks > section:not(.narrow) { grid-column: 1 / -1; }
summary { cursor: pointer; }
pre { white-space: pre-wrap; font-size: .875rem; }
figure { margin: 0; max-width: 44rem; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure img { background: #fff; border-radius: .3rem; }
.whole { grid-column: 1 / -1; max-width: 60rem; }
figcaption { color: var(--quiet); font-size: .875rem; margin-top: .25rem; }
.missing { border-left: .2rem solid var(--reward); padding-left: .75rem; }
.samples section { padding: .75rem 0; }
"""
BODY = """<p class="conditions">{runs}</p>
{missing}
<div class="blocks">
{blocks}
</div>"""


OPTIONS: Mapping[str, Option] = {
    "--scores": ("FILE", str, f"of evaluate --json (default: {SCORES} beside the runs' folders)"),
    "--samples": ("N", 3, "sampled sentences of each annealed row"),
    "--gail": ("DIR", str, "folder of pictures by `python -m gail plot`, to show as well"),
}


def report(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `report`."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run's folder with its JSON log or TensorBoard events, or a log file; interp-1 and "
        "interp-2 are seeds of interp",
    )
    where = "where report.html and the pictures go"
    parser.add_argument("--out", metavar="DIR", required=True, help=where)
    add_options(parser, OPTIONS)
    args = parser.parse_args(argv)
    if args.samples < 0:
        raise ValueError(f"--samples must not be negative, and is {args.samples}")
    paths, out = [Path(run) for run in args.runs], Path(args.out)
    groups, missing = grouped(paths)
    scores = read_scores(args.scores) if args.scores else scores_beside(paths)
    missing += [] if scores else [how_to_score(paths)]
    looks = curves.looks([*groups, *(scores["systems"] if scores else ())])
    gail = gail_figures(Path(args.gail)) if args.gail else []
    blocks = score_blocks(scores, looks, out) if scores else []
    blocks += curve_blocks(groups, looks, out)
    samples = list(sample_blocks(paths, args.samples))
    blocks += [_block("Samples", samples)] if samples else []
    blocks += [_block("Imitation learning", [_panels(gail)])] if gail else []
    blocks.append(_block("Commands", list(commands(groups)) or [UNKNOWN]))
    write_text(out / "report.html", page(groups, missing, blocks), "--out")
    print(out / "report.html")


def page(groups: Groups, missing: Sequence[str], blocks: Sequence[str]) -> str:
    """The whole file."""
    runs = [f"{name} ({len(of)} seeds)" if len(of) > 1 else name for name, of in groups.items()]
    body = BODY.format(
        runs=escape(", ".join(runs)),
        missing="\n".join(f'<p class="missing">{escape(line)}</p>' for line in missing),
        blocks="\n".join(blocks),
    )
    return PAGE.format(title="Training report", style=STYLE + MORE_STYLE, body=body)


def curve_blocks(groups: Groups, looks: curves.Looks, out: Path) -> Iterator[str]:
    """The curves of all runs, which are written as PNG files, too."""
    for title, panels in curves.panels(groups, looks).items():
        save_panels(panels, out)
        yield _block(title, [_panels(list(map(_drawn, panels)))], narrow=len(panels) == 1)


def save_panels(panels: Sequence[curves.Panel], out: Path) -> None:
    """Write each picture as a PNG file, too."""
    for panel in panels:
        with atomic_write(out / f"{panel.stem}.png", "--out") as part:
            part.write_bytes(curves.png(panel))


# ---- runs ----


def grouped(paths: Sequence[Path]) -> tuple[dict[str, list[History]], list[str]]:
    """Histories by name without seed, and a line for each run of which there is no more than its
    checkpoint.  Raises ValueError where there is neither, or one run twice.
    """
    groups: dict[str, list[History]] = {}
    missing: list[str] = []
    for n, path in enumerate(paths):
        check_distinct(paths[: n + 1], str(path))
        try:
            history = training_log.read(path)
        except ValueError as error:
            if not (path / BEST).is_file():
                raise
            missing.append(f"Curves are missing: {error}.")
            history = of_checkpoint(path)
        groups.setdefault(group_of(history.name), []).append(history)
    return groups, missing


def of_checkpoint(run: Path) -> History:
    """What a run's best checkpoint knows of its training: the validation that chose it."""
    state = check_checkpoint(str(run / BEST))
    history = History(run.absolute().name)
    score = (state.get("extra_state") or {}).get("val_loss")
    if isinstance(score, int | float):
        metric = part_of(state, "checkpoint").get("best_checkpoint_metric", "loss")
        update = (state.get("optimizer_history") or [{}])[-1].get("num_updates", 0)
        history.valid[update] = {metric: float(score), f"best_{metric}": float(score)}
    return history


# ---- scores ----


def scores_beside(paths: Sequence[Path]) -> Mapping[str, Any] | None:
    """The scores of these runs in the folder that they stand in, if they are there."""
    folders = [path if path.is_dir() else path.parent for path in paths]
    runs = {folder.resolve() for folder in folders}
    for file in sorted({folder.parent / SCORES for folder in runs}):
        scores = read_scores(str(file)) if file.is_file() else None
        listed = chain.from_iterable(scores["paths"].values()) if scores else ()
        scored = [Path(run).resolve() for run in listed]
        if runs & {*scored, *(run.parent for run in scored)}:
            return scores
    return None


def how_to_score(paths: Sequence[Path]) -> str:
    """The command that makes what `scores_beside` looks for."""
    systems: dict[str, list[str]] = {}
    for path in paths:
        folder = path if path.is_dir() else path.parent
        systems.setdefault(group_of(folder.absolute().name), []).append(str(folder))
    words = " ".join(f"{name}={','.join(runs)}" for name, runs in systems.items())
    baseline = " --baseline mle" * ("mle" in systems)
    json = (paths[0] if paths[0].is_dir() else paths[0].parent).parent / SCORES
    return f"No scores: python -m fairseq_erpo evaluate {words}{baseline} --json {json}"


def read_scores(name: str) -> Mapping[str, Any]:
    """Read the file of `evaluate --json`.  Raises ValueError if it is something else."""
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--scores: there is no file {name}")
    try:
        result: Mapping[str, Any] = read_json(path)
        score_table(result)
        list(map(translation, result["examples"]))
        score_panel(result, curves.looks(result["systems"]))
    except Exception as error:  # whatever a file may hold: all that the page needs was tried
        made = "is not what `python -m fairseq_erpo evaluate --json` writes"
        raise ValueError(f"--scores {name} {made}: {cause_of(error)}") from None
    return result


def score_blocks(scores: Mapping[str, Any], looks: curves.Looks, out: Path) -> list[str]:
    """The table with its verdict, a picture where there are seeds, and test sentences."""
    content = [score_table(scores)]
    if any(system["runs"] > 1 for system in scores["systems"].values()):
        panel = score_panel(scores, looks)
        save_panels([panel], out)
        content.append(_drawn(panel))
    blocks = [_block("Scores", content)]
    if scores["examples"]:
        shown = [TRANSLATIONS, '<div class="panels">', *map(translation, scores["examples"])]
        blocks.append(_block("Test sentences", [*shown, "</div>"]))
    return blocks


def score_table(result: Mapping[str, Any]) -> str:
    """The table, what is to be made of it, and what its numbers are."""
    columns = [name for name in result["columns"] if name in measures()]
    titles, lines = rows(result, columns)
    return "\n".join(
        (
            f"<p>{escape(verdict(result, columns))}</p>",
            '<div class="wide"><table>',
            _cells("th", titles),
            *(_cells("td", line) for line in lines),
            "</table></div>",
            f'<p class="conditions">{"<br>".join(map(escape, legend(result, columns)))}</p>',
        )
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"


def score_panel(result: Mapping[str, Any], looks: curves.Looks) -> curves.Panel:
    """The first column of the table, seed by seed."""
    key = result["columns"][0]
    values = {name: system["scores"][key]["values"] for name, system in result["systems"].items()}
    title = ", ".join(
        filter(None, [measures()[key].title, result.get("decoding", {}).get("split")])
    )
    return curves.dots("scores", title, SCORE, values, looks, result["baseline"])


SCORE = "The first column of the table, seed by seed."
TRANSLATIONS = (
    "<p>In brackets the chrF of each output. Where there is a baseline, half are of the tenth of "
    "the sentences where the last system gains most on it, and half of the tenth where it loses "
    "most.</p>"
)


def translation(example: Mapping[str, Any]) -> str:
    """A test sentence and every system's output."""
    entries = [(side, example[side]) for side in ("source", "reference") if example[side]]
    for name, output in example["outputs"].items():
        entries.append((name, f"{output['text']} ({output['chrf']:.1f})"))
    title = ", ".join(filter(None, [f"Sentence {example['sentence']}", example["kind"]]))
    listed = "\n".join(entry(name, text) for name, text in entries)
    return f"<div><h3>{escape(title)}</h3><dl>\n{listed}\n</dl></div>"


# ---- samples ----


def sample_blocks(paths: Sequence[Path], count: int) -> Iterator[str]:
    """Sequences that training would draw from the best checkpoint of each annealed group's first
    run.
    """
    seen: set[str] = set()
    for path in tqdm(paths, "samples", unit="run", disable=None, leave=False):
        checkpoint = (path if path.is_dir() else path.parent) / BEST
        group = group_of(checkpoint.absolute().parent.name)
        if not count or group in seen or not checkpoint.is_file():
            continue
        try:
            data = _annealed_on(checkpoint)
            lines = _samples(checkpoint, data, count) if data else []
        except (ValueError, OSError) as error:  # the rest of the page is worth having
            lines = [f'<p class="conditions">No samples: {escape(str(error))}</p>']
        if lines:
            seen.add(group)
            yield "\n".join([f'<div class="samples"><h3>{escape(group)}</h3>', *lines, "</div>"])


def _annealed_on(checkpoint: Path) -> str | None:
    """The data folder of a run whose row has a λ of its own."""
    state = check_checkpoint(str(checkpoint))
    row = FAMILY.get(str(part_of(state, "criterion").get("_name")).removeprefix("erpo_"))
    annealed = row is not None and "erpo_lambda" in row.flags
    return part_of(state, "task").get("data") if annealed else None


def _samples(checkpoint: Path, data: str, count: int) -> list[str]:
    parser = ArgumentParser()
    add_arguments(parser, split="valid", count="--sentences", sentences=count, spread=True)
    loaded = load(parser.parse_args([str(checkpoint), data]))
    end, note = loaded.conditions.mixture, ""
    if 1 in (end.model, end.reward, end.data):
        loaded = loaded._replace(conditions=loaded.conditions._replace(mixture=MIDWAY))
        note = f"The run ended at λ {end}; this is halfway, where every expert draws."
    inspection = Inspection.of(loaded)
    lines = filter(None, [loaded.conditions.line(), note, inspection.legend])
    conditions = f'<p class="conditions">{"<br>".join(map(escape, lines))}</p>'
    return [conditions, *map(section, inspection.sentences)]


# ---- commands ----

UNKNOWN = '<p class="conditions">The logs do not say how the runs were started.</p>'


def commands(groups: Groups) -> Iterator[str]:
    """How each run was started."""
    for history in chain.from_iterable(groups.values()):
        for start in history.commands:
            made = f"{history.name}, version {start['version']}"
            made += f", commit {start['commit']}" * bool(start["commit"])
            summary = f"<summary>{escape(made)}</summary>"
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
    picture = f'<img alt="{name}" src="data:{PICTURES[file.suffix.lower()]};base64,{encoded}">'
    return f'<figure class="whole">{picture}<figcaption>{name}</figcaption></figure>'


def _drawn(panel: curves.Panel) -> str:
    caption = f"<figcaption>{escape(panel.caption)}</figcaption>"
    return f"<figure>{curves.svg(panel)}{caption}</figure>"


def _panels(figures: Sequence[str]) -> str:
    return '<div class="panels">\n' + "\n".join(figures) + "\n</div>"


def _block(title: str, content: Iterator[str] | Sequence[str], narrow: bool = False) -> str:
    """A section; two narrow ones stand side by side where there is room."""
    kind = ' class="narrow"' if narrow else ""
    return f"<section{kind}><h2>{escape(title)}</h2>\n" + "\n".join(content) + "\n</section>"
