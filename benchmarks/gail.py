"""What GAIL's loop costs beside stable-baselines3's plain PPO, and where the time of an environment's step goes.

    python benchmarks/gail.py [--quick] [--json FILE]        (or `make bench-gail`)

Machines are noisy: each round runs one iteration (2,048 steps, 10 epochs) of every case, one after the other in one process, and
a case is quoted as the median over rounds of its ratio to the first case of the same round, in seconds of this process. `fastest`
is the ratio of the fastest rounds: on a machine with other work it is nearer to what the code itself costs. Batches, networks and
environments are the same in all cases. Demonstrations are random actions: the cost is that of any other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gymnasium as gym
import mujoco
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from gail.demos import Demonstrations
from gail.envs import DemoPrefix, Monitor, make_env, silent_c
from gail.evaluate import ARCHITECTURE
from gail.record import collect, record_episodes
from gail.run import build
from gail.settings import RunSettings

STEPS, ENVS = 2048, 8
Figures = dict[str, dict[str, float]]


def alternate(cases: Mapping[str, Callable[[], None]], rounds: int, name: str) -> Figures:
    """Median, least and largest ratio of each case to the first of the same round, that of the fastest times, median seconds."""
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for turn in tqdm(range(rounds + 1), name, leave=False):
        for case, run in cases.items():
            began = time.process_time()  # of this process: other programs on the machine do not count
            run()
            if turn:  # the first round warms up
                seconds[case].append(time.process_time() - began)
    base = next(iter(seconds.values()))
    found = {}
    for case, times in seconds.items():
        ratios = [mine / first for mine, first in zip(times, base, strict=True)]
        found[case] = {
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "largest": max(ratios),
            "fastest": min(times) / min(base),
            "seconds": statistics.median(times),
        }
    return found


def demonstrations(env_id: str) -> Demonstrations:
    """Four trajectories of random actions."""
    env = make_env(env_id)
    box: Any = env.action_space

    def act(observations: np.ndarray, numbers: np.random.Generator | None) -> np.ndarray:
        assert numbers is not None
        return numbers.uniform(box.low, box.high, (len(observations), *box.shape)).astype(np.float32)

    return collect(env_id, list(record_episodes(env_id, act, 4, seed=1, stochastic=True))).subsample(50)


def loops(env_id: str, envs: int) -> dict[str, Callable[[], None]]:
    """One iteration of plain PPO, as SB3's own helper builds it, and of our loop."""
    with silent_c():
        venv = VecNormalize(make_vec_env(env_id, envs))
    ppo = PPO("MlpPolicy", venv, n_steps=STEPS // envs, batch_size=256, policy_kwargs=dict(ARCHITECTURE), device="cpu")
    demos = demonstrations(env_id)
    cases: dict[str, Any] = {"SB3 PPO": ppo}
    for name, method, schedule in (
        ("gail", "gail", None),
        ("gail_interp, λ3 = .5", "gail_interp", ".5"),
    ):
        settings = RunSettings(env_id, method, "-", steps=STEPS, envs=envs, schedule=schedule)
        cases[name] = build(settings, demos)

    def iteration(model: Any) -> Callable[[], None]:
        return lambda: model.learn(STEPS, log_interval=None, reset_num_timesteps=False)

    return {name: iteration(model) for name, model in cases.items()}


def engine(env_id: str) -> Callable[[], None]:
    """The simulation alone: as many engine steps as STEPS steps of the environment have."""
    unwrapped: Any = make_env(env_id).unwrapped
    numbers = np.random.default_rng(1)
    low, high = unwrapped.action_space.low, unwrapped.action_space.high

    def run() -> None:
        unwrapped.reset(seed=1)
        for _ in range(STEPS):
            unwrapped.data.ctrl[:] = numbers.uniform(low, high)
            mujoco.mj_step(unwrapped.model, unwrapped.data, unwrapped.frame_skip)

    return run


def stepping(env: gym.Env[Any, Any]) -> Callable[[], None]:
    """STEPS steps of one environment, random actions."""
    box: Any = env.action_space
    numbers = np.random.default_rng(1)

    def run() -> None:
        env.reset(seed=1)
        for _ in range(STEPS):
            _, _, terminated, truncated, _ = env.step(numbers.uniform(box.low, box.high))
            if terminated or truncated:
                env.reset()

    return run


def vectorised(venv: Any) -> Callable[[], None]:
    """STEPS steps through a vectorised environment of ENVS."""
    numbers = np.random.default_rng(1)
    low, high = venv.action_space.low, venv.action_space.high

    def run() -> None:
        venv.reset()
        for _ in range(STEPS // ENVS):
            venv.step(numbers.uniform(low, high, (ENVS, *low.shape)))

    return run


def layers(env_id: str) -> dict[str, Callable[[], None]]:
    """The same steps through ever more of the stack."""
    from gail.envs import make_venv

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


def table(title: str, found: Figures) -> None:
    print(f"\n{title}\n{'':34}{'ratio':>9}{'least':>9}{'largest':>9}{'fastest':>9}{'seconds':>10}{'steps/s':>10}")
    for case, figures in found.items():
        speed = STEPS / figures["seconds"]
        print(
            f"{case:34}{figures['ratio']:9.3f}{figures['least']:9.3f}{figures['largest']:9.3f}"
            f"{figures['fastest']:9.3f}{figures['seconds']:10.4f}{speed:10.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one environment and fewer rounds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if args.quick else 9
    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__, "rounds": rounds, "steps": STEPS}
    for env_id in ("Hopper-v5",) if args.quick else ("Hopper-v5", "HalfCheetah-v5"):
        for envs in (ENVS,) if args.quick else (ENVS, 1):
            name = f"{env_id}, {envs} environment{'s' if envs > 1 else ''}"
            found[f"loop {name}"] = alternate(loops(env_id, envs), rounds, name)
            table(f"{name}: an iteration beside SB3's PPO", found[f"loop {name}"])
        found[f"step {env_id}"] = alternate(layers(env_id), rounds, env_id)
        table(f"{env_id}: {STEPS} steps beside the engine's own", found[f"step {env_id}"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
