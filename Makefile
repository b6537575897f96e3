# The verbs of this project, the same for people and for CI: `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo gail test test-slow fuzz mutate check format bench bench-quick bench-gail bench-peer bench-gpu docs clean

# Threads that wait for each other by spinning are many times slower when another program wants the cores too.
export OMP_WAIT_POLICY ?= PASSIVE

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
# PYTHON=/path/to/python chooses the interpreter; these are tried in turn without it.
PYTHONS := $(or $(PYTHON),python3.12 python3.11 python3)

# As many tests at a time as there are cores, up to four; each takes half a gigabyte.
TOGETHER := -n auto --maxprocesses 4 --dist worksteal

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: .venv/ready  ## make .venv with everything that the other verbs need (they do it by themselves)

demo: .venv/ready  ## continue a model by MLE and by interpolation on real data, about 10 minutes; again: resumes
	@examples/quickstart/run.sh

gail: .venv/ready  ## imitation on the pendulum: expert, one demonstration, GAIL with and without annealing, figures
	@examples/gail/run_gail.sh

test: .venv/ready  ## the quick tests
	@$(BIN)/python -m pytest -q -m "not slow" $(TOGETHER)

test-slow: .venv/ready  ## the tests that train models
	@$(BIN)/python -m pytest -q -m slow $(TOGETHER)

fuzz: .venv/ready  ## random flags, files and damage, then ten random kills of a training run and of gail; ends with a table
	@table=$$(mktemp) ended=0
	trap 'cat "$$table"; rm -f "$$table"' EXIT
	FUZZ_TABLE=$$table $(BIN)/python -m pytest -q tests/test_fuzz.py || ended=1
	KILLS=10 $(BIN)/python -m pytest -q tests/test_crash.py tests/test_gail_run.py -k "kills_change_nothing or killed_and_resumed" || ended=1
	exit $$ended

mutate: .venv/ready  ## break the mathematics in 87 places, one after the other: does a test notice? half an hour; ends with a score
	@$(BIN)/python tests/mutate.py

check: .venv/ready  ## ruff and mypy
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/ready  ## let ruff correct what it can
	@$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/ready  ## what the algorithms cost beside cross_entropy and beside the plain ways, half an hour
	@$(BIN)/python benchmarks/run.py --json runs/benchmarks.json
	$(BIN)/python benchmarks/transformers_step.py --json runs/benchmarks-transformers.json

bench-quick: .venv/ready  ## the same in a minute, less of everything
	@$(BIN)/python benchmarks/run.py --quick
	$(BIN)/python benchmarks/transformers_step.py --quick

bench-gail: .venv/ready  ## GAIL's loop beside plain PPO, and where the time of an environment's step goes
	@$(BIN)/python benchmarks/gail.py --json runs/benchmarks-gail.json

bench-peer: .venv/ready  ## GAIL beside that of HumanCompatibleAI's imitation, which is installed into runs/peer
	@[ -d runs/peer/imitation ] || $(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --target runs/peer imitation==1.0.1
	$(BIN)/python benchmarks/peer_imitation.py --peer runs/peer --json runs/benchmarks-peer.json

bench-gpu:  ## the first contact with a GPU: tests, then what a step costs there; seven minutes
	@benchmarks/gpu.sh

docs: .venv/docs  ## the documentation as pages in site/, which open from disk and need no network
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs . site
	echo "open site/index.html"

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- .venv ----
# A stamp is written after success only, so a set-up that failed or was interrupted starts again from nothing. pip's cache
# keeps what was downloaded or compiled. `base` holds the packages, `ready` the project on top, linked to this folder.

define ALONE
say() { echo "setup: $$*" >&2; }
exec 9< constraints.txt
! command -v flock > /dev/null || flock --nonblock 9 || { say "another make is setting up .venv here; wait for it."; exit 1; }
endef

.venv/base: constraints.txt
	@$(ALONE)
	python=
	for candidate in $(PYTHONS); do
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2> /dev/null; then python=$$candidate; break; fi
	done
	[ -n "$$python" ] || { say "no Python 3.11 or 3.12 among: $(PYTHONS). Install one, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12"; exit 1; }
	"$$python" -c 'import ensurepip, venv' 2> /dev/null || { say "$$python cannot make virtual environments: install its venv package (Debian: python3-venv)."; exit 1; }
	echo 'int main() { return 0; }' | $${CXX:-c++} -x c++ -o /dev/null - 2> /dev/null || { say "no C++ compiler, which fairseq needs: install one (Debian: g++)."; exit 1; }
	echo '#include <Python.h>' | $${CXX:-c++} -fsyntax-only -x c++ "-I$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')" - 2> /dev/null \
		|| { say "no Python.h for $$python, which fairseq needs: install its headers (Debian: python3-dev)."; exit 1; }
	say "1 of 4: .venv with $$("$$python" -V)"
	rm -rf .venv
	"$$python" -m venv .venv
	$(PIP) -q pip setuptools wheel
	say "2 of 4: torch"
	$(PIP) -q torch cython numpy
	say "3 of 4: fairseq, which is compiled; 2-4 minutes"
	# Without isolation: an isolated build would download a second torch. -g0: debug information takes a third of the time.
	CFLAGS="-g0 $${CFLAGS:-}" $(PIP) -q --no-build-isolation fairseq-fixed
	touch $@

.venv/ready: .venv/base setup.py
	@$(ALONE)
	say "4 of 4: the project and its tools"
	mv .venv/base .venv/base.unfinished  # until the end, so that an interruption here starts from nothing too
	PYTHONWARNINGS=ignore $(PIP) -q --no-build-isolation -e '.[all,dev]'  # setuptools warns of every linked installation
	mv .venv/base.unfinished .venv/base
	touch $@

.venv/docs: .venv/ready
	@$(PIP) -q furo myst-parser sphinx
	touch $@
