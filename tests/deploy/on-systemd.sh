#!/usr/bin/env bash
# What an operator does with the service, on a machine that systemd runs; see systemd.sh. $repo, $binary: ours.
set -euo pipefail
cd "${repo:?}"

unit() { systemctl show shadowcat --value -p "$1"; }
fail() {
    echo "FAILED: $*"
    systemctl status shadowcat --no-pager -l || true
    journalctl --no-pager -u shadowcat | tail -n 40
    exit 1
}
trap 'fail "line $LINENO"' ERR
is() { [ "$2" = "$3" ] || fail "$1 is $2 in place of $3"; echo "$1 is $2"; }
wait_until() { # WHAT COMMAND...
    for _ in $(seq 400); do
        "${@:2}" && { echo "$1"; return; }
        read -rt 0.05 <> <(:) || true
    done
    fail "waited in vain: $1"
}
status() { curl -s -o /dev/null -w '%{http_code}' "$@" || true; }
mcp() { # BODY [FIELD...]
    local body=$1; shift
    curl -sS -i http://127.0.0.1:8080/mcp -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
        "$@" -d "$body"
}
initialize='{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}'
session() { tr -d '\r' <<<"$answer" | awk -F': ' 'tolower($1) == "mcp-session-id" { print $2 }'; }
setting() { # SECTION KEY=VALUE...: a drop-in
    mkdir -p /etc/systemd/system/shadowcat.service.d
    printf '[%s]\n' "$1" >/etc/systemd/system/shadowcat.service.d/test.conf
    printf '%s\n' "${@:2}" >>/etc/systemd/system/shadowcat.service.d/test.conf
    systemctl daemon-reload
}
config=/etc/shadowcat/config.toml
units=(/etc/systemd/system/shadowcat.service /etc/systemd/system/shadowcat.socket)

echo '== install and start'
BINARY=${binary:?} bash systemd/install.sh install
is 'what systemd-analyze verify finds' "$(systemd-analyze verify --man=no "${units[@]}" 2>&1)" ''
systemd-analyze security --offline=true --threshold=20 --no-pager "${units[0]}" | tail -n 1
systemd-run --quiet --unit=upstream "$binary" demo --bind 127.0.0.1:3000
systemctl enable --now shadowcat.service
is 'the service' "$(systemctl is-active shadowcat)" active
ready() { [ "$(status http://127.0.0.1:8080/ready)" = 200 ]; }
wait_until 'ready' ready
case $(unit StatusText) in "listening on 127.0.0.1:8080; workers: "*) unit StatusText ;; *) fail "status: $(unit StatusText)" ;; esac

echo '== confined, and on io_uring all the same'
pid=$(unit MainPID)
is 'its user' "$(stat -c %U "/proc/$pid")" shadowcat
field() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$pid/status"; }
is 'CapEff (CAP_NET_BIND_SERVICE)' "$(field CapEff)" 0000000000000400
is 'NoNewPrivs' "$(field NoNewPrivs)" 1
is 'Seccomp (a filter)' "$(field Seccomp)" 2
is 'the drivers' "$(curl -sS http://127.0.0.1:8080/metrics | grep -o 'driver="[a-z_]*"' | sort -u)" 'driver="io_uring"'
is 'the store' "$(stat -c '%U %a' /var/lib/shadowcat/sessions.db)" 'shadowcat 700'

echo '== a session goes on over a restart'
answer=$(mcp "$initialize")
systemctl restart shadowcat
mcp '{"jsonrpc":"2.0","id":2,"method":"ping"}' -H "Mcp-Session-Id: $(session)" | head -n 1 | grep -q ' 200 ' || fail 'the session is gone'

echo '== the operator asks'
is 'shadowcat health --ready' "$(shadowcat health --ready)" '{"status":"ready"}'
shadowcat admin status
is 'the socket' "$(stat -c '%U %a' /run/shadowcat/admin.sock)" 'shadowcat 600'
shadowcat admin backup-sessions --output /var/backups/sessions
shadowcat admin sessions list
shadowcat admin cleanup-sessions --older-than 7d
shadowcat admin compact-sessions
! shadowcat doctor | grep '^fail' || fail 'doctor'
man -l /opt/shadowcat/share/man/man1/shadowcat.1 2>/dev/null | head -n 4 || true

echo '== reload'
systemctl reload shadowcat
unit StatusText | grep -q 'loaded anew' || fail "status: $(unit StatusText)"
cp $config /etc/shadowcat/good
echo 'bnd = 1' >>$config
systemctl reload shadowcat && fail 'a wrong configuration was reloaded'
journalctl -u shadowcat --no-pager | grep -q 'error: unknown key .bnd. in' || fail 'no reason'
systemctl kill -s HUP shadowcat
refused() { unit StatusText | grep -q 'is refused, the old one stays'; }
wait_until 'refused' refused
is 'the service' "$(systemctl is-active shadowcat)" active
is 'what it serves' "$(status http://127.0.0.1:8080/ready)" 200

