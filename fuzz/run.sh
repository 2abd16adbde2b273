#!/bin/sh
# Builds the fuzz targets with the stable tool chain and runs each: fuzz/run.sh [SECONDS] [TARGET...]
# Says a line a target; fails when one crashed, hung or grew. Corpora and artifacts stay in ~/.cache/agentsight/fuzz.
set -eu
cd "$(dirname "$0")"

seconds=${1:-60}
[ $# -eq 0 ] || shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentsight/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# libFuzzer's counters in every crate. Stable rustc has no -Zsanitizer, but passes LLVM's own flags on; with
# --target they stay away from build scripts.
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
for counter in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS="$RUSTFLAGS -Cllvm-args=-sanitizer-coverage-$counter"
done
export RUSTFLAGS
target_dir=$cache/target
# clang's own libFuzzer, where it is installed, saves compiling the crate's copy.
for runtime in /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-"${host%%-*}".a; do
    [ ! -e "$runtime" ] || export CUSTOM_LIBFUZZER_PATH="$runtime"
done
cargo build --quiet --locked --release --target "$host" --target-dir "$target_dir"

if [ $# -eq 0 ]; then
    for file in targets/*.rs; do
        name=${file##*/}
        set -- "$@" "${name%.rs}"
    done
fi
failed=0
for name in "$@"; do
    corpus=$cache/corpus/$name
    artifacts=$cache/artifacts/$name
    log=$cache/$name.log
    mkdir -p "$corpus" "$artifacts"
    # Read, not written: the seeds, and what made it fail before.
    set -- "$artifacts"
    [ ! -d "seeds/$name" ] || set -- "$@" "seeds/$name"
    # 10 s for one input is a hang; 2 GiB holds every window that the decoders allow, many times.
    if "$target_dir/$host/release/$name" "$corpus" "$@" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 \
        -artifact_prefix="$artifacts/" >"$log" 2>&1; then
        result=ok
    else
        result="FAILED, see $log"
        failed=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log" | tail -n 1)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$log" | tail -n 1)
    echo "$name: ${runs:-?} runs, ${coverage:-no coverage}, ${peak:-?} MiB: $result"
done
exit $failed
