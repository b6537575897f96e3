"""Flags of RunSettings, for every verb that trains."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace

from gail.demos import PAIRS
from gail.discriminator import DiscriminatorSettings
from gail.methods import METHODS
from gail.prefix import LAWS
from gail.schedules import PRESETS
from gail.settings import PPOSettings, RunSettings, parse_record


def add_training(parser: ArgumentParser, iterations: int = 1000) -> None:
    """What every run has."""
    group = parser.add_argument_group("training")
    group.add_argument("--iterations", type=int, default=iterations, metavar="N", help="default %(default)s")
    group.add_argument("--steps", type=int, default=2048, metavar="N", help="policy pairs an iteration, default %(default)s")
    group.add_argument("--envs", type=int, default=8, metavar="N", help="environments side by side, default %(default)s")
    group.add_argument("--subproc", action="store_true", help="one process an environment: for simulators slower than these")
    group.add_argument("--ppo", default="", metavar="NAME=VALUE,...", help=f"of {defaults(PPOSettings())}")
    group.add_argument("--eval-every", type=int, default=10, metavar="N", help="iterations, default %(default)s")
    group.add_argument("--eval-episodes", type=int, default=5, metavar="N", help="in each of these, default %(default)s")
    group.add_argument(
        "--save-every", type=int, default=10, metavar="N", help="iterations between checkpoints, default %(default)s"
    )


def add_imitation(parser: ArgumentParser) -> None:
    """What imitation adds."""
    group = parser.add_argument_group("imitation")
    group.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help="random pairs of each, default %(default)s; 0: all")
    group.add_argument("--schedule", metavar="NAME", help=f"of λ3: {', '.join(PRESETS)}, or a constant; default: the method's")
    group.add_argument(
        "--until", type=float, default=0.5, metavar="SHARE", help="of the training, then no data; default %(default)s"
    )
    group.add_argument(
        "--prefix", choices=("state", "replay", "none"), help="how an episode comes to its prefix's end; default: the method's"
    )
    group.add_argument("--law", choices=tuple(LAWS), default="fixed", help="of the prefix's length, default %(default)s")
    group.add_argument("--discriminator", default="", metavar="NAME=VALUE,...", help=f"of {defaults(DiscriminatorSettings())}")
    group.add_argument("--bc-steps", type=int, default=2000, metavar="N", help="of behaviour cloning, default %(default)s")
    group.add_argument("--debug-true-reward", action="store_true", help="the environment's reward instead of the discriminator's")


def defaults(example: object) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(example).items())


def methods() -> str:
    """Every row with its summary, for --help."""
    return "methods:\n" + "\n".join(f"  {name:20}{method.summary}" for name, method in METHODS.items() if name != "expert")


def settings_of(args: Namespace, env: str, method: str, demos: str | None, n: int | None, seed: int) -> RunSettings:
    """The settings that the flags ask for."""
    settings = RunSettings(
        env=env,
        method=method,
        demos=demos,
        n=n,
        seed=seed,
        iterations=args.iterations,
        steps=args.steps,
        envs=args.envs,
        ppo=parse_record(PPOSettings, PPOSettings(), args.ppo, "--ppo"),
        eval_every=args.eval_every,
        eval_episodes=args.eval_episodes,
    )
    return with_imitation(settings, args) if METHODS[method].imitate else settings


def with_imitation(settings: RunSettings, args: Namespace) -> RunSettings:
    """add_imitation's part. Flags about annealing are left out for rows that do not anneal: a sweep has rows of every kind under
    one command, so that such a flag is no error.
    """
    row = METHODS[settings.method]
    return replace(
        settings,
        pairs=args.pairs,
        schedule=args.schedule if row.schedule != "none" else None,
        until=args.until,
        prefix=args.prefix if row.prefix != "none" else None,
        law=args.law,
        discriminator=parse_record(DiscriminatorSettings, DiscriminatorSettings(), args.discriminator, "--discriminator"),
        bc_steps=args.bc_steps,
        true_reward=args.debug_true_reward,
    )
