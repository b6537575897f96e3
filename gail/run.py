"""One training run in one folder: any method, from the start or from a checkpoint.

config.json      settings.RunSettings
progress.csv     a row per iteration
evaluations.csv  a row per evaluation
tensorboard/     the same, for TensorBoard
checkpoint.pt    the complete state, for --resume
policy.pt        the last policy with its normaliser
best.pt          the best one by evaluation
result.json      returns by the fixed protocol, written last
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_erpo.files import lock, read_record, reason_of, write_json
from gail import checkpoints, state
from gail.build import build, pretrain, read_demos
from gail.evaluate import EPISODES, Evaluator
from gail.logs import Logs, read_table
from gail.policies import act_of
from gail.settings import RunSettings
from gail.simulator import Simulator, box_of

LAST = 10  # evaluations of which the mean is reported beside the best one


class Run:
    """A run: its folder, its model, and the iterations that are done."""

    def __init__(self, settings: RunSettings, folder: Path, subproc: bool = False) -> None:
        self.settings, self.folder = settings, folder
        self.demos = read_demos(settings)
        self.model = build(settings, self.demos, subproc)
        self.iteration = 0
        self.seconds = 0.0  # of training, over all its parts
        self.evaluator = Evaluator(settings.env, settings.eval_episodes, settings.seed)
        box = box_of(self.evaluator.envs[0])
        normalise: Any = self.model.normaliser.normalize_obs
        self.act = act_of(self.model.policy, normalise, box)
        self.limit = Simulator(self.evaluator.envs[0]).limit._max_episode_steps
        self.best = -np.inf

    def begin(self, resume: bool) -> None:
        """Start afresh, or with `resume` from the checkpoint.  Raises ValueError if the folder
        holds a run of other settings.
        """
        config, checkpoint = self.folder / "config.json", self.folder / "checkpoint.pt"
        if config.exists():
            if not resume:
                raise ValueError(
                    f"--out {self.folder}: it holds a run; continue it with --resume, or name "
                    "another folder"
                )
            other = differences(self.settings, config)
            if other:
                raise ValueError(
                    f"--out {self.folder}: that run had other settings ({'; '.join(other)}); type "
                    "its, or name another folder"
                )
        elif checkpoint.exists():
            raise ValueError(
                f"--out {self.folder}: it holds a checkpoint without its config.json; name "
                "another folder"
            )
        write_json(config, asdict(self.settings), "--out")
        if checkpoint.exists():
            kept = checkpoints.load(checkpoint)
            try:
                exact = state.restore(self.model, kept)
                self.iteration, self.seconds, self.best = (
                    int(kept["iteration"]),
                    float(kept["seconds"]),
                    float(kept["best"]),
                )
            except (
                RuntimeError,
                KeyError,
                TypeError,
                AttributeError,
                ValueError,
                IndexError,
            ) as error:
                raise ValueError(
                    f"{checkpoint} cannot be gone on from: {type(error).__name__}: "
                    f"{reason_of(error)}"
                ) from None
            self.check_tables()
            if not exact:
                why = (
                    "does not repeat itself here (another processor, or random numbers of its own)"
                )
                print(
                    f"gail: {self.settings.env} {why}: half-done episodes begin anew",
                    file=sys.stderr,
                )
            return
        for table in (self.folder / "progress.csv", self.folder / "evaluations.csv"):
            if table.exists() and read_table(table):
                raise ValueError(
                    f"{checkpoint} is gone, but {table} has rows; bring it back, or start anew in "
                    "another folder"
                )
        if self.settings.row.clone:
            assert self.demos is not None
            pretrain(self.model, self.settings, self.demos)
        self.save()  # before the first row: where there are rows, there was a checkpoint

    def check_tables(self) -> None:
        """Raises ValueError where rows before the checkpoint are gone: the results are made of
        them.
        """
        for name, wanted in (
            ("progress", self.iteration),
            ("evaluations", self.iteration // self.settings.eval_every),
        ):
            table = self.folder / f"{name}.csv"
            found = (
                [row for row in read_table(table) if int(row["iteration"]) <= self.iteration]
                if table.exists()
                else []
            )
            if len(found) < wanted:
                raise ValueError(
                    f"{table} has {len(found)} of the {wanted} rows before its checkpoint; start "
                    "anew"
                )

    def save(self) -> None:
        """Write the complete state."""
        progress = {"iteration": self.iteration, "seconds": self.seconds, "best": float(self.best)}
        checkpoints.save(
            state.capture(self.model) | progress | {"env_id": self.settings.env},
            self.folder / "checkpoint.pt",
        )

    def save_policy(self, name: str) -> None:
        """Write the policy and its normaliser: all that acting needs."""
        norm = state.moments(self.model.normaliser.obs_rms)
        content = {
            "policy": self.model.policy.state_dict(),
            "observation_norm": norm,
            "env_id": self.settings.env,
        }
        checkpoints.save(content, self.folder / name)

    def iterate(self, logs: Logs) -> None:
        """Do one iteration, log it, and evaluate when that is due."""
        began = time.perf_counter()
        try:
            self.model.learn(self.settings.steps, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        except ValueError as error:
            why = str(error)
            if why.startswith("Expected parameter"):  # torch's words for a distribution of nan
                why = f"with these --ppo the policy has no distribution; {self.model.described({})}"
            raise ValueError(f"iteration {self.iteration + 1}: {why}") from None
        self.seconds += time.perf_counter() - began
        self.iteration += 1
        episodes = self.model.ep_info_buffer or ()
        row: dict[str, Any] = dict(self.model.logger.name_to_value)
        self.model.logger.name_to_value.clear()
        row |= {
            "iteration": self.iteration,
            "timesteps": self.model.num_timesteps,
            "seconds": self.seconds,
            "lambda_data": self.model.lambda_data,
            "policy_pairs": self.settings.steps,
            "data_pairs": row.get("train/data_pairs", 0),
        }
        if episodes:  # of the policy alone: none of them began with data
            row |= {
                "return": np.mean([episode["r"] for episode in episodes]),
                "length": np.mean([episode["l"] for episode in episodes]),
                "episodes": len(episodes),
            }
        if self.iteration == 1 and self.settings.row.learned_reward:
            self.warn(logs)
        logs.iteration(row)
        if self.iteration % self.settings.eval_every == 0:
            self.evaluate(logs)

    def warn(self, logs: Logs) -> None:
        """Warn about survival bias: rewards of one sign, where the policy decides how long it earns
        them.
        """
        ends = [episode["l"] for episode in self.model.ep_info_buffer or ()]
        if self.settings.discriminator.reward != "airl" and any(end < self.limit for end in ends):
            logs.say(
                f"{self.settings.env} ends episodes early, so that the sign of the reward alone "
                "makes them longer or shorter; "
                "compare with --method gail_untrained"
            )

    def evaluate(self, logs: Logs) -> None:
        """Evaluate the mean action, log it, and keep the policy if it is the best so far."""
        returns, lengths = self.evaluator(self.act)
        logs.evaluation(
            {
                "iteration": self.iteration,
                "timesteps": self.model.num_timesteps,
                "return": float(np.mean(returns)),
                "return_std": float(np.std(returns)),
                "length": float(np.mean(lengths)),
                "episodes": len(returns),
            }
        )
        if np.mean(returns) > self.best:
            self.best = float(np.mean(returns))
            self.save_policy("best.pt")

    def finish(self) -> dict[str, Any]:
        """Evaluate the last policy by the fixed protocol; write and return the results."""
        # Seeds that chose nothing
        final = Evaluator(self.settings.env, EPISODES, self.settings.seed + 1)
        # The untrained policy is measured with sampled actions; its mean action is close to
        # standing still.
        returns, lengths = final(self.act, deterministic=self.settings.method != "random")
        during = [float(row["return"]) for row in read_table(self.folder / "evaluations.csv")]
        result = {
            "return": float(np.mean(returns)),
            "return_std": float(np.std(returns)),
            "length": float(np.mean(lengths)),
            "episodes": len(returns),
            "return_last10": float(np.mean(during[-LAST:] or returns)),
            "return_best": max(during, default=float(np.mean(returns))),
            "iterations": self.iteration,
            "timesteps": self.model.num_timesteps,
            "seconds": round(self.seconds, 1),
        }
        self.save_policy("policy.pt")
        write_json(self.folder / "result.json", result)
        return result


def differences(settings: RunSettings, config: Path) -> list[str]:
    """The flags that differ from those of the run in a folder.  Raises ValueError naming a damaged
    file.
    """
    return settings.differences(read_record(config))


def train(
    settings: RunSettings,
    folder: Path,
    resume: bool = False,
    save_every: int = 10,
    reach: float | None = None,
    subproc: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train to the end, or until an evaluation returns `reach`; return the content of result.json.
    A finished run is kept.
    """
    done = folder / "result.json"
    if resume and done.exists() and not differences(settings, folder / "config.json"):
        return read_record(
            done, ("return", "return_std", "episodes", "return_last10", "return_best")
        )
    run = Run(settings, folder, subproc)
    with lock(folder, "--out"):
        run.begin(resume)
        total = settings.iterations if settings.row.use_ppo else 0
        with Logs(folder, run.iteration, total, f"{settings.env} {settings.method}", quiet) as logs:
            while run.iteration < total and not (reach is not None and run.best >= reach):
                run.iterate(logs)
                if run.iteration % save_every == 0:
                    run.save()
        run.save()
        run.model.recorder.close()
        return run.finish()
