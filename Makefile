# Every command sets up what it needs in .venv and is what CI runs too.
#   make serve    serve on http://127.0.0.1:5000
#   make test     the whole suite
#   make check    style, types, layering, docs match code
#   make bench    speed and memory, side by side
#   make lock     resolve the dependencies anew into requirements/*.txt
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCE := .venv-reference
PIP := -m pip --disable-pip-version-check --quiet --quiet

.PHONY: serve test test-reference check bench lock clean
.DEFAULT_GOAL := serve

serve: $(VENV)/.serve
	@exec $(BIN)/keyhole serve

test: $(VENV)/.test $(REFERENCE)/.ready
	$(BIN)/python -m pytest
	PYTHONPATH=src $(REFERENCE)/bin/python -m pytest tests/reference

test-reference: $(REFERENCE)/.ready
	PYTHONPATH=src $(REFERENCE)/bin/python -m pytest tests/reference

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_docs.py

bench: $(VENV)/.test
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/proxy.py
	$(BIN)/python bench/stream.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Keyhole needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv module did not work. On Debian or Ubuntu: apt install python3-venv"; exit 1; }

# Hash-checked, then Keyhole itself from this folder. The test set holds the serve set.
$(VENV)/.serve: requirements/serve.txt pyproject.toml | $(BIN)/python
	@echo "Setting up .venv (a minute the first time) ..."
	@$(BIN)/python $(PIP) install --require-hashes -r requirements/serve.txt
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: requirements/test.txt pyproject.toml | $(BIN)/python
	@echo "Setting up .venv with what the tests need ..."
	@$(BIN)/python $(PIP) install --require-hashes -r requirements/test.txt
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.serve

# transformers and torch judge the engine's numbers; they stay out of the product's environment.
$(REFERENCE)/.ready: $(wildcard requirements/reference*.txt)
	@echo "Setting up $(REFERENCE) with transformers and torch, the engine's reference ..."
	@$(PYTHON) -m venv $(REFERENCE)
	@$(REFERENCE)/bin/python $(PIP) install --require-hashes --no-deps -r requirements/reference.txt
	@$(REFERENCE)/bin/python $(PIP) install --require-hashes --no-deps -r requirements/reference-torch-cpu.txt 2>/dev/null || \
	  $(REFERENCE)/bin/python $(PIP) install --require-hashes --no-deps -r requirements/reference-torch.txt
	@$(REFERENCE)/bin/python -c 'import torch, transformers'
	@touch $@

UV = $(VENV)-lock/bin/uv pip compile --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --quiet

$(VENV)-lock/bin/uv:
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/pip install --quiet uv==0.13.9

lock: $(VENV)-lock/bin/uv
	$(UV) pyproject.toml requirements/build.in -o requirements/serve.txt
	$(UV) pyproject.toml requirements/build.in --group test -c requirements/serve.txt -o requirements/test.txt
	$(UV) requirements/reference.in -o .reference.txt && $(PYTHON) tools/lock_reference.py .reference.txt && rm .reference.txt

clean:
	rm -rf $(VENV) $(VENV)-lock $(REFERENCE) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
