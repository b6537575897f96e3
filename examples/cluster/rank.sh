#!/usr/bin/env bash
# One process of many, started by torchrun or by slurm.py: it learns from the environment which one it is.
#
#   RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=node1 MASTER_PORT=29500 examples/cluster/rank.sh DATA [flags]
#
# fairseq would guess from the GPUs that it sees, and takes one GPU a node for a single process; so all is said here.
set -euo pipefail
# torchrun starts a failed launch again. Where that saved nothing, the flags or the data are wrong, and would be again.
if [ "${TORCHELASTIC_RESTART_COUNT:-0}" -gt 0 ]; then
    folder=checkpoints  # fairseq's default
    last=
    for word; do
        case $last:$word in --save-dir:*) folder=$word ;; *:--save-dir=*) folder=${word#*=} ;; esac
        last=$word
    done
    if ! compgen -G "$folder/*.pt" > /dev/null; then
        [ "$TORCHELASTIC_RESTART_COUNT$RANK" != 10 ] || echo "rank.sh: the launch failed before it saved anything; not started again" >&2
        exit 1
    fi
fi
exec "$(dirname "$0")/one_node.sh" "$@" --distributed-init-method env:// --distributed-no-spawn \
    --distributed-world-size "$WORLD_SIZE" --distributed-rank "$RANK" --device-id "$LOCAL_RANK"
