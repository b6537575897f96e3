#!/usr/bin/env python
"""Several nodes by Slurm, through submitit: one task a GPU. A job that is preempted or runs out of time is queued again, and
goes on from the last checkpoint.

    python examples/cluster/slurm.py --nodes 2 --gpus 8 --slurm slurm_partition=gpu,timeout_min=1440 -- \\
        DATA --save-dir /shared/runs/interp [any flag of fairseq-train]

Row, expected, measured: as one_node.sh; two tasks on CPUs in tests/test_cluster.py (`--cluster local`).
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

RANK = Path(__file__).resolve().parent / "rank.sh"


def train(rank: str, flags: list[str]) -> None:
    """One task: tell the process which one it is."""
    import submitit

    submitit.helpers.TorchDistributedEnvironment().export()
    subprocess.run([rank, *flags], check=True)


def parameters(text: str) -> dict[str, Any]:
    """`slurm_partition=gpu,timeout_min=60`, by submitit's names."""
    given = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    return {name: int(value) if value.isdigit() else value for name, value in given.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="a node")
    parser.add_argument("--slurm", default="", help="more of submitit's parameters: slurm_partition=gpu,timeout_min=1440,...")
    parser.add_argument("--logs", type=Path, default=Path("runs/slurm"), help="submitit's folder")
    parser.add_argument("--cluster", default="slurm", choices=["slurm", "local"], help="local: processes of this machine")
    parser.add_argument("--wait", action="store_true", help="until the job has ended")
    parser.add_argument("flags", nargs="+", metavar="FLAG", help="of fairseq-train, after --; the data folder first")
    args = parser.parse_args()
    try:
        import submitit
        from submitit.helpers import Checkpointable
    except ImportError:
        raise SystemExit("this needs submitit: pip install 'fairseq-erpo[slurm]' (or pip install submitit)") from None

    class Training(Checkpointable):
        """Queued again with the same arguments."""

        def __call__(self, rank: str, flags: list[str]) -> None:
            train(rank, flags)

    try:
        executor = submitit.AutoExecutor(folder=args.logs, cluster=args.cluster)
        # submitit's own limit of time is five minutes.
        executor.update_parameters(
            **{"timeout_min": 24 * 60, "nodes": args.nodes, "tasks_per_node": args.gpus, **parameters(args.slurm)}
        )
        if args.cluster == "slurm":
            executor.update_parameters(gpus_per_node=args.gpus)
    except (NameError, RuntimeError, ValueError, TypeError) as error:
        raise SystemExit(f"--slurm {args.slurm}: {str(error).splitlines()[0]}") from None
    job = executor.submit(Training(), str(RANK), args.flags)
    print(f"job {job.job_id}: {job.paths.stdout}")
    if args.wait:
        job.results()


if __name__ == "__main__":
    main()
