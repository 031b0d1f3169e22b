#!/usr/bin/env bash
# Run one fuzz target: fuzz/run.sh head|chunked|sse|peek|config|sealed|answer|tape [SECONDS]
# Works with the stable toolchain: libFuzzer's instrumentation is asked for with RUSTC_BOOTSTRAP.
set -euo pipefail
cd "$(dirname "$0")"
target=$1 seconds=${2:-600}
command -v cargo-fuzz >/dev/null 2>&1 || cargo install --locked cargo-fuzz
RUSTC_BOOTSTRAP=1 cargo fuzz run -s none --fuzz-dir . "$target" -- -max_total_time="$seconds" -max_len=8192 -timeout=10 -print_final_stats=1
