"""`python -m gail doctor`: is everything here that imitation needs, and are the demonstrations
whole?
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairseq_erpo.checkup import Check, machine, report
from gail.archive import load
from gail.render import visible
from gail.simulator import Simulator, make_env

SMALL = "InvertedPendulum-v5"


def doctor(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: print what was found, and what to do."""
    parser.add_argument(
        "demos",
        type=Path,
        nargs="?",
        metavar="DEMOS",
        help="demonstrations, as `record` writes them (.npz)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where runs are to go; default: this folder",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(argv)
    report(checks(args), args.json)


def checks(args: Namespace) -> Iterator[Check]:
    """What to look at, given the command line."""
    yield from machine(args.out, "gail")
    yield Check("simulator", simulate, "pip install '.[gail]'")
    yield Check("rendering", rendering, "only `python -m gail render` needs it", needed=False)
    if args.demos is not None:
        yield Check(
            f"demonstrations {args.demos}",
            lambda: look_at(args.demos),
            "record them again: python -m gail record --help",
        )


def simulate() -> str:
    """Step a small environment, and put it back."""
    env = make_env(SMALL)
    env.reset(seed=0)
    simulator = Simulator(env)
    before = simulator.get()
    env.step(env.action_space.sample())
    simulator.set(before, 0)
    if (simulator.get() != before).any():
        raise ValueError("the simulator's state cannot be restored")
    return f"{SMALL} runs, and its state can be restored"


def rendering() -> str:
    visible(SMALL).close()
    return "works off screen"


def look_at(path: Path) -> str:
    demos = load(path)
    returns = demos.returns()
    return (
        f"{len(demos)} of {demos.env_id}, {len(demos.index)} pairs, return {returns.mean():.1f} "
        f"+- {returns.std():.1f}"
    )
