#!/usr/bin/env bash
# The stages of `make test`, in order; the first that fails ends the run. Uses .venv where it exists, else the environment at hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] && export PATH="$PWD/.venv/bin:$PATH"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONWARNINGS=ignore MPLBACKEND=agg

stage() { printf '\n== %s\n' "$1"; }

stage 'notebooks, modules and README in step'
python scripts/sync.py --check

stage 'notebooks'
python scripts/notebooks.py

stage 'pytest'
exec python -m pytest -n 2 --dist loadfile
