#!/usr/bin/env bash
# Measures what tracing costs: run.sh [--quick] [-o json]. `make bench` builds what it needs first.
# A full run (8 minutes) writes its table into docs/performance.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
agent=${AGENTSIGHT_BIN:-$target/release/agentsight}
model_server=${MODEL_SERVER_BIN:-$target/release/model-server}
for program in "$agent" "$model_server"; do
  [ -x "$program" ] || { echo "bench: there is no $program; run \`make bench\`" >&2; exit 1; }
done
python=$("$here/../scripts/python.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc -O2 -Wall -Wextra -Werror -o "$work/echo" "$here/echo.c" -lssl -lcrypto
write=(--write "$here/../docs/performance.md")
for argument in "$@"; do
  [ "$argument" != --quick ] || write=()
done
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -E)
"${as_root[@]}" python3 "$here/bench.py" --agent "$agent" --model-server "$model_server" --echo "$work/echo" \
  --python "$python" "${write[@]}" "$@"
