"""GAIL as HumanCompatibleAI's `imitation` 1.0.1 has it, beside ours: seconds of an iteration and
returns, in one run.

    make bench-peer          (installs imitation into runs/peer, and nothing else)
    python benchmarks/peer_imitation.py --peer runs/peer [--expert POLICY] [--env ID]
        [--iterations N] [--json FILE]

Both get the same 50 pairs of each demonstration, the same PPO arguments and networks, the same
number of the discriminator's steps and the same seeds, on the same versions of stable-baselines3
and gymnasium: imitation 1.0.1 names older ones, and works with these too when it is installed
without its dependencies. They take turns, an iteration each; a ratio is the median over iterations.
What differs is theirs: the discriminator learns from batches as large as the demonstrations,
rewards come from the discriminator as it was before the rollout, and the policy normalises
observations inside its network.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

os.environ.setdefault("TQDM_DISABLE", "1")  # before tqdm is imported: theirs has no switch

import numpy as np  # noqa: E402
import torch  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402

from gail.build import build  # noqa: E402
from gail.demos import Demonstrations, from_episodes  # noqa: E402
from gail.evaluate import Evaluator  # noqa: E402
from gail.policies import ARCHITECTURE, Act, act_of, load_policy, plain_expert  # noqa: E402
from gail.record import record_episodes  # noqa: E402
from gail.settings import RunSettings  # noqa: E402
from gail.simulator import box_of, make_env, silent_c  # noqa: E402


def their_pairs(whole: Demonstrations, pairs: Demonstrations) -> Any:
    """Our sample as their Transitions, which know what came next."""
    from imitation.data.types import Transitions

    ends = np.cumsum(whole.lengths)
    rows = (ends - whole.lengths)[pairs.trajectory] + pairs.index
    after = np.concatenate([whole.observations[1:], whole.last_observations[-1:]])
    after[ends - 1] = whole.last_observations
    last = pairs.index == pairs.lengths[pairs.trajectory] - 1
    return Transitions(
        obs=pairs.observations.copy(),  # they make their arrays read-only
        acts=pairs.actions.copy(),
        infos=np.array([{}] * len(rows)),
        next_obs=after[rows],
        dones=last & pairs.terminated[pairs.trajectory],
    )


def theirs(settings: RunSettings, transitions: Any, folder: str) -> Any:
    """Their trainer with our settings."""
    from imitation.algorithms.adversarial.gail import GAIL
    from imitation.policies.base import NormalizeFeaturesExtractor
    from imitation.rewards.reward_nets import BasicRewardNet
    from imitation.util import logger
    from imitation.util.networks import RunningNorm

    with silent_c():
        venv = make_vec_env(settings.env, settings.envs, seed=settings.seed)
    ppo = settings.ppo
    learner = PPO(
        "MlpPolicy",
        venv,
        learning_rate=ppo.learning_rate,
        n_steps=settings.steps // settings.envs,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        policy_kwargs={
            **ARCHITECTURE,
            "features_extractor_class": NormalizeFeaturesExtractor,
            "features_extractor_kwargs": {"normalize_class": RunningNorm},
        },
        seed=settings.seed,
        device="cpu",
    )
    spaces = venv.observation_space, venv.action_space
    return GAIL(
        demonstrations=transitions,
        demo_batch_size=len(transitions),
        gen_replay_buffer_capacity=settings.steps,
        gen_train_timesteps=settings.steps,
        n_disc_updates_per_round=settings.discriminator.steps,
        disc_opt_kwargs={"lr": settings.discriminator.learning_rate},
        venv=venv,
        gen_algo=learner,
        reward_net=BasicRewardNet(
            *spaces,
            hid_sizes=(128, 128),
            normalize_input_layer=RunningNorm,
            activation=torch.nn.Tanh,
        ),
        allow_variable_horizon=True,
        custom_logger=logger.configure(folder, []),
    )


def compare(settings: RunSettings, whole: Demonstrations, folder: str) -> dict[str, Any]:
    """Both to the end, an iteration in turn; seconds of this process, and returns of the mean
    action.
    """
    pairs = whole.subsample(settings.pairs)
    ours = build(settings, pairs)
    their = theirs(settings, their_pairs(whole, pairs), folder)
    seconds: dict[str, list[float]] = {"gail": [], "imitation": []}
    for _ in range(settings.iterations):
        for name, iterate in (
            (
                "gail",
                lambda: ours.learn(settings.steps, log_interval=None, reset_num_timesteps=False),
            ),  # type: ignore[arg-type]
            ("imitation", lambda: their.train(settings.steps)),
        ):
            began = time.process_time()
            iterate()
            seconds[name].append(time.process_time() - began)
    box = box_of(make_env(settings.env))
    policy = their.gen_algo.policy.eval()
    acts: dict[str, Act] = {
        "gail": act_of(ours.policy, ours.normaliser.normalize_obs, box),  # type: ignore[arg-type]
        "imitation": act_of(policy, lambda observations: observations, box),
    }
    evaluator = Evaluator(settings.env, seed=settings.seed)
    ratios = [a / b for a, b in zip(seconds["gail"][1:], seconds["imitation"][1:], strict=True)]
    return {
        name: {
            "return": statistics.mean(returns),
            "return_std": statistics.pstdev(returns),
            "seconds": statistics.median(seconds[name][1:]),
        }
        for name, act in acts.items()
        for returns in [evaluator(act)[0]]
    } | {"ratio": statistics.median(ratios)}


def expert_of(args: argparse.Namespace) -> tuple[str, Act]:
    """Whose demonstrations both learn from."""
    if args.expert is None:

        def balance(observations: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
            return np.clip(observations @ np.array([[1.0], [15.0], [1.0], [3.0]]), -3, 3).astype(
                np.float32
            )

        return "InvertedPendulum-v5", balance
    if args.expert.suffix == ".npz":
        return args.env, plain_expert(args.expert, box_of(make_env(args.env)))
    return load_policy(args.expert)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", type=Path, required=True, help="the folder that imitation is installed in"
    )
    parser.add_argument(
        "--expert",
        type=Path,
        help="a policy of ours, or plain arrays (.npz) with --env; default: the pendulum's",
    )
    parser.add_argument("--env", help="with plain arrays")
    parser.add_argument("--n", type=int, default=1, help="demonstrations, default %(default)s")
    parser.add_argument("--iterations", type=int, default=40, help="default %(default)s")
    parser.add_argument("--envs", type=int, default=8, help="side by side, default %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="default 1")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    sys.path.append(str(args.peer))  # last, so that it brings imitation and shadows nothing
    torch.set_num_threads(1)
    env_id, act = expert_of(args)
    whole = from_episodes(env_id, list(record_episodes(env_id, act, args.n, seed=0)))
    found: dict[str, Any] = {
        "env": env_id,
        "n": args.n,
        "iterations": args.iterations,
        "expert": whole.returns().mean(),
    }
    size = f"{args.iterations} iterations, {args.envs} environments"
    print(f"{env_id}, {args.n} demonstrations of {found['expert']:.0f}, {size}")
    print(f"{'seed':>4}{'':12}{'return':>10}{'+-':>8}{'s/iteration':>13}")
    for seed in args.seeds:
        settings = RunSettings(
            env_id, "gail", "-", seed=seed, iterations=args.iterations, envs=args.envs
        )
        with tempfile.TemporaryDirectory() as folder:
            found[f"seed {seed}"] = result = compare(settings, whole, folder)
        for name in ("gail", "imitation"):
            one = result[name]
            reached = f"{one['return']:10.1f}{one['return_std']:8.1f}"
            print(f"{seed:4}  {name:10}{reached}{one['seconds']:13.3f}")
        print(f"      ours over theirs: {result['ratio']:.3f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
