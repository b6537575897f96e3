#!/usr/bin/env bash
# Table 1: German to English by every row, from one MLE checkpoint a seed, with mean ± std and a test against continued MLE.
#
#   examples/translation/table.sh --profile laptop --rows mle,raml,interp --seeds 3 --data text.de text.en
#   examples/translation/table.sh --profile paper --seeds 5 --slurm slurm_partition=gpu,gpus_per_node=1
#
# Rows      mle noising raml spg pg self_critic mrt mixer mixer_alike scheduled_sampling interp (examples/recipes.py)
# Paper     Table 1, IWSLT14 De-En, BLEU: MLE 31.99±.17, RAML 32.51±.37, MIXER 32.69±.09, MIXER-alike 32.65±.11,
#           self-critic 32.23±.15, scheduled sampling 32.13±.14, interpolation 33.35±.08
# Expected  with the profile paper on IWSLT14, about these (`--tokenize none` of tokenised text, as the paper's era has it)
# Measured  laptop on Tatoeba, three seeds, commit 117abb6, MLE of 10 epochs, one further epoch: MLE 26.76±.26, RAML 26.82±.24, MIXER 26.15±.24, MIXER-alike
#           26.94±.15, self-critic 26.36±.31, scheduled sampling 26.78±.06, interpolation 26.73±.22 (docs/results.md).
#           A seed of the ten rows but mrt takes half an hour of one core
#
# Killed and started again, it goes on. --data may be left out after a prepare_*.sh. --help lists everything.
exec "$(dirname "$0")/../run" table.py translation "$@"
