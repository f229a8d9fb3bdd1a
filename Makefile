# Everything a user or CI runs. `make demo` and `make test` need Python 3.10 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGING := setup.py pyproject.toml

.PHONY: demo test lint bench bench-gpu clean

$(VENV)/installed: $(PACKAGING)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .[plots]
	touch $@

$(VENV)/installed-dev: $(PACKAGING)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .[dev]
	touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/safi-fast demo

test: lint
	$(BIN)/python -m pytest --benchmark-disable

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-dev
	$(BIN)/python bench/race.py --output bench/results/race.json
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=min,median,rounds --timeout=0

# Needs a GPU and CuPy (pip install -e .[gpu12] or .[gpu13]).
bench-gpu: $(VENV)/installed-dev
	$(BIN)/python bench/gpu.py --output bench/results/gpu.json

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
