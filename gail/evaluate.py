"""Returns by a fixed protocol: the mean action, fresh episodes from the environment's own reset,
the environment's reward.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fairseq_erpo.files import write_json
from gail.policies import Act, load_policy
from gail.policy_flags import add_policy, policy_of
from gail.simulator import make_env

EPISODES = 20
SIDE_BY_SIDE = 10  # environments, so that one forward pass serves many
# Of evaluation episodes; training seeds are small numbers, and the two must not meet
FIRST_SEED = 1_000_000


class Evaluator:
    """Evaluate policies on one environment; the environments are made once, since that costs more
    than many steps.
    """

    def __init__(self, env_id: str, episodes: int = EPISODES, seed: int = 0) -> None:
        self.envs = [make_env(env_id) for _ in range(min(episodes, SIDE_BY_SIDE))]
        self.seeds = [FIRST_SEED + 1000 * seed + episode for episode in range(episodes)]

    def __call__(self, act: Act, deterministic: bool = True) -> tuple[list[float], list[int]]:
        """Return the undiscounted returns and the lengths of all episodes.  The seeds are the same
        at each call.
        """
        rng = None if deterministic else np.random.default_rng(self.seeds[0])
        returns, lengths = [0.0] * len(self.seeds), [0] * len(self.seeds)
        for start in range(0, len(self.seeds), len(self.envs)):
            live = dict(zip(range(start, len(self.seeds)), self.envs, strict=False))
            observations = {
                episode: env.reset(seed=self.seeds[episode])[0] for episode, env in live.items()
            }
            while live:
                actions = act(np.stack([observations[episode] for episode in live]), rng)
                for episode, action in zip(list(live), actions, strict=True):
                    observations[episode], reward, terminated, truncated, _ = live[episode].step(
                        action
                    )
                    returns[episode] += float(reward)
                    lengths[episode] += 1
                    if terminated or truncated:
                        del live[episode]
        return returns, lengths


def evaluate(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: measure policies in fresh episodes."""
    parser.add_argument(
        "policies", type=Path, nargs="*", metavar="POLICY", help="policy.pt or best.pt of runs"
    )
    add_policy(parser)
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, metavar="N", help="default %(default)s"
    )
    parser.add_argument(
        "--stochastic", action="store_true", help="sample actions; default: the mean action"
    )
    parser.add_argument(
        "--seed", type=int, default=100, help="of the episodes, default %(default)s"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every episode's return here"
    )
    args = parser.parse_args(argv)
    if args.episodes < 1:
        raise ValueError(f"--episodes {args.episodes}: must be at least 1")
    named = [(str(path), *load_policy(path, args.env)) for path in args.policies]
    if args.policy or args.expert or args.sb3:
        named.append((str(args.policy or args.expert or args.sb3), *policy_of(args)))
    if not named:
        raise ValueError("name a policy: a file, or --expert, or --sb3")
    found = []
    for name, env_id, act in named:
        returns, lengths = Evaluator(env_id, args.episodes, args.seed)(act, not args.stochastic)
        mean, deviation = (float(f(returns)) for f in (np.mean, np.std))
        print(
            f"{name}: {env_id}: return {mean:.1f} +- {deviation:.1f}, length "
            f"{np.mean(lengths):.0f}, {len(returns)} episodes"
        )
        found.append(
            {
                "policy": name,
                "env": env_id,
                "return": mean,
                "return_std": deviation,
                "returns": returns,
                "lengths": lengths,
            }
        )
    if args.json is not None:
        write_json(args.json, found)
