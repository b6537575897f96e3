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
# Measured  laptop on Tatoeba, three trials a row, three seeds, commit 001885d: MLE 29.59±.04, RAML 29.55±.15, MIXER 29.34±.15,
#           MIXER-alike 29.65±.12, self-critic 29.31±.06, scheduled sampling 29.50±.06, interpolation 29.66±.19 (docs/results.md).
#           A seed of all rows takes 45 minutes of one core, 11 of them for mrt; MLE before 13
#
# Killed and started again, it goes on. --data may be left out after a prepare_*.sh. --help lists everything.
exec "$(dirname "$0")/../run" table.py translation "$@"
