#!/usr/bin/env bash
# Prints where cargo-deny is; builds it first where it is not there yet (three to six minutes on two cores, once).
set -euo pipefail
version=0.20.2
root=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/tools/cargo-deny-$version

if [ ! -x "$root/bin/cargo-deny" ]; then
  echo "setup: building cargo-deny $version; takes minutes, once" >&2
  # Its own target directory, removed afterwards: nothing of it is shared with the project.
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  CARGO_TARGET_DIR=$build cargo install --quiet --locked --no-track --root "$root" "cargo-deny@$version" >&2
fi
echo "$root/bin/cargo-deny"
