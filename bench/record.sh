#!/usr/bin/env bash
# CPU time a request of a worker that is recorded, against one that is not, in one run, rounds interleaved; and what the thread
# that writes the tapes takes beside it.
#
# Work and method are those of bench/nginx.sh. The runs of a round:
#   off    [record] is off
#   tape   everything is recorded, to a directory in memory (/dev/shm), with two patterns and a path besides the defaults
#
# usage: bench/record.sh [--rounds N] [--seconds S] [--connections C] [--driver auto|io_uring|epoll] [--text BYTES] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=7 seconds=2 connections=64 driver=auto build=yes names="off tape" text=250
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --connections) connections=$2 ;;
        --driver) driver=$2 ;;
        --text) text=$2 ;;
        --no-build) build=no; shift; continue ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

command -v wrk >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq wrk >/dev/null; }
[ $build = no ] || cargo build --release --quiet
binary=target/release/shadowcat
work=$(mktemp -d -p /dev/shm)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
proxy_core=$(( $(nproc) - 1 ))

wait_for() { # FILE PATTERN: a named event, for at most ten seconds
    for _ in $(seq 200); do grep -qE "$2" "$1" 2>/dev/null && return; read -rt 0.05 <> <(:) || true; done
    echo "no '$2' in $1:" >&2; cat "$1" >&2; exit 1
}
port_of() { grep -oE "(listening on|MCP at) (http://)?127.0.0.1:[0-9]+" "$1" | head -n 1 | grep -oE "[0-9]+$"; }

taskset -c 0 "$binary" demo --bind 127.0.0.1:0 >"$work/demo.log" 2>&1 & pids+=($!)
wait_for "$work/demo.log" 'http://127.0.0.1:[0-9]+'
upstream=$(port_of "$work/demo.log")

printf '[logging]\naccess = "off"\n' >"$work/off.toml"
cat >"$work/tape.toml" <<TOML
[logging]
access = "off"
[record]
output = "$work/tapes"
file_bytes = "64MiB"
total_bytes = "256MiB"
redact_patterns = ['\\b\\d{4}-\\d{4}-\\d{4}-\\d{4}\\b', 'internal-[a-z]+']
redact_paths = ["\$.params.arguments.card"]
TOML

declare -A port pid
for name in $names; do
    taskset -c "$proxy_core" "$binary" reverse --config "$work/$name.toml" --bind 127.0.0.1:0 --upstream "http://127.0.0.1:$upstream" \
        --workers 1 --driver "$driver" --set "session.database_path=$work/sessions-$name" >"$work/$name.log" 2>&1 & pid[$name]=$!; pids+=($!)
    wait_for "$work/$name.log" 'listening on'
    port[$name]=$(port_of "$work/$name.log")
    id=$(curl -sS -D - -o /dev/null "http://127.0.0.1:${port[$name]}/mcp" -H 'Content-Type: application/json' \
        -H 'Accept: application/json, text/event-stream' -d '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}' |
        tr -d '\r' | awk -F': ' 'tolower($1)=="mcp-session-id"{print $2}')
    [ -n "$id" ] || { echo "no session through $name" >&2; exit 1; }
    cat >"$work/$name.lua" <<LUA
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Session-Id"] = "$id"
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
wrk.headers["User-Agent"] = "mcp-client/1.0 (bench; linux x86_64) sdk/2.4.0"
wrk.headers["Accept-Language"] = "en-US,en;q=0.9"
wrk.headers["X-Request-Id"] = "0123456789abcdef0123456789abcdef"
wrk.headers["baggage"] = string.rep("b", 400)
local head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"'
local tail = '"}}}'
wrk.body = head .. string.rep("x", $text - #head - #tail) .. tail
LUA
done

# Of the threads of a process whose names begin so.
cpu_ns() { for task in /proc/"$1"/task/*; do grep -q "^$2" "$task/comm" && awk '{print $1}' "$task/schedstat"; done | awk '{s+=$1} END {printf "%.0f\n", s}'; }
round() { # NAME -> ns a request of the worker, and of the thread of the tapes
    local worker tape requests
    worker=$(cpu_ns "${pid[$1]}" worker) tape=$(cpu_ns "${pid[$1]}" tape)
    taskset -c 0 wrk -t2 -c"$connections" -d"${seconds}s" -s "$work/$1.lua" "http://127.0.0.1:${port[$1]}/mcp" >"$work/$1.out"
    # What still gathers belongs to this round.
    read -rt 1 <> <(:) || true
    worker=$(( $(cpu_ns "${pid[$1]}" worker) - worker )) tape=$(( $(cpu_ns "${pid[$1]}" tape) - tape ))
    grep -qE 'Non-2xx|Socket errors' "$work/$1.out" && { echo "errors through $1:" >&2; cat "$work/$1.out" >&2; exit 1; }
    requests=$(awk '/requests in/ {print $1}' "$work/$1.out")
    echo $(( worker / requests )) $(( tape / requests ))
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

echo "driver: $(curl -s "http://127.0.0.1:${port[off]}/metrics" | grep -E '^shadowcat_driver_info' | head -n 1)"
echo "$connections connections, bodies of $text bytes, $rounds rounds of ${seconds} s, CPU ns a request of the worker: $names; ratio to off; the writer's"
for i in $(seq "$rounds"); do
    declare -A spent
    order=$names
    [ $((i % 2)) = 0 ] && order="tape off"
    for name in $order; do
        read -r spent[$name] writer < <(round "$name")
        echo "${spent[$name]}" >>"$work/$name.ns"
        [ "$name" = off ] || { echo "$writer" >>"$work/writer.ns"; wrote=$writer; }
    done
    ratio=$(awk "BEGIN {printf \"%.3f\", ${spent[tape]}/${spent[off]}}")
    echo "$ratio" >>"$work/tape.ratio"
    echo "round $i: ${spent[off]} ${spent[tape]} ($ratio); $wrote"
done
echo "median off: $(median <"$work/off.ns"), tape: $(median <"$work/tape.ns"), ratio $(median <"$work/tape.ratio") (from $(sort -n "$work/tape.ratio" | head -n 1) to $(sort -n "$work/tape.ratio" | tail -n 1)), the writer: $(median <"$work/writer.ns")"
curl -s "http://127.0.0.1:${port[tape]}/metrics" | grep -E '^shadowcat_tape'
