# The commands of the README. Everything runs in .venv, made once from the two locks.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
# Where torch comes from; for NVIDIA GPUs: make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(shell grep '^torch==' requirements.lock)
VENV ?= .venv
LOCKS ?= requirements.lock requirements-dev.lock
# Further words for pytest, as in: make test PYTEST="--durations=20"
PYTEST ?=

BIN := $(VENV)/bin
SUITE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup packages demo test test-slow test-all coverage test-tiny test-python check docs audit sbom format bench bench-gpu train-tiny loop

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: packages $(VENV)/.project ## .venv with the pinned packages and the command fullcanvas

packages: $(VENV)/.installed

# torch first: from a local wheel folder (pip's find-links) where there is one, else from TORCH_INDEX with what it needs.
# TORCH= (empty) leaves torch out, for `make test-python`.
$(VENV)/.installed: $(LOCKS)
	@echo "setting up $(VENV) (once; about 1 GB) ..."
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "fullcanvas needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@test -z "$(TORCH)" || $(BIN)/pip install -qq --no-deps --no-index $(TORCH) 2>/dev/null || \
		$(BIN)/pip install -qq -c requirements.lock --extra-index-url $(TORCH_INDEX) $(TORCH)
	@cat $(LOCKS) | grep -v '^torch==' | $(BIN)/pip install -qq --no-deps -r /dev/stdin
	@touch $@

$(VENV)/.project: $(VENV)/.installed pyproject.toml
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## transcribe what this repository ships: an archive with tiny, recordings of people with whisper-base
	@$(BIN)/python -m jobs.transcribe --config configs/demo.yaml
	@echo
	@$(BIN)/python -m jobs.transcribe --config configs/transcribe-local.yaml \
		source.uri=pipeline/assets/people output.uri=out/demo-people

test: setup ## the tests on the CPU, file by file in two processes, without the slow ones
	@$(SUITE) -m "not slow" $(PYTEST)

test-slow: setup ## the slow tests: kills, clusters, stores, browser, compilers, the evaluation of ourselves
	@$(SUITE) -m slow $(PYTEST)

# In the process of the tests only: measured in Ray's too, tests that start Ray take 2.2 times as long.
coverage: setup ## make test, and how much of pipeline/ it runs: 90 % or more
	@rm -f .coverage .coverage.*
	@$(SUITE) -m "not slow" --cov --cov-report= $(PYTEST)
	@$(BIN)/coverage report --fail-under=90

test-tiny: setup ## the tests of infra/tiny, which made the embedded model
	@$(SUITE) tests/tiny $(PYTEST)

test-all: setup ## all tests
	@$(SUITE) tests tests/tiny $(PYTEST)

# On another Python, without torch (PyPI's torch for it may be a CUDA build of gigabytes), the tests that need none.
test-python: ## tests that need no torch, on another Python: make test-python PYTHON=python3.13
	@$(MAKE) setup VENV=.venv/$(notdir $(PYTHON)) TORCH=
	@OMP_NUM_THREADS=1 .venv/$(notdir $(PYTHON))/bin/python -m pytest -n 2 -m "not slow" $(WITHOUT_TORCH) $(PYTEST)

WITHOUT_TORCH := tests/house tests/storage tests/sources tests/planning tests/audio tests/output tests/evaluation \
	tests/flow/test_guard.py tests/jobs/test_cli.py --ignore tests/evaluation/test_evaluate_sweep.py

check: setup ## lint, format check, types, secrets in tracked files, the site, known vulnerabilities where OSV can be reached
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	files=$$(git ls-files) && $(BIN)/detect-secrets-hook --no-verify --exclude-files '^(infra/tiny/human_speech\.yaml$$|tests/data/|configs/baselines/|pipeline/assets/.*/calibrator\.json$$)' $$files
	$(BIN)/python -m infra.site
	$(BIN)/python -m infra.audit --if-reachable

docs: setup ## the pages as a site that needs no network: out/docs (a wrong link is an error; part of make check)
	@$(BIN)/python -m infra.site

audit: setup ## known vulnerabilities in what the locks pin (SECURITY.md)
	$(BIN)/python -m infra.audit

SBOM ?= dist/sbom.json
sbom: setup ## the bill of materials of a release: the packages of requirements.lock, as CycloneDX
	@mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --validate -o $(SBOM) requirements.lock

format: setup ## what `make check` would complain about, repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the decoding benchmark compares with: a folder of its own, which only that benchmark sees.
$(VENV)/bench/.installed: $(VENV)/.installed requirements-bench.lock
	@$(BIN)/pip install -qq --no-deps --upgrade --target $(VENV)/bench -r requirements-bench.lock
	@touch $@

bench: setup $(VENV)/bench/.installed ## speed on this machine's CPU, beside transformers' generate; Ray's share; decoding
	@$(BIN)/python -m jobs.bench pipeline --json out/bench/pipeline.json
	@$(BIN)/python -m jobs.bench engine --size tiny --json out/bench/tiny.json --markdown out/bench/tiny.md
	@$(BIN)/python -m jobs.bench engine --size tiny --compile \
		--json out/bench/tiny-compiled.json --markdown out/bench/tiny-compiled.md
	@$(BIN)/python -m jobs.bench engine --size cpu300m --dtype bfloat16 --compile --no-auto \
		--json out/bench/cpu300m.json --markdown out/bench/cpu300m.md

bench-gpu: setup ## the released model's setting on a CUDA GPU of 80 GB, random weights, both heads; not run by us so far
	@$(BIN)/python -m jobs.bench engine --size full --device cuda --dtype bfloat16 --compile \
		--json out/bench/full-torch.json --markdown out/bench/full-torch.md
	@$(BIN)/python -m jobs.bench engine --size full --device cuda --dtype bfloat16 --compile --head triton \
		--json out/bench/full-triton.json --markdown out/bench/full-triton.md

train-tiny: setup ## train the embedded model again (hours)
	@$(BIN)/python -m infra.tiny.train --config infra/tiny/configs/tiny.yaml

loop: setup ## an archive of synthetic speech becomes labels, and labels become a model: what selecting is worth (docs/labels.md)
	@$(BIN)/python -m infra.tiny.loop --config infra/tiny/loop.yaml
