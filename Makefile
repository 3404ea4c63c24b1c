# `make demo` and `make test` set up .venv by themselves, with the first Python that is new enough or with the one given: make test PYTHON=python3.12
export PYTHON
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help env demo test sync docs bench check fuzz test-oldest

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

env:  ## install or update what the other targets need, in .venv
	@scripts/env.sh .venv

demo: env  ## train on 140 real recordings, export, predict, say which recordings fail
	@$(BIN)/tsmeta demo

test: env  ## notebooks in step with what is made from them, then their tests, then pytest
	@scripts/test.sh

sync: env  ## bring modules, sidebar and README in step with the notebooks
	@$(BIN)/python scripts/sync.py

docs: env  ## build the documentation site into _docs and check every link
	@$(BIN)/python scripts/docs.py

bench: env  ## measure tsmeta beside its peers
	@$(BIN)/python benchmarks/run.py

fuzz: env  ## change files and states at random and read them: no crash, no hang, no error without a name
	@$(BIN)/python scripts/fuzz.py

check: env  ## the size of each module, the measures of the tree, and the house rules
	@$(BIN)/python scripts/check.py

test-oldest:  ## pytest with the lowest versions named in settings.ini
	@scripts/env.sh .venv-oldest oldest
	@.venv-oldest/bin/python -m pytest -q
