#!/usr/bin/env bash
# Any pair of languages: two text files, line by line, or a folder with {train,valid,test}.LANGUAGE; gzipped or not.
#
#   examples/translation/prepare_text.sh text.fr text.en [--profile laptop] [--pieces 8000]
#   examples/translation/prepare_text.sh FOLDER --languages fr,en
#
# Row, cell  all rows of Table 1, on another corpus
# Expected   two files: 4 % to validate, 5 % to test, no sentence of these in train; the profile says how many, of which length
# Measured   prepare_tatoeba.sh FOLDER is this recipe, and has the numbers
exec "$(dirname "$0")/../run" corpus.py translation "${@:?usage: prepare_text.sh SOURCE TARGET, or FOLDER --languages A,B}"
