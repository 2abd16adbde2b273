#!/usr/bin/env bash
# Installs what is missing to build (setup.sh build), to show the demo (demo), or to run all tests (test, the default).
# Does nothing, and says nothing, where all is there.
set -euo pipefail
cd "$(dirname "$0")"

case ${1:-test} in
  build)
    ./packages.sh build
    ./rust.sh
    ;;
  demo)
    ./packages.sh build
    ./packages.sh test
    ./rust.sh
    ./python.sh >/dev/null
    ;;
  test)
    ./packages.sh test
    ./rust.sh
    ./python.sh >/dev/null
    ./python.sh ../e2e/requirements-clients.txt >/dev/null
    ./python.sh ../e2e/requirements-grpc.txt >/dev/null
    ./node.sh >/dev/null
    ./node.sh ../e2e/agents/node_grpc >/dev/null
    ./openssl.sh >/dev/null
    ./agents.sh >/dev/null
    ./collector.sh >/dev/null
    ;;
  *)
    echo "usage: scripts/setup.sh [build|demo|test]" >&2
    exit 2
    ;;
esac
