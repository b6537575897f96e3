#!/usr/bin/env bash
# Your own data: MLE until it gains nothing, and from its best model more MLE, the control, and interpolation.
#
#   examples/own_data.sh text.de text.en runs/own                    two texts, one a translation of the other, line by line
#   examples/own_data.sh long.src short.tgt runs/own --metric rouge  summaries
#   examples/own_data.sh text.de text.en runs/own --rate 1e-4        rate of the two rows (default 5e-5)
#   examples/own_data.sh text.de text.en runs/own --dropout .2       any flag of fairseq-train, for all three trainings
#
# Rows      mle, interp (--erpo-preset risk), a seed
# Expected  the model, the batch and the subwords are as large as the text deserves: below 50,000 pairs, below 500,000, above;
#           MLE ends where six epochs gain nothing in validation's BLEU (or ROUGE)
# Measured  5,000 pairs of Tatoeba German-English: MLE ends after 25 epochs; 25 minutes on two busy cores, half of them for
#           interp; on 266 test sentences 12.96 BLEU at the start, 12.39 by MLE, 12.74 by interpolation, all within noise
#
# Killed and started again, it goes on where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 3 ] || { sed -n 's/^#   \(examples\)/usage: \1/p' "$0" >&2; exit 2; }
source=$1 target=$2 out=$3
shift 3
metric=bleu rate=5e-5
while :; do
    case ${1:-} in
        --metric) metric=${2:-}; shift 2 ;;
        --rate) rate=${2:?--rate wants a number}; shift 2 ;;
        *) break ;;
    esac
done
case $metric in bleu | rouge) ;; *) echo "own_data.sh: --metric is bleu or rouge, not '$metric'" >&2; exit 2 ;; esac
command -v fairseq-train > /dev/null || PATH=$here/../.venv/bin:$PATH  # activated or not
export PATH PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}

# Sizes that fit the corpus. The small ones are those of the recipes' profile `laptop`, which two CPU cores train in minutes.
pairs=$(gzip -cdf -- "$source" | wc -l)
if [ "$pairs" -lt 50000 ]; then
    pieces=2000 epochs=6
    model="--arch transformer --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 --decoder-embed-dim 128
        --encoder-ffn-embed-dim 512 --decoder-ffn-embed-dim 512 --encoder-attention-heads 4 --decoder-attention-heads 4
        --encoder-normalize-before --decoder-normalize-before --dropout .2 --max-tokens 1000"
    start="--lr 2e-3 --warmup-updates 400"
elif [ "$pairs" -lt 500000 ]; then
    pieces=8000 epochs=2
    model="--arch transformer_iwslt_de_en --dropout .3 --max-tokens 4096"
    start="--lr 5e-4 --warmup-updates 2000"
else
    pieces=16000 epochs=1
    model="--arch transformer --dropout .1 --max-tokens 4096 --update-freq 4"
    start="--lr 7e-4 --warmup-updates 4000"
fi
"$here/translation/prepare_text.sh" "$source" "$target" --profile paper --pieces "$pieces" --out "$out/data"

# Validation searches as `evaluate` does, so that all BLEUs of a run are of one kind.
search='{"beam":5,"lenpen":0.6,"max_len_a":1.2,"max_len_b":10}'
common="--user-dir $here/../fairseq_erpo --task erpo_translation $model --share-all-embeddings --optimizer adam --clip-norm 1
    --required-batch-size-multiple 1 --no-epoch-checkpoints --log-interval 20
    --eval-$metric --eval-bleu-args $search --eval-bleu-remove-bpe sentencepiece
    --best-checkpoint-metric $metric --maximize-best-checkpoint-metric"

train() { # NAME FLAGS...: a training, once
    local run=$out/$1
    shift
    [ -e "$run/done" ] && return
    # shellcheck disable=SC2086 # the flags are words
    fairseq-train "$out/data/bin" $common --save-dir "$run" --tensorboard-logdir "$run" "$@"
    touch "$run/done"
}

# The rate halves when two epochs have gained nothing, and the training ends when six have.
train start --criterion erpo_mle $start --lr-scheduler reduce_lr_on_plateau --lr-shrink .5 --lr-patience 1 \
    --patience 6 --max-epoch 200 "$@"
rows="--lr-scheduler fixed --lr $rate --dropout .1 --max-epoch $epochs --finetune-from-model $out/start/checkpoint_best.pt"
train mle --criterion erpo_mle $rows "$@"
train interp --criterion erpo_interp --erpo-preset risk $rows "$@"
