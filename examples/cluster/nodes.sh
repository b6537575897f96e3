#!/usr/bin/env bash
# Several nodes by torchrun: start it on every node with the same arguments. A process that dies is started again, up to three
# times, and all go on from the last checkpoint; --save-dir must be a folder that all nodes see.
#
#   NODES=2 HEAD=node1:29400 examples/cluster/nodes.sh DATA --save-dir /shared/runs/interp [any flag of fairseq-train]
#
# NODES (1), GPUS a node (all; without a GPU, processes: one a core), HEAD (localhost:29400): host:port of one of the nodes.
# Row, expected, measured: as one_node.sh; two processes on CPUs in tests/test_cluster.py
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-auto}" --max-restarts 3 --rdzv-id erpo --rdzv-backend c10d \
    --rdzv-endpoint "${HEAD:-localhost:29400}" --no-python "$here/rank.sh" "$@"
