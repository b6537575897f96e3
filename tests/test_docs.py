"""The pages: what is generated is current, and no relative link leads nowhere."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"]
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
        if anchor and path.name != "readme.md":  # conf.py fills that page from README.md
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor} is no heading"


def test_every_page_is_in_the_contents() -> None:
    """Sphinx warns of it too, but only where the site is built."""
    contents = (ROOT / "docs/index.md").read_text("utf-8").splitlines()
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= set(contents)


def test_generated_pages_are_current() -> None:
    """Make them anew with `python docs/pages.py`."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs/pages.py")
    assert spec and spec.loader
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for name, make in pages.PAGES.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == make(), name
