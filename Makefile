# Everything a newcomer needs; `make` alone lists it. Options go through ARGS:
#   make demo ARGS="--messages 300 --speed 20 --until-drained"
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
DEMO_READY := .venv/.ready-demo
LAUNCHER := workers/executor/native/launch.so
# The launcher dies with make, so that not even a SIGKILL of make leaves a process behind. A make that
# ended before the signal was asked for sends none: then nothing is started.
DYING := env DYING_PARENT=$(shell echo $$PPID) $(BIN)/python -IS integration/bin/dying.py KILL

# Demo and tests start hundreds of processes: each would compile the whole project again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-status demo-stop quick test check bench breaks chaos screenshots sbom

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO_READY) ## run everything here: Kafka, Postgres, workers, web page (Ctrl-C ends it)
	@exec $(DYING) $(BIN)/python -m integration.demo up $(ARGS)

demo-status: $(DEMO_READY) ## one line a process of the running demo
	@$(BIN)/python -m integration.demo status $(ARGS)

demo-stop: $(DEMO_READY) ## end the running demo
	@$(BIN)/python -m integration.demo stop $(ARGS)

# Node looks at the JavaScript of the pages; without it that is said, and under DRAKKAR_REQUIRE=node it fails.
NODE_TOOLS := node_modules/.package-lock.json
define with_node
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
		$(MAKE) --no-print-directory $(NODE_TOOLS) && $(1); \
	else \
		echo "NOT LOOKED AT: the JavaScript of the pages, for node and npm are not here" >&2; \
		case ",$$DRAKKAR_REQUIRE," in *,node,*) exit 1;; esac; \
	fi
endef

$(NODE_TOOLS): package.json package-lock.json
	npm ci --no-audit --no-fund --silent

quick: $(READY) ## lint, unit and property tests: no server, no process, under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(BIN)/python -m pytest tests/unit tests/property --quiet --numprocesses=2 --dist=worksteal \
		--hypothesis-profile=quick $(ARGS)

# Half of the time of the tests is waiting for servers and sessions: one process more than cores.
test: $(READY) ## run the tests, with the services this machine can run; ARGS="-m 'not slow'" the quicker ones
	@$(BIN)/python -m pytest tests --numprocesses=3 --dist=worksteal --durations=15 $(ARGS)

check: $(READY) ## format, lint, types, import contracts, configuration, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict .
	$(BIN)/lint-imports
	$(BIN)/python manage.py check
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(call with_node,npm run --silent check)

bench: $(READY) ## measure the worker against the floor of this machine
	@$(BIN)/python -m integration.bench $(ARGS)

screenshots: $(READY) ## a picture of each page in both themes, into docs/images
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

sbom: $(DEMO_READY) ## which Python packages run with the product, with licences: .run/drakkar.cdx.json
	@$(BIN)/python integration/bin/sbom.py -o .run/drakkar.cdx.json

chaos: $(READY) ## the demo while workers go down and come back; ends with the verdict
	@exec $(DYING) $(BIN)/python -m integration.chaos $(ARGS)

breaks: $(READY) ## damage the product on purpose; tests and verdict must notice
	@$(BIN)/python -m tests.breaks.run $(ARGS)

# Optional: where there is no compiler spawners start processes in Python.
$(LAUNCHER): workers/executor/native/launch.c
	@if command -v cc >/dev/null; then cc -O2 -shared -fPIC -o $@.new $< && mv $@.new $@; fi

# The demo needs neither linters nor browsers; what the tests need holds all that the demo needs.
$(DEMO_READY): requirements.txt requirements-demo.txt constraints.txt | $(LAUNCHER)
	@$(PYTHON) -m venv .venv
	@$(BIN)/python integration/bin/install.py requirements-demo.txt
	@touch $@

$(READY): requirements.txt requirements-demo.txt requirements-dev.txt constraints.txt | $(LAUNCHER)
	@$(PYTHON) -m venv .venv
	@$(BIN)/python integration/bin/install.py requirements-dev.txt
	@touch $(DEMO_READY) $@
