"""Sphinx's settings for `make docs`: the pages of this folder, and the README files, as HTML that
needs no network.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Pages whose text stands elsewhere in the repository; the file of this folder only says where.
ELSEWHERE = {
    "readme": "README.md",
    "examples": "examples/README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")

project = "fairseq-erpo"
copyright = author = "the fairseq-erpo authors, MIT licence"
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["conf.py", "pages.py"]
html_theme = "furo"
smartquotes = False  # which make a dash of the two of a flag
html_title = "fairseq-erpo"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"source_repository": "", "footer_icons": []}


def for_the_site(text: str, folder: Path) -> str:
    """Relative links of a file in `folder`: to pages as they are called here, to all else as plain
    links out of site/.
    """
    pages = {(ROOT / path): f"{name}.md" for name, path in ELSEWHERE.items()}

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        path, _, anchor = target.partition("#")
        found = (folder / path).resolve()
        if found.suffix == ".md" and (found in pages or found.parent == ROOT / "docs"):
            return f"[{label}]({pages.get(found, found.name)}{'#' + anchor if anchor else ''})"
        label = re.sub("`([^`]*)`", r"<code>\1</code>", label)
        return f'<a href="../{found.relative_to(ROOT).as_posix()}">{label}</a>'

    text = re.sub(r"!\[([^\]]*)\]\(docs/", r"![\1](", text)
    return LINK.sub(link, text)


def read(app: Any, name: str, source: list[str]) -> None:
    """Sphinx's hook: the text of a page, before it is parsed."""
    if name in ELSEWHERE:
        source[0] = (ROOT / ELSEWHERE[name]).read_text("utf-8")
    source[0] = for_the_site(
        source[0], (ROOT / ELSEWHERE[name]).parent if name in ELSEWHERE else ROOT / "docs"
    )


def setup(app: Any) -> None:
    app.connect("source-read", read)
