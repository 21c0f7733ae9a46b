# make quickstart   set everything up, distil three teachers on real data, print table and verdict
# make test         set everything up, run all checks and tests
# make coverage     the tests again, with the lines and branches that they reach; at least 85 %
# make notebooks    run every notebook
# make soak         disturb teachers for longer than the tests do
# make cluster-demo three Ray nodes on this machine, one killed in the middle; the same numbers
# make chaos        do every fault of the table in jobs/README.md for real, about an hour
# make bench        print what distillation costs: objective, store, memory, live teachers
# make gpu-smoke    on a machine with a GPU: try raykd on it, ten minutes; `jobs/gpu_smoke.py --cpu` tries the job itself
# VENV=/path        use another virtual environment

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.raykd-installed
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install quickstart lint test coverage notebooks soak cluster-demo chaos bench gpu-smoke clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

install: $(STAMP)

# torch comes first and alone: with its exact version installed, nothing asks for another build of it. torchvision and
# timm come without what they need, since the index has builds of torchvision for CUDA alone; on a CPU it imports beside
# a declaration of its operators (tests/conftest.py), and what is advertised of them is tested.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,export,optuna,hf,control]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torchvision timm stable-baselines3
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/raykd run digits --output runs/quickstart-$$(date -u +%Y%m%d-%H%M%S)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations=15

coverage: $(STAMP)
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=
	$(BIN)/coverage report --skip-covered --skip-empty | tail -n 40

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak --durations=5

notebooks: $(STAMP)
	cd notebooks && for book in *.ipynb; do $(abspath $(BIN))/jupyter execute --timeout=600 "$$book" > /dev/null; done

cluster-demo: $(STAMP)
	$(BIN)/python cluster/local/demo.py

chaos: $(STAMP)
	$(BIN)/python jobs/chaos.py --output chaos.json

bench: $(STAMP)
	$(BIN)/python jobs/benchmark.py

gpu-smoke: $(STAMP)
	$(BIN)/python jobs/gpu_smoke.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*
