#!/usr/bin/env bash
# Prints the Python interpreter that has the packages of a list; makes its environment first where it is not there yet.
#   scripts/python.sh [e2e/requirements.txt]    (the official SDKs; the default)
# The environment is keyed by what is in it: another list is another environment.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
requirements=$(realpath "${1:-$here/e2e/requirements.txt}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight
key=$({ cat "$requirements"; python3 --version; command -v python3; } | sha256sum | cut -c1-12)
venv=$cache/venv-$key

mkdir -p "$cache"
# Tests of several processes ask at once; one makes it, the others wait.
exec 9>"$venv.lock"
flock 9
if [ ! -e "$venv/complete" ]; then
  echo "setup: installing Python packages into $venv" >&2
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
  touch "$venv/complete"
fi
echo "$venv/bin/python"
