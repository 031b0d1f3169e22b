#!/usr/bin/env bash
# CPU time a request of shadowcat with metrics, an access log of all requests and traces of a tenth of them, against shadowcat
# without log and traces (metrics cannot be switched off), in one run, rounds interleaved. All threads of the process count.
#
# Work and method are those of `bench/peers post64`. The runs of a round:
#   off    no access log, no telemetry
#   log    a line a request, to a file in memory (/dev/shm)
#   trace  telemetry, a tenth sampled, to bench/collector.py, which takes everything and keeps nothing
#   all    both
# With --each the parts are run as well as the whole.
#
# usage: bench/telemetry.sh [--rounds N] [--seconds S] [--connections C] [--driver auto|io_uring|epoll] [--each] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=7 seconds=2 connections=64 driver=auto build=yes names="off all"
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --connections) connections=$2 ;;
        --driver) driver=$2 ;;
        --each) names="off log trace all"; shift; continue ;;
        --no-build) build=no; shift; continue ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

command -v wrk >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq wrk >/dev/null; }
[ $build = no ] || cargo build --release --quiet
peers=${SHADOWCAT_PEERS_DIR:-target/peers}
bash tests/peers/setup.sh "$peers"
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
taskset -c 0 "$peers/venv/bin/python" bench/collector.py >"$work/collector.out" 2>"$work/collector.log" & pids+=($!)
wait_for "$work/demo.log" 'http://127.0.0.1:[0-9]+'
wait_for "$work/collector.log" 'listening on'
upstream=$(port_of "$work/demo.log")
collector=$(port_of "$work/collector.log")

log="[logging]
access = \"all\"
access_output = \"$work/access.log\"
"
trace="[telemetry]
otlp_endpoint = \"http://127.0.0.1:$collector\"
sampling_ratio = 0.1
"
printf '[logging]\naccess = "off"\n' >"$work/off.toml"
echo "$log" >"$work/log.toml"
printf '[logging]\naccess = "off"\n%s' "$trace" >"$work/trace.toml"
echo "$log$trace" >"$work/all.toml"

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
wrk.body = head .. string.rep("x", 250 - #head - #tail) .. tail
LUA
done

cpu_ns() { cat /proc/"$1"/task/*/schedstat | awk '{s+=$1} END {printf "%.0f\n", s}'; }
round() { # NAME -> ns a request
    local before after requests
    : >"$work/access.log"
    before=$(cpu_ns "${pid[$1]}")
    taskset -c 0 wrk -t2 -c"$connections" -d"${seconds}s" -s "$work/$1.lua" "http://127.0.0.1:${port[$1]}/mcp" >"$work/$1.out"
    # What still gathers belongs to this round.
    read -rt 0.5 <> <(:) || true
    after=$(cpu_ns "${pid[$1]}")
    grep -qE 'Non-2xx|Socket errors' "$work/$1.out" && { echo "errors through $1:" >&2; cat "$work/$1.out" >&2; exit 1; }
    requests=$(awk '/requests in/ {print $1}' "$work/$1.out")
    echo $(( (after - before) / requests ))
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

echo "driver: $(curl -s "http://127.0.0.1:${port[off]}/metrics" | grep -E '^shadowcat_driver_info' | head -n 1)"
echo "$connections connections, $rounds rounds of ${seconds} s, CPU ns a request: $names; ratios to off"
for i in $(seq "$rounds"); do
    declare -A spent
    order=$names
    [ $((i % 2)) = 0 ] && order=$(echo "$names" | tr ' ' '\n' | tac | tr '\n' ' ')
    for name in $order; do spent[$name]=$(round "$name"); echo "${spent[$name]}" >>"$work/$name.ns"; done
    line="round $i:"
    for name in $names; do
        ratio=$(awk "BEGIN {printf \"%.3f\", ${spent[$name]}/${spent[off]}}")
        echo "$ratio" >>"$work/$name.ratio"
        line="$line ${spent[$name]} ($ratio)"
    done
    echo "$line"
done
for name in $names; do
    echo "median $name: $(median <"$work/$name.ns"), ratio $(median <"$work/$name.ratio") (from $(sort -n "$work/$name.ratio" | head -n 1) to $(sort -n "$work/$name.ratio" | tail -n 1))"
done
for name in $names; do
    curl -s "http://127.0.0.1:${port[$name]}/metrics" | grep -E '^shadowcat_(log_lines|spans)' | sed "s/^/$name: /"
done
