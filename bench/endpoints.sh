#!/usr/bin/env bash
# CPU time a request of shadowcat with 2 endpoints against shadowcat with 100, in one run, rounds interleaved.
#
# Work and method are those of `bench/peers post64`. All endpoints are one address under many names, so that upstream's work and
# its listening socket are the same. Two kinds of work:
#   sessions  64 sessions in turn, each pinned to its endpoint: the look-up by key counts
#   none      tools/list of 2026-07-28, without a session: an endpoint is chosen for each
# Every endpoint has a pool of its own, so with 100 of them the same requests leave over more connections, each of which is
# used less often. How many were made and reused is told beside the figures, since connects would hide what choosing costs.
#
# usage: bench/endpoints.sh [--rounds N] [--seconds S] [--connections C] [--sessions N] [--driver D] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=15 seconds=1 connections=64 sessions=64 driver=auto build=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --connections) connections=$2 ;;
        --sessions) sessions=$2 ;;
        --driver) driver=$2 ;;
        --no-build) build=no; shift; continue ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

command -v wrk >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq wrk >/dev/null; }
[ $build = no ] || cargo build --release --quiet
binary=target/release/shadowcat
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
proxy_core=$(( $(nproc) - 1 ))

wait_for() { # FILE PATTERN: a named event, for at most ten seconds
    for _ in $(seq 200); do grep -qE "$2" "$1" 2>/dev/null && return; read -rt 0.05 <> <(:) || true; done
    echo "no '$2' in $1:" >&2; cat "$1" >&2; exit 1
}
port_of() { grep -oE 'http://127.0.0.1:[0-9]+' "$1" | head -n 1 | grep -oE '[0-9]+$'; }

taskset -c 0 "$binary" demo --bind 127.0.0.1:0 >"$work/demo.log" 2>&1 & pids+=($!)
wait_for "$work/demo.log" 'http://127.0.0.1:[0-9]+'
upstream=$(port_of "$work/demo.log")

declare -A port pid
start() { # NUMBER of endpoints
    for i in $(seq "$1"); do printf '[[upstreams]]\nname = "e%s"\nurl = "http://127.0.0.1:%s"\n' "$i" "$upstream"; done >"$work/$1.toml"
    taskset -c "$proxy_core" "$binary" reverse --config "$work/$1.toml" --bind 127.0.0.1:0 --workers 1 --driver "$driver" \
        --set "session.database_path=$work/sessions-$1" >"$work/$1.log" 2>&1 & pid[$1]=$!; pids+=($!)
    wait_for "$work/$1.log" 'listening on'
    port[$1]=$(grep -oE 'listening on http://127.0.0.1:[0-9]+' "$work/$1.log" | head -n 1 | grep -oE '[0-9]+$')
}
start 2; start 100

session() { # PORT
    curl -sS -D - -o /dev/null "http://127.0.0.1:$1/mcp" -H 'Content-Type: application/json' \
        -H 'Accept: application/json, text/event-stream' -d '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}' |
        tr -d '\r' | awk -F': ' 'tolower($1)=="mcp-session-id"{print $2}'
}
script() { # NUMBER
    local ids=""
    for _ in $(seq "$sessions"); do
        local id; id=$(session "${port[$1]}"); [ -n "$id" ] || { echo "no session with $1" >&2; exit 1; }
        ids="$ids\"$id\","
    done
    cat >"$work/none-$1.lua" <<'LUA'
local head = '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"x":"'
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2026-07-28"
wrk.headers["Mcp-Method"] = "tools/list"
wrk.headers["Cookie"] = string.rep("c", 500)
wrk.body = head .. string.rep("x", 250 - #head - 5) .. '"}}}'
LUA
    { cat "$work/none-$1.lua"; cat <<LUA
local ids, turn, requests = {$ids}, 0, {}
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"x":"' .. string.rep("x", 180) .. '"}}}'
function init()
    for i, id in ipairs(ids) do
        wrk.headers["Mcp-Session-Id"] = id
        requests[i] = wrk.format()
    end
end
function request()
    turn = turn % #ids + 1
    return requests[turn]
end
LUA
    } >"$work/sessions-$1.lua"
}
script 2; script 100

cpu_ns() { cat /proc/"$1"/task/*/schedstat | awk '{s+=$1} END {printf "%.0f\n", s}'; }
total() { curl -s "http://127.0.0.1:${port[$2]}/metrics" | awk -v n="shadowcat_upstream_$1_total" 'index($1, n) == 1 {s+=$2} END {print s+0}'; }
round() { # KIND NUMBER -> ns a request
    local before after requests
    before=$(cpu_ns "${pid[$2]}")
    taskset -c 0 wrk -t1 -c"$connections" -d"${seconds}s" -s "$work/$1-$2.lua" "http://127.0.0.1:${port[$2]}/mcp" >"$work/out"
    after=$(cpu_ns "${pid[$2]}")
    grep -qE 'Non-2xx|Socket errors' "$work/out" && { echo "errors with $2, $1:" >&2; cat "$work/out" >&2; exit 1; }
    requests=$(awk '/requests in/ {print $1}' "$work/out")
    echo $(( (after - before) / requests ))
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

echo "$connections connections, $sessions sessions, $rounds rounds of ${seconds} s, CPU ns a request: 2 endpoints, 100, ratio of 100 to 2"
for kind in sessions none; do
    round "$kind" 2 >"$work/warm"; round "$kind" 100 >"$work/warm"
    c2=$(total connects 2) c100=$(total connects 100) r2=$(total reuses 2) r100=$(total reuses 100)
    : >"$work/few"; : >"$work/many"; : >"$work/ratios"
    for i in $(seq "$rounds"); do
        if [ $((i % 2)) = 1 ]; then a=$(round "$kind" 2); b=$(round "$kind" 100); else b=$(round "$kind" 100); a=$(round "$kind" 2); fi
        echo "$a" >>"$work/few"; echo "$b" >>"$work/many"; awk "BEGIN {printf \"%.3f\n\", $b/$a}" >>"$work/ratios"
    done
    echo "$kind: $(median <"$work/few") $(median <"$work/many") ratio $(median <"$work/ratios") (from $(sort -n "$work/ratios" | head -n 1) to $(sort -n "$work/ratios" | tail -n 1))"
    echo "  connects $(($(total connects 2) - c2)) and $(($(total connects 100) - c100)), reuses $(($(total reuses 2) - r2)) and $(($(total reuses 100) - r100))"
done
