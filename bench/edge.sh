#!/usr/bin/env bash
# CPU time a request of shadowcat with tokens, a limit for each user and metrics, against shadowcat without the first two
# (metrics cannot be switched off), in one run, rounds interleaved.
#
# Work and method are those of `bench/peers post64`, with a token (RS256, about 700 bytes) in each request: USERS users, each
# with a session and CONNECTIONS/USERS connections of its own. Three runs a round:
#   plain  asks nobody; the same requests, so the token travels on to upstream
#   bare   asks nobody; requests without a token
#   edge   verifies the token, counts the user against a limit that nobody reaches, tells upstream who it is
#
# usage: bench/edge.sh [--rounds N] [--seconds S] [--connections C] [--users U] [--driver auto|io_uring|epoll] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=7 seconds=2 connections=64 users=8 driver=auto build=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --connections) connections=$2 ;;
        --users) users=$2 ;;
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
port_of() { grep -oE "(listening on|MCP at) http://127.0.0.1:[0-9]+" "$1" | head -n 1 | grep -oE "[0-9]+$"; }

taskset -c 0 "$binary" demo --bind 127.0.0.1:0 >"$work/demo.log" 2>&1 & pids+=($!)
taskset -c 0 python3 bench/idp.py "$work" "$users" & pids+=($!)
wait_for "$work/demo.log" 'http://127.0.0.1:[0-9]+'
wait_for "$work/issuer" .
upstream=$(port_of "$work/demo.log")
issuer=$(cat "$work/issuer")

cat >"$work/edge.toml" <<TOML
[auth]
issuer = "$issuer"
audience = ["https://mcp.example.com"]
scopes = ["mcp:read"]
[rate_limit]
per_user = 1000000000
TOML
: >"$work/plain.toml"
declare -A port pid
start() { # NAME
    taskset -c "$proxy_core" "$binary" reverse --config "$work/$1.toml" --bind 127.0.0.1:0 --upstream "http://127.0.0.1:$upstream" \
        --workers 1 --driver "$driver" --set "session.database_path=$work/sessions-$1" >"$work/$1.log" 2>&1 & pid[$1]=$!; pids+=($!)
    wait_for "$work/$1.log" 'listening on'
    port[$1]=$(port_of "$work/$1.log")
}
start plain; start edge
port[bare]=${port[plain]} pid[bare]=${pid[plain]}

session() { # PORT TOKEN
    curl -sS -D - -o /dev/null "http://127.0.0.1:$1/mcp" -H 'Content-Type: application/json' -H "Authorization: Bearer $2" \
        -H 'Accept: application/json, text/event-stream' -d '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}' |
        tr -d '\r' | awk -F': ' 'tolower($1)=="mcp-session-id"{print $2}'
}
script() { # NAME
    local number id token
    {
        echo 'local users = {'
        for number in $(seq 0 $((users - 1))); do
            token=$(cat "$work/token-$number")
            for _ in $(seq 100); do id=$(session "${port[$1]}" "$token"); [ -n "$id" ] && break; read -rt 0.1 <> <(:) || true; done
            [ -n "$id" ] || { echo "no session through $1" >&2; exit 1; }
            echo "{\"$id\", \"$token\"},"
        done
        cat <<LUA
}
local started = 0
-- A thread of wrk is a user.
function setup(thread) thread:set("number", started % #users + 1); started = started + 1 end
function init()
    wrk.headers["Mcp-Session-Id"] = users[number][1]
    if "$1" ~= "bare" then wrk.headers["Authorization"] = "Bearer " .. users[number][2] end
    text = wrk.format()
end
function request() return text end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
wrk.headers["User-Agent"] = "mcp-client/1.0 (bench; linux x86_64) sdk/2.4.0"
wrk.headers["Accept-Language"] = "en-US,en;q=0.9"
wrk.headers["X-Request-Id"] = "0123456789abcdef0123456789abcdef"
wrk.headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
wrk.headers["baggage"] = string.rep("b", 200)
local head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"'
local tail = '"}}}'
wrk.body = head .. string.rep("x", 250 - #head - #tail) .. tail
LUA
    } >"$work/$1.lua"
}
script plain; script edge; script bare

cpu_ns() { cat /proc/"$1"/task/*/schedstat | awk '{s+=$1} END {printf "%.0f\n", s}'; }
round() { # NAME -> ns a request
    local before after requests
    before=$(cpu_ns "${pid[$1]}")
    taskset -c 0 wrk -t"$users" -c"$connections" -d"${seconds}s" -s "$work/$1.lua" "http://127.0.0.1:${port[$1]}/mcp" >"$work/$1.out"
    after=$(cpu_ns "${pid[$1]}")
    grep -qE 'Non-2xx|Socket errors' "$work/$1.out" && { echo "errors through $1:" >&2; cat "$work/$1.out" >&2; exit 1; }
    requests=$(awk '/requests in/ {print $1}' "$work/$1.out")
    echo $(( (after - before) / requests ))
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
ratio() { awk "BEGIN {printf \"%.3f\", $1/$2}"; }

echo "driver: $(curl -s "http://127.0.0.1:${port[plain]}/metrics" | grep -E '^shadowcat_driver_info' | head -n 1)"
echo "$users users, $connections connections, $rounds rounds of ${seconds} s, CPU ns a request: edge, plain, bare; edge/plain, edge/bare"
orders=("edge plain bare" "bare edge plain" "plain bare edge")
for i in $(seq "$rounds"); do
    declare -A spent
    for name in ${orders[$((i % 3))]}; do spent[$name]=$(round "$name"); echo "${spent[$name]}" >>"$work/$name.ns"; done
    ratio "${spent[edge]}" "${spent[plain]}" >>"$work/same"; echo >>"$work/same"
    ratio "${spent[edge]}" "${spent[bare]}" >>"$work/without"; echo >>"$work/without"
    echo "round $i: ${spent[edge]} ${spent[plain]} ${spent[bare]} $(tail -n 1 "$work/same") $(tail -n 1 "$work/without")"
done
for name in edge plain bare; do echo "median $name: $(median <"$work/$name.ns")"; done
for name in same without; do
    echo "median ratio, $name token: $(median <"$work/$name") (from $(sort -n "$work/$name" | head -n 1) to $(sort -n "$work/$name" | tail -n 1))"
done
