"""`python -m gail VERB`: imitation on gymnasium's MuJoCo environments, from an expert to the
figures.
"""

import warnings
from collections.abc import Mapping, Sequence

from fairseq_erpo.verbs import Verb, run_verb

VERBS: Mapping[str, Verb] = {
    "doctor": Verb(
        "gail.doctor",
        "doctor",
        "check the installation, the simulator, rendering, the disk and demonstrations, and say "
        "what to do",
        "python -m gail doctor demos/Hopper-v5.npz",
    ),
    "expert": Verb(
        "gail.train_verbs",
        "expert",
        "train an expert by PPO on the environment's reward",
        "python -m gail expert --env InvertedPendulum-v5 --reach 1000 --out runs/expert",
    ),
    "record": Verb(
        "gail.record",
        "record",
        "record demonstrations from a trained policy, or turn recorded ones into others",
        "python -m gail record --policy runs/expert/best.pt --trajectories 25 --out "
        "runs/demos/InvertedPendulum-v5.npz",
    ),
    "train": Verb(
        "gail.train_verbs",
        "train",
        "train by one of the methods",
        "python -m gail train --method gail_interp --env Hopper-v5 --demos demos/Hopper-v5.npz "
        "--n 4 --out runs/hopper --resume",
    ),
    "evaluate": Verb(
        "gail.evaluate",
        "evaluate",
        "measure a policy's return in fresh episodes",
        "python -m gail evaluate runs/hopper/policy.pt --episodes 50 --json "
        "runs/hopper/returns.json",
    ),
    "sweep": Verb(
        "gail.sweep",
        "sweep",
        "train environments x demonstrations x methods x seeds, one process per core; repeat to "
        "continue",
        "python -m gail sweep --env Hopper-v5 HalfCheetah-v5 --demos demos --n 1 4 --method bc "
        "gail gail_interp --out runs/sweep",
    ),
    "plot": Verb(
        "gail.plots",
        "plot",
        "draw Figure 3 (return over demonstrations) and Figure 4 (learning curves) of a sweep",
        "python -m gail plot runs/sweep",
    ),
    "render": Verb(
        "gail.render",
        "render",
        "show an episode of a policy as PNG, GIF or MP4",
        "python -m gail render runs/hopper/policy.pt --out hopper.mp4",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the command line (or `argv`) names."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    run_verb(
        "gail",
        "Imitation with annealed demonstrations, on stable-baselines3's PPO.",
        VERBS,
        argv,
        "gail",
    )


if __name__ == "__main__":
    main()
