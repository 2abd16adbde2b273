#!/usr/bin/env bash
# Checks for Rust, and adds the components that `make lint` uses where rustup manages it.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo >/dev/null; then
  echo "setup: Rust is needed (rust-version in Cargo.toml says which); see https://rustup.rs" >&2
  exit 1
fi
command -v rustup >/dev/null || exit 0
# rustup's own listing costs a tenth of a second; the programs themselves are quicker to ask.
for component in clippy rustfmt; do
  program=cargo-${component/rustfmt/fmt}
  if ! "$program" --version >/dev/null 2>&1; then
    echo "setup: adding $component"
    rustup component add "$component"
  fi
done
