# Each recipe does its own set-up: on a fresh machine any of them can be the first.
PYTHON ?= python3
METHOD ?= sparsepo
ARGS ?=
RUN := .venv/bin/python -m

.PHONY: help setup demo test proofs chaos check constraints clean

help: ; @sed -n '/^help/!s/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 22
setup: ; @$(PYTHON) -m scripts.setup_env ## both environments, installed through the exact pins
demo: setup ; @$(RUN) examples.demo --method $(METHOD) $(ARGS) ## from preference pairs to a served, scored policy
test: setup ; @$(RUN) pytest $(ARGS) ## the suite, real vLLM and DeepSpeed included
proofs: setup ; @$(RUN) pytest -m proof $(ARGS) ## what takes too long for every change: more ZeRO stages, relaunches, adapters
chaos: setup ; @PREFSERVE_CHAOS_JOBS=2000 $(RUN) pytest tests/service/test_crashes.py --timeout 7200 $(ARGS) ## services die while 2,000 jobs are created and run
check: setup ; @$(RUN) scripts.check ## lint, format, types, import rules, pins
constraints: setup ; @$(RUN) scripts.resolve ## the newest versions that fit pyproject.toml
clean: ; @rm -rf .venv .venv-serving .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist ## all but the sources
