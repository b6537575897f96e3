#!/usr/bin/env bash
# Several nodes by torchrun: start it on every node with the same arguments. A node that dies is waited for, and all go on from
# the last checkpoint; --save-dir must be a folder that all nodes see.
#
#   NODES=2 HEAD=node1:29400 examples/cluster/nodes.sh DATA --save-dir /shared/runs/interp [any flag of fairseq-train]
#
# NODES (1), GPUS a node (all), HEAD (localhost:29400): host:port of one of the nodes.
# Row, expected, measured: as one_node.sh; two processes on CPUs in tests/test_cluster.py
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-gpu}" --max-restarts 3 --rdzv-id erpo --rdzv-backend c10d \
    --rdzv-endpoint "${HEAD:-localhost:29400}" --no-python "$here/rank.sh" "$@"
