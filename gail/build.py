"""From settings to the parts of a run: demonstrations, environments, policy, discriminator and
schedule.
"""

from pathlib import Path

import numpy as np
import torch

from gail.archive import load
from gail.bc import clone
from gail.demo_prefix import PrefixSettings, check_continuation, make_venv
from gail.demos import Demonstrations
from gail.discriminator import Discriminator
from gail.ppo import GailPPO, Imitation, make_ppo, stack
from gail.schedules import parse_schedule
from gail.settings import RunSettings
from gail.simulator import Simulator, box_of, make_env


def read_demos(settings: RunSettings) -> Demonstrations | None:
    """Read the demonstrations of a run and sample its pairs; None for a method that uses none."""
    if settings.demos is None or not settings.row.needs_demos:
        return None
    demos = load(Path(settings.demos), settings.env)
    demos = demos if settings.n is None else demos.first(settings.n)
    check_fit(demos, settings)
    # Not the run's seed: every seed and every method learns from the same pairs.
    return demos.subsample(settings.pairs) if settings.pairs else demos


def check_fit(demos: Demonstrations, settings: RunSettings) -> None:
    """Raise ValueError unless the demonstrations fit this environment and this version of its
    simulator.
    """
    env = make_env(settings.env)
    size = Simulator(env).size
    low, high = box_of(env)
    shape = env.observation_space.shape
    env.close()
    if demos.observations.shape[1:] != shape or demos.actions.shape[1:] != low.shape:
        raise ValueError(
            f"--demos {settings.demos}: observations {demos.observations.shape} and actions "
            f"{demos.actions.shape} are not those "
            f"of {settings.env}, [N, *{shape}] and [N, *{low.shape}]"
        )
    steps = sum(demos.lengths.tolist())
    if steps != len(demos.index):
        raise ValueError(
            f"--demos {settings.demos}: lengths are of {steps} steps and there are "
            f"{len(demos.index)}; record anew"
        )
    if np.any(demos.actions < low) or np.any(demos.actions > high):
        raise ValueError(
            f"--demos {settings.demos}: actions must lie in the environment's box; clip them"
        )
    if settings.row.prefix != "none" and demos.states.shape[1] != size:
        raise ValueError(
            f"--demos {settings.demos}: states have {demos.states.shape[1]} numbers and this "
            f"simulator's {size}: record them "
            f"anew with this version of mujoco, or do without them (--prefix none)"
        )
    if settings.row.prefix != "none":
        try:
            check_continuation(demos, settings.row.prefix)
        except ValueError as error:
            raise ValueError(f"--demos {settings.demos}: {error}") from None


def build(settings: RunSettings, demos: Demonstrations | None, subproc: bool = False) -> GailPPO:
    """Build the environments, the policy, the discriminator and the schedule of a run."""
    row = settings.row
    prefix = None
    if demos is not None and row.prefix != "none":
        prefix = PrefixSettings(demos, row.prefix, settings.prefix_length, settings.seed)
    venv = stack(
        make_venv(settings.env, settings.envs, prefix, subproc), settings.steps // settings.envs
    )
    model = make_ppo(venv, settings.ppo, settings.steps // settings.envs, settings.seed)
    discriminator = None
    if demos is not None and not settings.true_reward:
        sizes = demos.observations.shape[1], demos.actions.shape[1]
        discriminator = Discriminator(*sizes, settings.discriminator, settings.seed)
        if not row.train_discriminator:  # an untrained discriminator has an untrained norm too
            discriminator.norm.update(torch.as_tensor(demos.observations, dtype=torch.float32))
    annealer = parse_schedule(settings.schedule_name, settings.until)
    model.attach(
        Imitation(
            row,
            annealer,
            settings.total_timesteps,
            demos,
            discriminator,
            settings.prefix_length,
            settings.seed,
        )
    )
    return model


def pretrain(model: GailPPO, settings: RunSettings, demos: Demonstrations) -> None:
    """Clone the demonstrations; they also set the normaliser, since no rollout has done so yet.

    Only the mean if PPO follows: 50 pairs bring the deviation down to its floor, and with it
    exploration.
    """
    model.normaliser.obs_rms.update(demos.observations)
    observations = torch.as_tensor(model.normaliser.normalize_obs(demos.observations))
    actions = torch.as_tensor(demos.actions, dtype=torch.float32)
    clone(
        model.policy,
        observations,
        actions,
        settings.bc_steps,
        settings.seed,
        mean_only=settings.row.use_ppo,
    )
