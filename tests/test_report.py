"""`python -m fairseq_erpo report`: what logs hold, the pictures of it, and a page that asks nothing
of anybody.
"""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import load

from fairseq_erpo import __version__
from fairseq_erpo.__main__ import main
from fairseq_erpo.scores import TEST
from fairseq_erpo.tools import curves, training_log
from fairseq_erpo.tools.report import grouped
from fairseq_erpo.tools.training_log import History, group_of

Report = Callable[..., str]
SHARES = {"model": 0.12, "reward": 0.16, "data": 0.72}


def write_log(
    folder: Path, epochs: int = 4, start: float = 20.0, drawn: bool = True, metric: str = "bleu"
) -> Path:
    """A run as fairseq logs it: strings, every line twice, other lines between, the last one cut."""
    lines = ["2026-01-01 | INFO | fairseq.tasks | something {else}"]
    for epoch in range(1, epochs + 1):
        update = 100 * epoch
        inner: dict[str, Any] = {
            "epoch": epoch,
            "update": epoch - 0.5,
            "loss": "3.5",
            "num_updates": str(update - 50),
        }
        figures = {
            f"lambda_{name}": str(share if drawn else float(name == "data"))
            for name, share in SHARES.items()
        }
        if drawn:
            figures |= {f"z_{name}": str(share + 0.01 * epoch) for name, share in SHARES.items()}
            figures |= {
                "dr_model": "-0.5",
                "dr_reward": "0.2",
                "dr_data": "0.3",
                "z_product": "0",
                "dr_product": "0",
            }
            figures |= {
                "seq_reward": str(-2 - 0.1 * epoch),
                "sampled_length": "12.5",
                "clipped": str(0.01 * epoch),
            }
        valid: dict[str, Any] = {
            "valid_loss": "3.1",
            f"valid_{metric}": str(start + epoch),
            "valid_num_updates": str(update),
        }
        valid |= {f"valid_best_{metric}": str(start + epoch)} if epoch > 1 else {}
        train = {
            "train_loss": "3.2",
            "train_num_updates": str(update),
            **{f"train_{key}": value for key, value in figures.items()},
        }
        for entry in (inner | figures, {"epoch": epoch} | valid, {"epoch": epoch} | train):
            lines += [json.dumps(entry), f"2026-01-01 | INFO | x | {json.dumps(entry)}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("\n".join(lines) + '\n{"epoch": 99, "valid_bl')
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    made = [write_log(tmp_path / f"mle-{seed}", start=20 + seed, drawn=False) for seed in (1, 2)]
    return made + [write_log(tmp_path / f"interp-{seed}", start=21 + seed) for seed in (1, 2)]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Report:
    """The verb in this process: the page that it wrote."""

    def run(*arguments: Any) -> str:
        main(["report", *map(str, arguments), "--out", str(tmp_path / "page")])
        written = Path(capsys.readouterr().out.strip())
        assert written == tmp_path / "page" / "report.html"
        return written.read_text()

    return run


# ---- logs ----


def test_a_log_is_read_once_whatever_is_written_twice(tmp_path: Path) -> None:
    history = training_log.read(write_log(tmp_path / "interp-3"))
    assert (history.name, group_of(history.name), history.metric, history.progress) == (
        "interp-3",
        "interp",
        "bleu",
        4,
    )
    assert history.scores() == {100: 21.0, 200: 22.0, 300: 23.0, 400: 24.0}
    assert history.curve("lambda_reward") == dict.fromkeys((100, 200, 300, 400), 0.16)
    assert history.train_inner[50]["loss"] == 3.5
    # A short run is shown by its log intervals.
    assert list(training_log.read(write_log(tmp_path / "short", epochs=2)).curve("z_model")) == [
        50,
        150,
    ]
    assert training_log.read(tmp_path / "short" / "train.jsonl").name == "short"


def test_the_metric_is_known_from_the_first_validation_on(tmp_path: Path) -> None:
    assert training_log.read(write_log(tmp_path / "a", epochs=1, metric="rouge")).metric == "rouge"
    assert training_log.read(write_log(tmp_path / "b", metric="chrf")).metric == "chrf"
    assert History("c", valid={1: {"loss": 3.0}}).metric == "loss"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("interp-1", "interp"),
        ("a_2", "a"),
        ("mle-1", "mle"),
        ("mle_seed2", "mle"),
        ("x.seed12", "x"),
        ("interp.4-1", "interp.4"),
        ("mrt.2", "mrt"),
        ("interp (half)-3", "interp (half)"),
        ("mle-5e-4-2", "mle-5e-4"),
        ("dropout-0.1.seed2", "dropout-0.1"),
        # No seeds: numbers of another kind, cut in the middle.
        *(
            (name, name)
            for name in (
                "v2",
                "7",
                "mle-5e-4",
                "mle-1.5E-05",
                "dropout-0.1",
                "dropout-.3",
                "v1.2",
                "-7",
            )
        ),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(name) == group


def test_other_rates_are_no_seeds(report: Report, tmp_path: Path) -> None:
    page = report(*(write_log(tmp_path / name) for name in ("mle-5e-4", "mle-5e-5", "a-1", "a-2")))
    assert "mle-5e-4, mle-5e-5, a (2 seeds)" in Page(page).text


def test_logs_of_fairseq_train(tiny_checkpoint: Path) -> None:
    history = training_log.read(tiny_checkpoint.parent)
    assert history.progress == 5 and len(history.valid) == len(history.train) == 5
    assert set(history.curve("lambda_data").values()) == {1.0}
    (start,) = history.commands
    assert (
        start["command"].startswith("fairseq-train ") and "--criterion erpo_mle" in start["command"]
    )
    assert start["version"] == __version__ and re.fullmatch(r"([0-9a-f]{7,}\+?)?", start["commit"])


def test_events_of_tensorboard(
    tmp_path: Path, report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    """Written as fairseq writes them: a folder for each of train, train_inner and valid."""
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    for part, name, value in (
        ("train", "z_model", 0.1),
        ("valid", "bleu", 20.0),
        ("valid", "best_bleu", 20.0),
    ):
        with writer(str(tmp_path / "run-1" / "tb" / part)) as events:
            for n in (1, 2):
                events.add_scalar(name, value * n, 100 * n)
    history = training_log.read(tmp_path / "run-1")
    assert (
        history.name == "run-1"
        and history.metric == "bleu"
        and history.scores() == {100: 20.0, 200: 40.0}
    )
    assert history.curve("z_model") == pytest.approx({100: 0.1, 200: 0.2})
    caplog.set_level("DEBUG")
    caplog.clear()
    report(tmp_path / "run-1")
    assert not [record for record in caplog.records if record.name == "tensorboard"]


# ---- pictures ----


def test_seeds_are_gathered_epoch_by_epoch() -> None:
    assert curves.gathered([{10: 1.0, 20: 2.0}, {12: 3.0}, {}]) == {11: [1.0, 3.0], 20: [2.0]}


def test_one_validation_is_a_line_for_each_row_and_no_curve(tmp_path: Path) -> None:
    runs = [
        write_log(tmp_path / f"{name}-{seed}", 1, start)
        for name, seed, start in (("mle", 1, 20), ("mle", 2, 24), ("pg", 1, 9))
    ]
    (panel,) = curves.metric_panels(grouped(runs), curves.looks(["mle", "pg"]))
    (axes,) = panel.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mle", "pg"]
    # Seeds, then their mean
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[21, 25], [23], [10], [10]]


def test_scores_are_shown_seed_by_seed_beside_the_baseline() -> None:
    scores = {"mle": [1.0, 3.0], "lost": [], "pg": [4.0]}
    (axes,) = curves.dots("scores", "BLEU", scores, curves.looks(scores), "mle").figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mle", "pg"]
    # Seeds, mean, upright through the baseline's mean; seeds and mean of the other.
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[1, 3], [2], [2, 2], [4], [4]]


