# Everything runs in $(VENV), which is made on first use. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --no-compile --disable-pip-version-check --quiet -c constraints.txt
WORKERS ?= 2

# Compiled JAX programs are kept between runs; any entry that took over 0.2 s is worth a file.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.2
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := 0
export MPLBACKEND := Agg
# Bytecode is kept, whatever the caller's habit: without it every process that imports JAX, SciPy and
# pandas first compiles them from source, for ten seconds.
export PYTHONDONTWRITEBYTECODE :=
# Two OpenBLAS threads on a shared machine wait for each other: an eigh(1437) took 20 times longer.
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all notebooks bench docs lint clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.core  ## figures and a table from real data into out/ (under 5 minutes)
	$(BIN)/python -m deeplimits demo --out out

test: $(VENV)/.dev  ## everything that CI holds (under 30 minutes)
	DEEPLIMITS_UNOPTIMIZED=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not optimized"
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m optimized

test-all: $(VENV)/.dev  ## the tests with random, ten times longer property searches and full notebooks
	DEEPLIMITS_FAST=0 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --hypothesis-profile=thorough

notebooks: $(VENV)/.dev  ## run every notebooks/*.py and write the .ipynb with its outputs
	$(BIN)/python notebooks/execute.py

bench: $(VENV)/.dev  ## run every script in benchmarks/
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(VENV)/.docs  ## build the HTML pages into docs/_build/html
	$(BIN)/python -m sphinx -q -W -b html -d docs/_build/.doctrees docs docs/_build/html

lint: $(VENV)/.dev  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove everything that make has made
	rm -rf $(VENV) .cache out dist build docs/_build docs/notebooks .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: .made = an empty environment, .core = the library, .dev = with tests and checks.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "Error: $(PYTHON) was not found; install Python 3.11 or newer, or say which one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: $(PYTHON) is older than Python 3.11; say which one to use: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[dev,large]'
	$(PIP) --no-deps neural-tangents
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) -e '.[docs]'
	@touch $@
