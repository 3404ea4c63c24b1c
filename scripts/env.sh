#!/usr/bin/env bash
# env.sh FOLDER [oldest]: a virtual environment with tsmeta, every extra that settings.ini names, and the tools; with `oldest`, what users
# install in its lowest versions, and the tools for testing. Does nothing when the folder was made with the same requirements: their checksum is the stamp,
# since git and nbdev-export touch these files without changing them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$1 stamp=$1/.installed
wanted=$(cat settings.ini setup.py pyproject.toml | cksum)
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for p in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do new_enough "$p" && { python=$p; break; }; done
if [ -z "$python" ]; then
  echo "tsmeta needs Python 3.11 or newer; found none as ${PYTHON:-python3}. Install one, or name it: make test PYTHON=/path/to/python3" >&2
  exit 1
fi

echo "Setting up $folder (a minute or two the first time) ..."
[ -x "$folder/bin/pip" ] || "$python" -m venv "$folder"
extras=$(sed -n 's/^\([a-z0-9]*\)_requirements *=.*/\1/p' settings.ini | paste -s -d , -)
if [ "${2:-}" = oldest ]; then
  "$python" scripts/oldest.py > "$folder/constraints.txt"
  what=(--constraint "$folder/constraints.txt" --editable ".[${extras%,dev}]")
else
  what=(--editable ".[$extras]")
fi
PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install -qq "${what[@]}"
echo "$wanted" > "$stamp"
