"""Flags that name a policy: a run of this package, plain arrays, or a model of
stable-baselines3.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from gail.policies import SLOPE, Act, load_policy, plain_expert
from gail.sb3_policy import sb3_policy
from gail.simulator import box_of, make_env

# What `policies.plain_expert` computes, by the names of the arrays.
PLAIN = (
    "mean = leaky_relu((obs - obs_mean) / (sqrt(obs_meansq - obs_mean²) + 1e-6) W0 + b0) W_out + "
    "b_out, with the slope "
    f"{SLOPE:g}, and the deviation exp(log_std)"
)


def add_policy(parser: ArgumentParser, named_by: str = "--expert and --sb3") -> None:
    """Add the flags that name a policy.  `named_by`: the flags that do not say which environment
    they are of.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--policy", type=Path, metavar="FILE", help="policy.pt or best.pt of a run of this package"
    )
    group.add_argument(
        "--expert",
        type=Path,
        metavar="FILE",
        help=f"plain arrays of a small Gaussian policy (.npz), with --env: {PLAIN}",
    )
    group.add_argument(
        "--sb3",
        type=Path,
        metavar="ZIP",
        help="a model of stable-baselines3 with an MlpPolicy, with --env",
    )
    parser.add_argument(
        "--sb3-algorithm",
        default="PPO",
        metavar="NAME",
        help="PPO, SAC, TD3, ...; default %(default)s",
    )
    parser.add_argument(
        "--sb3-normaliser", type=Path, metavar="PKL", help="the VecNormalize it was trained with"
    )
    parser.add_argument(
        "--env", metavar="ID", help=f"with {named_by}, or to trust the module:ID of a policy"
    )


def policy_of(args: Namespace) -> tuple[str, Act]:
    """Return the environment and the policy that the flags name.  Raises ValueError where --env is
    missing.
    """
    if args.policy is not None:
        return load_policy(args.policy, args.env)
    if args.env is None:
        raise ValueError("--expert and --sb3 need --env, since those files do not name it")
    if args.expert is not None:
        env = make_env(args.env)
        act = plain_expert(args.expert, box_of(env))
        try:
            act(env.observation_space.sample()[None], None)
        except ValueError as error:
            raise ValueError(
                f"--expert {args.expert} does not fit the observations of --env {args.env}: {error}"
            ) from None
        return args.env, act
    return args.env, sb3_policy(args.sb3, args.sb3_algorithm, args.sb3_normaliser, args.env)