def test_panels_show_what_was_logged(runs: list[Path]) -> None:
    made = curves.panels(grouped(runs), curves.looks(["mle", "interp"]))
    stems = {title: [panel.stem for panel in panels] for title, panels in made.items()}
    assert stems == {
        "Validation": ["valid-bleu", "valid-loss"],
        "λ and realised shares z": ["lambda-interp"],  # mle drew nothing
        "Reward by expert, ΔR": ["gain-interp"],
        "Loss, reward, length and clipped share": ["loss", "reward", "length", "clipped"],
    }
    (axes,) = made["Validation"][0].figure.axes
    lines = {
        str(line.get_label()): list(zip(*map(list, line.get_data()), strict=True))
        for line in axes.get_lines()
    }
    assert lines == {
        "mle": [(100 * n, 21.5 + n) for n in (1, 2, 3, 4)],  # the mean of two seeds
        "interp": [(100 * n, 22.5 + n) for n in (1, 2, 3, 4)],
    }
    (axes,) = made["λ and realised shares z"][0].figure.axes
    shown = {str(line.get_label()): list(line.get_ydata()) for line in axes.get_lines()}
    assert shown["λ reward"] == [0.16] * 4 and shown["z reward"] == pytest.approx(
        [0.17, 0.18, 0.19, 0.2]
    )
    assert "z product" not in shown
    (axes,) = made["Reward by expert, ΔR"][0].figure.axes
    assert {str(line.get_label()) for line in axes.get_lines()} == {"model", "reward", "data"}


