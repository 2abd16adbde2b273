#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, those that are missing; says nothing otherwise.
#   scripts/packages.sh [build|test]    (build: what `cargo build` needs; test: all; test is the default)
set -euo pipefail

packages=(
  build-essential   # ring and zstd are built from C
  ca-certificates
  clang-19          # the kernel programs
  libbpf-dev        # their headers
)
if [ "${1:-test}" = test ]; then
  packages+=(
    bpftool                      # tests look for what is left behind in the kernel
    busybox-static               # what virtual machines run to begin with
    containernetworking-plugins  # the pod network of the tests' cluster
    cpio                         # packs their root
    curl                         # one of the programs that tests trace
    git                          # it brings libcurl with GnuTLS, which tests trace
    iproute2                     # the cluster's network namespace
    libclang-rt-19-dev           # fuzzing and sanitizers
    libgnutls28-dev              # the C programs that tests trace
    libio-socket-ssl-perl        # the TLS of Perl, which they trace
    libmbedtls-dev               # a library that is named, and not seen
    libseccomp-dev               # the cluster's runc
    libssl-dev                   # the C programs that tests trace
    libwolfssl-dev               # a library that is named, and not seen
    llvm-19
    mmdebstrap                   # images without a registry
    nftables                     # the cluster's service addresses
    openssl
    php-cli                      # one of the languages that tests trace
    php-curl                     # one of its ways
    pkg-config                   # finds libseccomp
    python3-venv                 # the official SDKs
    qemu-system-x86              # kernels other than this machine's
    ruby                         # one of the languages that tests trace
    shellcheck
    stunnel4                     # a sidecar that passes on calls, by OpenSSL
    wget                         # one of the programs that tests trace, by GnuTLS
  )
  # Any release of Java will do.
  command -v javac >/dev/null || packages+=(default-jdk-headless)
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "setup: this is no Debian; please install what these packages are called here: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: cannot install as $(id -un) without sudo; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
