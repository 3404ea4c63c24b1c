# Everything a checkout needs: `make demo` and `make test` set up .venv by themselves. `make help` lists the rest.

# The first interpreter that is new enough, unless one is given: make test PYTHON=python3.12
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
STAMP := .venv/.installed
SOURCES := settings.ini setup.py pyproject.toml
# Every extra named in settings.ini, so that a new one is installed without an edit here
EXTRAS := $(shell sed -n 's/^\([a-z0-9]*\)_requirements *=.*/\1/p' settings.ini | paste -sd, -)
OLDEST := .venv-oldest

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest sync docs bench check

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

$(STAMP): $(SOURCES)
	@test -n "$(PYTHON)" || { echo "tsmeta needs Python 3.11 or newer, and none was found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up .venv (once, a minute or two) ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)  ## train on 140 real recordings, export, predict, say which recordings fail
	@$(BIN)/tsmeta demo

test: $(STAMP)  ## notebooks in step with modules, then their tests, then pytest
	@scripts/test.sh

sync: $(STAMP)  ## bring modules, sidebar and README in step with the notebooks
	@$(BIN)/python scripts/sync.py

docs: $(STAMP)  ## build the documentation site into _docs and check every link
	@$(BIN)/python scripts/docs.py

bench: $(STAMP)  ## measure tsmeta beside its peers
	@$(BIN)/python benchmarks/run.py

check: $(STAMP)  ## the size of each room, and the house rules
	@$(BIN)/python scripts/check.py

test-oldest: $(OLDEST)/.installed  ## pytest with the lowest versions named in settings.ini
	@$(OLDEST)/bin/python -m pytest -q

$(OLDEST)/.installed: $(SOURCES) scripts/oldest.py
	@test -n "$(PYTHON)" || { echo "tsmeta needs Python 3.11 or newer, and none was found." >&2; exit 1; }
	@echo "Setting up $(OLDEST) ..."
	@test -x $(OLDEST)/bin/pip || $(PYTHON) -m venv $(OLDEST)
	@$(PYTHON) scripts/oldest.py > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install -qq --constraint $(OLDEST)/constraints.txt --editable '.[tsai,data,test]'
	@touch $@
