"""`python -m fairseq_erpo inspect`: show the sequences that training would draw, and the expert of
each token.
"""

from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Sequence

from rich.console import Console

from fairseq_erpo.files import write_text
from fairseq_erpo.tools.inspect_draw import Inspection
from fairseq_erpo.tools.inspect_page import page
from fairseq_erpo.tools.inspect_picture import four_points, picture
from fairseq_erpo.tools.inspect_terminal import show
from fairseq_erpo.tools.load_run import add_arguments, at_least, load


def inspect(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb `inspect`: load, draw, show."""
    add_arguments(parser, split="valid", count="--sentences", sentences=8, spread=True)
    parser.add_argument(
        "--sources", action=BooleanOptionalAction, default=True, help="print the source sentences"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page for the browser as well")
    parser.add_argument(
        "--picture",
        metavar="FILE",
        help="write the first sentence, drawn at four points of λ, as a picture (.svg) as well",
    )
    args = parser.parse_args(argv)
    at_least("--sentences", args.sentences, 1)
    loaded = load(args)
    inspection = Inspection.of(loaded, args.sources)
    show(inspection, Console(highlight=False, emoji=False))
    if args.html:
        write_text(args.html, page(inspection), "--html")
    if args.picture:
        write_text(args.picture, picture(four_points(loaded)), "--picture")
