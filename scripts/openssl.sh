#!/usr/bin/env bash
# Fetches OpenSSL in several versions, as wheels of PyPI carry it, and prints the folder: VERSION/libssl.so and
# VERSION/libcrypto.so lead to the libraries. Kept in the cache, keyed by what is in it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight

# Package, its version, the Python that the wheel is for, and the OpenSSL that is in it. 3.0 is Debian's own.
wheels="\
psycopg2-binary 2.8.6 38 1.1.1g
psycopg2-binary 2.9.10 311 1.1.1w
psycopg-binary 3.1.20 311 3.3.1
psycopg-binary 3.2.6 311 3.4.1
psycopg-binary 3.2.9 311 3.5.0
psycopg-binary 3.2.13 311 3.5.4"

folder=$cache/openssl-$(sha256sum <<<"$wheels" | cut -c1-12)
mkdir -p "$cache"
# Tests of several processes ask at once; one fetches, the others wait.
exec 9>"$folder.lock"
flock 9
if [ ! -e "$folder/complete" ]; then
  echo "setup: fetching versions of OpenSSL into $folder" >&2
  python=$("$here/python.sh")
  rm -rf "$folder"
  while read -r package version for openssl; do
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
      --platform manylinux1_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
      --python-version "$for" --dest "$folder/$openssl" "$package==$version" >&2
    (cd "$folder/$openssl" && "$python" -m zipfile -e ./*.whl . && rm ./*.whl)
    for name in libssl libcrypto; do
      file=$(find "$folder/$openssl" -name "$name-*")
      ln -s "$file" "$folder/$openssl/$name.so"
    done
    # The wheel has what it is listed for.
    grep -aq "OpenSSL $openssl " "$folder/$openssl/libcrypto.so"
  done <<<"$wheels"
  touch "$folder/complete"
fi
echo "$folder"
