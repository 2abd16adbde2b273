#!/usr/bin/env bash
# Fetches Debian's cloud kernels and prints a line for each: SERIES VERSION FILE.
#   scripts/kernels.sh [SERIES…]      (default: all that are tested; a series is 5.10, 6.1, … or 7, the newest of 7.x)
# A kernel that is there is used as it is; `KERNELS_UPDATE=1` looks for newer ones.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/kernels
all=(5.10 6.1 6.12 6.18 7)
series=("$@")
[ ${#series[@]} -gt 0 ] || series=("${all[@]}")

mkdir -p "$cache"
# Tests of several processes ask at once; one fetches, the others wait.
exec 9>"$cache/.lock"
flock 9

newest() { sort -V | tail -1; }

# cached SERIES: the folder of the newest kernel of a series that is there.
cached() { find "$cache" -path "$cache/$1.*/vmlinuz" -printf '%h\n' | newest; }

# Lists of their own, so that the machine's are left alone. Older releases for older kernels.
lists=$cache/lists
apt=(
  -o "Dir::Etc::sourcelist=$lists/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$lists/state" -o "Dir::Cache=$lists/cache" -o Dir::State::status=/dev/null
  -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Languages=none -o APT::Sandbox::User=root
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
)
update_lists() {
  [ -z "${updated:-}" ] || return 0
  updated=1
  mkdir -p "$lists/state/partial" "$lists/cache/archives/partial"
  local key=/usr/share/keyrings/debian-archive-keyring.gpg release
  {
    for release in bullseye bookworm bookworm-backports trixie trixie-backports sid; do
      echo "deb [signed-by=$key] http://deb.debian.org/debian $release main"
    done
    for release in bullseye-security bookworm-security trixie-security; do
      echo "deb [signed-by=$key] http://deb.debian.org/debian-security $release main"
    done
  } >"$lists/sources.list"
  # A release that is archived by now takes its kernels with it, not the others.
  apt-get "${apt[@]}" update -qq >&2 || echo "setup: some of Debian's package lists cannot be had" >&2
}

# fetch SERIES: the newest of a series, where it is not there yet.
fetch() {
  local package version folder part parts=()
  update_lists
  package=$(apt-cache "${apt[@]}" search --names-only "^linux-image-${1//./\\.}\\.[0-9].*-cloud-amd64$" |
    cut -d' ' -f1 | grep -v -- '-0\.deb' | newest)
  if [ -z "$package" ]; then
    echo "setup: Debian has no cloud kernel of the series $1" >&2
    return
  fi
  version=${package#linux-image-}
  version=${version%-cloud-amd64}
  folder=$cache/$version
  [ ! -e "$folder/vmlinuz" ] || return 0
  echo "setup: fetching the kernel $version" >&2
  rm -rf "$folder" "$folder.partial"
  mkdir -p "$folder.partial/root"
  cd "$folder.partial"
  # Since 7.x the kernel and its configuration are in packages that this one depends on.
  while read -r part; do
    # Archives drop some of them earlier than others; what is left may be all that is needed.
    [ -z "$(apt-cache "${apt[@]}" show "$part" 2>/dev/null)" ] || parts+=("$part")
  done < <(apt-cache "${apt[@]}" show "$package" | sed -n 's/^Depends: //p' | head -1 | tr -s ', ' '\n' |
    grep -E '^linux-(binary|base)-[0-9]')
  apt-get "${apt[@]}" download -qq "$package" "${parts[@]}" >&2
  for deb in ./*.deb; do dpkg-deb -x "$deb" root; done
  find root -name 'vmlinuz*' -type f -exec mv {} vmlinuz \;
  find root -name 'config*' -type f -exec mv {} config \;
  rm -rf root ./*.deb
  cd "$cache"
  [ ! -s "$folder.partial/vmlinuz" ] || mv "$folder.partial" "$folder"
}

for one in "${series[@]}"; do
  if [ -n "${KERNELS_UPDATE:-}" ] || [ -z "$(cached "$one")" ]; then fetch "$one"; fi
  folder=$(cached "$one")
  # Where there is none it was said above; whoever asked for it finds it missing.
  [ -z "$folder" ] || echo "$one ${folder##*/} $folder/vmlinuz"
done
