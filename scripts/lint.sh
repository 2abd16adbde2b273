#!/usr/bin/env bash
# Everything that a reader of a change need not look for.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
# Not the advisories: their database is a git repository, which builds behind a registry mirror cannot reach.
"$(scripts/cargo-deny.sh)" --all-features --locked check --hide-inclusion-graph licenses bans sources
scripts/chart-readme.py --check
if command -v shellcheck >/dev/null; then
  git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
else
  echo "lint: no shellcheck here (Debian: shellcheck); shell scripts are not looked at" >&2
fi
