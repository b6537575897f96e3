#!/usr/bin/env bash
# First contact with a GPU: does it run, and what does a step cost?   (make bench-gpu)
#
#   benchmarks/gpu.sh [FOLDER]                       on a GPU, seven minutes
#   REHEARSAL=1 benchmarks/gpu.sh [FOLDER]           the same parts on a CPU, at reduced size
#
# Each part has its own time limit and writes into FOLDER (default: runs/gpu) at once, so that a part
# that hangs or breaks costs no other. PARTS="setup steps" chooses some. PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
mkdir -p "$out"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
fi
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=PASSIVE
where=cuda base="--model base" small="--model small"
if [ -n "${REHEARSAL:-}" ]; then
  where=cpu base="--model tiny --updates 2 --warm-up 1 --fit 3 --precision fp32" small=$base
fi

# part NAME SECONDS COMMAND ...
part() {
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  case " ${PARTS:-setup tests steps small bench} " in *" $name "*) ;; *) return ;; esac
  timeout "$limit" "$@" > "$out/$name.log" 2>&1
  echo "== $name: exit status $?, $((SECONDS - began)) s of $limit; $out/$name.log"
  tail -n "${TAIL:-12}" "$out/$name.log"
}

setup() {
  nvidia-smi
  "$PYTHON" -m fairseq_erpo doctor
}
export -f setup
export PYTHON

part setup 60 bash -c setup
part tests 150 env CUDA_TESTS_ON=$where "$PYTHON" -m pytest -q -m cuda -n "${TOGETHER:-8}" --maxfail 20 tests/test_cuda.py
part steps 150 "$PYTHON" benchmarks/gpu.py $base --device $where --out "$out"
part small 80 "$PYTHON" benchmarks/gpu.py $small --device $where --out "$out"
part bench 120 "$PYTHON" benchmarks/run.py sampler operations --quick --device $where --json "$out/bench.json"
