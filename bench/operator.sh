#!/usr/bin/env bash
# What the operator costs: the operator alone on a real API server, with simulated nodes.
#   NODES=5000 TRACES=500 MINUTES=2 bench/operator.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/target}

# As `make build` does, so that nothing is built twice for another choice of features.
cargo build --locked --release -p agentsight -p agentsight-operator -p agentsight-e2e --bins
export AGENTSIGHT_OPERATOR_BIN=$CARGO_TARGET_DIR/release/agentsight-operator
# The simulated nodes need no optimisation of their own.
cargo bench --locked --profile dev -p agentsight-e2e --bench operator
