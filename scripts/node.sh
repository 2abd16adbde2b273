#!/usr/bin/env bash
# Prints the folder of clients.mjs and of the packages that it imports; makes it first where it is not there yet.
#   scripts/node.sh [e2e/agents/node]    (another folder with a package.json: its programs and packages)
# It is keyed by what is in it. Without npm it prints nothing, and the tests that need it say so; in CI (CI=true or 1)
# that is an error.
set -euo pipefail
here=$(realpath "${1:-$(dirname "$0")/../e2e/agents/node}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight
folder=$cache/node-$(cat "$here"/* | sha256sum | cut -c1-12)

mkdir -p "$cache"
# Tests of several processes ask at once; one makes it, the others wait.
exec 9>"$folder.lock"
flock 9
if [ ! -e "$folder/complete" ]; then
  if ! command -v npm >/dev/null; then
    echo "setup: no packages of Node.js: npm is needed to fetch them" >&2
    case ${CI:-} in 1 | true) exit 1 ;; *) exit 0 ;; esac
  fi
  echo "setup: fetching the SDKs for JavaScript into $folder" >&2
  rm -rf "$folder"
  mkdir "$folder"
  cp "$here"/* "$folder"
  # As the lock file says, and nothing of theirs is run.
  npm ci --prefix "$folder" --no-audit --no-fund --ignore-scripts --silent >&2
  touch "$folder/complete"
fi
echo "$folder"
