"""Demonstrations from a policy that acts, or from recorded trajectories."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gail import archive, trajectories
from gail.demos import Demonstrations, from_episodes
from gail.policies import Act
from gail.policy_flags import add_policy, policy_of
from gail.simulator import Simulator, make_env


def record(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: record, import or export complete trajectories; training samples pairs of them."""
    add_policy(parser, "--expert, --sb3, --from-trajectories and --from-minari")
    parser.add_argument(
        "--from-trajectories",
        type=Path,
        metavar="FILE",
        help="import: plain arrays of `imitation`'s trajectories",
    )
    parser.add_argument(
        "--from-minari",
        metavar="DATASET",
        help="import: the first K episodes of a data set that Minari has here",
    )
    parser.add_argument(
        "--from-demos",
        type=Path,
        metavar="FILE",
        help="take recorded ones instead of a policy, for --to-trajectories",
    )
    parser.add_argument(
        "--to-trajectories", type=Path, metavar="FILE", help="export: write such arrays as well"
    )
    parser.add_argument(
        "--trajectories", type=int, default=25, metavar="K", help="default %(default)s"
    )
    parser.add_argument(
        "--stochastic", action="store_true", help="sample actions; default: the mean action"
    )
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.npz",
        help="where the demonstrations go, with a .json beside them",
    )
    args = parser.parse_args(argv)
    demos, source = gather(args)
    if args.out is not None:
        archive.save(demos, args.out, source, args.seed)
    if args.to_trajectories is not None:
        trajectories.save(demos, args.to_trajectories)
    returns = demos.returns()
    print(
        f"{demos.env_id}: {len(demos)} trajectories, {len(demos.index)} pairs, return "
        f"{returns.mean():.1f} +- {returns.std():.1f}"
    )


def gather(args: Namespace) -> tuple[Demonstrations, str]:
    """Return the demonstrations that the flags ask for, and a text that says where they come
    from.
    """
    sources = [
        args.policy,
        args.expert,
        args.sb3,
        args.from_trajectories,
        args.from_minari,
        args.from_demos,
    ]
    if sum(source is not None for source in sources) != 1:
        raise ValueError(
            "name one source: --policy, --expert, --sb3, --from-trajectories, --from-minari or "
            "--from-demos"
        )
    if args.trajectories < 1:
        raise ValueError(f"--trajectories {args.trajectories}: must be at least 1")
    for flag, source in (
        ("--from-trajectories", args.from_trajectories),
        ("--from-minari", args.from_minari),
    ):
        if source is not None and args.env is None:
            raise ValueError(f"{flag} needs --env: whose observations and actions they are")
    if args.from_demos is not None:
        return archive.load(args.from_demos), str(args.from_demos)
    if args.from_trajectories is not None:
        return trajectories.load(
            args.from_trajectories, args.env
        ), f"trajectories {args.from_trajectories.name}"
    if args.from_minari is not None:
        return trajectories.from_minari(
            args.from_minari, args.env, args.trajectories
        ), f"Minari's {args.from_minari}"
    env_id, act = policy_of(args)
    episodes = record_episodes(env_id, act, args.trajectories, args.seed, args.stochastic)
    manner = "sampled actions" if args.stochastic else "mean actions"
    name = next(source for source in sources if source is not None).name
    return from_episodes(
        env_id, list(tqdm(episodes, "recording", args.trajectories, disable=None))
    ), f"{name}, {manner}"


def record_episodes(
    env_id: str, act: Act, trajectories: int, seed: int, stochastic: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield complete episodes from the environment's own reset, one dictionary of lists each, for
    `demos.from_episodes`.

    Trajectory k is that of reset seed (seed, k), whatever the others are.
    """
    env = make_env(env_id)
    simulator = Simulator(env)
    for k in range(trajectories):
        rng = np.random.default_rng([seed, k])
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        rows: dict[str, Any] = {
            name: [] for name in ("observations", "actions", "rewards", "states", "qpos", "qvel")
        }
        over = False
        while not over:
            action = act(observation[None], rng if stochastic else None)[0]
            now = (
                observation,
                action,
                simulator.get(),
                simulator.data.qpos.copy(),
                simulator.data.qvel.copy(),
            )
            for name, value in zip(
                ("observations", "actions", "states", "qpos", "qvel"), now, strict=True
            ):
                rows[name].append(value)
            observation, reward, terminated, truncated, _ = env.step(action)
            rows["rewards"].append(float(reward))
            over = terminated or truncated
        yield rows | {"terminated": terminated, "last_observations": observation}
    env.close()
