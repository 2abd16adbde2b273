#!/usr/bin/env bash
# What the hooks for plain HTTP cost one write or read of 100 bytes on a TCP socket, in ns of CPU time: in turns without an
# agent, in a process that is not selected while another one is, on a socket that is let go, and on one that is followed.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${AGENTSIGHT_BIN:?the agent to measure}"
rounds=${ROUNDS:-200000} turns=${TURNS:-7}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cc -O2 -Wall -o "$folder/socket" bench/socket.c

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

# The agent traces a process of its own, which waits for this script; its log says when all is attached.
beside() {
  coproc AGENT { "$AGENTSIGHT_BIN" record --plaintext -v --tree never -- sh -c 'echo ready >&2; read -r _' 2>&1; }
  local agent=$AGENT_PID to=${AGENT[1]} line
  while read -r line <&"${AGENT[0]}" && [ "$line" != ready ]; do :; done
  "$folder/socket" "$rounds" x
  echo >&"$to"
  cat <&"${AGENT[0]}" >/dev/null
  wait "$agent" || true
}

for _ in $(seq "$turns"); do
  "$folder/socket" "$rounds" x >>"$folder/alone"
  beside >>"$folder/beside"
  "$AGENTSIGHT_BIN" record --plaintext --tree never -- "$folder/socket" "$rounds" x >>"$folder/ignored"
  "$AGENTSIGHT_BIN" record --plaintext --tree never -- "$folder/socket" "$rounds" 'POST / ' >>"$folder/followed"
done
for what in alone beside ignored followed; do
  printf '%-9s %s ns\n' "$what" "$(median <"$folder/$what")"
done
