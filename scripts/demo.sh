#!/usr/bin/env bash
# Builds the agent, starts a local model server, and runs a small real agent under `agentsight record`.
# OTEL_EXPORTER_OTLP_ENDPOINT, where it is set, gets the same spans that the terminal shows.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/target}

scripts/setup.sh demo
if [ ! -x "$target/release/agentsight" ]; then
  echo "demo: building; the first time takes some minutes" >&2
fi
CARGO_TARGET_DIR=$target cargo build --quiet --locked --release -p agentsight -p agentsight-e2e --bins
python=$(scripts/python.sh)

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "demo: tracing needs root, and there is no sudo; run it as root" >&2; exit 1; }
  echo "demo: tracing needs root; sudo may ask for your password" >&2
  as_root=(sudo -E)
fi

work=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT

# It says on its standard output when it listens, and where.
mkfifo "$work/ready"
"$target/release/model-server" --ca-file "$work/ca.pem" >"$work/ready" &
server=$!
read -r -t 30 ready <"$work/ready" || { echo "demo: the model server did not start" >&2; exit 1; }
port=$("$python" -c 'import json, sys; print(json.loads(sys.argv[1])["port"])' "$ready")

# The traced program's own settings: `env` keeps the model server's certificates from our own exporter.
"${as_root[@]}" "$target/release/agentsight" record --tree always -- \
  env OPENAI_BASE_URL="https://localhost:$port/v1" OPENAI_API_KEY=sk-demo SSL_CERT_FILE="$work/ca.pem" \
  "$python" e2e/agents/demo_agent.py "$@"
