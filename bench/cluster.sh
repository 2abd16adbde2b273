#!/usr/bin/env bash
# What AgentSight costs a node of a cluster, and how soon it is there: bench/cluster.sh, as root, six minutes.
# On a cluster of this machine's, or on the one that KUBECONFIG_E2E names. `make build` builds what it needs first.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/target}

FIGURES=1 exec cargo test --locked -p agentsight-e2e --test kubernetes -- --nocapture
