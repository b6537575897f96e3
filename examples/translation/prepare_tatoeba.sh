#!/usr/bin/env bash
# Tatoeba German-English, from ManyThings' deu-eng.zip (www.manythings.org/anki, CC BY 2.0 FR) or text files made of it.
#
#   examples/translation/prepare_tatoeba.sh deu-eng.zip [--profile laptop]
#   examples/translation/prepare_tatoeba.sh FOLDER        with {train,valid,test}.{de,en}, gzipped or not
#
# Row, cell  all rows of Table 1; a corpus of IWSLT14's size with shorter sentences
# Expected   laptop: 20,000/1,000/2,000 pairs with 6-25 English words, 3,000 joint pieces; the zip is split so that no sentence
#            of valid or test occurs in train
# Measured   20,000/1,000/2,000 of 151,527/7,283/6,750 pairs (commit 117abb6); scores in docs/results.md
exec "$(dirname "$0")/../run" corpus.py translation "${@:?usage: prepare_tatoeba.sh deu-eng.zip or FOLDER}"
