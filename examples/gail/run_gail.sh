#!/usr/bin/env bash
# GAIL with annealed demonstrations (section 5.3) beside plain GAIL, from nothing to the figures, on the smallest task.
#
# What       InvertedPendulum-v5: an expert by PPO, one demonstration of it, of which 50 random pairs are kept; then 60
#            iterations of 2,048 steps of each method; measured in 20 fresh episodes, mean action.
# Paper      Figure 3 at one demonstration (there: Hopper, HalfCheetah, Walker2d, 1,000 iterations).
# Command    examples/gail/run_gail.sh            or  make gail
#            examples/gail/run_gail.sh Hopper-v5 expert.pt 300   any MuJoCo task, a trained policy, iterations
#            REACH=3000 EXPERT_ITERATIONS=500 examples/gail/run_gail.sh Hopper-v5 '' 300   trains the expert here, until it
#            returns 3000; without REACH until 1000, the pendulum's highest return, and for 100 iterations at most
# Expected   expert 1000; gail_interp and gail at least 900 each; bc below 200; random below 20.
# Measured   expert 1000, gail_interp 1000, gail 1000, bc 29, random 8; seed 1; a minute and a half on two cores (commit efa51af).
# Again      it goes on where it was; remove the folder to begin anew.
set -euo pipefail
cd "$(dirname "$0")/../.."

ENV=${1:-InvertedPendulum-v5}
EXPERT=${2:-}
ITERATIONS=${3:-60}
OUT=${OUT:-runs/gail/$ENV}
if [ -z "${PYTHON:-}" ]; then PYTHON=.venv/bin/python; [ -x "$PYTHON" ] || PYTHON=python3; fi
export OMP_NUM_THREADS=1  # networks of 128 gain nothing from more

gail() { "$PYTHON" -m gail "$@"; }

if [ -z "$EXPERT" ]; then
    gail expert --env "$ENV" --reach "${REACH:-1000}" --iterations "${EXPERT_ITERATIONS:-100}" --eval-every 2 \
        --out "$OUT/expert" --resume
    EXPERT=$OUT/expert/best.pt
fi
gail evaluate "$EXPERT" --episodes 20
[ -f "$OUT/demos/$ENV.json" ] || gail record --policy "$EXPERT" --trajectories 1 --out "$OUT/demos/$ENV.npz"
gail sweep --env "$ENV" --method random bc gail gail_interp --n 1 --seed 1 --iterations "$ITERATIONS" --eval-every 5 \
    --demos "$OUT/demos" --out "$OUT/sweep"
gail evaluate "$OUT"/sweep/"$ENV"/gail*/n1/seed1/policy.pt --episodes 20 --json "$OUT/returns.json"
gail plot "$OUT/sweep"
