# The commands of the README. Everything runs in .venv, made once from requirements.lock.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Where torch comes from; for NVIDIA GPUs: make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench bench-gpu test-tiny train-tiny

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.installed ## .venv with the pinned packages

# torch first: from a local wheel folder (pip's find-links) where there is one, else from TORCH_INDEX with what it needs.
.venv/.installed: requirements.lock
	@echo "setting up .venv (once; about 1 GB) ..."
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else "fullcanvas needs Python 3.11: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --no-deps --no-index $(TORCH) 2>/dev/null || \
		$(BIN)/pip install -qq -c requirements.lock --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(BIN)/pip install -qq --no-deps -r requirements.lock
	@touch $@

demo: setup ## transcribe the sample archive of this repository
	@$(BIN)/python -m jobs.transcribe --config configs/demo.yaml

test: setup ## all tests, file by file on two processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## what `make check` would complain about, repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the decoding benchmark compares with; a folder of its own, which nothing else sees.
.venv/bench/.installed: .venv/.installed requirements-bench.lock
	@$(BIN)/pip install -qq --no-deps --upgrade --target .venv/bench -r requirements-bench.lock
	@touch $@

bench: setup .venv/bench/.installed ## speed on this machine's CPU, beside transformers' generate; Ray's share; decoding
	@$(BIN)/python -m jobs.bench pipeline --json out/bench/pipeline.json
	@$(BIN)/python -m jobs.bench engine --size tiny --json out/bench/tiny.json --markdown out/bench/tiny.md
	@$(BIN)/python -m jobs.bench engine --size tiny --compile \
		--json out/bench/tiny-compiled.json --markdown out/bench/tiny-compiled.md
	@$(BIN)/python -m jobs.bench engine --size cpu300m --dtype bfloat16 --compile --no-auto \
		--json out/bench/cpu300m.json --markdown out/bench/cpu300m.md

bench-gpu: setup ## the same on a CUDA GPU of 80 GB, full-size random weights, faster vocabulary head; not run by us so far
	@$(BIN)/python -m jobs.bench engine --size full --device cuda --dtype bfloat16 --compile \
		--json out/bench/full.json --markdown out/bench/full.md

test-tiny: setup ## tests of the factory of the embedded model (infra/tiny), which `make test` leaves out
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/tiny

train-tiny: setup ## train the embedded model again (hours)
	@$(BIN)/python -m infra.tiny.train --config infra/tiny/configs/tiny.yaml
