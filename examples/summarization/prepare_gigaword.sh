#!/usr/bin/env bash
# English Gigaword sentence summarization (Rush et al. 2015), which may not be redistributed: from files of yours.
#
#   examples/summarization/prepare_gigaword.sh FOLDER     with {train,valid,test}.{src,tgt}, gzipped or not: Rush et al.'s
#                                                         train.article.txt, train.title.txt; Zhou et al. 2017's valid and test
#
# Row, cell  all rows of Table 2
# Expected   200,000 of the 3.8M training pairs, drawn with a fixed seed; all of valid and test (8K/2K). open: the paper does
#            not say its vocabulary; 30,000 words a side here
# Measured   not on the real files, which were not at hand
exec "$(dirname "$0")/../run" corpus.py summarization --profile paper "${@:?usage: prepare_gigaword.sh FOLDER}"
