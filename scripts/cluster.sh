#!/usr/bin/env bash
# A real Kubernetes of one node on this machine, to try things on (as root):
#   scripts/cluster.sh up [IMAGE.tar…]      scripts/cluster.sh exec kubectl get pods -A      scripts/cluster.sh down
# CLUSTER=NAME names it; several can run at once.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/target}

cargo build --quiet --locked -p agentsight-e2e --bin cluster
exec "$CARGO_TARGET_DIR/debug/cluster" "$@"
