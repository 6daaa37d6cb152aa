# The two commands a person needs are `make bench` and `make test`; everything else is for whoever works on Nx8.
# make turns every failure into its own exit code 2, so the recipes print the real one; cron calls `nx8` itself.

# The default job; naming a VENDOR leaves case and cluster to nx8.
ifeq ($(origin VENDOR),undefined)
VENDOR  := cpu
CASE    ?= llama2_7b
CLUSTER ?= local
endif
CASE    ?=
CLUSTER ?=
ARGS    ?=

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    ?= .venv
# A further package index, for example the one with torch's CPU wheels: make bench EXTRA_INDEX=URL
EXTRA_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX))

.DEFAULT_GOAL := help
.PHONY: help bench test test-full lint type format golden docs man perf fuzz false-green clean
.SUFFIXES:

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: $(VENV)/.trainer ## train, prove and print the metric table: VENDOR=… CLUSTER=… CASE=… ARGS=…
	@$(BIN)/nx8 run $(CASE) --vendor $(VENDOR) $(if $(CLUSTER),--cluster $(CLUSTER)) $(ARGS); \
	code=$$?; [ $$code -eq 0 ] || echo "nx8 exited $$code (docs/exit-codes.md)" >&2; exit $$code

test: $(VENV)/.dev ## the whole test suite
	$(BIN)/pytest -m "not slow" $(ARGS)

test-full: $(VENV)/.dev ## the suite with the full counts of every promise
	$(BIN)/pytest $(ARGS)

lint: $(VENV)/.dev ## style, the trainer's Python 3.8 floor, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vermin -t=3.8- --eval-annotations --no-tips --quiet --violations cases/trainer
	$(BIN)/vermin -t=3.6- --no-tips --quiet --violations $(addprefix orchestrator/node/,agent.py lock.py keeper.py monitor.py examine.py)
	$(BIN)/vermin -t=3.8- --no-tips --quiet --violations orchestrator/node/commands.py
	$(BIN)/lint-imports

type: $(VENV)/.dev ## mypy --strict on the host package
	$(BIN)/mypy

format: $(VENV)/.dev ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

golden: $(VENV)/.dev ## rewrite golden texts and JSON Schemas; read the diff before you commit it
	$(BIN)/python -m orchestrator.schemas
	NX8_GOLDEN=1 $(BIN)/pytest -q -m "not slow and not trainer" tests

docs: $(VENV)/.dev ## make docs/errors*.md and docs/cli.md, hold the other pages against the code, run what they show
	@$(BIN)/python -m tools.docs
	@$(BIN)/python -m tools.docs.walk

man: $(VENV)/.dev ## man pages of every verb: man -l build/man/nx8-run.1
	@$(BIN)/python -m tools.docs --man build/man

perf: $(VENV)/.perf ## our trainer beside Hugging Face's and torch's, our fan-out beside pdsh, our parser beside json: paired
	$(BIN)/python tests/perf/trainer_vs_hf.py --ranks 2 8 --modes ddp zero2 zero3 $(ARGS)
	$(BIN)/python -m tests.perf.parallel
	$(BIN)/python -m tests.perf.fanout
	$(BIN)/python -m tests.perf.overhead
	$(BIN)/python -m tests.perf.parsing --gigabyte

fuzz: $(VENV)/.dev ## a million inputs for everything that reads what others wrote
	$(BIN)/python -m tests.fuzz.readers -runs=1000000 -max_len=300 -timeout=60
	NX8_FUZZ_EXAMPLES=20000 $(BIN)/pytest -q --timeout 0 tests/test_dialects.py -k "no_bytes or nearly"

false-green: $(VENV)/.dev ## more than a hundred faults against real runs: none may be MEASURED; 20 undisturbed runs: all are
	$(BIN)/python -m tests.false_green $(ARGS)

clean: ## remove what make and nx8 made here, except runs
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# One stamp per extra: each is installed when its inputs change. pip's own progress stays quiet; what was chosen is said.
$(VENV)/.created:
	@[ -n "$(PYTHON)" ] || { echo "error[E001] no python3 found. Install Python 3.11 or newer, or: make bench PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error[E001] $(PYTHON) is $$($(PYTHON) --version). Nx8 needs Python 3.11 or newer: make bench PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error[E002] $(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@touch $@

$(VENV)/.trainer: $(VENV)/.created pyproject.toml constraints.txt
	@echo "set-up: $(VENV) (trainer), once; torch is the large one"
	@DS_BUILD_OPS=0 $(INSTALL) torch numpy
	@DS_BUILD_OPS=0 $(INSTALL) --editable '.[trainer]'
	@$(BIN)/python tools/wheel_flavour.py torch deepspeed
	@touch $@

$(VENV)/.dev: $(VENV)/.trainer
	@echo "set-up: $(VENV) (dev)"
	@$(INSTALL) --editable '.[trainer,dev]'
	@touch $@

$(VENV)/.perf: $(VENV)/.dev
	@echo "set-up: $(VENV) (perf)"
	@$(INSTALL) --editable '.[trainer,dev,perf]'
	@touch $@
