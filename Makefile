# Everything a user or CI runs. `make demo` and `make test` need Python 3.10 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGING := setup.py pyproject.toml

.PHONY: demo test test-fast test-integrations emulator-libs fuzz soak chaos lint format bench bench-full bench-gpu retune docs dist test-wheel clean

$(VENV)/installed: $(PACKAGING)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .[plots]
	touch $@

$(VENV)/installed-dev: $(PACKAGING)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable .[dev]
	touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/safi-fast demo

# Workers that share the tests; each may take 1.5 GB.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --benchmark-disable -n $(WORKERS) --dist worksteal

test: lint emulator-libs
	$(PYTEST)

# For every save: a minute and a half, once everything is compiled. What it leaves out stands in tests/slow.txt.
test-fast: $(VENV)/installed-dev
	$(PYTEST) -q -m "not slow and not gpu"

# The real deepinv, sigpy, MONAI and MRpro, in an environment of their own: torch goes with torchvision there.
INTEGRATIONS := .venv-integrations/bin/python

.venv-integrations/installed: $(PACKAGING) tests/integrations/requirements.txt
	$(PYTHON) -m venv .venv-integrations
	$(INTEGRATIONS) -m pip install --quiet --disable-pip-version-check --editable . -r tests/integrations/requirements.txt
	touch $@

test-integrations: .venv-integrations/installed
	$(INTEGRATIONS) -m pytest --confcutdir=tests/integrations -W default tests/integrations

# What the tests would otherwise wait for: CUDA kernels compiled by g++ for the emulator, and by NVRTC. Kept in .cache.
emulator-libs: $(VENV)/installed-dev
	$(BIN)/python -m tests.emulator.prebuild

# 10,000 damaged files of all formats.
fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz.bytes

# An hour of mixed calls, whose memory must not grow.
soak: $(VENV)/installed-dev
	$(BIN)/python -m bench.experiments.soak --output $(RESULTS)/soak.json

# The one list of checks; the hooks of .pre-commit-config.yaml are the same commands.
lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	.ci/lint-imports $(BIN)
	$(BIN)/mdformat --check $(MARKDOWN)

# Mends what a formatter can.
format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mdformat $(MARKDOWN)

# Pages, but for templates, whose fields are filled in later.
MARKDOWN := README.md CONTRIBUTING.md CHANGELOG.md docs bench/results bench/runs tests/emulator

# Minutes: runs that are killed, full and read-only disks, several processes on one folder.
chaos: $(VENV)/installed-dev
	$(BIN)/python tests/chaos/chaos.py --output $(RESULTS)/chaos.json

RESULTS := bench/results
FIGURES := docs/images

# Less than ten minutes on two idle cores, once kernels are compiled; bench/report/tables.py prints what each part took.
bench: $(VENV)/installed-dev
	$(BIN)/python -m bench.experiments.roofline --output $(RESULTS)/roofline.json --plot $(FIGURES)/roofline.png
	$(BIN)/python -m bench.experiments.race --repeats 1 --output $(RESULTS)/race.json
	$(BIN)/python -m bench.experiments.fixed_point --tol 7e-4 --output $(RESULTS)/fixed_point.json
	$(BIN)/python -m bench.experiments.rivals --output $(RESULTS)/rivals.json --plot $(FIGURES)/rivals.png
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=min,rounds --timeout=0 --benchmark-json=.benchmarks.json
	$(BIN)/python -m bench.report.scaling .benchmarks.json --output $(RESULTS)/scaling.json --plot $(FIGURES)/scaling.png
	$(BIN)/python -m bench.report.tables

# Hours: all of BSD68, more crops, images up to 4096 x 4096 (16 GB of memory).
bench-full: $(VENV)/installed-dev
	$(BIN)/python -m bench.experiments.roofline --size 1024 --output $(RESULTS)/roofline.json --plot $(FIGURES)/roofline.png
	$(BIN)/python -m bench.experiments.race --repeats 5 --output $(RESULTS)/race.json
	$(BIN)/python -m bench.experiments.fixed_point --tol 7e-4 --crops 5 --output $(RESULTS)/fixed_point.json
	$(BIN)/python -m bench.experiments.rivals --limit 68 --slow 3 --output $(RESULTS)/rivals.json --plot $(FIGURES)/rivals.png
	$(BIN)/python -m pytest bench --full --benchmark-only --benchmark-columns=min,rounds --timeout=0 --benchmark-json=.benchmarks.json
	$(BIN)/python -m bench.report.scaling .benchmarks.json --output $(RESULTS)/scaling.json --plot $(FIGURES)/scaling.png
	$(BIN)/python -m bench.experiments.large time --output $(RESULTS)/large_time.json
	$(BIN)/python -m bench.experiments.large memory --output $(RESULTS)/large_memory.json
	$(BIN)/python -m bench.experiments.large stream --output $(RESULTS)/large_stream.json
	$(BIN)/python -m bench.report.tables

# Hours: everything that depends on shipped weights, made again where they changed. Images: SAFI_FAST_DATA.
retune: $(VENV)/installed-dev
	$(BIN)/python -m bench.experiments.retune $(OPTIONS)

# train-safi-gray, train-safi-gray-fast, train-mmr-gray: eight minutes on an H100, most of a day on two cores.
# train-safi-color, train-safi-color-fast: about an hour on two cores.
# PHOTOGRAPHS: the folder of bench/data/photographs.py. OPTIONS: --device cuda.
train-%: $(VENV)/installed-dev
	$(BIN)/python -m bench.experiments.train $* --photographs $(PHOTOGRAPHS) --out run-$* $(OPTIONS)

# Needs a GPU and CuPy (pip install -e .[gpu12] or .[gpu13]). OPTIONS: --teacher FILE, --parity.
bench-gpu: $(VENV)/installed-dev
	$(BIN)/python -m bench.experiments.gpu $(OPTIONS) --output bench/results/gpu.json

# The site in site/, without network: open site/index.html. Not --quiet, with which --strict counts no warnings.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# In an environment of its own: the tests do without mkdocs.
.venv-docs/installed: $(PACKAGING)
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --editable .[docs]
	touch $@

# What a release is made of, in dist/: sdist, wheel, the list of what the core install brings (CycloneDX), hashes.
dist: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	.ci/sbom $(PYTHON) dist/sbom.cdx.json
	cd dist && sha256sum * > SHA256SUMS

# Minutes each: the built wheel, outside of this tree, with the Pythons of PYTHONS.
PYTHONS ?= $(PYTHON)
test-wheel:
	for python in $(PYTHONS); do .ci/test-wheel $$python -q || exit 1; done

clean:
	rm -rf $(VENV) .venv-integrations .venv-docs .cache build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
