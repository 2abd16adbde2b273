#!/usr/bin/env bash
# What the hooks for MCP over standard input and output cost, in ns of CPU time: one write or read of 100 bytes through a pipe,
# and a system call that does neither. In turns without an agent, in a process that is not selected while another one is, on a
# pipe that is let go, and on one that is followed.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${AGENTSIGHT_BIN:?the agent to measure}"
rounds=${ROUNDS:-200000} turns=${TURNS:-7}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cc -O2 -Wall -o "$folder/stdio" bench/stdio.c

median() { cut -d' ' -f"$2" "$1" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

# The agent traces a process of its own, which waits for this script; its log says when all is attached.
beside() {
  coproc AGENT { "$AGENTSIGHT_BIN" record --mcp-stdio -v --tree never -- sh -c 'echo ready >&2; read -r _' 2>&1; }
  local agent=$AGENT_PID to=${AGENT[1]} line
  while read -r line <&"${AGENT[0]}" && [ "$line" != ready ]; do :; done
  "$folder/stdio" "$rounds" x
  echo >&"$to"
  cat <&"${AGENT[0]}" >/dev/null
  wait "$agent" || true
}

question='{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
for _ in $(seq "$turns"); do
  "$folder/stdio" "$rounds" x >>"$folder/alone"
  beside >>"$folder/beside"
  "$AGENTSIGHT_BIN" record --mcp-stdio --tree never -- "$folder/stdio" "$rounds" x >>"$folder/ignored"
  "$AGENTSIGHT_BIN" record --mcp-stdio --tree never -- "$folder/stdio" "$rounds" "$question" >>"$folder/followed"
done
for what in alone beside ignored followed; do
  printf '%-9s %s ns, other calls %s ns\n' "$what" "$(median "$folder/$what" 1)" "$(median "$folder/$what" 2)"
done
