#!/usr/bin/env bash
# Builds a real OpenTelemetry Collector and a real Jaeger from the Go module proxy, and prints the folder they are in.
# Cold about six minutes on two cores; each is kept until its version here changes. Without Go they are left out,
# and the tests that need them say so; in CI (CI=true or 1) that is an error.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight

collector=v0.145.0 # the newest whose modules all resolve at the proxy
jaeger=v1.65.0     # the last all-in-one of Jaeger 1, which still is one Go package
needs_go=1.24      # what the newest of their modules ask for

bin=$cache/bin/otelcol-$collector-jaeger-$jaeger
mkdir -p "$bin"
# Tests of several processes ask at once; one builds, the others wait.
exec 9>"$bin/.lock"
flock 9

# missing NAME: whether it is still to be built.
missing() { [ ! -x "$bin/$1" ]; }

if missing otelcol || missing jaeger; then
  have=$(go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
  if [ -z "$have" ] || [ "$(printf '%s\n' "$needs_go" "$have" | sort -V | head -1)" != "$needs_go" ]; then
    echo "setup: no OpenTelemetry Collector: Go $needs_go or later is needed to build it, found ${have:-none}" >&2
    case ${CI:-} in 1 | true) exit 1 ;; *) exit 0 ;; esac
  fi
fi

# Only the proxy and the module cache; the Go that is there, not one it would fetch.
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build NAME PACKAGE MODULE@VERSION…: builds PACKAGE, a folder's own (.) or a module's.
build() {
  local name=$1 package=$2
  shift 2
  echo "setup: building $name; takes minutes, once" >&2
  cd "$work/$name"
  go mod init "agentsight.dev/$name" 2>/dev/null
  go get "$@" 2>/dev/null || go get "$@" >&2
  go mod tidy 2>/dev/null || go mod tidy >&2
  go build -trimpath -ldflags '-s -w' -o "$bin/$name.partial" "$package" >&2
  mv "$bin/$name.partial" "$bin/$name"
}

if missing otelcol; then
  mkdir "$work/otelcol"
  cp "$here/collector/main.go" "$work/otelcol/"
  core=go.opentelemetry.io/collector
  build otelcol . \
    "$core/otelcol@$collector" \
    "$core/receiver/otlpreceiver@$collector" \
    "$core/exporter/otlpexporter@$collector" \
    "$core/exporter/debugexporter@$collector" \
    "github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter@$collector"
fi

if missing jaeger; then
  mkdir "$work/jaeger"
  main=github.com/jaegertracing/jaeger/cmd/all-in-one
  # A module that is only imported for its main package needs a file that says so.
  printf '//go:build tools\n\npackage tools\n\nimport _ "%s"\n' "$main" >"$work/jaeger/tools.go"
  build jaeger "$main" "github.com/jaegertracing/jaeger@$jaeger"
fi

echo "$bin"
