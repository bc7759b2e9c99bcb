# Every command sets up what it needs in .venv and is what CI runs too.
#   make serve    serve on http://127.0.0.1:5000
#   make test     the whole suite
#   make check    style, types, layering, docs match code
#   make prove    kill it 200 times, and see that the books are right (PROVE="--kills N ...")
#   make bench    speed and memory, side by side
#   make big      the same with a million keys and ten million rows, made once
#   make profile  where the time of a request goes, and a flame graph
#   make fuzz     any bytes at both parsers, for FUZZ_SECONDS (300)
#   make lock     resolve the dependencies anew into requirements/*.txt
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCE := .venv-reference
CLIENTS := .venv-clients
NODE_CLIENTS := tests/clients/node
PIP := -m pip --disable-pip-version-check --quiet --quiet

.PHONY: serve test test-reference test-clients clients-page check prove bench big profile fuzz lock clean
.DEFAULT_GOAL := serve

serve: $(VENV)/.serve
	@exec $(BIN)/keyhole serve

test: $(VENV)/.test $(REFERENCE)/.ready test-clients
	$(BIN)/python -m pytest
	PYTHONPATH=src $(REFERENCE)/bin/python -m pytest tests/reference
	$(BIN)/python -m pytest tests/real

# The engine against transformers, and Keyhole in front of transformers' own server.
test-reference: $(VENV)/.test $(REFERENCE)/.ready
	PYTHONPATH=src $(REFERENCE)/bin/python -m pytest tests/reference
	$(BIN)/python -m pytest tests/real

# The clients that people have in their code, each in an environment of its own.
CLIENTS_READY := $(VENV)/.test $(CLIENTS)/.ready $(CLIENTS)-hub1/.ready $(NODE_CLIENTS)/node_modules/.ready

test-clients: $(CLIENTS_READY)
	$(BIN)/python -m pytest tests/clients

# docs/clients.md, made anew of a run.
clients-page: $(CLIENTS_READY)
	$(BIN)/python -m pytest tests/clients/test_page.py --write-page

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_docs.py

# Needs no more than `make serve`; a --postgres needs what `make test` sets up.
prove: $(VENV)/.serve
	$(BIN)/python tools/prove $(PROVE)

bench: $(VENV)/.test
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/proxy.py
	$(BIN)/python bench/stream.py

# The state is kept in KEYHOLE_BENCH_CACHE (~/.cache/keyhole-bench): 4 GB.
big: $(VENV)/.test
	$(BIN)/python bench/big.py

profile: $(VENV)/.test
	$(BIN)/python bench/costs.py

FUZZ_SECONDS ?= 300
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz/run.py $(FUZZ_SECONDS)

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

$(CLIENTS)/.ready: requirements/clients.txt
$(CLIENTS)-hub1/.ready: requirements/clients-hub1.txt
$(CLIENTS)/.ready $(CLIENTS)-hub1/.ready:
	@echo "Setting up $(@D) with clients of Keyhole ..."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP) install --require-hashes --no-deps -r $<
	@touch $@

$(NODE_CLIENTS)/node_modules/.ready: $(NODE_CLIENTS)/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' && npm --version > /dev/null || \
	  { echo "The clients' tests need Node 20 or newer, and npm. On Debian or Ubuntu: apt install nodejs npm"; exit 1; }
	@echo "Setting up $(@D) with clients of Keyhole ..."
	@cd $(NODE_CLIENTS) && npm ci --silent --no-audit --no-fund
	@touch $@

UV = $(VENV)-lock/bin/uv pip compile --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --quiet

$(VENV)-lock/bin/uv:
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/pip install --quiet uv==0.13.9

lock: $(VENV)-lock/bin/uv
	$(UV) pyproject.toml requirements/build.in -o requirements/serve.txt
	$(UV) pyproject.toml requirements/build.in --group test -c requirements/serve.txt -o requirements/test.txt
	$(UV) requirements/clients.in -o requirements/clients.txt
	$(UV) requirements/clients-hub1.in -o requirements/clients-hub1.txt
	cd $(NODE_CLIENTS) && npm install --silent --package-lock-only
	$(UV) requirements/reference.in -o .reference.txt && $(PYTHON) tools/lock_reference.py .reference.txt && rm .reference.txt

clean:
	rm -rf $(VENV) $(VENV)-lock $(REFERENCE) $(CLIENTS) $(CLIENTS)-hub1 $(NODE_CLIENTS)/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
