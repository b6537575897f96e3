"""`python -m fairseq_erpo`: the sequences shown are those that training draws, each token with
where it came from.
"""

import io
import json
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from conftest import ROOT, build, load
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from rich.cells import cell_len
from rich.console import Console

import fairseq_erpo
from fairseq_erpo.__main__ import VERBS, main
from fairseq_erpo.algorithm.batch import Expert
from fairseq_erpo.family import FAMILY
from fairseq_erpo.family.flags import FLAGS
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.plugin import row_inputs
from fairseq_erpo.rewards.corpus_bleu import CorpusStatistics
from fairseq_erpo.text_rewards import Pool
from fairseq_erpo.tools import inspect_draw, inspect_picture
from fairseq_erpo.tools.inspect_draw import LOOKS, Inspection, Sentence, Token, number
from fairseq_erpo.tools.inspect_page import page
from fairseq_erpo.tools.inspect_picture import POINTS, picture
from fairseq_erpo.tools.inspect_terminal import show
from fairseq_erpo.tools.load_run import Conditions
from fairseq_erpo.verbs import Verb, run_verb

DEFAULT = FLAGS["erpo_preset"].default
LETTERS = {expert: look.letter for expert, look in LOOKS.items()}
Triple = tuple[str, str, str]  # token, letter of its expert, ΔR
Run = Callable[..., str]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The verb in this process, without colours: what it prints."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")

    def run(*arguments: Any) -> str:
        capsys.readouterr()
        main(["inspect", *map(str, arguments)])
        return capsys.readouterr().out

    return run


def blocks(output: str) -> dict[int, dict[str, list[str]]]:
    """The printed sentences by number: the lines under each label."""
    found: dict[int, dict[str, list[str]]] = {}
    label = ""
    for line in output.split("\n\n" + output.rstrip().split("\n\n")[-1])[0].splitlines():
        if title := re.match(r"sentence (\d+): ", line):
            sentence = found[int(title[1])] = {"title": [line]}
        elif line:
            label = line[:11].strip() or label
            sentence.setdefault(label, []).append(line[11:])
    return found


def triples(lines: list[str]) -> list[Triple]:
    """Pairs of lines: tokens, and below each of them the letter of its expert and its ΔR."""
    found = []
    for above, below in zip(lines[::2], lines[1::2], strict=True):
        starts = [token.start() for token in re.finditer(r"\S+", above)]
        marks = list(re.finditer(r"(\w) (\S+)", below))
        assert starts == [mark.start() for mark in marks]
        found += [(token, *mark.groups()) for token, mark in zip(above.split(), marks, strict=True)]
    return found


