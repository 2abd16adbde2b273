#!/usr/bin/env bash
# Builds container images without a registry, and prints the archives' paths: docker load, podman load, kind load
# image-archive and ctr images import take them.
#   scripts/images.sh release    the agent's and the operator's, of binaries that are built (make image builds them)
#   scripts/images.sh test       those of the end-to-end tests: an app, a model server, a collector and Jaeger (as root)
# IMAGE_REPOSITORY (ghcr.io/agentsight) and IMAGE_TAG (the workspace's version) name the first two.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight
target=${CARGO_TARGET_DIR:-$cache/target}
profile=${IMAGE_PROFILE:-release}
out=${IMAGE_DIR:-$cache/images}
repository=${IMAGE_REPOSITORY:-ghcr.io/agentsight}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
tag=${IMAGE_TAG:-$version}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# program_root BINARY ROOT: a root with a program and all that it needs to run: its libraries, certificates, users.
program_root() {
  local binary=$1 root=$2 library
  install -D "$binary" "$root/usr/local/bin/$(basename "$binary")"
  # What the loader would load, and the loader itself.
  while read -r library; do
    install -D "$(realpath "$library")" "$root$library"
  done < <(ldd "$binary" | grep -o '/[^ ]*')
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  # Names of the cluster's services come from DNS; libc's own resolver looks here for the order.
  printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
  printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
  install -d -m 1777 "$root/tmp"
}

# release_image PACKAGE BINARY IMAGE USER DESCRIPTION
release_image() {
  local package=$1 binary=$target/$profile/$2 image=$3 user=$4 description=$5 archive=$out/$3-$tag.tar
  if [ ! -x "$binary" ]; then
    echo "images: no $binary; \`make image\` builds it" >&2
    exit 1
  fi
  program_root "$binary" "$work/$image"
  python3 scripts/image/sbom.py --package "$package" --root "$work/$image" >"$work/sbom.json"
  install -D -m 644 "$work/sbom.json" "$work/$image/usr/share/sbom/$package.cdx.json"
  install -D -m 644 LICENSE "$work/$image/usr/share/doc/$package/LICENSE"
  python3 scripts/image/pack.py --out "$archive" --name "$repository/$image:$tag" \
    --entrypoint "/usr/local/bin/$2" --user "$user" \
    --label "org.opencontainers.image.title=$image" \
    --label "org.opencontainers.image.description=$description" \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.licenses=Apache-2.0" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    "$work/$image"
  mv "$work/sbom.json" "${archive%.tar}.cdx.json"
  echo "$archive"
}

# kept KEY NAME: the path of an image that is kept until what it is made of changes.
kept() { echo "$out/$2-$(sha256sum <<<"$1" | cut -c1-12).tar"; }

app_image() {
  local archive root=$work/app
  local server=$target/$profile/model-server
  [ -x "$server" ] || { echo "images: no $server; \`make build\` builds it" >&2; exit 1; }
  archive=$(kept "$(cat scripts/images.sh scripts/image/pack.py e2e/requirements.txt e2e/agents/*.py "$server" | sha256sum)" app)
  if [ ! -e "$archive" ]; then
    app_root >&2
    mkdir -p "$root"
    tar -xf "$(app_root_archive)" -C "$root"
    install -D "$server" "$root/usr/local/bin/model-server"
    install -D -m 644 -t "$root/opt/agents" e2e/agents/*.py
    python3 scripts/image/pack.py --out "$archive" --name agentsight.dev/app:e2e --compress 1 --user 65532:65532 \
      --env PYTHONPATH=/opt/sdks --env PYTHONUNBUFFERED=1 --entrypoint /usr/bin/python3 "$root"
  fi
  echo "$archive"
}

app_root_archive() { kept "$(cat e2e/requirements.txt /etc/debian_version) root 1" app-root; }

# app_root: Debian's Python with the official SDKs, from packages only.
app_root() {
  local archive root=$work/app-root sources=() suite version
  archive=$(app_root_archive)
  [ ! -e "$archive" ] || return 0
  echo "setup: making a root with Python and the SDKs; takes a minute, once"
  for list in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    if [ -s "$list" ]; then
      sources=("$list")
      break
    fi
  done
  suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  mmdebstrap --quiet --mode=root --variant=extract --include=busybox-static,ca-certificates,libssl3,python3 \
    "$suite" "$root" "${sources[@]}"
  rm -rf "$root"/usr/share/{doc,man,locale,info} "$root"/var/{cache,lib/apt}
  for tool in cat sh sleep tail; do
    [ -e "$root/bin/$tool" ] || ln -s /bin/busybox "$root/bin/$tool"
  done
  printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
  printf 'root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n' >"$root/etc/passwd"
  version=$(basename "$(readlink "$root/usr/bin/python3")" | tr -d '[:lower:]')
  "$(scripts/python.sh)" -m pip install --quiet --disable-pip-version-check --no-compile --target "$root/opt/sdks" \
    --only-binary=:all: --implementation cp --python-version "$version" --platform manylinux2014_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 -r e2e/requirements.txt
  # Nobody can write beside the sources later; and files in an image have no dates to hold compiled ones against.
  chroot "$root" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/sdks /usr/lib/python3* || true
  tar -cf "$archive.partial" -C "$root" .
  mv "$archive.partial" "$archive"
}

# backend_image NAME PROGRAM PATH: a program of scripts/collector.sh where the public image of that name has it.
backend_image() {
  local name=$1 program=$2 path=$3 folder archive root
  folder=$(scripts/collector.sh)
  [ -n "$folder" ] || exit 0
  archive=$(kept "$(cat scripts/images.sh scripts/image/pack.py) $folder $name" "$program")
  root=$work/$program
  if [ ! -e "$archive" ]; then
    install -D "$folder/$program" "$root$path"
    install -D /bin/busybox "$root/bin/busybox"
    for tool in cat sh tail wc; do ln -s busybox "$root/bin/$tool"; done
    install -d -m 1777 "$root/tmp"
    mkdir -p "$root/etc"
    printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
    printf 'root:x:0:0:root:/:/bin/sh\nnonroot:x:10001:10001:nonroot:/:/bin/sh\n' >"$root/etc/passwd"
    python3 scripts/image/pack.py --out "$archive" --name "$name" --compress 1 --user 10001:10001 \
      --entrypoint "$path" "$root"
  fi
  echo "$archive"
}

case ${1:-} in
  release)
    release_image agentsight agentsight agentsight 0:0 "Traces AI agents on a node, from outside"
    release_image agentsight-operator agentsight-operator agentsight-operator 65532:65532 "Accepts AgentTraces and tells what became of them"
    ;;
  test)
    exec 9>"$out/.lock"
    flock 9
    app_image
    # The names and tags of examples/collector.yaml, which the tests apply as it is.
    backend_image otel/opentelemetry-collector-contrib:0.145.0 otelcol /otelcol-contrib
    backend_image jaegertracing/all-in-one:1.65.0 jaeger /go/bin/all-in-one-linux
    ;;
  *)
    sed -n 2,6p "$0" >&2
    exit 2
    ;;
esac
