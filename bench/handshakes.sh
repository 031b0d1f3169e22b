#!/usr/bin/env bash
# CPU time a TLS 1.3 connection of shadowcat, nginx and HAProxy: a handshake, one small request and the end, one
# connection after the other. Same certificate (P-256), same static upstream, same client (bench/handshakes.rs), one worker
# each, pinned to one core; client and upstream are on the other. Rounds are interleaved and change places; the median of
# the ratios counts. CPU time is of all threads of the process that serves, from /proc/PID/task/*/schedstat.
#
# Groups: x25519 for all three alike; hybrid is what a client of today offers (X25519MLKEM768 with X25519 beside it), of
# which each server takes what it knows.
#
# usage: bench/handshakes.sh [--rounds N] [--connections C] [--driver auto|io_uring|epoll] [--groups "x25519 hybrid"] [--no-build]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=9 connections=400 driver=auto groups="x25519 hybrid" build=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2 ;;
        --connections) connections=$2 ;;
        --driver) driver=$2 ;;
        --no-build) build=no; shift; continue ;;
        --groups) groups=$2 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

need() { command -v "$1" >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq "$2" >/dev/null; }; }
need nginx nginx-light
need haproxy haproxy
[ $build = no ] || cargo build --release --quiet --bin shadowcat --example handshakes
binary=target/release/shadowcat client=target/release/examples/handshakes
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
proxy_core=$(( $(nproc) - 1 ))

free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }
wait_for_port() { # PORT: for at most ten seconds
    for _ in $(seq 200); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; read -rt 0.05 <> <(:) || true; done
    echo "nobody listens on $1" >&2; exit 1
}

# --- a certificate
(
    cd "$work"
    for name in ca leaf; do openssl ecparam -name prime256v1 -genkey -noout -out $name.key; done
    openssl req -x509 -new -key ca.key -days 30 -subj /CN=bench-authority -out ca.pem
    openssl req -new -key leaf.key -subj /CN=localhost -out leaf.csr
    printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n' >extensions
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out leaf.pem
    cat leaf.pem leaf.key >both.pem
    chmod 600 leaf.key both.pem
) 2>/dev/null

# --- upstream: an answer of three bytes
upstream=$(free_port)
nginx_common="daemon off; worker_processes 1; error_log $work/nginx.err; events { worker_connections 4096; }"
temporary() { echo "access_log off; client_body_temp_path $work/$1.b; proxy_temp_path $work/$1.p; fastcgi_temp_path $work/$1.f; uwsgi_temp_path $work/$1.u; scgi_temp_path $work/$1.s; keepalive_requests 1000000000; keepalive_timeout 300;"; }
cat >"$work/upstream.conf" <<NGINX
$nginx_common pid $work/upstream.pid;
http { $(temporary upstream) server { listen 127.0.0.1:$upstream; location / { return 200 "ok\n"; } } }
NGINX
taskset -c 0 nginx -c "$work/upstream.conf" -p "$work" & pids+=($!)
wait_for_port "$upstream"

declare -A port pid
# --- shadowcat
port[shadowcat]=$(free_port)
taskset -c "$proxy_core" "$binary" reverse --bind "127.0.0.1:${port[shadowcat]}" --upstream "http://127.0.0.1:$upstream" --workers 1 \
    --driver "$driver" --tls-cert "$work/leaf.pem" --tls-key "$work/leaf.key" --tls-min-version 1.3 --set session.store=memory \
    >"$work/shadowcat.log" 2>&1 & pid[shadowcat]=$!; pids+=($!)

# --- nginx
port[nginx]=$(free_port)
cat >"$work/nginx.conf" <<NGINX
$nginx_common pid $work/nginx.pid;
http {
    $(temporary nginx)
    upstream mcp { server 127.0.0.1:$upstream; keepalive 512; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:${port[nginx]} ssl reuseport;
        ssl_certificate $work/leaf.pem; ssl_certificate_key $work/leaf.key; ssl_protocols TLSv1.3;
        location / {
            proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$host;
            proxy_set_header X-Forwarded-For \$remote_addr;
        }
    }
}
NGINX
taskset -c "$proxy_core" nginx -c "$work/nginx.conf" -p "$work" & pids+=($!); nginx_master=$!

# --- HAProxy
port[haproxy]=$(free_port)
cat >"$work/haproxy.cfg" <<HAPROXY
global
    nbthread 1
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
    option forwardfor
frontend front
    bind 127.0.0.1:${port[haproxy]} ssl crt $work/both.pem
    default_backend back
backend back
    server one 127.0.0.1:$upstream
HAPROXY
taskset -c "$proxy_core" haproxy -db -f "$work/haproxy.cfg" >"$work/haproxy.log" 2>&1 & pid[haproxy]=$!; pids+=($!)

for name in shadowcat nginx haproxy; do wait_for_port "${port[$name]}"; done
pid[nginx]=$(pgrep -P "$nginx_master" | head -n 1)

cpu_ns() { cat /proc/"$1"/task/*/schedstat | awk '{s+=$1} END {printf "%.0f\n", s}'; }
round() { # NAME KIND GROUP -> ns a connection
    local before after
    before=$(cpu_ns "${pid[$1]}")
    taskset -c 0 "$client" "$work/ca.pem" "${port[$1]}" "$2" "$3" "$connections" >"$work/negotiated-$1"
    after=$(cpu_ns "${pid[$1]}")
    echo $(( (after - before) / connections ))
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

orders=("shadowcat nginx haproxy" "haproxy shadowcat nginx" "nginx haproxy shadowcat")
echo "$rounds rounds of $connections connections, CPU us a connection, medians; ratios of shadowcat to the others"
for group in $groups; do
    for kind in full resumed; do
        rm -f "$work"/*.ns "$work"/*.ratio
        for i in $(seq "$rounds"); do
            declare -A spent
            for name in ${orders[$((i % 3))]}; do spent[$name]=$(round "$name" "$kind" "$group"); echo "${spent[$name]}" >>"$work/$name.ns"; done
            for name in nginx haproxy; do awk "BEGIN {printf \"%.3f\n\", ${spent[shadowcat]}/${spent[$name]}}" >>"$work/$name.ratio"; done
        done
        echo "$group, $kind:"
        for name in shadowcat nginx haproxy; do
            echo "  $name $(( $(median <"$work/$name.ns") / 1000 )) us, $(cat "$work/negotiated-$name")"
        done
        for name in nginx haproxy; do
            echo "  to $name $(median <"$work/$name.ratio") (from $(sort -n "$work/$name.ratio" | head -n 1) to $(sort -n "$work/$name.ratio" | tail -n 1))"
        done
    done
done
