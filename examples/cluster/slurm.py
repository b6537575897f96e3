#!/usr/bin/env python
"""Several nodes by Slurm, through submitit: one task a GPU. A job that is preempted or runs out of
time is queued again, and goes on from the last checkpoint.

    python examples/cluster/slurm.py --nodes 2 --gpus 8 --slurm slurm_partition=gpu,timeout_min=1440
    -- \\
        DATA --save-dir /shared/runs/interp [any flag of fairseq-train]

Row, expected, measured: as one_node.sh; two tasks on CPUs in tests/test_cluster.py (`--cluster
local`).
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]

from fairseq_erpo.processes import slurm_executor  # noqa: E402

RANK = Path(__file__).resolve().parent / "rank.sh"


def train(rank: str, flags: list[str]) -> None:
    """One task: tell the process which one it is."""
    import submitit

    submitit.helpers.TorchDistributedEnvironment().export()
    subprocess.run([rank, *flags], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="a node")
    parser.add_argument(
        "--slurm",
        default="",
        help="more of submitit's parameters: slurm_partition=gpu,timeout_min=1440,...",
    )
    parser.add_argument("--logs", type=Path, default=Path("runs/slurm"), help="submitit's folder")
    parser.add_argument(
        "--cluster",
        default="slurm",
        choices=["slurm", "local"],
        help="local: processes of this machine",
    )
    parser.add_argument("--wait", action="store_true", help="until the job has ended")
    parser.add_argument(
        "flags", nargs="+", metavar="FLAG", help="of fairseq-train, after --; the data folder first"
    )
    args = parser.parse_args()
    usual = {"nodes": args.nodes, "tasks_per_node": args.gpus}
    if args.cluster == "slurm":
        usual["gpus_per_node"] = args.gpus
    try:
        executor = slurm_executor(args.slurm, args.logs, usual, args.cluster)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    from submitit.helpers import Checkpointable

    class Training(Checkpointable):
        """Queued again with the same arguments."""

        def __call__(self, rank: str, flags: list[str]) -> None:
            train(rank, flags)

    job = executor.submit(Training(), str(RANK), args.flags)
    print(f"job {job.job_id}: {job.paths.stdout}")
    if args.wait:
        job.results()


if __name__ == "__main__":
    main()
