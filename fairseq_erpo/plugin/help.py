"""`fairseq-train --user-dir fairseq_erpo --criterion erpo_interp --help` shows the criterion's
flags.

fairseq prints its help before it adds the flags of the task, the model and the criterion, so that
no help ever shows these. And it ends with a traceback and no word where --arch is missing,
and with the names of all its flags where one is misspelt.
"""

import functools
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, NoReturn

from fairseq import options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.utils import gen_parser_from_dataclass

from fairseq_erpo.family.flags import FLAGS
from fairseq_erpo.verbs import dashed, with_nearest

HELP = {"-h", "--help"}
WHERE = (
    "With --user-dir and --criterion erpo_ROW, the last section below has the row's own flags "
    "(--erpo-...); "
    "`python -m fairseq_erpo family` lists the rows, and `python -m fairseq_erpo family ROW` "
    "explains one and its flags."
)


def show_criterion(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Add to the help where our flags are and, if the command line names one of our criterions, its
    flags.
    """
    parser.description = WHERE
    if not any(action.dest == "criterion" for action in parser._actions):
        return  # fairseq-generate and others that build no criterion
    asked, _ = parser.parse_known_args([word for word in words if word not in HELP])
    if str(asked.criterion).startswith("erpo_"):
        group = parser.add_argument_group(asked.criterion)
        gen_parser_from_dataclass(group, CRITERION_DATACLASS_REGISTRY[asked.criterion]())


def end_with_one_line(parser: ArgumentParser) -> None:
    """Where the command line is wrong, without the 190 lines of all flags."""
    known = parser._option_string_actions

    def error(message: str) -> NoReturn:
        # Only now are the flags of task, model and criterion among the parser's.
        unknown = message.split() if message.startswith("unrecognized arguments") else []
        others = [flag for flag in map(dashed, FLAGS) if flag in unknown]
        text = with_nearest(message, unknown, known)
        if others:
            text = f"{others[0]}: the row has no such flag; see python -m fairseq_erpo family ROW"
        parser.exit(2, f"erpo: {text}\n")

    parser.error = error  # type: ignore[method-assign]


@functools.wraps(options.parse_args_and_arch)
def with_our_help(
    parser: ArgumentParser,
    input_args: Sequence[str] | None = None,
    *more: Any,
    _fairseqs: Any = options.parse_args_and_arch,
    **named: Any,
) -> Any:
    words = sys.argv[1:] if input_args is None else input_args
    end_with_one_line(parser)
    if HELP & set(words):
        show_criterion(parser, words)
    try:
        return _fairseqs(parser, input_args, *more, **named)
    except RuntimeError as error:  # without a word, where the command line names no model
        if str(error):
            raise
        raise SystemExit(
            "erpo: --arch is missing: name the model to train, such as --arch "
            "transformer_iwslt_de_en"
        ) from None


options.parse_args_and_arch = with_our_help
