"""One training run in one folder: any row of methods.METHODS by the same steps, from the start or from a checkpoint.

config.json      settings.RunSettings            checkpoint.pt    everything, for --resume
progress.csv     a row an iteration              policy.pt        the last policy with its normaliser
evaluations.csv  a row an evaluation             best.pt          the best one by evaluation
tensorboard/     the same, to look at            result.json      the protocol's figures, written last
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gail import state
from gail.archive import load
from gail.bc import clone
from gail.demos import Demonstrations
from gail.discriminator import Discriminator
from gail.envs import PrefixSettings, Simulator, make_env, make_venv
from gail.evaluate import EPISODES, Evaluator, act_of, box_of
from gail.files import read_json, write_json
from gail.logs import Logs, read_table
from gail.ppo import GailPPO, Imitation, make_ppo, stack
from gail.schedules import parse_schedule
from gail.settings import RunSettings

LAST = 10  # evaluations of which the mean is reported beside the best one


def read_demos(settings: RunSettings) -> Demonstrations | None:
    """The demonstrations of a run, subsampled."""
    if settings.demos is None or not settings.row.needs_demos:
        return None
    demos = load(Path(settings.demos), settings.env)
    demos = demos if settings.n is None else demos.first(settings.n)
    check_fit(demos, settings)
    # The seed is not the run's: all seeds learn from the same pairs, as all methods do.
    return demos.subsample(settings.pairs) if settings.pairs else demos


def check_fit(demos: Demonstrations, settings: RunSettings) -> None:
    """Raises ValueError unless the demonstrations are those of this environment, as this simulator has it."""
    env = make_env(settings.env)
    size = Simulator(env).size
    low, high = box_of(env)
    shape = env.observation_space.shape
    env.close()
    if demos.observations.shape[1:] != shape or demos.actions.shape[1:] != low.shape:
        raise ValueError(
            f"--demos {settings.demos}: observations {demos.observations.shape} and actions {demos.actions.shape} are not those "
            f"of {settings.env}, [N, *{shape}] and [N, *{low.shape}]"
        )
    if np.any(demos.actions < low) or np.any(demos.actions > high):
        raise ValueError(f"--demos {settings.demos}: actions must lie in the environment's box; clip them")
    if settings.row.prefix != "none" and demos.states.shape[1] != size:
        raise ValueError(
            f"--demos {settings.demos}: states have {demos.states.shape[1]} numbers and this simulator's {size}: record them "
            f"anew with this version of mujoco, or do not go back to them (--prefix none)"
        )


def build(settings: RunSettings, demos: Demonstrations | None, subproc: bool = False) -> GailPPO:
    """Environments, policy, discriminator and schedule of a run."""
    row = settings.row
    prefix = None
    if demos is not None and row.prefix != "none":
        prefix = PrefixSettings(demos, row.prefix, settings.law, settings.seed)
    venv = stack(make_venv(settings.env, settings.envs, prefix, subproc), settings.steps // settings.envs)
    model = make_ppo(venv, settings.ppo, settings.steps // settings.envs, settings.seed)
    discriminator = None
    if demos is not None and not settings.true_reward:
        sizes = demos.observations.shape[1], demos.actions.shape[1]
        discriminator = Discriminator(*sizes, settings.discriminator, settings.seed)
        if not row.discern:  # what never learns has no norm either, and would see observations of any size
            discriminator.norm.update(torch.as_tensor(demos.observations, dtype=torch.float32))
    annealer = parse_schedule(settings.schedule_name, settings.until)
    model.imitate(Imitation(row, annealer, settings.total_timesteps, demos, discriminator, settings.law, settings.seed))
    return model


def pretrain(model: GailPPO, settings: RunSettings, demos: Demonstrations) -> None:
    """Behaviour cloning; the demonstrations set the normaliser, since no rollout has done so yet."""
    model.normaliser.obs_rms.update(demos.observations)
    observations = torch.as_tensor(model.normaliser.normalize_obs(demos.observations))
    clone(model.policy, observations, torch.as_tensor(demos.actions, dtype=torch.float32), settings.bc_steps, settings.seed)


class Run:
    """A folder, its model, and where it is."""

    def __init__(self, settings: RunSettings, folder: Path, subproc: bool = False) -> None:
        self.settings, self.folder = settings, folder
        self.demos = read_demos(settings)
        self.model = build(settings, self.demos, subproc)
        self.iteration = 0
        self.seconds = 0.0  # of training, over all its parts
        self.evaluator = Evaluator(settings.env, settings.eval_episodes, settings.seed)
        self.act = act_of(self.model.policy, self.model.normaliser.normalize_obs, box_of(self.evaluator.envs[0]))  # type: ignore[arg-type]
        self.limit = Simulator(self.evaluator.envs[0]).limit._max_episode_steps
        self.best = -np.inf

    def begin(self, resume: bool) -> None:
        """From the checkpoint if there is one and `resume`; else from nothing.  Raises ValueError for other settings."""
        config, checkpoint = self.folder / "config.json", self.folder / "checkpoint.pt"
        if config.exists():
            if not resume:
                raise ValueError(f"--out {self.folder}: there is a run already; go on with --resume, or name another folder")
            other = self.settings.differences(read_json(config))
            if other:
                raise ValueError(f"--out {self.folder}: that run had other settings ({'; '.join(other)}); name another folder")
        write_json(config, asdict(self.settings))
        if checkpoint.exists():
            kept = state.load(checkpoint)
            state.put(self.model, kept)
            self.iteration, self.seconds, self.best = kept["iteration"], kept["seconds"], kept["best"]
        elif self.settings.row.clone:
            assert self.demos is not None
            pretrain(self.model, self.settings, self.demos)

    def save(self) -> None:
        """The whole state."""
        progress = {"iteration": self.iteration, "seconds": self.seconds, "best": float(self.best)}
        state.save(state.keep(self.model) | progress | {"env_id": self.settings.env}, self.folder / "checkpoint.pt")

    def save_policy(self, name: str) -> None:
        """What acting needs, and no more."""
        norm = state.moments(self.model.normaliser.obs_rms)
        content = {"policy": self.model.policy.state_dict(), "observation_norm": norm, "env_id": self.settings.env}
        state.save(content, self.folder / name)

    def iterate(self, logs: Logs) -> None:
        """One iteration, its row, and an evaluation when it is due."""
        began = time.perf_counter()
        self.model.learn(self.settings.steps, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - began
        self.iteration += 1
        episodes = self.model.ep_info_buffer or ()
        row: dict[str, Any] = dict(self.model.logger.name_to_value)
        self.model.logger.name_to_value.clear()
        row |= {
            "iteration": self.iteration, "timesteps": self.model.num_timesteps, "seconds": self.seconds,
            "lambda_delta": self.model.share, "policy_pairs": self.settings.steps, "data_pairs": row.get("train/data_pairs", 0),
        }  # fmt: skip
        if episodes:  # of the policy alone: none of them began with data
            row |= {
                "return": np.mean([episode["r"] for episode in episodes]),
                "length": np.mean([episode["l"] for episode in episodes]),
                "episodes": len(episodes),
            }
        if self.iteration == 1 and self.settings.row.imitate:
            self.warn(logs)
        logs.iteration(row)
        if self.iteration % self.settings.eval_every == 0:
            self.evaluate(logs)

    def warn(self, logs: Logs) -> None:
        """Of the best known trap: rewards of one sign, where the policy decides how long it earns them."""
        ends = [episode["l"] for episode in self.model.ep_info_buffer or ()]
        if self.settings.discriminator.reward != "airl" and any(end < self.limit for end in ends):
            logs.say(
                f"{self.settings.env} ends episodes early, so that the sign of the reward alone makes them longer or shorter; "
                "compare with --method gail_untrained"
            )

    def evaluate(self, logs: Logs) -> None:
        returns, lengths = self.evaluator(self.act)
        logs.evaluation(
            {
                "iteration": self.iteration, "timesteps": self.model.num_timesteps, "return": float(np.mean(returns)),
                "return_std": float(np.std(returns)), "length": float(np.mean(lengths)), "episodes": len(returns),
            }
        )  # fmt: skip
        if np.mean(returns) > self.best:
            self.best = float(np.mean(returns))
            self.save_policy("best.pt")

    def finish(self) -> dict[str, Any]:
        """The last policy by the fixed protocol, and the figures over training."""
        final = Evaluator(self.settings.env, EPISODES, self.settings.seed + 1)  # seeds that chose nothing
        # A policy that never trained is measured as it acts, at random; its mean action is next to standing still.
        returns, lengths = final(self.act, deterministic=self.settings.method != "random")
        during = [float(row["return"]) for row in read_table(self.folder / "evaluations.csv")]
        result = {
            "return": float(np.mean(returns)), "return_std": float(np.std(returns)), "length": float(np.mean(lengths)),
            "episodes": len(returns), "return_last10": float(np.mean(during[-LAST:] or returns)),
            "return_best": max(during, default=float(np.mean(returns))),
            "iterations": self.iteration, "timesteps": self.model.num_timesteps, "seconds": round(self.seconds, 1),
        }  # fmt: skip
        self.save_policy("policy.pt")
        write_json(self.folder / "result.json", result)
        return result


def train(
    settings: RunSettings, folder: Path, resume: bool = False, save_every: int = 10, reach: float | None = None,
    subproc: bool = False, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run to the end, or until an evaluation returns `reach`; what result.json holds.  A finished run is not run again."""
    done = folder / "result.json"
    if resume and done.exists() and not settings.differences(read_json(folder / "config.json")):
        return dict(read_json(done))
    run = Run(settings, folder, subproc)
    run.begin(resume)
    total = settings.iterations if settings.row.reinforce else 0
    with Logs(folder, run.iteration, total, f"{settings.env} {settings.method}", quiet) as logs:
        while run.iteration < total and not (reach is not None and run.best >= reach):
            run.iterate(logs)
            if run.iteration % save_every == 0:
                run.save()
    run.save()
    run.model.recorder.close()
    return run.finish()
