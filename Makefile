# Every target but help and clean makes the virtual environment when it is missing or stale.
# A stale environment is refreshed by the Python inside it, so that PYTHON is looked up only once.

VENV ?= .venv
ARGS ?=
JOBS ?= 2
SHELL := /bin/sh

# Some machines switch Python's bytecode cache off; torch then takes twice as long to start, every time.
export PYTHONDONTWRITEBYTECODE :=

ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell test -x "$(VENV)/bin/python" && echo "$(VENV)/bin/python" || echo python3)
endif

python = "$(VENV)/bin/python"
cmake = "$(VENV)/bin/cmake"
setup = "$(PYTHON)" tools/setup_env.py --venv "$(VENV)"

.DEFAULT_GOAL := help
.PHONY: help chat test sanitize neon lint format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

chat: ## talk with the model inside the package; ARGS="--help" passes arguments on
	@$(setup)
	@exec $(python) -m minicpm chat $(ARGS)

test: ## run the tests; ARGS="tests/text -k tokenizer" chooses, JOBS=1 runs them in one process
	@$(setup) dev
	@OMP_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) $(ARGS)

sanitize: ## run the tests of the native kernels under GCC's sanitizers; ARGS as for test
	@$(setup) dev native
	@$(python) tools/sanitize.py -n $(JOBS) $(ARGS)

neon: ## compare the NEON kernels with portable ones; needs g++-aarch64-linux-gnu and qemu-user
	@$(setup) native
	@$(cmake) -S native -B build/neon -DCMAKE_BUILD_TYPE=Release -DMINICPM_MODULE=OFF -DMINICPM_CHECK=ON \
	    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static
	@$(cmake) --build build/neon
	@qemu-aarch64 build/neon/check_kernels

lint: ## check style, types and the layering of the package
	@$(setup) dev
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	"$(VENV)/bin/lint-imports" --no-logo

format: ## rewrite the sources in the project's style
	@$(setup) dev
	$(python) -m ruff check --fix
	$(python) -m ruff format

clean: ## remove builds and caches, and keep the virtual environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools -type d -name __pycache__ -prune -exec rm -rf {} +
