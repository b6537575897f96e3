"""The verbs that train a policy: expert and train."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from gail import run
from gail.flags import add_imitation, add_training, method_list, parse_record, settings_from
from gail.methods import METHODS
from gail.settings import PPOSettings, RunSettings

EXPERT_GAMMA = 0.99  # the true reward says by itself what a fall costs
# Changes to PPOSettings for each environment, like those of the RL Zoo.
EXPERTS = {
    "HalfCheetah-v5": "log_std_init=-1,batch_size=64",
    "Hopper-v5": "batch_size=64",
    "Walker2d-v5": "batch_size=64",
}


def add_run(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--env", required=True, metavar="ID", help="any MuJoCo environment of gymnasium"
    )
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the run goes"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, if there is one"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def start(args: Namespace, settings: RunSettings, reach: float | None = None) -> None:
    """Train, and print the result."""
    if args.save_every < 1:
        raise ValueError(f"--save-every must be at least 1, and is {args.save_every}")
    result = run.train(
        settings, args.out, args.resume, args.save_every, reach, args.subproc, args.quiet
    )
    print(
        f"{settings.env} {settings.method}: return {result['return']:.1f} +- "
        f"{result['return_std']:.1f} over "
        f"{result['episodes']} episodes (last {result['return_last10']:.1f}, best "
        f"{result['return_best']:.1f}); {args.out}"
    )


def expert(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: PPO on the true reward; best.pt is the best policy by evaluation."""
    add_run(parser)
    parser.add_argument(
        "--reach", type=float, metavar="RETURN", help="stop when an evaluation returns this"
    )
    add_training(parser, iterations=500, gamma=EXPERT_GAMMA)
    args = parser.parse_args(argv)
    ppo = parse_record(
        PPOSettings, PPOSettings(gamma=EXPERT_GAMMA), EXPERTS.get(args.env, ""), "--ppo"
    )
    start(args, settings_from(args, args.env, "expert", None, None, args.seed, ppo), args.reach)


def train(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: any method of the table."""
    parser.epilog = f"{method_list()}\n\n{parser.epilog}"
    add_run(parser)
    parser.add_argument(
        "--method",
        required=True,
        choices=[name for name in METHODS if name != "expert"],
        metavar="METHOD",
    )
    parser.add_argument("--demos", metavar="FILE", help="demonstrations, as `record` writes them")
    parser.add_argument(
        "--n", type=int, metavar="N", help="use the first N trajectories; default: all"
    )
    add_training(parser)
    add_imitation(parser)
    args = parser.parse_args(argv)
    start(args, settings_from(args, args.env, args.method, args.demos, args.n, args.seed))