echo '== a configuration that cannot work is not tried again and again'
systemctl restart shadowcat && fail 'a wrong configuration was started'
is 'the service' "$(unit ActiveState)/$(unit SubState)" failed/failed
is 'its exit code' "$(unit ExecMainStatus)" 78
is 'restarts' "$(unit NRestarts)" 0
cp /etc/shadowcat/good $config

echo '== a server that hangs is replaced'
setting Service WatchdogSec=2 RestartSec=0
systemctl restart shadowcat
pid=$(unit MainPID)
kill -STOP "$pid"
again() { [ "$(unit NRestarts)" = 1 ] && [ "$(systemctl is-active shadowcat)" = active ]; }
wait_until 'restarted, and running' again
journalctl -u shadowcat --no-pager | grep -q 'Watchdog timeout' || fail 'it was not the watchdog'

echo '== a drain may take longer than systemd would wait by itself'
setting Service TimeoutStopSec=2
systemctl restart shadowcat
answer=$(mcp "$initialize")
slow='{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"slow","arguments":{"steps":10,"interval":500}}}'
mcp "$slow" -H "Mcp-Session-Id: $(session)" >/run/slow & asking=$!
asked() { curl -sS http://127.0.0.1:8080/metrics | grep -q '^shadowcat_streams_active{[^}]*} 1'; }
wait_until 'a call that takes 5 s is under way' asked
systemctl stop shadowcat
wait "$asking"
grep -q '"id":3,"result"' /run/slow || fail "the call was cut: $(cat /run/slow)"
is 'its end' "$(unit Result)/$(unit ExecMainStatus)" success/0

echo '== a port below 1024'
sed -i 's/^bind = .*/bind = "127.0.0.1:443"/' $config
systemctl restart shadowcat
is 'port 443' "$(status http://127.0.0.1:443/health)" 200
cp /etc/shadowcat/good $config
systemctl stop shadowcat

echo '== over a socket unit nobody is refused while it restarts'
systemctl start shadowcat.socket
is 'the service' "$(systemctl is-active shadowcat || true)" inactive
is 'the first request, which starts it' "$(status http://127.0.0.1:8080/health)" 200
(for _ in $(seq 300); do status http://127.0.0.1:8080/health; echo; done >/run/answers) & asking=$!
for _ in 1 2 3 4 5; do systemctl restart shadowcat; done
wait "$asking"
is 'the answers' "$(sort /run/answers | uniq -c | tr -s ' ')" ' 300 200'
sed -i 's/^ListenStream=.*/ListenStream=127.0.0.1:8081/' /etc/systemd/system/shadowcat.socket
systemctl daemon-reload
systemctl stop shadowcat.socket shadowcat.service
systemctl start shadowcat.socket
systemctl start shadowcat && fail 'a socket that does not fit was taken'
is 'its exit code' "$(unit ExecMainStatus)" 78
journalctl -u shadowcat --no-pager | grep -q 'listens on 127.0.0.1:8081, and proxy.bind is 127.0.0.1:8080' || fail 'no reason'
systemctl stop shadowcat.socket

echo '== tuning'
low() { bash tuning/check.sh | awk '$1 == "low" { print $2 }' | grep -E '^net.ipv4' | sort; }
before=$(sysctl -a 2>/dev/null | grep '^net.ipv4.' | grep -v stats)
[ "$(low)" != '' ] || fail 'there is nothing to tune'
bash tuning/check.sh >/dev/null && fail 'all is well, says the check'
is 'what the check changes' "$(diff <(echo "$before") <(sysctl -a 2>/dev/null | grep '^net.ipv4.' | grep -v stats))" ''
cp tuning/90-shadowcat.conf /etc/sysctl.d/
/lib/systemd/systemd-sysctl --prefix=/net/ipv4
is 'what is still low of net.ipv4' "$(low)" ''

echo '== stop and uninstall'
systemctl start shadowcat
systemctl stop shadowcat
is 'its end' "$(unit Result)/$(unit ExecMainStatus)" success/0
bash systemd/install.sh uninstall
[ ! -e /opt/shadowcat ] || fail "left: $(find /opt/shadowcat)"
is 'the unit' "$(systemctl show shadowcat --value -p LoadState)" not-found
[ -e $config ] || fail 'the configuration is gone'
echo 'all is well'
