#!/usr/bin/env bash
# Translation with transformers: a small T5 from scratch by MLE until it stops, then as long again by mle and by interp.
#
#   examples/huggingface/translation.sh FOLDER [SEEDS]      FOLDER has {train,valid,test}.{de,en}, gzipped or not
#
# Row, cell  mle, interp; none (Table 1's comparison, in the second framework)
# Expected   as in docs/results.md's table of the profile laptop: interp level with mle, or a little above it
# Measured   not yet
# Killed and started again, it goes on.
set -euo pipefail
data=${1:?usage: translation.sh FOLDER [SEEDS]}
seeds=${2:-3}
here=$(cd "$(dirname "$0")" && pwd)
out=runs/huggingface/translation
text() { ls "$data/$1.de"* "$data/$1.en"*; }
train() {
    "$here/../run" -m fairseq_erpo.huggingface --train $(text train) --valid $(text valid) --test $(text test) \
        --sentences 20000 --valid-sentences 1000 --per-device-train-batch-size 64 --max-target-length 60 "$@"
}
for seed in $(seq "$seeds"); do
    train --row mle --pieces 3000 --width 256 --layers 3 --dropout 0.3 --learning-rate 1e-3 --warmup-steps 400 \
        --num-train-epochs 30 --label-smoothing-factor 0.1 --seed "$seed" --output-dir "$out/start-$seed"
    for row in mle interp; do
        train --row "$row" --model "$out/start-$seed" --learning-rate 5e-5 --num-train-epochs 6 --seed "$seed" \
            --output-dir "$out/$row-$seed"
    done
done
list() { seq -s, -f "$out/$1-%g" "$seeds"; }
"$here/../run" -m fairseq_erpo evaluate "mle=$(list mle)" "interp=$(list interp)" --baseline mle --json "$out/scores.json"
