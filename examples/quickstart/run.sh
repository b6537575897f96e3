#!/usr/bin/env bash
# The demo: German to English by MLE, then two more epochs of MLE and of the interpolation algorithm, ten minutes on two cores.
#
#   examples/quickstart/run.sh                    or  make demo
#   examples/quickstart/run.sh --rows mle,raml    any flag of examples/translation/table.sh
#
# Rows      mle, interp (--erpo-preset robust), from one MLE checkpoint; seed 1
# Expected  two seeds of MLE differ by half a BLEU; interpolation loses about one here, because MLE has not converged
# Measured  docs/demo.md
#
# Everything goes to runs/quickstart. Started again, it continues, or prints the table of what is done.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-runs/quickstart}
cd "$here/../.."
"$here/../run" quickstart/prepare.py "$out/text"
exec "$here/../run" table.py translation --profile quickstart --rows mle,interp --seeds 1 \
    --data "$out/text/text.de" "$out/text/text.en" --out "$out" --share-cores --examples 5 "$@"
