# make train ARGS="scenario=visualize seed=1"   make test   make lint   make tensorboard
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: train test lint format tensorboard clean

train: .venv/ready
	$(BIN)/python scripts/train.py $(ARGS)

# A file of tests is one process's; each computes on one core.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/ty check

format: .venv/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

tensorboard: .venv/ready
	$(BIN)/tensorboard --logdir logs $(ARGS)

# uv resolves everything in one go; its date in pyproject.toml makes that reproducible.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rowgrad needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv sync --inexact --compile-bytecode --python $(BIN)/python
	touch $@

clean:
	rm -rf .venv
