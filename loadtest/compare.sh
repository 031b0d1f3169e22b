#!/usr/bin/env bash
# loadtest beside wrk and h2load on one target in one run, rounds interleaved: answers a second, latency, and what each
# costs in CPU a request.
#
# Work: 250-byte calls of a tool with 1 KiB of head over connections that stay, closed loop, one thread each. The target is
# the built-in MCP server on one core (pass --proxy for the proxy in front of it, on the same core); the generators have the
# other. CPU time is user and system time of the whole generator process, as the shell's `times` sees it.
#
# usage: loadtest/compare.sh [--rounds N] [--seconds S] [--connections C] [--proxy] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 seconds=4 connections=64 proxy=no build=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --connections) connections=$2; shift ;;
        --proxy) proxy=yes ;;
        --no-build) build=no ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift
done

need() { command -v "$1" >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq "$2" >/dev/null; }; }
need wrk wrk
need h2load nghttp2-client
need jq jq
[ $build = no ] || cargo build --release --quiet -p loadtest -p shadowcat --bins
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
target_core=$(( $(nproc) - 1 ))

wait_for() { # FILE PATTERN: a named event, for at most ten seconds
    for _ in $(seq 200); do grep -qE "$2" "$1" 2>/dev/null && return; read -rt 0.05 <> <(:) || true; done
    echo "no '$2' in $1:" >&2; cat "$1" >&2; exit 1
}
origin_of() { grep -oE 'http://127.0.0.1:[0-9]+' "$1" | head -n 1; }

taskset -c $target_core target/release/shadowcat demo --bind 127.0.0.1:0 >"$work/demo.log" 2>&1 & pids+=($!)
wait_for "$work/demo.log" 'http://127.0.0.1:[0-9]+'
url=$(origin_of "$work/demo.log")/mcp
if [ $proxy = yes ]; then
    taskset -c $target_core target/release/shadowcat reverse --bind 127.0.0.1:0 --upstream "${url%/mcp}" --workers 1 \
        --set "session.database_path=$work/sessions" >"$work/proxy.log" 2>&1 & pids+=($!)
    wait_for "$work/proxy.log" 'listening on'
    url=$(origin_of "$work/proxy.log")/mcp
fi

# --- the request, the same for all: what loadtest sends, with a session of its own
session=$(curl -sS -D - -o /dev/null "$url" -H 'Content-Type: application/json' \
    -H 'Accept: application/json, text/event-stream' -d '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"compare","version":"1"}}}' |
    tr -d '\r' | awk -F': ' 'tolower($1)=="mcp-session-id"{print $2}')
