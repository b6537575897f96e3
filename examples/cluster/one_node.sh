#!/usr/bin/env bash
# One node, all its GPUs: fairseq starts one process for each; without a GPU, one process. What is said again behind DATA wins.
#
#   examples/cluster/one_node.sh DATA --save-dir runs/interp [any flag of fairseq-train]
#
# Data      in pieces of sentencepiece, as prepare_text.sh --pieces makes them; others need --eval-bleu-remove-bpe '@@ ' or none
# Row       interp; another one by --criterion erpo_ROW
# Paper     Table 1's last row has one GPU; --erpo-preset robust anneals by epochs, so the same flags hold for any number of GPUs
# Expected  what one process with --update-freq GPUS gives, up to rounding: draws belong to sentences, not to ranks
# Measured  on CPUs only (tests/test_train.py: two and four processes against one); no GPU figure exists
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=PASSIVE
# NCCL and fairseq's default way to average gradients are for GPUs only.
device=()
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
    || device=(--cpu --distributed-backend gloo --ddp-backend legacy_ddp)
exec fairseq-train \
    --user-dir "$(dirname "$0")/../../fairseq_erpo" --task erpo_translation --criterion erpo_interp \
    --arch transformer_iwslt_de_en --share-decoder-input-output-embed --dropout .3 \
    --optimizer adam --adam-betas '(.9, .98)' --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --clip-norm 1 \
    --max-tokens 4096 --required-batch-size-multiple 1 --erpo-preset robust --erpo-pretrain 20e --max-epoch 40 --keep-last-epochs 3 \
    --eval-bleu --eval-bleu-remove-bpe sentencepiece --best-checkpoint-metric bleu --maximize-best-checkpoint-metric \
    "${device[@]}" "$@"
