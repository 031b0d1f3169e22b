#!/usr/bin/env bash
# A machine of its own for the service: systemd as process 1, with an overlay over this machine's files, which are
# left as they are. Namespaces of processes, mounts, control groups and the network are all its own.
#
# usage: tests/deploy/systemd.sh BINARY     runs tests/deploy/on-systemd.sh there; its output, and its exit code
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)

case ${SHADOWCAT_STAGE:-} in
'')
    binary=$(realpath "$1")
    work=$(mktemp -d)
    export work repo binary
    SHADOWCAT_STAGE=group unshare --mount bash "$0" || failed=$?
    cat "$work/log" 2>/dev/null || cat "$work/console"
    [ "$(tail -n 1 "$work/log" 2>/dev/null)" = 'all is well' ] || failed=${failed:-1}
    rm -rf "$work"
    exit "${failed:-0}"
    ;;
group)
    # A control group of its own first, so that the one who makes it its root finds nobody else there.
    mkdir "$work/groups"
    mount -t cgroup2 cgroup2 "$work/groups"
    group=$work/groups/shadowcat-test-$$
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        SHADOWCAT_STAGE=machine exec unshare --mount --cgroup --pid --fork --kill-child --mount-proc bash "$0"
    ) || failed=$?
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    exit "${failed:-0}"
    ;;
machine)
    umount -l -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # Processes of namespaces above are a 0 here: the one who waits for us, and none besides.
    [ "$(grep -c '^0$' /sys/fs/cgroup/cgroup.procs)" -le 2 ] || { echo 'the control group has other processes' >&2; exit 1; }
    mkdir "$work/files" "$work/run"
    mount -t tmpfs tmpfs "$work/files"
    root=$work/files/root
    mkdir "$work/files/upper" "$work/files/work" "$root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/files/upper,workdir=$work/files/work" "$root"
    # A machine that never had one, whatever this one has.
    rm -rf "$root"/{etc,opt,var/lib}/shadowcat "$root"/etc/{systemd/system,sysusers.d,tmpfiles.d}/shadowcat*
    sed -i '/^shadowcat:/d' "$root"/etc/{passwd,group,shadow,gshadow}
    : >"$root/etc/machine-id"
    cat >"$root/etc/systemd/system/test.service" <<UNIT
[Unit]
DefaultDependencies=no
Wants=basic.target
After=basic.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
Environment=repo=$repo binary=$binary
ExecStart=/bin/bash $repo/tests/deploy/on-systemd.sh
StandardOutput=file:$work/log
StandardError=file:$work/log
TimeoutStartSec=120
UNIT
    exec systemd-nspawn --quiet --keep-unit --register=no --private-network --console=pipe --directory="$root" \
        --bind-ro="$repo" --bind-ro="$binary" --bind="$work" --boot -- --unit=test.service --show-status=false \
        >"$work/console" 2>&1 </dev/null
    ;;
esac
