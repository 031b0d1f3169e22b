#!/usr/bin/env bash
# The image without an engine: what the Dockerfile puts into it, assembled by hand, run by crun as the manifests ask: a user
# that is not root, a read-only root, no capability, and deploy/seccomp/io_uring.json with and without io_uring.
#
# usage: tests/deploy/container.sh BINARY
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)

if [ -z "${work:-}" ]; then
    binary=$(realpath "$1")
    work=$(mktemp -d)
    export work binary
    # crun wants to see one hierarchy of control groups; it is to leave it alone.
    unshare --mount --pid --fork --kill-child --mount-proc bash "$0" || failed=$?
    rm -rf "$work"
    exit "${failed:-0}"
fi
if ! mountpoint -q "$work"; then
    mount -t tmpfs tmpfs "$work"
    umount -l -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

fail() { echo "FAILED: $*"; cat "$work/$name.log"; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1 is $2 in place of $3"; echo "$1 is $2"; }
wait_until() { # WHAT COMMAND...
    for _ in $(seq 400); do
        "${@:2}" && return
        read -rt 0.05 <> <(:) || true
    done
    fail "waited in vain: $1"
}

# The last stage of the Dockerfile: the program with the libraries of its base image, and /etc/shadowcat.
root=$work/root
mkdir -p "$root"/{usr/local/bin,etc/shadowcat,data,proc,dev,sys,tmp,config} "$work/config" "$work/empty"
cp "$binary" "$root/usr/local/bin/shadowcat"
ldd "$binary" | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
cp -r "$repo"/config/. "$root/etc/shadowcat/"
cp "$repo/deploy/docker/config.toml" "$root/etc/shadowcat/config.toml"
python3 - "$repo/deploy/kubernetes/shadowcat-configmap.yaml" >"$work/config/shadowcat.toml" <<'PYTHON'
import sys, textwrap
print(textwrap.dedent(open(sys.argv[1]).read().split("shadowcat.toml: |\n")[1]))
PYTHON
chown -R 65532:65532 "$root/data"

start() { # NAME allowed|refused|unknown VARIABLES [ARGUMENT...]: what io_uring is to the filter
    name=$1
    mkdir -p "$work/$name"
    local config=$work/empty
    [[ $3 != *SHADOWCAT_MODE* ]] || config=$work/config
    python3 - "$work/$name/config.json" "$root" "$config" "$repo/deploy/seccomp/io_uring.json" "${@:2}" <<'PYTHON'
import json, sys

target, root, config, profile, uring, variables, *arguments = sys.argv[1:]
seccomp = json.load(open(profile))
if uring == "refused":
    # As Docker's own profile has it.
    seccomp["syscalls"][0].update(action="SCMP_ACT_ERRNO", errnoRet=1)
elif uring == "unknown":
    del seccomp["syscalls"][0]
for entry in seccomp["syscalls"]:
    entry.pop("comment", None)
private = ["nosuid", "noexec", "nodev"]
json.dump({
    "ociVersion": "1.0.2",
    "root": {"path": root, "readonly": True},
    "process": {
        "user": {"uid": 65532, "gid": 65532},
        "args": ["/usr/local/bin/shadowcat", *arguments],
        "env": ["PATH=/usr/local/bin", "XDG_STATE_HOME=/data", *variables.split()],
        "cwd": "/data",
        "capabilities": {},
        "noNewPrivileges": True,
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": private},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*private, "mode=1777", "size=64m"]},
        {"destination": "/config", "type": "bind", "source": config, "options": ["rbind", "ro"]},
        {"destination": "/data", "type": "bind", "source": root + "/data", "options": ["rbind", "rw"]},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "seccomp": seccomp,
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
        "readonlyPaths": ["/proc/sys", "/proc/irq", "/proc/bus"],
    },
}, open(target, "w"))
PYTHON
    crun --root "$work/state" --cgroup-manager=disabled run --bundle "$work/$name" --pid-file "$work/$name.pid" "$name" \
        >"$work/$name.log" 2>&1 </dev/null &
    running=$!
}
listening() { grep -q 'listening on' "$work/$name.log"; }
inside() { nsenter -t "$(cat "$work/$name.pid")" -n "$@"; }
status() { inside curl -s -o /dev/null -w '%{http_code}' "$@"; }
drivers() { inside curl -sS http://127.0.0.1:8080/metrics | grep -o 'driver="[a-z_]*"' | sort -u; }
field() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$(cat "$work/$name.pid")/status"; }
stop() {
    crun --root "$work/state" kill "$name" TERM
    wait "$running" || fail "it ends with $?"
    grep -q draining "$work/$name.log" || fail 'no drain'
}
initialize='{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}'
serves() {
    inside curl -sS http://127.0.0.1:8080/mcp -H 'Content-Type: application/json' \
        -H 'Accept: application/json, text/event-stream' -d "$initialize" | grep -q '"name":"shadowcat-demo"'
}

for uring in allowed refused unknown; do
    echo "== as in the Dockerfile, io_uring $uring"
    start "docker-$uring" "$uring" SHADOWCAT_UPSTREAM=http://127.0.0.1:3000 reverse --config /etc/shadowcat/config.toml
    wait_until 'listening' listening
    inside "$binary" demo --bind 127.0.0.1:3000 >"$work/demo.log" 2>&1 & demo=$!
    wait_until 'an answer of the server behind it' serves
    is 'its user' "$(field Uid)/$(field Gid)" 65532/65532
    is 'CapEff' "$(field CapEff)" 0000000000000000
    is 'Seccomp (a filter)' "$(field Seccomp)" 2
    is 'the root' "$(awk '$5 == "/" { print substr($6, 1, 2) }' "/proc/$(cat "$work/$name.pid")/mountinfo")" ro
    is 'the owner of the sessions' "$(stat -c '%u %a' "$root/data/sessions.db")" '65532 700'
    is 'the check of the image' "$(crun --root "$work/state" exec "$name" /usr/local/bin/shadowcat health)" '{"status":"ok"}'
    if [ "$uring" = allowed ]; then
        is 'the driver' "$(drivers)" 'driver="io_uring"'
        ! grep -q 'io_uring is refused' "$work/$name.log" || fail 'it says that it is refused'
    else
        is 'the driver' "$(drivers)" 'driver="epoll"'
        grep 'io_uring is refused here' "$work/$name.log" || fail 'it does not say so'
    fi
    kill "$demo"
    stop
done

echo '== io_uring refused, and asked for'
start insisting unknown '' reverse --driver io_uring --set session.store=memory
code=0; wait "$running" || code=$?
is 'the exit code' "$code" 1
grep 'try --driver auto' "$work/$name.log" || fail 'no hint'

echo '== as in deploy/kubernetes: no argument, the ConfigMap, sessions in memory'
secret=$(head -c 48 /dev/urandom | base64 -w0)
start kubernetes refused "SHADOWCAT_MODE=reverse RUST_LOG=shadowcat=info SHADOWCAT_SESSION_SECRET=$secret"
wait_until 'listening' listening
is '/health' "$(status http://127.0.0.1:8080/health)" 200
is '/ready, without upstreams' "$(status http://127.0.0.1:8080/ready)" 503
refused=$(status http://127.0.0.1:8080/mcp -H 'Content-Type: application/json' -d "$initialize")
case $refused in 401 | 503) echo "a request without anything to verify it with is $refused" ;; *) fail "it let somebody in: $refused" ;; esac
! grep -qF "$secret" "$work/$name.log" || fail 'the secret is in the log'
stop
start nosecret refused SHADOWCAT_MODE=reverse
code=0; wait "$running" || code=$?
is 'the exit code without the Secret' "$code" 78
grep 'create the Secret shadowcat-session' "$work/$name.log" || fail 'no hint'
echo 'all is well'
