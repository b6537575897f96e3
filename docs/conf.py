"""Sphinx's settings for `make docs`: README, the pages of this folder and a few beside them, as
HTML that needs no network.  The source folder is the repository, so that links hold in both.
"""

import shutil
from pathlib import Path
from typing import Any

# README is the landing page; these are its table of contents.
CONTENTS = {
    "Use it": ["docs/choose", "docs/log", "docs/transformers", "examples/README", "docs/gail"],
    "Look it up": ["docs/rows", "docs/rewards", "docs/architectures", "docs/api"],
    "What was measured": ["docs/results", "docs/gail-results", "docs/performance"],
    "The project": ["docs/architecture", "CONTRIBUTING", "CHANGELOG"],
}
# Pages that others link to, and that are not in the contents.
ASIDE = ["docs/research-log", "docs/results/performance"]

project = "fairseq-erpo"
copyright = author = "the fairseq-erpo authors, MIT licence"
root_doc = "README"
include_patterns = ["README.md"]
include_patterns += [f"{page}.md" for pages in CONTENTS.values() for page in pages]
include_patterns += [f"{page}.md" for page in ASIDE]
exclude_patterns = [".*", "site", "runs", "build", "dist", "data"]  # not walked through
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
smartquotes = False  # which make a dash of the two of a flag
html_title = "fairseq-erpo"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"source_repository": "", "footer_icons": []}


def read(app: Any, name: str, source: list[str]) -> None:
    """Sphinx's hook: the text of a page, before it is parsed."""
    if name == root_doc:
        source[0] += "".join(
            f"\n```{{toctree}}\n:caption: {title}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
            for title, pages in CONTENTS.items()
        )
    elif name in ASIDE:
        source[0] = f"---\norphan: true\n---\n{source[0]}"


def first_page(app: Any, failure: Exception | None) -> None:
    """site/index.html is the landing page."""
    if not failure:
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> None:
    app.connect("source-read", read)
    app.connect("build-finished", first_page)
