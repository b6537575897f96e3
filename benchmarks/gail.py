"""What GAIL's loop costs beside stable-baselines3's plain PPO, and where the time of an
environment's step goes.

    python benchmarks/gail.py [--quick] [--json FILE]        (or `make bench-gail`)

Each round runs one iteration (2,048 steps, 10 epochs) of every case, one after the other in one
process. Batches, networks and environments are the same in all cases. Demonstrations are random
actions: the cost is that of any other.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gymnasium as gym
import mujoco
import numpy as np
import torch
from measure import Figure, alternate, environment, table, write
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from gail.build import build
from gail.demo_prefix import DemoPrefix, make_venv
from gail.demos import Demonstrations, from_episodes
from gail.policies import ARCHITECTURE
from gail.record import record_episodes
from gail.settings import RunSettings
from gail.simulator import make_env, silent_c

STEPS, ENVS = 2048, 8
PACKAGES = ("torch", "stable-baselines3", "gymnasium", "mujoco")


def demonstrations(env_id: str) -> Demonstrations:
    """Four trajectories of random actions."""
    env = make_env(env_id)
    box: Any = env.action_space

    def act(observations: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        assert rng is not None
        return rng.uniform(box.low, box.high, (len(observations), *box.shape)).astype(np.float32)

    return from_episodes(
        env_id, list(record_episodes(env_id, act, 4, seed=1, stochastic=True))
    ).subsample(50)


def loops(env_id: str, envs: int) -> dict[str, Callable[[], None]]:
    """One iteration of plain PPO, as SB3's own helper builds it, and of our loop."""
    with silent_c():
        venv = VecNormalize(make_vec_env(env_id, envs))
    ppo = PPO(
        "MlpPolicy",
        venv,
        n_steps=STEPS // envs,
        batch_size=256,
        policy_kwargs=dict(ARCHITECTURE),
        device="cpu",
    )
    demos = demonstrations(env_id)
    cases: dict[str, Any] = {"SB3 PPO": ppo}
    for name, method, schedule in (
        ("gail", "gail", None),
        ("gail_interp, λ_data = .5", "gail_interp", ".5"),
    ):
        settings = RunSettings(env_id, method, "-", steps=STEPS, envs=envs, schedule=schedule)
        cases[name] = build(settings, demos)

    def iteration(model: Any) -> Callable[[], None]:
        return lambda: model.learn(STEPS, log_interval=None, reset_num_timesteps=False)

    return {name: iteration(model) for name, model in cases.items()}


def engine(env_id: str) -> Callable[[], None]:
    """The simulation alone: as many engine steps as STEPS steps of the environment have."""
    unwrapped: Any = make_env(env_id).unwrapped
    rng = np.random.default_rng(1)
    low, high = unwrapped.action_space.low, unwrapped.action_space.high

    def run() -> None:
        unwrapped.reset(seed=1)
        for _ in range(STEPS):
            unwrapped.data.ctrl[:] = rng.uniform(low, high)
            mujoco.mj_step(unwrapped.model, unwrapped.data, unwrapped.frame_skip)

    return run


def stepping(env: gym.Env[Any, Any]) -> Callable[[], None]:
    """STEPS steps of one environment, random actions."""
    box: Any = env.action_space
    rng = np.random.default_rng(1)

    def run() -> None:
        env.reset(seed=1)
        for _ in range(STEPS):
            _, _, terminated, truncated, _ = env.step(rng.uniform(box.low, box.high))
            if terminated or truncated:
                env.reset()

    return run


def vectorised(venv: Any) -> Callable[[], None]:
    """STEPS steps through a vectorised environment of ENVS."""
    rng = np.random.default_rng(1)
    low, high = venv.action_space.low, venv.action_space.high

    def run() -> None:
        venv.reset()
        for _ in range(STEPS // ENVS):
            venv.step(rng.uniform(low, high, (ENVS, *low.shape)))

    return run


def layers(env_id: str) -> dict[str, Callable[[], None]]:
    """The same steps through ever more of the stack."""
    with silent_c():
        plain = gym.make(env_id)
        theirs = make_vec_env(env_id, ENVS)
    return {
        "engine (mj_step)": engine(env_id),
        "environment without wrappers": stepping(make_env(env_id).unwrapped),
        "gymnasium.make": stepping(plain),
        "ours: no checker": stepping(make_env(env_id)),
        "ours: DemoPrefix(Monitor)": stepping(DemoPrefix(Monitor(make_env(env_id)), None, 0)),
        "SB3 make_vec_env, 8": vectorised(theirs),
        "ours: make_venv, 8": vectorised(make_venv(env_id, ENVS)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one environment and fewer rounds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if args.quick else 9
    print(*(f"{name}: {value}" for name, value in environment(*PACKAGES).items()), sep="\n")
    found: dict[str, dict[str, Figure]] = {}

    def measure(title: str, cases: dict[str, Callable[[], None]]) -> None:
        found[title] = alternate(cases, rounds, title)
        table(title, found[title])
        if args.json:  # table by table, so that an interrupted run leaves what it has
            write(args.json, found, *PACKAGES)

    for env_id in ("Hopper-v5",) if args.quick else ("Hopper-v5", "HalfCheetah-v5"):
        for envs in (ENVS,) if args.quick else (ENVS, 1):
            name = f"{env_id}, {envs} environment{'s' if envs > 1 else ''}"
            measure(f"{name}: an iteration beside SB3's PPO", loops(env_id, envs))
        measure(f"{env_id}: {STEPS} steps beside the engine's own", layers(env_id))


if __name__ == "__main__":
    main()
