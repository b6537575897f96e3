"""Child processes and cluster jobs: what `gail`, the examples and the cluster recipes start."""

import ctypes
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def die_with_parent() -> None:
    """For `preexec_fn`: end this child with SIGTERM when its parent dies (Linux only).

    An orphan would go on writing into its folder while a restarted parent starts a second process
    there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def slurm_executor(
    parameters: str, folder: Path, defaults: Mapping[str, Any], cluster: str = "slurm"
) -> Any:
    """submitit's executor.  `parameters` are the value of --slurm, such as
    `slurm_partition=gpu,timeout_min=600`.

    They win over `defaults`; both use submitit's own names.  Raises ValueError if submitit is
    missing or refuses them.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError(
            "--slurm needs submitit: pip install 'fairseq-erpo[slurm]' (or pip install submitit)"
        ) from None
    given = dict(pair.partition("=")[::2] for pair in parameters.split(",") if pair)
    values = {name: int(value) if value.isdigit() else value for name, value in given.items()}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        # submitit's own time limit is five minutes.
        executor.update_parameters(**{"timeout_min": 24 * 60, **defaults, **values})
    except (NameError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"--slurm {parameters}: {str(error).splitlines()[0]}") from None
    return executor
