"""The verbs that make policies and demonstrations: expert, record, train, evaluate."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gail import archive, trajectories
from gail.demos import Demonstrations
from gail.envs import make_env
from gail.evaluate import EPISODES, Evaluator, box_of, load_policy, sb3_policy
from gail.files import write_json
from gail.flags import add_imitation, add_training, methods, settings_of
from gail.methods import METHODS
from gail.policies import Act, plain_expert
from gail.record import collect, record_episodes
from gail.run import train as run_training
from gail.settings import RunSettings

# Zoo-like differences from PPOSettings, an environment. Measured: InvertedPendulum 1000 after 16 K steps.
EXPERTS = {
    "HalfCheetah-v5": "log_std_init=-1,batch_size=64",
    "Hopper-v5": "batch_size=64",
    "Walker2d-v5": "batch_size=64",
}


def add_run(parser: ArgumentParser) -> None:
    parser.add_argument("--env", required=True, metavar="ID", help="any MuJoCo environment of gymnasium")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the run goes")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def start(args: Namespace, settings: RunSettings, reach: float | None = None) -> None:
    """Train and say what came out."""
    result = run_training(settings, args.out, args.resume, args.save_every, reach, args.subproc, args.quiet)
    print(
        f"{settings.env} {settings.method}: return {result['return']:.1f} +- {result['return_std']:.1f} over "
        f"{result['episodes']} episodes (last {result['return_last10']:.1f}, best {result['return_best']:.1f}); {args.out}"
    )


def expert(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """PPO on the true reward; best.pt is the best policy by evaluation."""
    add_run(parser)
    parser.add_argument("--reach", type=float, metavar="RETURN", help="stop when an evaluation returns this")
    add_training(parser, iterations=500)
    args = parser.parse_args(argv)
    args.ppo = ",".join(filter(None, (EXPERTS.get(args.env, ""), args.ppo)))  # what is said later wins
    start(args, settings_of(args, args.env, "expert", None, None, args.seed), args.reach)


def train(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Any row of the table."""
    parser.epilog = f"{methods()}\n\n{parser.epilog}"
    add_run(parser)
    parser.add_argument("--method", required=True, choices=[name for name in METHODS if name != "expert"], metavar="METHOD")
    parser.add_argument("--demos", metavar="FILE", help="demonstrations, as `record` writes them")
    parser.add_argument("--n", type=int, metavar="N", help="use the first N trajectories; default: all")
    add_training(parser)
    add_imitation(parser)
    args = parser.parse_args(argv)
    start(args, settings_of(args, args.env, args.method, args.demos, args.n, args.seed))


def add_policy(parser: ArgumentParser, required: bool) -> None:
    """Whose policy acts."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--policy", type=Path, metavar="FILE", help="policy.pt or best.pt of a run of this package")
    group.add_argument("--expert", type=Path, metavar="FILE", help="plain arrays of a small Gaussian policy (.npz), with --env")
    group.add_argument(
        "--sb3", type=Path, metavar="ZIP", help="a model of stable-baselines3, with --env; opening it executes its code"
    )
    parser.add_argument("--sb3-algorithm", default="PPO", metavar="NAME", help="PPO, SAC, TD3, ...; default %(default)s")
    parser.add_argument("--sb3-normaliser", type=Path, metavar="PKL", help="the VecNormalize it was trained with")
    parser.add_argument("--env", metavar="ID", help="with --expert, --sb3 and --trajectories")


def acting(args: Namespace) -> tuple[str, Act]:
    """The environment and the policy that add_policy's flags name."""
    if args.policy is not None:
        return load_policy(args.policy)
    if args.env is None:
        raise ValueError("--expert and --sb3 need --env, since those files do not name it")
    if args.expert is not None:
        return args.env, plain_expert(args.expert, box_of(make_env(args.env)))
    return args.env, sb3_policy(args.sb3, args.sb3_algorithm, args.sb3_normaliser, args.env)


