#!/usr/bin/env bash
# A sentence of an abstract to the paper's title, from text files: stands in for Gigaword where that is not at hand.
#
#   examples/summarization/prepare_arxiv.sh FOLDER        with {train,valid,test}.{src,tgt}, gzipped or not
#   examples/summarization/prepare_arxiv.sh text.src text.tgt
#
# Row, cell  all rows of Table 2
# Expected   laptop: 15,000/1,000/1,500 pairs, sources up to 40 words, titles up to 25, 3,000 joint pieces
# Measured   15,000/1,000/1,500 of 164,963/8,000/2,000 pairs (commit 117abb6); scores in docs/results.md
exec "$(dirname "$0")/../run" corpus.py summarization "${@:?usage: prepare_arxiv.sh FOLDER}"