def test_a_name_has_one_look_in_all_pictures(runs: list[Path]) -> None:
    looks = curves.looks(["mle", "interp", "mle", "pretrain"])
    assert [*looks] == ["mle", "interp", "pretrain"] and len(
        {look.colour for look in looks.values()}
    ) == 3
    (axes,) = curves.dots("scores", "BLEU", {"pretrain": [1.0], "interp": [2.0]}, looks).figure.axes
    assert {line.get_color() for line in axes.get_lines()} == {
        looks["pretrain"].colour,
        looks["interp"].colour,
    }
    for panel in curves.panels(grouped(runs), looks)["Validation"]:
        (axes,) = panel.figure.axes
        assert {line.get_label(): line.get_color() for line in axes.get_lines()} == {
            name: looks[name].colour for name in ("mle", "interp")
        }


def test_the_page_says_how_each_run_was_started(runs: list[Path], report: Report) -> None:
    """Every start once, what is no such line left out."""
    assert "do not say how the runs were started" in Page(report(*runs)).text
    start = {"command": "fairseq-train <data> --seed 1", "version": "0.3.0", "commit": "abc1234+"}
    lines = [
        {"erpo_run": start},
        {"erpo_run": start},
        {"erpo_run": start | {"commit": ""}},
        {"erpo_run": {"command": 1}},
    ]
    with (runs[0] / "train.jsonl").open("a") as log:
        log.write(
            "\n"
            + "\n".join(["2026 | INFO | x | " + json.dumps(line) for line in lines])
            + '\n{"erpo_run": {"comm'
        )
    text = report(*runs)
    assert text.count("<pre>fairseq-train &lt;data&gt; --seed 1</pre>") == 2
    assert "mle-1, version 0.3.0, commit abc1234+" in Page(text).text and not Page(text).open


def test_pictures_in_the_page_take_its_colours_and_name_no_address(runs: list[Path]) -> None:
    panels = [
        panel
        for made in curves.panels(grouped(runs), curves.looks(["mle", "interp"])).values()
        for panel in made
    ]
    drawn = [curves.svg(panel) for panel in panels]
    ids = [name for text in drawn for name in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))  # apart from those of other panels
    for text in drawn:
        ElementTree.fromstring(text)  # well-formed
        assert (
            "http" not in text
            and "currentColor" in text
            and "<text" in text
            and "var(--line)" in text
        )
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
        assert used <= set(ids)
    assert curves.png(panels[0]).startswith(b"\x89PNG")


# ---- the page ----


