"""The pages: what is generated is current, and no relative link leads nowhere."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_erpo.scores import ROUGE

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        path = (page.parent / target).resolve() if target else page
        assert path.exists() and path.is_relative_to(ROOT), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor} is no heading"


def module(name: str) -> Any:
    """docs/`name`.py, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_every_page_is_in_the_contents() -> None:
    """Sphinx warns of it too, but only where the site is built."""
    conf = module("conf")
    listed = {page for pages in conf.CONTENTS.values() for page in pages} | {*conf.ASIDE, "README"}
    pages = {str(page.relative_to(ROOT).with_suffix("")) for page in PAGES}
    assert pages <= listed and all((ROOT / f"{page}.md").is_file() for page in listed)


def test_the_readme_fits_its_frame_and_the_docs_their_number() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 110 and max(map(len, lines)) <= 100
    assert len(list((ROOT / "docs").glob("*.md"))) < 16
    assert len((ROOT / "docs/performance.md").read_text("utf-8").splitlines()) <= 120


def test_generated_pages_are_current() -> None:
    """Make them anew with `python docs/pages.py`."""
    for name, make in module("pages").PAGES.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == make(), name


# ---- numbers ----


def test_tables_have_the_numbers_and_stars_of_the_results() -> None:
    """Make them anew with `python docs/tables.py`."""
    tables = module("tables")
    for page in tables.PAGES:
        text = page.read_text("utf-8")
        assert tables.made_anew(text) == text, page.name
        spoilt = tables.TABLE.sub(lambda match: re.sub(r"\d\d\b", "00", match[0]), text)
        assert tables.made_anew(spoilt) != spoilt, f"{page.name} has no table that the results know"


OTHER = {"3.11", "3.12", "2.13", "1.36"}  # versions of Python and torch, the paper's gain in BLEU


def differences(systems: dict[str, Any]) -> Iterator[float]:
    """From the baseline of a file, or from the best trial of MLE in it."""
    for scores in systems.values():
        for key, score in scores.items():
            trials = [
                found[key]["mean"] for name, found in systems.items() if name.startswith("mle.")
            ]
            if "difference" in score:
                yield score["difference"]
            elif trials:
                yield score["mean"] - max(trials)


def results_of_runs() -> list[Path]:
    """Those of `evaluate`; a GPU's times are tables of another kind."""
    return sorted(
        path
        for path in (ROOT / "docs/results").glob("*.json")
        if "systems" in json.loads(path.read_text("utf-8"))
    )


def test_differences_in_words_are_in_the_results() -> None:
    """Those of a point and more: of smaller ones nearly every number is some difference."""
    tables = module("tables")
    files = [tables.results(path.stem) for path in results_of_runs()]
    known = {f"{abs(number):.2f}" for systems in files for number in differences(systems)} | OTHER
    for page in tables.PAGES:
        words = re.sub(
            r"```.*?```", "", tables.TABLE.sub("", page.read_text("utf-8")), flags=re.DOTALL
        )
        said = set(re.findall(r"(?<![\w.=/-])[+-]?([1-4]\.\d\d)(?![\d.])", words))
        assert said <= known, f"{page.name}: {said - known} is no difference of docs/results/*.json"


NUMBER = r"\d\d\.\d\d(?:/\d+\.\d\d)*"
MEASURED = re.compile(
    rf"(MLE|RAML|MIXER-alike|MIXER|self-critic|scheduled sampling|interpolation|`mrt`)\s+({NUMBER})"
)


@pytest.mark.parametrize("page", ["README.md", "translation/table.sh", "summarization/table.sh"])
def test_what_the_examples_say_was_measured_is_in_the_results(page: str) -> None:
    tables = module("tables")
    systems = {**tables.PHRASES, "MLE": "mle", "interpolation": "interp", "`mrt`": "mrt"}
    text = re.sub(r"\n#\s+", " ", (ROOT / "examples" / page).read_text("utf-8"))
    claims = [
        claim
        for part in re.findall(r"(?:Measured  laptop|`laptop`[:,]).*?docs/results", text)
        for claim in MEASURED.findall(part)
    ]
    assert len(claims) >= 5
    for name, number in claims:
        found = [tables.results(task)[systems[name]] for task in ("translation", "summarization")]
        triples = [
            "/".join(f"{found[1][key + suffix]['mean']:.2f}" for key in ROUGE)
            for suffix in ("", "_021")
        ]
        assert number in {f"{found[0]['bleu']['mean']:.2f}", *triples}, f"{name} {number}"


# A p-value, but not the meaning of a star.
P_VALUE = re.compile(r"(?<!\* )\bp\s*[=<≤]\s*0?\.\d")
WITH_NUMBERS = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "examples").rglob("*.sh"))]


@pytest.mark.parametrize("page", WITH_NUMBERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_p_stands_only_where_a_command_makes_it(page: Path) -> None:
    """In tables that the results know; words say "within noise" or "beyond noise"."""
    tables = module("tables")
    text = page.read_text("utf-8")
    assert not P_VALUE.search(tables.TABLE.sub("", text) if page in tables.PAGES else text)


def test_the_files_of_results_say_how_their_p_was_obtained() -> None:
    for path in results_of_runs():
        result = json.loads(path.read_text("utf-8"))
        scores = [
            score for system in result["systems"].values() for score in system["scores"].values()
        ]
        assert ("test" in result) == any("p" in score for score in scores), path.name