def record(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Whole trajectories; training takes its sample of them."""
    add_policy(parser, required=False)
    parser.add_argument(
        "--from-trajectories", type=Path, metavar="FILE", help="import: plain arrays of `imitation`'s trajectories"
    )
    parser.add_argument(
        "--from-demos", type=Path, metavar="FILE", help="take recorded ones instead of a policy, for --to-trajectories"
    )
    parser.add_argument("--to-trajectories", type=Path, metavar="FILE", help="export: write such arrays as well")
    parser.add_argument("--trajectories", type=int, default=25, metavar="K", help="default %(default)s")
    parser.add_argument("--stochastic", action="store_true", help="sample actions; default: the mean action")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="where the demonstrations go, with a .json beside them")
    args = parser.parse_args(argv)
    demos, source = gather(args)
    if args.out is not None:
        archive.save(demos, args.out, source, args.seed)
    if args.to_trajectories is not None:
        trajectories.save(demos, args.to_trajectories)
    returns = demos.returns()
    print(
        f"{demos.env_id}: {len(demos)} trajectories, {len(demos.index)} pairs, return {returns.mean():.1f} +- {returns.std():.1f}"
    )


def gather(args: Namespace) -> tuple[Demonstrations, str]:
    """The demonstrations that `record` was asked for, and where they come from."""
    sources = [args.policy, args.expert, args.sb3, args.from_trajectories, args.from_demos]
    if sum(source is not None for source in sources) != 1:
        raise ValueError("name one source: --policy, --expert, --sb3, --from-trajectories or --from-demos")
    if args.from_demos is not None:
        return archive.load(args.from_demos), str(args.from_demos)
    if args.from_trajectories is not None:
        if args.env is None:
            raise ValueError("--from-trajectories needs --env, since the file does not name it")
        return trajectories.load(args.from_trajectories, args.env), f"trajectories {args.from_trajectories.name}"
    env_id, act = acting(args)
    if args.trajectories < 1:
        raise ValueError(f"--trajectories {args.trajectories}: must be at least 1")
    episodes = record_episodes(env_id, act, args.trajectories, args.seed, args.stochastic)
    manner = "sampled actions" if args.stochastic else "mean actions"
    name = next(source for source in sources if source is not None).name
    return collect(env_id, list(tqdm(episodes, "recording", args.trajectories, disable=None))), f"{name}, {manner}"


def evaluate(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Fresh episodes from the environment's own reset."""
    parser.add_argument("policies", type=Path, nargs="*", metavar="POLICY", help="policy.pt or best.pt of runs")
    add_policy(parser, required=False)
    parser.add_argument("--episodes", type=int, default=EPISODES, metavar="N", help="default %(default)s")
    parser.add_argument("--stochastic", action="store_true", help="sample actions; default: the mean action")
    parser.add_argument("--seed", type=int, default=100, help="of the episodes, default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every episode's return here")
    args = parser.parse_args(argv)
    if args.episodes < 1:
        raise ValueError(f"--episodes {args.episodes}: must be at least 1")
    named = [(str(path), *load_policy(path)) for path in args.policies]
    if args.policy or args.expert or args.sb3:
        named.append((str(args.policy or args.expert or args.sb3), *acting(args)))
    if not named:
        raise ValueError("name a policy: a file, or --expert, or --sb3")
    found = []
    for name, env_id, act in named:
        returns, lengths = Evaluator(env_id, args.episodes, args.seed)(act, not args.stochastic)
        mean, deviation = (float(f(returns)) for f in (np.mean, np.std))
        print(f"{name}: {env_id}: return {mean:.1f} +- {deviation:.1f}, length {np.mean(lengths):.0f}, {len(returns)} episodes")
        found.append(
            {"policy": name, "env": env_id, "return": mean, "return_std": deviation, "returns": returns, "lengths": lengths}
        )
    if args.json is not None:
        write_json(args.json, found)
