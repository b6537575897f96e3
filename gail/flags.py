"""Command-line flags of RunSettings, for every verb that trains.  Their defaults are those of the
settings.
"""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from gail.discriminator import DiscriminatorSettings
from gail.methods import METHODS
from gail.prefix_length import PREFIX_LENGTHS
from gail.schedules import PRESETS
from gail.settings import PPOSettings, RunSettings

Record = TypeVar("Record")
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
DEFAULTS = {entry.name: entry.default for entry in fields(RunSettings)}


def add_training(
    parser: ArgumentParser,
    iterations: Any = DEFAULTS["iterations"],
    gamma: float = PPOSettings.gamma,
) -> None:
    """Add the flags of every run; --help names these defaults."""
    group = parser.add_argument_group("training")

    def number(flag: str, help: str, default: Any) -> None:
        group.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{help}, default %(default)s"
        )

    number("--iterations", "of PPO", iterations)
    number("--steps", "policy pairs per iteration", DEFAULTS["steps"])
    number("--envs", "environments side by side", DEFAULTS["envs"])
    number("--eval-every", "iterations between evaluations", DEFAULTS["eval_every"])
    number("--eval-episodes", "episodes per evaluation", DEFAULTS["eval_episodes"])
    number("--save-every", "iterations between checkpoints", 10)
    group.add_argument(
        "--subproc", action="store_true", help="one process per environment, for slow simulators"
    )
    group.add_argument(
        "--ppo",
        default="",
        metavar="NAME=VALUE,...",
        help=f"changes to {listed(PPOSettings(gamma=gamma))}",
    )


def add_imitation(parser: ArgumentParser) -> None:
    """Add the flags of imitation."""
    group = parser.add_argument_group("imitation")
    group.add_argument(
        "--pairs",
        type=int,
        default=DEFAULTS["pairs"],
        metavar="N",
        help="random pairs of each demonstration, default %(default)s; 0: all",
    )
    group.add_argument(
        "--schedule",
        metavar="NAME",
        help=f"of λ_data: {', '.join(PRESETS)}, or a constant; default: the method's",
    )
    group.add_argument(
        "--until",
        type=float,
        default=DEFAULTS["until"],
        metavar="SHARE",
        help="share of the training after which no data is left; default %(default)s",
    )
    group.add_argument(
        "--prefix",
        choices=("state", "replay", "none"),
        help="how an episode reaches its prefix's end; default: the method's",
    )
    group.add_argument(
        "--prefix-length",
        choices=tuple(PREFIX_LENGTHS),
        default=DEFAULTS["prefix_length"],
        help="its distribution, default %(default)s",
    )
    group.add_argument(
        "--discriminator",
        default="",
        metavar="NAME=VALUE,...",
        help=f"changes to {listed(DiscriminatorSettings())}",
    )
    group.add_argument(
        "--bc-steps",
        type=int,
        default=DEFAULTS["bc_steps"],
        metavar="N",
        help="of behaviour cloning, default %(default)s",
    )
    group.add_argument(
        "--debug-true-reward",
        action="store_true",
        help="use the environment's reward instead of the discriminator's",
    )


def listed(example: object) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(example).items())


def method_list() -> str:
    """Describe every method in a line, for --help."""
    return "methods:\n" + "\n".join(
        f"  {name:20}{method.summary}" for name, method in METHODS.items() if name != "expert"
    )


def settings_from(
    args: Namespace,
    env: str,
    method: str,
    demos: str | None,
    n: int | None,
    seed: int,
    ppo: PPOSettings = PPOSettings(),  # noqa: B008 - it is frozen
) -> RunSettings:
    """Make the settings that the flags ask for; --ppo changes `ppo`, or the defaults.

    Flags about annealing do not reach methods that do not anneal: a sweep has methods of every kind
    under one command.
    """
    settings = RunSettings(
        env=env,
        method=method,
        demos=demos,
        n=n,
        seed=seed,
        iterations=args.iterations,
        steps=args.steps,
        envs=args.envs,
        ppo=parse_record(PPOSettings, ppo or PPOSettings(), args.ppo, "--ppo"),
        eval_every=args.eval_every,
        eval_episodes=args.eval_episodes,
    )
    row = METHODS[method]
    if not row.learned_reward:
        return settings
    return replace(
        settings,
        pairs=args.pairs,
        schedule=args.schedule if row.schedule != "none" else None,
        until=args.until,
        prefix=args.prefix if row.prefix != "none" else None,
        prefix_length=args.prefix_length,
        discriminator=parse_record(
            DiscriminatorSettings, DiscriminatorSettings(), args.discriminator, "--discriminator"
        ),
        bc_steps=args.bc_steps,
        true_reward=args.debug_true_reward,
    )


def parse_record(make: Callable[..., Record], example: Record, text: str, flag: str) -> Record:
    """Read `name=value,name=value` as changes to the dataclass `example`.  Raises ValueError with
    the flag and the names.
    """
    known = {entry.name: type(getattr(example, entry.name)) for entry in fields(example)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name in found:
            raise ValueError(f"{flag}: {name} is there twice")
        if name not in known or not equals:
            raise ValueError(
                f"{flag} {shown(part)}: write NAME=VALUE with NAME one of {', '.join(known)}"
            )
        try:
            found[name] = SWITCH[value.lower()] if known[name] is bool else known[name](value)
        except (ValueError, KeyError):
            raise ValueError(
                f"{flag} {name}: {shown(value)} is not of type {known[name].__name__}"
            ) from None
        if isinstance(found[name], float) and not math.isfinite(found[name]):
            raise ValueError(f"{flag} {name}: must be finite")
    try:
        return make(**(asdict(example) | found))  # type: ignore[call-overload]
    except ValueError as error:
        raise ValueError(f"{flag}: {str(error).removeprefix(f'{flag} ')}") from None


def shown(text: str) -> str:
    """What was typed, short and in one line."""
    return (text if text.isprintable() else repr(text))[:80]
