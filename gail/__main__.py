"""`python -m gail VERB`: imitation on gymnasium's MuJoCo environments, from an expert to the figures.

A verb is one function of a parser and its arguments, and one entry here; its module is imported when it is called, so that
--help is there at once.
"""

from __future__ import annotations

import sys
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
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
    "expert": Verb(
        "gail.commands",
        "expert",
        "train an expert by PPO on the environment's reward",
        "python -m gail expert --env InvertedPendulum-v5 --reach 1000 --out runs/expert",
    ),
    "record": Verb(
        "gail.commands",
        "record",
        "record demonstrations from a trained policy, or turn recorded ones into others",
        "python -m gail record --policy runs/expert/best.pt --trajectories 25 --out runs/demos/InvertedPendulum-v5.npz",
    ),
    "train": Verb(
        "gail.commands",
        "train",
        "train by one of the methods",
        "python -m gail train --method gail_interp --env Hopper-v5 --demos demos/Hopper-v5.npz --n 4 --out runs/hopper --resume",
    ),
    "evaluate": Verb(
        "gail.commands",
        "evaluate",
        "measure a policy's return in fresh episodes",
        "python -m gail evaluate runs/hopper/policy.pt --episodes 50 --json runs/hopper/returns.json",
    ),
    "sweep": Verb(
        "gail.sweep",
        "sweep",
        "train environments x demonstrations x methods x seeds, one process a core; again: goes on",
        "python -m gail sweep --env Hopper-v5 HalfCheetah-v5 --demos demos --n 1 4 --method bc gail gail_interp --out runs/sweep",
    ),
    "plot": Verb(
        "gail.plots",
        "plot",
        "draw Figure 3 (return over demonstrations) and Figure 4 (learning curves) of a sweep",
        "python -m gail plot runs/sweep",
    ),
    "render": Verb(
        "gail.render",
        "render",
        "show an episode of a policy as PNG, GIF or MP4",
        "python -m gail render runs/hopper/policy.pt --out hopper.mp4",
    ),
}


def main(argv: Sequence[str]) -> None:
    """Run the verb that the command line names; what cannot be done is said in one line."""
    parser = ArgumentParser(
        prog="python -m gail", description="Imitation with annealed demonstrations, on stable-baselines3's PPO."
    )
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
    if not argv or argv[0] not in VERBS:
        parser.parse_args(argv)  # --help, or the error
        return
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        VERBS[argv[0]].load()(parsers[argv[0]], argv[1:])
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"gail: {error}") from None
    except ModuleNotFoundError as error:
        raise SystemExit(f"gail: {error}; install this package with its extra: pip install '.[gail]'") from None
    except KeyboardInterrupt:
        raise SystemExit("\ngail: interrupted; --resume goes on from the last checkpoint.") from None


if __name__ == "__main__":
    main(sys.argv[1:])
