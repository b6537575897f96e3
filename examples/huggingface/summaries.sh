#!/usr/bin/env bash
# Summaries with transformers: arXiv titles, a small T5 from scratch by MLE, then by mle and by interp, which ROUGE pays.
#
#   examples/huggingface/summaries.sh FOLDER [SEEDS]        FOLDER has {train,valid,test}.{src,tgt}, gzipped or not
#
# Row, cell  mle, interp --preset risk; none (Table 2's comparison, in the second framework)
# Expected   interp above mle in ROUGE, as `mrt` is in docs/results.md's table of the profile laptop
# Measured   not yet
# Killed and started again, it goes on.
set -euo pipefail
data=${1:?usage: summaries.sh FOLDER [SEEDS]}
seeds=${2:-3}
here=$(cd "$(dirname "$0")" && pwd)
out=runs/huggingface/summaries
text() { ls "$data/$1.src"* "$data/$1.tgt"*; }
train() {
    "$here/../run" -m fairseq_erpo.huggingface --train $(text train) --valid $(text valid) --test $(text test) \
        --sentences 20000 --valid-sentences 1000 --per-device-train-batch-size 64 --max-source-length 100 \
        --max-target-length 40 --metric-for-best-model rouge "$@"
}
for seed in $(seq "$seeds"); do
    train --row mle --pieces 5000 --width 256 --layers 3 --dropout 0.3 --learning-rate 1e-3 --warmup-steps 400 \
        --num-train-epochs 30 --label-smoothing-factor 0.1 --seed "$seed" --output-dir "$out/start-$seed"
    for row in mle interp; do
        train --row "$row" --model "$out/start-$seed" --learning-rate 5e-5 --num-train-epochs 6 --seed "$seed" \
            --output-dir "$out/$row-$seed"
    done
done
list() { seq -s, -f "$out/$1-%g" "$seeds"; }
"$here/../run" -m fairseq_erpo evaluate "mle=$(list mle)" "interp=$(list interp)" --baseline mle \
    --columns rouge1,rouge2,rougeL,length_ratio,repetition --json "$out/scores.json"
