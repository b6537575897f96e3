#!/usr/bin/env bash
# IWSLT14 German-English (Cettolo et al. 2014) for the profile paper, from fairseq's public archive or a copy of it.
#
#   examples/translation/prepare_iwslt14.sh [de-en.tgz]                  no BPE: the 73,197 most frequent words of both sides
#   examples/translation/prepare_iwslt14.sh [de-en.tgz] --pieces 10000   BPE-like pieces of both sides instead
#
# Row, cell  all rows of Table 1
# Expected   about 160K/7K/7K pairs, tokenised, lower case. Departs from the paper, whose 146K/7K/7K are Ma et al. 2017's choice
#            of the same talks, which is not described; give it as two sides {train,valid,test}.{de,en} to prepare_text.sh.
# Measured   not on the real archive, which was not at hand
# Needs      pip install sacremoses
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
url=http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz
case ${1:-} in
    '' | -*)
        archive=$here/../../runs/translation/de-en.tgz
        if [ ! -e "$archive" ]; then
            mkdir -p "$(dirname "$archive")"
            curl -fL --retry 3 -o "$archive.part" "$url" || { echo "no $url from here: give a copy, $0 de-en.tgz" >&2; exit 1; }
            mv "$archive.part" "$archive"
        fi
        ;;
    *) archive=$1; shift ;;
esac
exec "$here/../run" corpus.py translation "$archive" --profile paper --moses "$@"
