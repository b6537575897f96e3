"""`python -m fairseq_erpo VERB`: the tools around training."""

import logging
import os
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairseq_erpo.verbs import Verb, run_verb

VERBS: Mapping[str, Verb] = {
    "path": Verb(
        "fairseq_erpo.__main__",
        "path",
        "print the folder of this package, for fairseq's --user-dir",
        "fairseq-train DATA --user-dir $(python -m fairseq_erpo path) --criterion erpo_interp ...",
    ),
    "doctor": Verb(
        "fairseq_erpo.tools.doctor",
        "doctor",
        "check the installation, the device, the disk, data and a checkpoint, and say what to do",
        "python -m fairseq_erpo doctor data/bin runs/mle/checkpoint_best.pt",
    ),
    "inspect": Verb(
        "fairseq_erpo.tools.inspect",
        "inspect",
        "show the sequences that training would draw, and which expert each token came from",
        "python -m fairseq_erpo inspect checkpoints/checkpoint_best.pt data-bin --html page.html",
    ),
    "evaluate": Verb(
        "fairseq_erpo.tools.evaluate",
        "evaluate",
        "decode test sets, score systems of one or several seeds, and test them against a baseline",
        "python -m fairseq_erpo evaluate mle=runs/mle-1,runs/mle-2 interp=runs/interp-1 "
        "--baseline mle --greedy --json runs/scores.json",
    ),
    "report": Verb(
        "fairseq_erpo.tools.report",
        "report",
        "make one page of a set of runs: learning curves, λ, rewards, lengths, scores, samples",
        "python -m fairseq_erpo report runs/mle-1 runs/mle-2 runs/interp-1 --out report",
    ),
    "variance": Verb(
        "fairseq_erpo.tools.variance",
        "variance",
        "measure the gradient's variance per target token on one batch, switch by switch",
        "python -m fairseq_erpo variance checkpoints/checkpoint_best.pt data-bin --draws 16",
    ),
    "convert": Verb(
        "fairseq_erpo.tools.convert",
        "convert",
        "rewrite a checkpoint of an older fairseq or torch as one that loads without running code",
        "python -m fairseq_erpo convert old.pt new.pt",
    ),
    "family": Verb(
        "fairseq_erpo.tools.family_page",
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
    """Silence the libraries' log messages and warnings, which would mix with a verb's output;
    `python -W default` shows them.
    """
    for name in (
        "absl",
        "fairseq",
        "fairseq_cli",
        "fairseq_erpo",
        "hydra",
        "matplotlib",
        "sacrebleu",
        "tensorboard",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the command line (or `argv`) names; fairseq is not imported before."""
    quiet()
    # Before torch is imported: on small batches threads wait for each other longer than they
    # compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_verb(
        "fairseq_erpo", "Tools around fairseq-train and the erpo_* criterions.", VERBS, argv, "erpo"
    )


if __name__ == "__main__":
    main()
