# make train ARGS="scenario=visualize seed=1"   make test   make lint   make tensorboard
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: train test test-browser pictures results bench lint format tensorboard tour clean

train: .venv/ready
	$(BIN)/python scripts/train.py $(ARGS)

# Each process computes on one core.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --no-loadscope-reorder $(ARGS)

# What people look at, in a real Chromium: TensorBoard and the report.
test-browser: .venv/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(ARGS)

# The pictures in README and docs, from four real runs.
pictures: .venv/browser
	$(BIN)/python tools/pictures.py logs/pictures

# The experiments of docs/results.md, which take an hour, and their figures.
results: .venv/browser
	$(BIN)/python tools/results.py logs/results

# The tables of docs/performance.md: three quarters of an hour that wants the machine for itself.
BENCHMARKS := answers start memory recorder pipeline sequences tap tab loading recipe example
bench: .venv/browser
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done
	$(BIN)/python benchmarks/tables.py

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/ty check
	@$(BIN)/lint-imports > .venv/imports 2>&1 || { cat .venv/imports; exit 1; }

format: .venv/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# All steps of runs of up to 10,000, not the 1,000 that TensorBoard would keep; files are read every 2 seconds.
tensorboard: .venv/ready
	@echo "Open the address below with #rowgrad behind it, as http://localhost:6006/#rowgrad: the tab Rows, which is live."
	@echo "TensorBoard's other tabs show new steps after a click on its reload button, or with Settings > Reload data."
	$(BIN)/tensorboard --logdir logs --samples_per_plugin scalars=10000 --reload_interval 2 $(ARGS)

# A lesson of 45 minutes, in the browser.
tour: .venv/tour
	$(BIN)/jupyter-lab docs/tour.ipynb $(ARGS)

# uv resolves everything in one go; its date in pyproject.toml makes that reproducible.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rowgrad needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv: PyTorch and what else is needed, about 5 GB. Once; a minute or more."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv sync --quiet --inexact --compile-bytecode --python $(BIN)/python
	@touch $@
	@echo "Ready. source .venv/bin/activate makes python the one in it."

.venv/browser: .venv/ready
	@$(BIN)/uv sync --quiet --inexact --group browser --python $(BIN)/python
	@which chromium chromium-browser google-chrome > /dev/null 2>&1 || { \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y --no-install-recommends chromium; \
	} || { echo "No Chromium here and none could be installed: install it, then again make test-browser"; exit 1; }
	@touch $@

.venv/tour: .venv/ready
	@$(BIN)/uv sync --quiet --inexact --group tour --python $(BIN)/python
	@touch $@

clean:
	rm -rf .venv
