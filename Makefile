# fairgrape. `make demo` and `make test` do everything, set-up included; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test tutorials test-slow faults bench mutants sync outputs lint showcase studies docs docs-serve clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv, install everything into it, install the notebook git hooks

# torch by pip (its own index rules hold), the rest by uv, which is ten times faster. Like pip, uv is to
# trust the system's certificates: behind a proxy with one of its own it could install nothing.
export UV_NATIVE_TLS := 1
.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fairgrape needs Python 3.11 or newer; this is $$($(PYTHON) --version). Say make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/python -m pip install --quiet "torch>=2.9" "torchvision>=0.24"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@if git rev-parse --git-dir >/dev/null 2>&1; then nbdev-install-hooks; fi
	touch $@

demo: setup  ## prune on rendered faces: dense, WS and FairGRAPE at 0.9 and 0.99; notebooks and report in runs/
	fairgrape sweep demo --workers 2

# One thread a process: OpenMP threads of several processes on one core wait for each other. One process more than cores, since many tests wait for processes of their own.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n + 1 : 8)))
PYTEST = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m pytest -n $(WORKERS) --dist loadfile

test: setup  ## all tests: notebooks, pairs and export, templates, wheel, determinism
	$(PYTEST)

tutorials: setup  ## the story, the tutorials and two long notebooks with the cells that train, which `make test` leaves out
	$(PYTEST) --nb-flags=slow nbs/tutorials nbs/story.ipynb nbs/experiment/08_run.ipynb nbs/report/12_frontier_runs.ipynb

test-slow: setup  ## all tests, with the cells and tests that take long
	$(PYTEST) --nb-flags=slow

faults: setup  ## kill runs and sweeps more than a hundred times and compare what is left (half an hour); leaves runs/faults.md
	python nbs/_tools/faults.py

bench: setup  ## measure selection, importance, the cache, whole runs and sweeps (half an hour); leaves runs/bench.md
	python nbs/_bench/bench.py

mutants: setup  ## break ten exported definitions, one at a time, and see whether their notebooks notice; leaves runs/mutants.md
	python nbs/_tools/mutants.py

sync: setup  ## text ↔ notebooks ↔ package, cleaned
	python nbs/_tools/sync.py

outputs: setup  ## run the reference notebooks and keep their outputs
	python nbs/_tools/sync.py --outputs

lint: setup  ## ruff over the exported package and the tests
	ruff check

showcase: setup  ## the real sets in data/ (hours on a CPU), then publish all of runs/ to runs/showcase
	fairgrape sweep showcase-utkface
	fairgrape sweep showcase-fairface
	python nbs/_tools/showcase.py runs

STUDIES := $(filter-out protocol,$(basename $(notdir $(wildcard nbs/templates/studies/*.yaml))))
ROW ?= synthetic
studies: setup  ## every study in its fast form, about ten minutes each; ROW=utkface for real faces in data/
	for name in $(STUDIES); do fairgrape study $$name --dataset $(ROW) --fast || exit 1; done

docs: setup  ## the documentation site, in _docs (npm fetches MathJax once; after that no network is needed)
	python nbs/_site/build.py

docs-serve: docs  ## the same, at http://localhost:8000
	python -m http.server 8000 --bind 127.0.0.1 --directory _docs

clean:  ## remove what set-up and tests made; data/ and runs/ stay
	rm -rf .venv .pytest_cache .hypothesis .ruff_cache dist *.egg-info _docs nbs/_site/node_modules
