# make demo   make sample logs, run the job on them, verify, compare with the ground truth
# make test   the test suite (CPU; GPU, real-data and Ray tests skip themselves where they cannot run, saying why)
# make test-all   the slow tests too
# make lint   ruff and mypy
# make docs   the documents as a site in site/, links checked
# make wheel  build dist/*.whl, compiled kernels included, for machines with the same Python and torch
# make kernels   compile every CUDA kernel and fail on register spills (needs nvcc, no GPU)
#
# A virtual environment in .venv holds everything. PYTHON=python3.12 picks the interpreter; VENV= another place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml constraints.txt $(shell find kernels -type f)
# Modules are compiled when they are first imported, and kept: most of what is installed never is.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -c constraints.txt
export PYTHONDONTWRITEBYTECODE :=
export MAX_JOBS ?= 2

.PHONY: demo test test-all lint docs wheel kernels install clean
install: $(VENV)/.installed

$(VENV)/bin/python:
	@command -v c++ >/dev/null || { echo "a C++ compiler (c++) is needed to build the kernels: install g++ or clang++"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first: the extension is built against it.
$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	$(PIP) pip setuptools wheel ninja numpy torch
	$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(PIP) 'robocache[test]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# Two processes, whatever the machine has: some tests start processes of their own, and a Ray cluster.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
test: $(VENV)/.tools
	$(PYTEST) $(PYTEST_ARGS)

test-all: $(VENV)/.tools
	$(PYTEST) --slow $(PYTEST_ARGS)

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(PIP) 'robocache[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w dist .

kernels:
	scripts/check_kernels.sh

clean:
	rm -rf build site out sample_logs robocache/_C*.so robocache/_decode*.so *.egg-info
