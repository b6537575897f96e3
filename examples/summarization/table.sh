#!/usr/bin/env bash
# Table 2: sentence summarization by every row, from one MLE checkpoint a seed, with mean ± std and a test against continued MLE.
#
#   examples/summarization/table.sh --profile laptop --rows mle,interp --seeds 3 --data FOLDER
#   examples/summarization/table.sh --profile paper --seeds 5 --slurm slurm_partition=gpu,gpus_per_node=1
#
# Rows      mle noising raml spg pg self_critic mrt mixer mixer_alike scheduled_sampling interp (examples/recipes.py)
# Paper     Table 2, Gigaword 200K, ROUGE-1/2/L: MLE 36.11/16.39/32.32, RAML 36.30/16.69/32.49, self-critic 36.48/16.84/32.79,
#           scheduled sampling 36.59/16.79/32.77, interpolation 36.72/16.99/32.95; these are rouge==0.2.1's, the columns (0.2.1)
# Expected  with the profile paper on Gigaword, about these
# Measured  laptop on arXiv titles, equal trials, three seeds, commit 001885d, rouge==0.2.1: MLE 22.99/8.39/19.30, RAML
#           22.92/8.45/19.24, self-critic 23.42/8.09/19.42, scheduled sampling 21.91/7.72/18.60, interpolation 22.52/7.26/18.42
#           (docs/results.md, with rouge-score's). A seed of eleven rows takes 52 minutes of one core, the checkpoint 11
#
# The reward is ROUGE-1 + ROUGE-2 + ROUGE-L, and so is what an epoch is chosen by; --try chooses by ROUGE-1 with a beam of 5.
# Killed and started again, it goes on. --help lists everything.
exec "$(dirname "$0")/../run" table.py summarization "$@"
