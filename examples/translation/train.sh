#!/usr/bin/env bash
# One row of Table 1, one seed: its MLE checkpoint if there is none yet, then the row, then its scores on the test.
#
#   examples/translation/train.sh ROW [SEED] [--profile paper] [any other flag of table.sh]
#
# Row       mle noising raml spg pg self_critic mrt mixer mixer_alike scheduled_sampling interp
# Paper     Table 1, the row's cell; the numbers stand in table.sh
# Measured  laptop: docs/results.md, row by row
row=${1:?usage: train.sh ROW [SEED] [--profile paper]}
shift
seed=1
case ${1:-} in [0-9]*) seed=$1; shift ;; esac
exec "$(dirname "$0")/table.sh" --rows "$row" --seeds "$seed," "$@"