class Page(HTMLParser):
    """Whether all tags are closed, what is loaded, and the text."""

    VOID = ("meta", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [
            str(value)
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action")
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


def scores_of(folder: Path) -> Path:
    """What evaluate writes."""
    lines = [f"sentence number {n} of the test" for n in range(30)]
    (folder / "ref").write_text("\n".join(lines))
    (folder / "mle").write_text("\n".join(line.replace("number", "no") for line in lines))
    systems = [
        f"mle={folder / 'mle'}",
        f"interp={folder / 'ref'}",
        "--reference",
        folder / "ref",
        "--baseline",
        "mle",
    ]
    main(["evaluate", *map(str, systems), "--json", str(folder / "scores.json")])
    return folder / "scores.json"


def test_the_page_shows_it_all_and_loads_nothing(
    runs: list[Path], report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gail = tmp_path / "gail"
    gail.mkdir()
    (gail / "curves.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    shutil.copy(Path(__file__).parents[1] / "docs" / "family.png", gail / "family.png")
    scores = scores_of(tmp_path)
    capsys.readouterr()
    text = report(*runs, "--scores", scores, "--gail", gail)
    page = Page(text)
    assert not page.open
    titles = [
        "Scores",
        "Validation",
        "λ and realised shares z",
        "Reward by expert, ΔR",
        "Imitation learning",
    ]
    assert (
        all(title in page.text for title in titles)
        and "mle (2 seeds), interp (2 seeds)" in page.text
    )
    assert (
        "100.00**" in page.text
        and f"against mle, {TEST}" in page.text
        and "nrefs:1|case:mixed" in page.text
    )
    # Everything is in the file: pictures as data, markers by their names.
    assert all(
        re.match(r"data:image/(png|svg\+xml);base64,|#", address) for address in page.loaded
    ), page.loaded
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link|<iframe", text)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert (
        "default-src 'none'" in text
        and "prefers-color-scheme: dark" in text
        and 'name="viewport"' in text
    )
    pictures = {file.name for file in (tmp_path / "page").iterdir()} - {"report.html"}
    names = (
        "scores",
        "valid-bleu",
        "valid-loss",
        "loss",
        "lambda-interp",
        "gain-interp",
        "reward",
        "length",
        "clipped",
    )
    assert pictures == {f"{name}.png" for name in names}


def test_samples_come_from_the_checkpoints_of_annealed_rows(
    tiny_data: Path, tiny_checkpoint: Path, report: Report, tmp_path: Path
) -> None:
    state = load(tiny_checkpoint)
    for name in ("mle-1", "interp-1", "interp-2", "lost-1"):
        folder = write_log(tmp_path / name)
        state["cfg"]["criterion"] = {
            "_name": "erpo_mle" if name == "mle-1" else "erpo_interp",
            "erpo_preset": "robust",
        }
        state["cfg"]["task"]["data"] = str(tmp_path / "moved" if name == "lost-1" else tiny_data)
        __import__("torch").save(state, folder / "checkpoint_best.pt")
    runs = [tmp_path / name for name in ("mle-1", "interp-1", "interp-2", "lost-1")]
    text = report(*runs, "--samples", 2)
    page = Page(text)
    # Of interp's first seed only
    assert not page.open and text.count("<section><h2>Sentence ") == 2
    assert '<li class="token data"' in text and "λ model=0.12,reward=0.16,data=0.72" in page.text
    assert f"No samples: there is no folder {tmp_path / 'moved'}" in page.text
    assert "Samples" not in Page(report(*runs, "--samples", 0)).text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{}/none"], ["no folder or log", "none"]),
        (["{}"], ["has no log", "--log-format json"]),
        (["{}/run", "--scores", "{}/none.json"], ["--scores", "no file"]),
        (["{}/run", "--scores", "{}/run/train.jsonl"], ["--scores", "evaluate --json"]),
        (["{}/run", "--gail", "{}/run"], ["--gail", "gail plot"]),
        (["{}/run", "--samples", "-1"], ["--samples", "-1"]),
        (
            ["{}/run", "{}/run/../run"],
            ["names one run twice; seeds of one system are different runs"],
        ),
    ],
)
def test_bad_input_names_the_flag_and_the_fix(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    write_log(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "report",
                *(word.format(tmp_path) for word in arguments),
                "--out",
                str(tmp_path / "page"),
            ]
        )
    message = str(ended.value.code)
    assert (
        message.startswith("erpo: ")
        and "\n" not in message
        and all(word in message for word in words)
    ), message
    assert not (tmp_path / "page").exists()
