"""`python -m fairseq_erpo family`: every row is listed, and what is drawn is what was measured."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Fairseq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.cells import cell_len

from fairseq_erpo.__main__ import main
from fairseq_erpo.family import FAMILY
from fairseq_erpo.family.flags import FLAGS, PRESETS
from fairseq_erpo.tools import exploration, family_figure, family_page
from fairseq_erpo.tools.exploration import VOCABULARY, Y_STAR, Reach, entropy, model_log_p, reaches
from fairseq_erpo.verbs import dashed


@pytest.fixture(scope="module")
def measured() -> dict[str, list[Reach]]:
    return {row.name: reaches(row, draws=4000) for row in FAMILY.values()}


@pytest.fixture
def family(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: Any) -> str:
        main(["family", *map(str, arguments)])
        return capsys.readouterr().out

    return run


# ---- the table and the pages ----


def test_every_row_stands_in_the_table_with_its_point_and_a_sentence(family: Any) -> None:
    lines = [
        re.split(r"\s{2,}", line.rstrip())
        for line in family().splitlines()
        if line.startswith("erpo_")
    ]
    table, sentences = lines[: len(FAMILY)], lines[len(FAMILY) :]
    assert (
        [line[0] for line in table]
        == [line[0] for line in sentences]
        == [f"erpo_{name}" for name in FAMILY]
    )
    for row, line in zip(FAMILY.values(), table, strict=True):
        assert line[1:4] == [*row.point]
        assert line[4].split()[0] == row.source.split()[0]


@pytest.mark.parametrize("arguments", [[], ["interp"]])
def test_eighty_columns_are_enough(
    arguments: list[str], family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = family(*arguments).splitlines()
    assert max(map(cell_len, lines)) <= 80
    # No cell of the points is cut or folded.
    points = [line.split()[1] for line in lines if line.startswith("erpo_") and not arguments][
        : len(FAMILY)
    ]
    assert points == [row.point.reward.split()[0] for row in FAMILY.values() if not arguments]


def test_a_summary_is_the_first_sentence_and_no_abbreviation_ends_it() -> None:
    assert family_page.summary(FAMILY["noising"]) == (
        "Data noising (Xie et al. 2017), Eq. 7: R_δ relaxed to noised copies g(y*) of the data, "
        "α → 0, β = 1."
    )
    for row in FAMILY.values():
        summary = family_page.summary(row)
        assert (
            summary.endswith(".")
            and 40 < len(summary) < 250
            and " ".join(row.page.split()).startswith(summary)
        )


@pytest.mark.parametrize("name", FAMILY)
def test_a_page_is_whole_and_has_every_flag_with_its_default(name: str, family: Any) -> None:
    row = FAMILY[name]
    output = family(f"erpo_{name}")
    assert output == family(name)
    assert " ".join(row.page.split()) in " ".join(output.split())
    found = dict(re.findall(r"^(--\S+) {2,}(\S+(?: \S+)*)(?: {2,}|$)", output, re.MULTILINE))
    assert list(found) == [family_page.dashed(flag) for flag in row.flags]
    for flag in row.flags:
        default = row.defaults.get(flag, FLAGS[flag].default)
        of_preset = (
            "erpo_preset" in row.flags
            and flag not in row.defaults
            and any(flag in values for values in PRESETS.values())
        )
        assert found[family_page.dashed(flag)] == (
            "the preset's" if of_preset else "-" if default is None else str(default)
        )
    for flag, value in row.defaults.items():
        if flag not in row.flags:
            assert f"{family_page.dashed(flag)} {value}" in output


def test_docs_have_the_rows_presets_and_flags_of_the_code(family: Any, tmp_path: Path) -> None:
    """docs/rows.md is generated; make it anew with `python -m fairseq_erpo family --markdown
    docs/rows.md`.
    """
    assert family("--markdown", tmp_path / "rows.md") == ""
    text = (tmp_path / "rows.md").read_text("utf-8")
    assert text == (ROOT / "docs" / "rows.md").read_text("utf-8")
    assert all(f"### erpo_{name}\n" in text for name in FAMILY) and all(
        f"| `{dashed(name)}` |" in text for name in FLAGS
    )


def test_needs_no_fairseq() -> None:
    code = "import sys; from fairseq_erpo.__main__ import main; main(['family']); "
    code += "assert 'fairseq' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_closed_pipe_ends_it_without_a_word() -> None:
    program = f"{sys.executable} -u -m fairseq_erpo path | true"  # which reads nothing
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reinforce"], "the family has no row 'reinforce', only mle, noising,"),
        (["pg", "--plot", "x.png"], "--plot draws the whole family"),
        (["--plot", "x.jpeg"], "--plot x.jpeg must end in .png or .svg"),
    ],
)
def test_what_can_be_wrong_is_one_line(arguments: list[str], message: str, family: Any) -> None:
    with pytest.raises(SystemExit, match=f"^erpo: {re.escape(message)}[^\n]*$"):
        family(*arguments)


# ---- the measurement ----


def test_exploration_grows_from_the_data_to_the_model(measured: dict[str, list[Reach]]) -> None:
    """Figure 1, left to right, and Figure 2: (a) the data alone, (b) around the data, (c) the whole
    space.
    """
    mle = measured["mle"]
    assert [(far.entropy, far.off_sequences, far.off_tokens) for far in mle] == [(0, 0, 0)]
    end = {name: far[-1] for name, far in measured.items()}
    # Which lies outside the space
    inside = {name: far for name, far in end.items() if name != "scheduled_sampling"}
    broadest = sorted(inside, key=lambda name: inside[name].entropy)[-6:]
    assert set(broadest) == {"spg", "mrt", "pg", "self_critic", "mixer", "sequence_tutor"}
    assert (
        end["pg"].entropy
        == end["self_critic"].entropy
        == end["sequence_tutor"].entropy
        == end["mixer"].entropy
    )
    for name in ("noising", "raml"):
        assert 1 < end[name].entropy < end["interp"].entropy - 1
        assert 0 < end[name].off_tokens < end[name].off_sequences < end["interp"].off_sequences


def test_interpolation_goes_from_mle_towards_policy_gradient(
    measured: dict[str, list[Reach]],
) -> None:
    path, pg = measured["interp"], measured["pg"][0]
    assert [far.label for far in path] == ["1", "0.72", "0.44", "0.16", "0"]  # A.3.2
    assert path[0] == measured["mle"][0]._replace(label="1")
    for figure in ("entropy", "off_sequences", "off_tokens"):
        values = [getattr(far, figure) for far in path]
        assert values == sorted(values) and len(set(values)) == 5
        assert values[-1] < getattr(pg, figure)


def test_a_higher_alpha_gives_the_model_more_say(measured: dict[str, list[Reach]]) -> None:
    assert [far.label for far in measured["spg"]] == ["α = 0.02", "α = 0.1", "α = 1"]
    values = [far.entropy for far in measured["spg"]]
    assert values == sorted(values)


def test_measured_figures_agree_with_enumeration(measured: dict[str, list[Reach]]) -> None:
    """Policy gradient draws from the model, whose every sequence can be walked through."""
    p = model_log_p().exp()
    p[:, list(VOCABULARY.never)] = 0
    p = p / p.sum(1, keepdim=True)
    # H = Σ_t P(no EOS before t) H(p_t): the table does not depend on the prefix. The cap is ⌊1.5 ·
    # 3⌋ + 5 = 9 tokens.
    alive, bits, length = 1.0, 0.0, 0.0
    for t in range(9):
        at = p[min(t, 3)]
        bits += alive * float(torch.special.entr(at).sum()) / math.log(2)
        length += alive
        alive *= 1 - float(at[VOCABULARY.eos])
    right = math.prod(float(p[t, w]) for t, w in enumerate(Y_STAR))
    pg = measured["pg"][0]
    # 4000 draws: the standard error of the share is .0034; the entropy misses the rarest sequences,
    # fewer with more draws.
    assert pg.off_sequences == pytest.approx(1 - right, abs=0.014)
    assert bits - 1.2 < pg.entropy < bits
    assert pg.entropy + 0.3 < reaches(FAMILY["pg"], draws=30_000)[0].entropy < bits


def test_entropy_of_known_draws() -> None:
    y = torch.tensor([[4, 2], [4, 2], [5, 2], [6, 2]])
    plug_in, correction = 1.5, (3 - 1) / (2 * 4) / math.log(2)
    assert entropy(y, torch.ones(4)) == pytest.approx(plug_in + correction)
    # Weights: 1/2, 1/4, 1/4 again, from three draws, which say as much as (Σw)²/Σw² = 8/3 of equal
    # weight.
    assert entropy(y[1:], torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(
        1.5 + 2 / (2 * 8 / 3) / math.log(2)
    )
    assert entropy(y[:2], torch.ones(2)) == 0


def test_shares_of_known_draws() -> None:
    """By position: behind the end of y* every token is off the data; the first sequence counts
    three times.
    """
    y = torch.tensor([[4, 5, 6, 2, 1], [4, 6, 6, 6, 2], [4, 2, 1, 1, 1]])
    found = exploration.reach(y, torch.tensor([3.0, 1.0, 1.0]), "x")
    assert found.off_sequences == pytest.approx(2 / 5)
    assert found.off_tokens == pytest.approx((0 + 3 + 1) / (3 * 4 + 5 + 2))


def test_raml_counts_its_samples_by_their_weight() -> None:
    (moment, *_) = exploration.moments(FAMILY["raml"])
    tokens, weights = exploration.draw(FAMILY["raml"], moment.batch(600))
    assert len(tokens) == 600 and weights.view(-1, 6).sum(1).allclose(torch.ones(100))
    truth = tokens.eq(torch.tensor(Y_STAR)).all(1)
    assert weights[truth].mean() > 1.5 * weights[~truth].mean()


# ---- the picture ----


def drawn(measured: dict[str, list[Reach]]) -> Figure:
    return family_figure.exploration_figure(FAMILY, measured)


def test_no_text_of_the_picture_lies_on_another(measured: dict[str, list[Reach]]) -> None:
    figure = drawn(measured)
    FigureCanvasAgg(figure).draw()
    entropy_axes, share_axes = figure.axes
    texts = [t for t in (*figure.texts, *entropy_axes.texts, *share_axes.texts) if t.get_text()]
    assert {f"erpo_{name}" for name in FAMILY} <= {t.get_text() for t in texts}
    boxes = [
        (t.get_text(), t.get_window_extent())
        for t in (*texts, entropy_axes.xaxis.label, share_axes.xaxis.label)
    ]
    assert len(figure.legends) == 1
    boxes.append(("legend", figure.legends[0].get_window_extent()))
    for i, (one, box) in enumerate(boxes):
        assert (
            box.x0 >= 0
            and box.x1 <= figure.bbox.width
            and box.y0 >= 0
            and box.y1 <= figure.bbox.height
        ), one
        for other, second in boxes[:i]:
            assert not box.overlaps(second), f"{one!r} lies on {other!r}"


def test_plot_is_written_whole(
    family: Any, measured: dict[str, list[Reach]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_page, "reaches", lambda row: measured[row.name])
    png, svg, again = tmp_path / "new" / "x.png", tmp_path / "x.svg", tmp_path / "y.SVG"
    assert "entropy, bits" in family("--plot", png)
    family("--plot", svg)
    family("--plot", again)
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 20_000
    assert "</svg>" in svg.read_text() and svg.read_text() == again.read_text()
    assert not list(tmp_path.rglob("*.part"))

    def full(self: Figure, file: Path, **how: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = png.read_bytes()
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(SystemExit, match=r"^erpo: --plot .*x.png cannot be written: No space"):
        family("--plot", png)
    assert png.read_bytes() == before and not list(tmp_path.rglob("*.part"))


# ---- the command line ----


@pytest.mark.parametrize(
    ("flag", "said"),
    [("--erpo-prest", "did you mean --erpo-preset?"), ("--erpo-tau", "family ROW")],
)
def test_a_wrong_command_line_of_fairseq_train_ends_with_one_line(
    flag: str, said: str, fairseq: Fairseq
) -> None:
    words = ["--user-dir", "fairseq_erpo", "--criterion", "erpo_interp", "--arch", "transformer"]
    done = fairseq.start("fairseq-train", ["data", *words, flag, "1"]).wait()
    assert done.code == 2 and "usage" not in done.output
    (line,) = done.refusals
    assert flag in line and said in line
