# make train ARGS="scenario=visualize seed=1"   make test   make lint   make tensorboard
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

# Each process computes on one core; waiting threads sleep. Without bytecode files, each would compile all packages anew.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest
SPREAD := --numprocesses auto --dist worksteal

.PHONY: train test test-slow test-browser pictures results bench lint format tensorboard tour clean

train: .venv/ready
	$(BIN)/python scripts/train.py $(ARGS)

test: .venv/ready
	$(PYTEST) $(SPREAD) $(ARGS)

# Real kills, real launchers, long runs.
test-slow: .venv/ready
	$(PYTEST) $(SPREAD) -m "slow and not browser" $(ARGS)

# TensorBoard and the report in a real Chromium.
test-browser: .venv/browser
	$(PYTEST) -m browser $(ARGS)

# The pictures in README and docs, from real runs.
pictures: .venv/browser
	$(BIN)/python tools/pictures.py logs/pictures

# The experiments of docs/results.md, which take an hour, and their figures.
results: .venv/browser
	$(BIN)/python tools/results.py logs/results

# The tables of docs/performance.md: an hour on an otherwise idle machine.
BENCHMARKS := answers start memory recorder pipeline sequences tap limit cuts tab loading recipe example
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

# Up to 10,000 steps of each run instead of TensorBoard's 1,000; files are read every 2 seconds.
tensorboard: .venv/ready
	@echo "The tab Rows: http://localhost:6006/#rowgrad (the address below, with #rowgrad appended). It updates by itself."
	@echo "TensorBoard's other tabs update on its reload button, or with Settings > Reload data."
	$(BIN)/tensorboard --logdir logs --samples_per_plugin scalars=10000 --reload_interval 2 $(ARGS)

# A lesson of 45 minutes, in the browser.
tour: .venv/tour
	$(BIN)/jupyter-lab docs/tour.ipynb $(ARGS)

# uv resolves all packages together; the date in pyproject.toml makes the result reproducible.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rowgrad needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv: PyTorch and all other packages, about 5 GB. Once; a minute or more."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv sync --quiet --inexact --compile-bytecode --python $(BIN)/python
	@touch $@
	@echo "Ready. After 'source .venv/bin/activate', python is the one in .venv."

.venv/browser: .venv/ready
	@$(BIN)/uv sync --quiet --inexact --group browser --python $(BIN)/python
	@which chromium chromium-browser google-chrome > /dev/null 2>&1 || { \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y --no-install-recommends chromium; \
	} || { echo "Chromium was not found and could not be installed. Install it and repeat the command."; exit 1; }
	@touch $@

.venv/tour: .venv/ready
	@$(BIN)/uv sync --quiet --inexact --group tour --python $(BIN)/python
	@touch $@

clean:
	rm -rf .venv
