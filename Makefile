# Python that creates the environment, 3.11 or newer: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help env demo test doors lint types audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.stamp  ## create or update the environment in .venv

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "chisep needs Python 3.11 or newer and '$(PYTHON)' is not; name one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: env  ## simulate one subject, reconstruct it with the shipped weights, compare with the truth: see demo/
	$(BIN)/chisep demo --output demo

test: lint types  ## environment, lint, types and tests
	$(BIN)/pytest

doors: env  ## slow doors: exports, packs, MONAI Label and Deploy, processes; the record is benchmarks/doors.md
	$(BIN)/python tests/doors.py

lint: env  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env  ## mypy
	$(BIN)/mypy

audit: env  ## known weaknesses of the pinned packages; needs the vulnerability service
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

clean:  ## remove results, packages and caches; the environment stays
	rm -rf demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
