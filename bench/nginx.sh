#!/usr/bin/env bash
# CPU time a request of shadowcat against nginx on the same work, in one run, rounds interleaved.
#
# Work: 250-byte JSON-RPC POST with about 1 KiB of head, keep-alive, CONNECTIONS connections; the proxy under test is
# pinned to one core, client and upstream share the other. shadowcat runs as it is shipped (a session in LMDB, metrics,
# body peek); nginx is a plain proxy_pass with upstream keep-alive and no log.
# CPU time comes from /proc/PID/task/*/schedstat, so what other processes of a shared machine take does not count.
#
# usage: bench/nginx.sh [--rounds N] [--seconds S] [--connections C] [--driver auto|io_uring|epoll] [--body BYTES]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 seconds=3 connections=64 driver=auto
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --connections) connections=$2 ;;
        --driver) driver=$2 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

need() { command -v "$1" >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq "$2" >/dev/null; }; }
need nginx nginx-light
need wrk wrk
cargo build --release --quiet
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

# --- upstream: the built-in MCP server, on the client's core
taskset -c 0 "$binary" demo --bind 127.0.0.1:0 >"$work/demo.log" 2>&1 & pids+=($!)
wait_for "$work/demo.log" 'http://127.0.0.1:[0-9]+'
upstream=$(port_of "$work/demo.log")

# --- shadowcat
taskset -c "$proxy_core" "$binary" reverse --bind 127.0.0.1:0 --upstream "http://127.0.0.1:$upstream" --workers 1 \
    --driver "$driver" --set "session.database_path=$work/sessions" >"$work/shadowcat.log" 2>&1 & shadowcat=$!; pids+=($shadowcat)
wait_for "$work/shadowcat.log" 'listening on'
shadowcat_port=$(port_of "$work/shadowcat.log")

# --- nginx
nginx_port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
cat >"$work/nginx.conf" <<NGINX
worker_processes 1; daemon off; pid $work/nginx.pid; error_log $work/nginx.err;
events { worker_connections 4096; }
http {
    access_log off; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
    uwsgi_temp_path $work/u; scgi_temp_path $work/s; keepalive_requests 1000000000; keepalive_timeout 300;
    upstream mcp { server 127.0.0.1:$upstream; keepalive 512; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:$nginx_port reuseport;
        location / {
            proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$host;
            proxy_set_header X-Forwarded-For \$remote_addr;
        }
    }
}
NGINX
taskset -c "$proxy_core" nginx -c "$work/nginx.conf" -p "$work" & pids+=($!); nginx_master=$!
for _ in $(seq 200); do curl -s -o /dev/null "http://127.0.0.1:$nginx_port/" && break; read -rt 0.05 <> <(:) || true; done
nginx=$(pgrep -P "$nginx_master" | head -n 1)

# --- a session on each path, and the request
session() { # PORT
    curl -sS -D - -o /dev/null "http://127.0.0.1:$1/mcp" -H 'Content-Type: application/json' \
        -H 'Accept: application/json, text/event-stream' -d '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}' |
        tr -d '\r' | awk -F': ' 'tolower($1)=="mcp-session-id"{print $2}'
}
script() { # NAME PORT
    local id; id=$(session "$2"); [ -n "$id" ] || { echo "no session through $1" >&2; exit 1; }
    cat >"$work/$1.lua" <<LUA
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Session-Id"] = "$id"
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
wrk.headers["User-Agent"] = "mcp-client/1.0 (bench; linux x86_64) sdk/2.4.0"
wrk.headers["Accept-Language"] = "en-US,en;q=0.9"
wrk.headers["Cookie"] = string.rep("c", 300)
wrk.headers["X-Request-Id"] = "0123456789abcdef0123456789abcdef"
wrk.headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
wrk.headers["baggage"] = string.rep("b", 200)
local head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"'
local tail = '"}}}'
wrk.body = head .. string.rep("x", 250 - #head - #tail) .. tail
LUA
}
script shadowcat "$shadowcat_port"; script nginx "$nginx_port"

cpu_ns() { cat /proc/"$1"/task/*/schedstat | awk '{s+=$1} END {printf "%.0f\n", s}'; }
round() { # NAME PORT PID -> ns a request
    local before after requests
    before=$(cpu_ns "$3")
    taskset -c 0 wrk -t1 -c"$connections" -d"${seconds}s" -s "$work/$1.lua" "http://127.0.0.1:$2/mcp" >"$work/$1.out"
    after=$(cpu_ns "$3")
    grep -qE 'Non-2xx|Socket errors' "$work/$1.out" && { echo "errors through $1:" >&2; cat "$work/$1.out" >&2; exit 1; }
    requests=$(awk '/requests in/ {print $1}' "$work/$1.out")
    echo $(( (after - before) / requests ))
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

echo "driver: $(curl -s "http://127.0.0.1:$shadowcat_port/metrics" | grep -E '^shadowcat_driver_info' | head -n 1)"
echo "$connections connections, $rounds rounds of ${seconds} s, CPU ns a request: shadowcat, nginx, ratio"
: >"$work/ours"; : >"$work/theirs"; : >"$work/ratios"
for i in $(seq "$rounds"); do
    if [ $((i % 2)) = 1 ]; then a=$(round shadowcat "$shadowcat_port" "$shadowcat"); b=$(round nginx "$nginx_port" "$nginx")
    else b=$(round nginx "$nginx_port" "$nginx"); a=$(round shadowcat "$shadowcat_port" "$shadowcat"); fi
    ratio=$(awk "BEGIN {printf \"%.3f\", $a/$b}")
    echo "$a" >>"$work/ours"; echo "$b" >>"$work/theirs"; echo "$ratio" >>"$work/ratios"
    echo "round $i: $a $b $ratio"
done
echo "median: $(median <"$work/ours") $(median <"$work/theirs") ratio $(median <"$work/ratios") (from $(sort -n "$work/ratios" | head -n 1) to $(sort -n "$work/ratios" | tail -n 1))"