class Page(HTMLParser):
    """What a browser would show of the tokens, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.tokens: list[list[str]] = []
        self.titles: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "li":
            self.tokens.append([])
            self.titles.append(str(dict(attrs)["title"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "li" in self.open:
            self.tokens[-1].append(data)

    @property
    def triples(self) -> list[Triple]:
        return [(token, *mark.split(" ")) for token, mark in self.tokens]  # type: ignore[misc]


def example(
    tokens: list[Token], clipped: bool = False, source: list[str] | None = None
) -> Inspection:
    sentence = Sentence(3, source, ["a", "b"], tokens, -0.5, clipped)
    conditions = Conditions(
        "run/x.pt", "data-bin", "valid", "--erpo-preset robust", Mixture(0.24, 0.32, 0.44), 1, 9
    )
    return Inspection(conditions, [sentence])


def printed(inspection: Inspection, **how: Any) -> str:
    sink = io.StringIO()
    show(inspection, Console(file=sink, highlight=False, emoji=False, **how))
    return sink.getvalue()


# ---- the command line ----


def test_path_prints_the_folder_and_imports_neither_fairseq_nor_torch():
    code = (
        "import sys; from fairseq_erpo.__main__ import main; main(['path']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    for arguments in (["-c", code], ["-m", "fairseq_erpo", "path"]):
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert done.stdout == f"{Path(fairseq_erpo.__file__).parent}\n"
        assert not {"fairseq", "torch", "rich"} & set(done.stderr.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    output = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"example:\n  {VERBS[verb].example}" in output
    assert f"python -m fairseq_erpo {verb}" in output


@pytest.mark.parametrize(("program", "extra"), [("fairseq_erpo", "fairseq"), ("gail", "gail")])
def test_a_missing_module_is_named_with_the_extra_that_brings_it(program: str, extra: str):
    with pytest.raises(SystemExit) as ended:
        run_verb(program, "", {"verb": Verb("nosuchmodule", "verb", "help", "")}, ["verb"], "x")
    message = str(ended.value.code)
    assert message.startswith("x: No module named 'nosuchmodule'; ") and f"'.[{extra}]'" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "VERB"),
        (["inspekt"], "'inspekt'"),
        (["path", "x"], "x"),
        (["report"], "RUN"),
        (["inspect", "a.pt", "b", "--erpo-rewrad", "bleu"], "did you mean --erpo-reward?"),
        (["report", "run", "--oot", "page"], "--oot: did you mean --out?"),
        (["family", "--markdwon=rows.md"], "--markdwon: did you mean --markdown?"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and said in printed and printed.count("\n") == 1


# ---- what is drawn ----


@pytest.mark.parametrize(
    "flags",
    ["--erpo-preset robust", "--erpo-preset paper --erpo-reward bleu --erpo-c 5 --erpo-c-model 1"],
)
def test_shows_every_token_that_training_would_draw(
    flags: str, tiny_data: Path, tiny_checkpoint: Path, inspect: Run, tmp_path: Path
):
    share = "model=.4,reward=.3,data=.3"
    built = build(
        tiny_data,
        f"--criterion erpo_interp --seed 7 --erpo-schedule constant --erpo-lambda {share} {flags}",
    )
    state = load(tiny_checkpoint)
    built.model.load_state_dict(state["model"])
    built.task.clock.update = state["optimizer_history"][-1]["num_updates"]
    sample = built.batch(list(range(40)), "valid")
    drawn = built.criterion.draw(built.model, sample)
    expected = {}
    for i, n in enumerate(sample["id"].tolist()):
        z, dr = drawn.sample.origin[i].tolist(), drawn.sample.delta_r[i].tolist()
        words = [
            built.task.target_dictionary[w]
            for w in drawn.sample.tokens[i].tolist()
            if w != built.task.target_dictionary.pad()
        ]
        expected[n] = [(word, LETTERS[Expert(z[t])], number(dr[t])) for t, word in enumerate(words)]
    letters = {letter for sentence in expected.values() for _, letter, _ in sentence}
    assert letters == {"m", "r", "d"}

    html = tmp_path / "new" / "page.html"
    output = inspect(
        tiny_checkpoint,
        tiny_data,
        "--lambda",
        share,
        "--sentences",
        40,
        "--seed",
        7,
        *flags.split(),
        "--html",
        html,
    )
    assert "\x1b" not in output
    found = blocks(output)
    # In the data's order, not by length as in fairseq's batch
    assert list(found) == list(range(40))
    for n, sentence in found.items():
        assert triples(sentence["sampled"]) == expected[n]
    for i, n in enumerate(sample["id"].tolist()):
        end = ", clipped at the length cap" if drawn.sample.clipped[i] else ""
        assert found[n]["title"] == [
            f"sentence {n}: reward {number(float(drawn.sample.reward[i]))}{end}"
        ]
    assert Page(html.read_text()).triples == [triple for n in range(40) for triple in expected[n]]
    assert [file.name for file in html.parent.iterdir()] == ["page.html"]


def test_source_and_reference_are_those_of_the_data(
    tiny_data: Path, tiny_checkpoint: Path, inspect: Run
):
    text = tiny_data.parent / "text"
    sources, references = (
        (text / f"test.{language}").read_text().splitlines() for language in ("de", "en")
    )
    found = blocks(inspect(tiny_checkpoint, tiny_data, "--split", "test", "--sentences", 5))
    assert len(found) == 5
    for n in found:
        assert " ".join(found[n]["source"]) == sources[n]
        assert " ".join(found[n]["reference"]) == references[n]


@pytest.mark.parametrize("reward", ["edit", "bleu"])
def test_all_data_is_the_reference_itself(
    reward: str, tiny_data: Path, tiny_checkpoint: Path, inspect: Run
):
    output = inspect(
        tiny_checkpoint, tiny_data, "--lambda", "data=1", "--erpo-reward", reward, "--sentences", 40
    )
    for sentence in blocks(output).values():
        tokens = triples(sentence["sampled"])
        assert [token for token, _, _ in tokens] == [
            *" ".join(sentence["reference"]).split(),
            "</s>",
        ]
        assert {letter for _, letter, _ in tokens} == {"d"}
        # Nothing is missed: edit stays at 0, sentence BLEU+1 reaches 1 (text: Φ(∅) + ΣΔR is the
        # metric).
        assert sentence["title"][0].endswith("reward 0" if reward == "edit" else "reward +1")
    assert "drew 100%  of the tokens" in output and "in the reference 100% of the tokens" in output


def test_batches_do_not_matter(
    tiny_data: Path, tiny_checkpoint: Path, inspect: Run, monkeypatch: pytest.MonkeyPatch
):
    whole = inspect(tiny_checkpoint, tiny_data, "--sentences", 10)
    monkeypatch.setattr(inspect_draw, "AT_ONCE", 3)
    assert inspect(tiny_checkpoint, tiny_data, "--sentences", 10) == whole
    started = []
    monkeypatch.setattr(
        row_inputs, "Pool", lambda name, workers: started.append(name) or Pool(name, 1)
    )
    inspect(
        tiny_checkpoint,
        tiny_data,
        "--sentences",
        10,
        "--erpo-preset",
        "corpus",
        "--erpo-reward",
        "chrf",
    )
    assert started == ["chrf"]


def test_corpus_bleu_is_that_of_the_checkpoints_update(
    tiny_data: Path, tiny_checkpoint: Path, inspect: Run, tmp_path: Path
):
    """Of the counts beside the checkpoint the newest that is not of a later update."""
    update = load(tiny_checkpoint)["optimizer_history"][-1]["num_updates"]
    shutil.copy(tiny_checkpoint, tmp_path / "x.pt")
    corpora = [
        CorpusStatistics((m, 4.0, 2.0, 1.0), (12.0, 11.0, 10.0, 9.0), 12.0, 12.0, 1.0)
        for m in (5.0, 6.0, 7.0)
    ]
    counts = [{"update": update + n, **asdict(corpus)} for n, corpus in enumerate(corpora, -1)]
    flags = "--erpo-preset corpus --erpo-reward corpus_bleu --lambda data=.5,model=.5"

    def shown(found: list[Any]) -> tuple[str, list[str]]:
        (tmp_path / "erpo_corpus.json").write_text(json.dumps(found))
        output = inspect(tmp_path / "x.pt", tiny_data, *flags.split())
        titles = [sentence["title"][0] for sentence in blocks(output).values()]
        return " ".join(output.split()), titles

    text, rewards = shown(counts)
    assert "of no model's statistics" not in text and rewards == shown([counts[1]])[1]
    assert len({tuple(shown(counts[:n])[1]) for n in range(3)}) == 3
    for none in ([], counts[2:]):
        assert "`corpus_bleu` is here of no model's statistics" in shown(none)[0]
    with pytest.raises(SystemExit, match=r"^erpo: .*erpo_corpus.json is damaged"):
        shown([1])


def test_sentences_are_spread_over_those_of_middle_length_or_chosen_by_seed(
    tiny_data: Path, tiny_checkpoint: Path, inspect: Run
):
    def chosen(*arguments: Any) -> list[int]:
        return list(blocks(inspect(tiny_checkpoint, tiny_data, *arguments)))

    lengths = [
        len(line.split()) for line in (tiny_data.parent / "text/valid.en").read_text().splitlines()
    ]
    low, high = sorted(lengths)[9], sorted(lengths)[-10]
    assert chosen() == sorted(chosen()) and len(set(chosen())) == 8 and chosen()[-1] > 20
    assert all(low <= lengths[number] <= high for number in chosen())
    assert len(chosen("--sentences", 1000)) == 40
    by_seed = chosen("--shuffle", "--seed", 3)
    assert by_seed == chosen("--shuffle", "--seed", 3) != chosen("--shuffle", "--seed", 4)
    assert len(set(by_seed)) == 8


def test_sources_can_be_left_out(
    tiny_data: Path, tiny_checkpoint: Path, inspect: Run, tmp_path: Path
):
    output = inspect(tiny_checkpoint, tiny_data, "--no-sources", "--html", tmp_path / "page.html")
    assert (
        "source" not in output and "source" not in Page((tmp_path / "page.html").read_text()).text
    )


@pytest.mark.parametrize(
    ("criterion", "typed", "line"),
    [
        (
            {"_name": "erpo_mle"},
            "",
            f"λ model=0.24,reward=0.32,data=0.44 · --erpo-preset {DEFAULT} ·",
        ),
        (
            {"_name": "cross_entropy"},
            "",
            f"λ model=0.24,reward=0.32,data=0.44 · --erpo-preset {DEFAULT} ·",
        ),
        (
            {"_name": "erpo_interp", "erpo_preset": "robust"},
            "",
            "λ model=0.12,reward=0.16,data=0.72 · --erpo-preset robust ·",
        ),
        # A constant row has one of its own.
        (
            {"_name": "erpo_pg"},
            "",
            f"λ model=1,reward=0,data=0 · --erpo-preset {DEFAULT} --erpo-reward metric ·",
        ),
        ({"_name": "erpo_raml"}, "", f"λ model=0,reward=1,data=0 · --erpo-preset {DEFAULT} ·"),
        (
            {
                "_name": "erpo_interp",
                "erpo_preset": "paper",
                "erpo_c": "5",
                "erpo_lambda": "model=.5,data=.5",
            },
            "",
            "λ model=0.5,reward=0,data=0.5 · --erpo-preset paper --erpo-c 5 ·",
        ),
        (
            {"_name": "erpo_interp", "erpo_preset": "paper", "erpo_c": "5"},
            "--erpo-c inf --lambda model=1",
            "λ model=1,reward=0,data=0 · --erpo-preset paper --erpo-c inf ·",
        ),
        # A preset that is typed sets the run's flags aside, its λ stays.
        (
            {"_name": "erpo_interp", "erpo_preset": "paper", "erpo_c": "5"},
            "--erpo-preset robust",
            "λ model=0.4286,reward=0.5714,data=0 · --erpo-preset robust ·",
        ),
        (
            Namespace(_name="label_smoothed_cross_entropy"),
            "",
            f"λ model=0.24,reward=0.32,data=0.44 · --erpo-preset {DEFAULT} ·",
        ),
    ],
)
def test_what_is_left_out_is_as_in_the_run(
    criterion: Any,
    typed: str,
    line: str,
    tiny_data: Path,
    tiny_checkpoint: Path,
    inspect: Run,
    tmp_path: Path,
):
    state = load(tiny_checkpoint)
    state["cfg"]["criterion"] = criterion
    torch.save(state, tmp_path / "x.pt")
    output = inspect(tmp_path / "x.pt", tiny_data, "--sentences", 2, *typed.split())
    assert line in output.replace("\n", " ")
    assert not re.search(r" $", output, re.MULTILINE)


@pytest.mark.parametrize("row", FAMILY)
def test_a_checkpoint_of_any_row_can_be_inspected(
    row: str, tiny_data: Path, tiny_checkpoint: Path, inspect: Run, tmp_path: Path
):
    state = load(tiny_checkpoint)
    defaults = {
        name: FAMILY[row].defaults.get(name, FLAGS[name].default) for name in FAMILY[row].flags
    }
    state["cfg"]["criterion"] = {"_name": f"erpo_{row}"} | defaults
    torch.save(state, tmp_path / "x.pt")
    assert len(blocks(inspect(tmp_path / "x.pt", tiny_data, "--sentences", 3))) == 3


# ---- how it looks ----


TOKENS = [
    Token("<b>", Expert.MODEL, -1.0, False),
    Token("&amp;", Expert.REWARD, 0.12345, True),
    Token("\"'", Expert.DATA, 0.0, True),
    Token("▁[red]", Expert.MODEL, -0.00001, False),
    Token("字符字符", Expert.REWARD, 2.0, True),
    Token("</s>", Expert.DATA, 0.5, False),
]


def test_the_page_holds_every_token_escaped_and_needs_nothing_from_elsewhere():
    text = page(example(TOKENS, source=["<script>", "&"]))
    shown = Page(text)
    assert not shown.open
    assert shown.triples == [
        (token.text, LETTERS[token.origin], number(token.delta_r)) for token in TOKENS
    ]
    assert shown.titles[1] == "token 2, drawn by reward, ΔR 0.123450, in the reference"
    assert "<script> &" in shown.text and "clipped at" not in shown.text
    assert all(
        text in shown.text
        for text in ("reward", "+1.062", "mean length", "5.0 without EOS", "--erpo-preset robust")
    )
    assert not re.search(r"https?://|<script|<b>|url\(|@import", text)
    assert not shown.attributes & {"src", "href", "onclick", "style"}
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "clipped at the length cap" in Page(page(example(TOKENS, clipped=True))).text


@pytest.mark.parametrize("width", [24, 30, 80])
def test_marks_stand_below_their_tokens_at_any_width(width: int):
    lines = printed(example(TOKENS), width=width).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("sampled"))
    lines = lines[start : lines.index("")]
    assert len(lines) % 2 == 0
    found = []
    for above, below in zip(lines[::2], lines[1::2], strict=True):
        assert max(cell_len(above), cell_len(below)) <= width
        assert above == above.rstrip() and below == below.rstrip()
        above, below = (re.sub(r"^sampled", " " * 7, line) for line in (above, below))
        cells = [cell_len(above[: token.start()]) for token in re.finditer(r"\S+", above)]
        marks = list(re.finditer(r"(\w) (\S+)", below))
        assert cells == [mark.start() for mark in marks]
        found += [(token, *mark.groups()) for token, mark in zip(above.split(), marks, strict=True)]
    assert found == [(token.text, LETTERS[token.origin], number(token.delta_r)) for token in TOKENS]


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = printed(example(TOKENS), width=80, force_terminal=True, color_system="truecolor")
    assert "\x1b[1;38;2;47;129;247m<b>\x1b[0m" in coloured  # model: bold blue
    assert "\x1b[4;38;2;217;115;13m&amp;\x1b[0m" in coloured  # reward: underlined orange
    monkeypatch.setenv("NO_COLOR", "1")
    assert "38;2" not in printed(
        example(TOKENS), width=80, force_terminal=True, color_system="truecolor"
    )
    assert "\x1b" not in printed(example(TOKENS), width=80)


def test_the_summary_counts():
    inspection = example(TOKENS)
    rows = [
        (look.letter, share, realised, mean) for look, share, realised, mean in inspection.experts()
    ]
    assert rows == [
        ("m", 0.24, 2 / 6, "-0.5"),
        ("r", 0.32, 2 / 6, "+1.062"),
        ("d", 0.44, 2 / 6, "+0.25"),
    ]
    # Three of the five tokens before EOS; a clipped sentence has no EOS to leave out.
    assert inspection.figures() == {
        "in the reference": "60% of the tokens",
        "mean length": "5.0 without EOS (reference 2.0)",
        "mean reward": "-0.5",
        "clipped": "0 of 1",
    }
    assert example(TOKENS, clipped=True).figures()["mean length"].startswith("6.0")
    only_eos = example(TOKENS[-1:])
    assert (
        only_eos.figures()["in the reference"].startswith("0%")
        and next(only_eos.experts())[3] == "-"
    )


def test_control_characters_do_not_reach_the_terminal(
    tiny_data: Path, tiny_checkpoint: Path, inspect: Run, tmp_path: Path
):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    for language in ("de", "en"):
        file = data / f"dict.{language}.txt"
        file.write_text(re.sub(r"(?i)w00", "\x1b[2J\x9b", file.read_text()))
    # Of a version that kept no dictionaries
    torch.save(load(tiny_checkpoint) | {"task_state": {}}, tmp_path / "model.pt")
    output = inspect(
        tmp_path / "model.pt", data, "--sentences", 40, "--html", tmp_path / "page.html"
    )
    for text in (output, (tmp_path / "page.html").read_text()):
        assert "\\x1b[2J\\x9b" in text and not re.search(r"[\x1b\x9b]", text)


# ---- what can be wrong ----


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["inspect", *map(str, arguments)])
        message = str(ended.value.code)  # Python prints it and ends with code 1
        assert message.startswith("erpo: ") and "\n" not in message and len(message) < 600
        assert capsys.readouterr().out == ""
        return message

    return run


def test_files_that_are_not_there_or_something_else(
    tiny_data: Path, tiny_checkpoint: Path, refused: Callable[..., str], tmp_path: Path
):
    other = tmp_path / "notes.pt"
    other.write_text("not a checkpoint")
    assert "notes.pt is not a checkpoint" in refused(other, tiny_data)
    torch.save({"model": {}}, other)
    assert "notes.pt holds no fairseq model" in refused(other, tiny_data)
    assert "no checkpoint at" in refused(tmp_path / "none.pt", tiny_data)
    assert f"no folder {tmp_path / 'none'}" in refused(tiny_checkpoint, tmp_path / "none")
    assert f"no folder {tmp_path / 'none'}" in refused(
        tiny_checkpoint, tiny_data, "--user-dir", tmp_path / "none"
    )
    assert f"cannot be used with {tmp_path}: " in refused(tiny_checkpoint, tmp_path)
    assert "--split dev: " in refused(tiny_checkpoint, tiny_data, "--split", "dev")


def test_values_that_mean_nothing(
    tiny_data: Path, tiny_checkpoint: Path, refused: Callable[..., str]
):
    def wrong(*arguments: Any) -> str:
        return refused(tiny_checkpoint, tiny_data, *arguments)

    assert "--lambda: λ must sum to one" in wrong("--lambda", "model=.5")
    assert "--lambda: λ is written as" in wrong("--lambda", "modle=1")
    assert "--sentences must be at least 1" in wrong("--sentences", 0)
    assert "--erpo-reward 'blue' is unknown" in wrong("--erpo-reward", "blue")
    assert "--erpo-preset must be risk or corpus or robust or paper" in wrong(
        "--erpo-preset", "papers"
    )


def test_dictionaries_of_another_size(
    tiny_data: Path, tiny_checkpoint: Path, refused: Callable[..., str], tmp_path: Path
):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    file = data / "dict.en.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-8]))
    assert "trained with another target dictionary" in refused(tiny_checkpoint, data)
    state = load(tiny_checkpoint)
    state["task_state"] = {}  # as fairseq's own tasks leave it: only sizes tell
    torch.save(state, tmp_path / "plain.pt")
    assert f"the dictionaries in {data} are not those of" in (
        message := refused(tmp_path / "plain.pt", data)
    )
    assert "size mismatch for decoder.embed_tokens.weight" in message


@pytest.mark.parametrize(
    ("part", "kind", "values"),
    [
        ("model", "model", {"_name": "mine"}),
        ("criterion", "criterion", {"_name": "mine"}),
        ("criterion", "reward", {"_name": "erpo_interp", "erpo_reward": "mine"}),
    ],
)
def test_what_only_an_unknown_plugin_has(
    part: str,
    kind: str,
    values: dict[str, str],
    tiny_data: Path,
    tiny_checkpoint: Path,
    refused: Callable[..., str],
    tmp_path: Path,
):
    state = load(tiny_checkpoint)
    state["cfg"][part] = Namespace(**values)
    torch.save(state, tmp_path / "x.pt")
    message = refused(tmp_path / "x.pt", tiny_data)
    assert (
        f"no {kind} 'mine', which {tmp_path / 'x.pt'} is of" in message and "--user-dir" in message
    )


def test_what_0_means_is_said_of_edit_only(tiny_data: Path, tiny_checkpoint: Path, inspect: Run):
    words = ["--sentences", 1, "--erpo-preset", "paper", "--erpo-reward"]
    shown = [inspect(tiny_checkpoint, tiny_data, *words, reward) for reward in ("edit", "bleu")]
    assert ["a token that adds no edit" in " ".join(text.split()) for text in shown] == [
        True,
        False,
    ]


def test_a_language_model_has_no_source_to_draw_for(
    tiny_data: Path, tiny_checkpoint: Path, refused: Callable[..., str], tmp_path: Path
):
    shutil.copy(tiny_data / "dict.en.txt", tmp_path / "dict.txt")
    flags = (
        "--task language_modeling --arch transformer_lm --decoder-layers 1 --decoder-embed-dim 8"
    )
    words = [str(tmp_path), *flags.split(), "--cpu"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(parsed)
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    torch.save(
        load(tiny_checkpoint) | {"cfg": plain, "model": model.state_dict(), "task_state": {}},
        tmp_path / "lm.pt",
    )
    assert "TransformerLanguageModel is not an encoder-decoder model" in refused(
        tmp_path / "lm.pt", tmp_path
    )


def test_the_page_is_whole_or_as_it_was(
    tiny_data: Path,
    tiny_checkpoint: Path,
    inspect: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    html = tmp_path / "page.html"
    html.write_text("before")

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode(encoding)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit, match=r"^erpo: --html .*page.html cannot be written: No space"):
        inspect(tiny_checkpoint, tiny_data, "--sentences", 1, "--html", html)
    assert html.read_text() == "before"


# ---- the picture of four points of λ ----

SVG = "{http://www.w3.org/2000/svg}"


def rows_of(svg: str) -> list[tuple[str, list[str]]]:
    """Of each row of a picture: its text, and where its tokens come from."""
    rows = ElementTree.fromstring(svg).findall(f"{SVG}g")
    kinds = [[rect.get("class") for rect in row.findall(f"{SVG}rect")] for row in rows]
    texts = ["".join(row.itertext()) for row in rows]
    return [(text, [kind for kind in row if kind]) for text, row in zip(texts, kinds, strict=True)]


def test_the_picture_has_a_row_for_each_point(
    inspect: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """It shows what the verb shows at the same λ, and what it is of stands in it."""
    file = tmp_path / "picture.svg"
    inspect(tiny_checkpoint, tiny_data, "--number", 5, "--picture", file)
    rows = rows_of(file.read_text("utf-8"))
    assert [bool(kinds) for _, kinds in rows] == [True] * len(POINTS) == [True] * 4
    assert set(rows[0][1]) == {"data"} and set(rows[-1][1]) == {"model"}
    for point, (_, kinds) in zip(POINTS, rows, strict=True):
        printed_sentence = blocks(
            inspect(tiny_checkpoint, tiny_data, "--number", 5, "--lambda", str(point))
        )[5]
        letters = [
            letter for word, letter, _ in triples(printed_sentence["sampled"]) if word != "</s>"
        ]
        assert [kind[0] for kind in kinds] == letters
    said = ElementTree.fromstring(file.read_text("utf-8")).findtext(f"{SVG}desc")
    assert said and "Sentence 5, valid" in said and "seed 1" in said


def test_the_picture_escapes_words_and_joins_pieces() -> None:
    tokens = [
        Token("▁a", Expert.DATA, 0, True),
        Token("<&", Expert.MODEL, 0, True),
        Token("▁", Expert.REWARD, 0, True),
        Token("</s>", Expert.REWARD, 0, False),
    ]
    row = rows_of(picture([example(tokens)] * 4))[1]
    # A mark alone is no word, and what ends a sentence that was not clipped is none either.
    assert row[0].split()[-2:] == ["a", "<&"] and row[1] == ["data", "model"]


def test_the_picture_of_the_readme_is_of_this_form() -> None:
    """CONTRIBUTING.md has the command that makes it anew."""
    svg = (ROOT / "docs/lambda.svg").read_text("utf-8")
    rows = [kinds for _, kinds in rows_of(svg)]
    assert set(rows[0]) == {"data"} and set(rows[-1]) == {"model"} and len(rows) == len(POINTS)
    assert set().union(*rows[1:3]) == {"data", "reward", "model"}
    assert inspect_picture.STYLE in svg
    said = ElementTree.fromstring(svg).findtext(f"{SVG}desc") or ""
    number, command = said.split()[1], (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"--number {number.rstrip(',')} --picture docs/lambda.svg" in command


def test_a_number_beyond_the_split_is_refused(
    inspect: Run, tiny_checkpoint: Path, tiny_data: Path
) -> None:
    with pytest.raises(SystemExit, match="--number 10000"):
        inspect(tiny_checkpoint, tiny_data, "--number", 10_000)
