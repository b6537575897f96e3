"""`python -m fairseq_erpo VERB`: what is not training itself.

A verb is one function of a parser and its arguments, and one entry here. Its module is imported when it is called, so that
`path` starts at once, without fairseq.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

Run = Callable[[ArgumentParser, Sequence[str]], None]  # adds its arguments to the parser, parses, and works


class Verb(NamedTuple):
    """One verb: where its function is, and what --help says."""

    module: str
    function: str
    help: str
    example: str

    def load(self) -> Run:
        run: Run = getattr(import_module(self.module), self.function)
        return run


VERBS: Mapping[str, Verb] = {
    "path": Verb(
        "fairseq_erpo.__main__",
        "path",
        "print the folder of this package, for fairseq's --user-dir",
        "fairseq-train DATA --user-dir $(python -m fairseq_erpo path) --criterion erpo_interp ...",
    ),
    "inspect": Verb(
        "fairseq_erpo.inspection",
        "inspect",
        "show the sequences that training would draw, and which expert each token came from",
        "python -m fairseq_erpo inspect checkpoints/checkpoint_best.pt data-bin --sentences 4 --html sequences.html",
    ),
    "evaluate": Verb(
        "fairseq_erpo.evaluation",
        "evaluate",
        "decode test sets, score systems of one or several seeds, and test their differences from a baseline",
        "python -m fairseq_erpo evaluate mle=runs/mle-1,runs/mle-2 interp=runs/interp-1,runs/interp-2 --baseline mle",
    ),
    "report": Verb(
        "fairseq_erpo.report",
        "report",
        "make one page of the logs of a set of runs: learning curves, λ, rewards, lengths, scores, samples",
        "python -m fairseq_erpo report runs/mle-1 runs/interp-1 runs/interp-2 --scores scores.json --out report",
    ),
    "variance": Verb(
        "fairseq_erpo.variance",
        "variance",
        "measure the gradient's variance per target token on one batch, with and without each variance switch",
        "python -m fairseq_erpo variance checkpoints/checkpoint_best.pt data-bin --batch 32 --draws 16",
    ),
    "family": Verb(
        "fairseq_erpo.family_table",
        "family",
        "list the algorithms of the family, show one of them, or draw how far each explores",
        "python -m fairseq_erpo family --plot exploration.png",
    ),
}


def path(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Print the folder of the package."""
    parser.parse_args(argv)
    print(Path(__file__).absolute().parent)


def quiet() -> None:
    """No notes of the libraries between the lines of a verb; fairseq lets all of them speak.  `python -W default` does too."""
    for name in ("absl", "fairseq", "fairseq_cli", "fairseq_erpo", "hydra", "matplotlib", "sacrebleu"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def main(argv: Sequence[str]) -> None:
    """Run the verb that the command line names; fairseq stays out of it until then."""
    quiet()
    # Tokens are printed as they are; a terminal that cannot show one must not end the program.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = ArgumentParser(prog="python -m fairseq_erpo", description="Tools around fairseq-train and the erpo_* criterions.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    parsers = {
        name: verbs.add_parser(
            name,
            help=verb.help,
            description=f"{verb.help[0].upper()}{verb.help[1:]}.",
            epilog=f"example:\n  {verb.example}",
            formatter_class=RawDescriptionHelpFormatter,
        )
        for name, verb in VERBS.items()
    }
    if argv and argv[0] in VERBS:
        VERBS[argv[0]].load()(parsers[argv[0]], argv[1:])
    else:
        parser.parse_args(argv)  # --help, or the error


if __name__ == "__main__":
    main(sys.argv[1:])
