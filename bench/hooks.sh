#!/usr/bin/env bash
# What one write or read of 100 bytes costs, in ns of CPU time, alone and traced, in turns, by each kind of TLS library other
# than OpenSSL (which `make bench` measures): GnuTLS, Go, and rustls by both of the libraries that it seals with.
#   AGENTSIGHT_BIN=… [ROUNDS=50000] [TURNS=7] bench/hooks.sh
set -euo pipefail
cd "$(dirname "$0")/.."
: "${AGENTSIGHT_BIN:?the agent to measure}"
rounds=${ROUNDS:-50000} turns=${TURNS:-7}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
  -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2>/dev/null
cc -O2 -Wall -Wextra -Werror -o "$folder/gnutls" bench/gnutls.c -lgnutls
go build -o "$folder/go" bench/hooks.go
for provider in ring aws-lc; do
  cargo build --quiet --locked --release --manifest-path e2e/agents/rustls/Cargo.toml --features "$provider" \
    --target-dir "${CARGO_TARGET_DIR:-target}/tmp/rustls-$provider"
  cp "${CARGO_TARGET_DIR:-target}/tmp/rustls-$provider/release/rustls-client" "$folder/$provider"
done

once() { # KIND, and what runs before it
  local kind=$1
  shift
  case $kind in
    gnutls) "$@" "$folder/gnutls" "$rounds" ;;
    go) "$@" "$folder/go" "$rounds" "$folder/certificate.pem" "$folder/key.pem" ;;
    *) "$@" "$folder/$kind" echo "$rounds" "$folder/certificate.pem" "$folder/key.pem" ;;
  esac
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

echo "| library | alone, ns | traced, ns | added, ns |"
echo "|---|---|---|---|"
for kind in gnutls go ring aws-lc; do
  for _ in $(seq "$turns"); do
    once "$kind" >>"$folder/$kind.alone"
    once "$kind" "$AGENTSIGHT_BIN" record --tree never -- >>"$folder/$kind.traced"
  done
  alone=$(median <"$folder/$kind.alone") traced=$(median <"$folder/$kind.traced")
  echo "| $kind | $alone | $traced | $((traced - alone)) |"
done
