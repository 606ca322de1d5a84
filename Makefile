# `make demo` and `make test` work on a machine that has Python 3.11 to 3.13, make and git.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-clustering up stack pictures lock clean
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
READY := .venv/.ready

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 was found; install one, or say make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing the locked packages into .venv: some 1.5 GB, a few minutes ..."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## Set up, generate a term of students, run the whole graph
	$(BIN)/iom demo

test: $(READY) ## Set up and run the tests
	@echo "tests/unit runs beside the tests of whole platforms, on what these leave idle; what it said follows at the end."
	@$(BIN)/pytest tests/unit --cov=iom_platform --cov-fail-under=68 > .venv/unit-tests.log 2>&1 & unit=$$!; \
	trap "kill $$unit" INT TERM; \
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --benchmark --ignore=tests/unit; rest=$$?; \
	wait $$unit; unit=$$?; cat .venv/unit-tests.log; test $$rest -eq 0 && test $$unit -eq 0

check: $(READY) ## Lint, types, import law, docs and graph tests
	$(BIN)/ruff check iom_platform tests docs deploy
	$(BIN)/ruff format --check iom_platform tests docs deploy
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/unit/test_dbt_docs.py tests/unit/test_graph.py tests/unit/test_words.py

bench: $(READY) ## Seconds, memory and the ratio against plain pandas at OULAD size
	$(BIN)/python -m tests.performance.hand
	$(BIN)/python -m tests.performance.bench

bench-clustering: $(READY) ## iom cluster on 11 million learners against plain pandas and polars
	$(BIN)/python -m tests.performance.bench_clustering

up: $(READY) ## Start Dagster and MLflow on loopback
	$(BIN)/iom up

stack: $(READY) ## Start the services of docker-compose.yml as processes of this machine
	$(BIN)/python deploy/stack.py up

pictures: $(READY) ## Take the README's pictures from the demo, with a Chromium that is here
	$(BIN)/python docs/pictures/take.py

lock: $(READY) ## Resolve the dependencies anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraint requirements.lock pyproject.toml -o deploy/requirements.lock

clean: ## Stop the services and remove .venv and .iom
	-@test -x $(BIN)/iom && $(BIN)/iom down
	rm -rf .venv .iom
	@echo "What you exported stays where you wrote it: delete it yourself."