start='{"jsonrpc":"2.0","id":1000000000,"method":"tools/call","params":{"arguments":{"text":"' end='"},"name":"echo"}}'
printf '%s%*s%s' "$start" $((250 - ${#start} - ${#end})) '' "$end" | tr ' ' x >"$work/body"
padding=$(printf 'p%.0s' $(seq 640))
fields=("Content-Type: application/json" "Accept: application/json, text/event-stream" "MCP-Protocol-Version: 2025-11-25"
    "Mcp-Session-Id: $session" "X-Padding: $padding")
{
    echo 'wrk.method = "POST"'
    for field in "${fields[@]}"; do echo "wrk.headers[\"${field%%: *}\"] = \"${field#*: }\""; done
    echo "local file = io.open('$work/body'); wrk.body = file:read('*a'); file:close()"
    # shellcheck disable=SC2016
    echo 'done = function(summary, latency, requests)
        local failed = summary.errors
        io.stderr:write(string.format("{\"requests\":%d,\"seconds\":%f,\"p50\":%f,\"p99\":%f,\"bad\":%d}\n", summary.requests, summary.duration / 1e6,
            latency:percentile(50), latency:percentile(99), failed.connect + failed.read + failed.write + failed.status + failed.timeout))
    end'
} >"$work/wrk.lua"

# --- one round each: answers a second, p50 and p99 in us, CPU us a request
cpu_of() { # COMMAND...: its user and its system time, us, to a file; its output goes where the caller says
    # (The builtin tells of children of the shell that runs it, so it may stand in no pipe.)
    times >"$work/before"; "$@"; times >"$work/after"
    tail -qn 1 "$work/before" "$work/after" | tr 'ms\n' '   ' |
        awk '{printf "%d %d\n", (($5 - $1) * 60 + $6 - $2) * 1e6, (($7 - $3) * 60 + $8 - $4) * 1e6}' >"$work/cpu"
}
user() { cut -d' ' -f1 "$work/cpu"; }
system() { cut -d' ' -f2 "$work/cpu"; }
with_wrk() {
    cpu_of taskset -c 0 wrk -t1 -c"$connections" -d"${seconds}s" -s "$work/wrk.lua" "$url" 2>"$work/wrk.json" >/dev/null
    jq -r --argjson user "$(user)" --argjson system "$(system)" '[.requests / .seconds, .p50, .p99, $user / .requests, $system / .requests, .bad] | @tsv' "$work/wrk.json"
}
with_h2load() {
    rm -f "$work/h2load.log" # it would be added to
    local words=(); for field in "${fields[@]}"; do words+=(-H "$field"); done
    cpu_of taskset -c 0 h2load --h1 -t1 -c"$connections" -D"$seconds" --log-file="$work/h2load.log" "${words[@]}" -d "$work/body" "$url" >"$work/h2load.out"
    # Its log has a line for each request: start, status, time in us.
    local bad; bad=$(awk '$2 != 200' "$work/h2load.log" | wc -l)
    awk '{print $3}' "$work/h2load.log" | sort -n >"$work/times"
    awk -v user="$(user)" -v system_="$(system)" -v seconds="$seconds" -v bad="$bad" '{v[NR] = $1}
        END {printf "%f\t%d\t%d\t%f\t%f\t%d\n", NR / seconds, v[int(NR * .5) + 1], v[int(NR * .99) + 1], user / NR, system_ / NR, bad}' "$work/times"
}
with_loadtest() { # DRIVER
    cpu_of taskset -c 0 target/release/loadtest tools-call --target "$url" --driver "$1" --connections "$connections" --warmup 0 \
        --duration "${seconds}s" --quiet --json - >"$work/loadtest.json"
    jq -r --argjson user "$(user)" --argjson system "$(system)" \
        '.targets[0] | [.rate, .latency.p50 / 1e3, .latency.p99 / 1e3, $user / .requests, $system / .requests, .errors] | @tsv' "$work/loadtest.json"
}
one() { case $1 in wrk) with_wrk ;; h2load) with_h2load ;; *) with_loadtest "${1#loadtest-}" ;; esac; }

names=(wrk h2load loadtest-epoll loadtest-io_uring)
echo "$url, $connections connections, $rounds rounds of $seconds s; a second, p50 us, p99 us, CPU us a request (user, system), errors"
for round in $(seq "$rounds"); do
    for turn in 0 1 2 3; do
        name=${names[$(((turn + round) % 4))]}
        one "$name" | tee -a "$work/$name.rows" | awk -v name="$name" -v round="$round" -F'\t' '{printf "%2d %-18s %8.0f %8.0f %8.0f %7.2f %7.2f %d\n", round, name, $1, $2, $3, $4, $5, $6}'
    done
done
median() { cut -f"$2" "$work/$1.rows" | sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
both() { awk -F'\t' '{print $4 + $5}' "$work/$1.rows" | sort -g | awk '{v[NR] = $1} END {printf "%.2f us (%.2f to %.2f)", v[int((NR + 1) / 2)], v[1], v[NR]}'; }
echo "median (CPU: both, range of rounds; user, system):"
for name in "${names[@]}"; do
    printf '%-18s %8.0f/s  p50 %6.0f us  p99 %6.0f us  CPU %s; %.2f, %.2f\n' "$name" "$(median "$name" 1)" "$(median "$name" 2)" "$(median "$name" 3)" \
        "$(both "$name")" "$(median "$name" 4)" "$(median "$name" 5)"
done
