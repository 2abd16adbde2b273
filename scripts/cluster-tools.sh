#!/usr/bin/env bash
# Builds a real Kubernetes and what it stands on from the Go module proxy, and prints the folder they are in.
#   scripts/cluster-tools.sh [control-plane|node]
# (control-plane: what an API server without nodes needs, and Helm; node: that and all else; node is the default)
# The versions are in scripts/cluster/*/go.mod. Cold about a quarter of an hour on two cores; each program is kept
# until the module it comes from changes. Without Go it prints nothing, and the tests that need a cluster say so;
# in CI (CI=true or 1) that is an error.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/cluster
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight
needs_go=1.26 # what Kubernetes asks for

kubernetes=k8s.io/kubernetes/cmd
containerd=github.com/containerd/containerd/v2/cmd
# MODULE PROGRAM PACKAGE: in the order in which others wait for them.
programs=(
  "kubernetes etcd go.etcd.io/etcd/server/v3"
  "kubernetes kube-apiserver $kubernetes/kube-apiserver"
  "kubernetes kubectl $kubernetes/kubectl"
  "helm helm helm.sh/helm/v4/cmd/helm"
)
case ${1:-node} in
  control-plane) ;;
  node)
    programs+=(
      "kubernetes kube-controller-manager $kubernetes/kube-controller-manager"
      "kubernetes kube-scheduler $kubernetes/kube-scheduler"
      "containerd containerd $containerd/containerd"
      "containerd containerd-shim-runc-v2 $containerd/containerd-shim-runc-v2"
      "containerd ctr $containerd/ctr"
      "containerd runc github.com/opencontainers/runc"
      "kubernetes kubelet $kubernetes/kubelet"
      "kubernetes kube-proxy $kubernetes/kube-proxy"
      "coredns coredns ."
    )
    ;;
  *)
    echo "usage: scripts/cluster-tools.sh [control-plane|node]" >&2
    exit 2
    ;;
esac

key=$(cd "$here" && cat -- */go.mod */*.go | sha256sum | cut -c1-12)
bin=$cache/bin/cluster-$key
mkdir -p "$bin"

# Only the proxy and the module cache; the Go that is there, not one it would fetch.
export GOFLAGS='-buildvcs=false -mod=readonly' GOTOOLCHAIN=local

# build MODULE PROGRAM PACKAGE
build() {
  local module=$1 program=$2 package=$3 flags='-s -w' version minor
  [ ! -x "$bin/$program" ] || return 0
  # Several may ask at once; one builds, the others wait.
  exec 9>"$bin/.$program.lock"
  flock 9
  [ ! -x "$bin/$program" ] || return 0
  check_go
  echo "setup: building $program; takes minutes, once" >&2
  cd "$here/$module"
  if [ "$module" = kubernetes ]; then
    # Without these the programs take themselves for version 0.0, and Helm and kubectl believe them.
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
    minor=${version#v1.}
    flags+=" -X k8s.io/component-base/version.gitVersion=$version"
    flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
  fi
  # runc's way into namespaces is C, and so is libseccomp, without which RuntimeDefault profiles are refused.
  CGO_ENABLED=$([ "$program" = runc ] && echo 1 || echo 0) \
    go build -trimpath -tags seccomp -ldflags "$flags" -o "$bin/.$program.partial" "$package" >&2
  mv "$bin/.$program.partial" "$bin/$program"
}

check_go() {
  local have
  have=$(go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
  if [ -n "$have" ] && [ "$(printf '%s\n' "$needs_go" "$have" | sort -V | head -1)" = "$needs_go" ]; then
    return
  fi
  echo "setup: no Kubernetes: Go $needs_go or later is needed to build it, found ${have:-none}" >&2
  case ${CI:-} in 1 | true) exit 1 ;; *) exit 0 ;; esac
}

for program in "${programs[@]}"; do
  # shellcheck disable=SC2086 # three words, none of them has blanks
  build $program
done
echo "$bin"
