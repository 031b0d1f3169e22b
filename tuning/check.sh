#!/usr/bin/env bash
# What this machine is set to, against what serves many long connections well. Reads, and changes nothing.
#
# usage: tuning/check.sh [PID]     PID of a running server, whose own limits are looked at as well
# Exit code: 0 all is well, 1 something is not, 2 wrong usage.
set -uo pipefail
conf=$(dirname "$0")/90-shadowcat.conf
pid=${1:-}
[ -z "$pid" ] || [ -r "/proc/$pid/limits" ] || { echo "usage: tuning/check.sh [PID]: there is no process $pid" >&2; exit 2; }

worst=0
say() { # ok|low|note NAME IS WANTED
    printf '%-5s %-38s %-22s %s\n' "$1" "$2" "$3" "$4"
    [ "$1" != low ] || worst=1
}
number() { [[ $1 =~ ^[0-9]+$ ]]; }
read_file() { cat "$1" 2>/dev/null | tr '\t' ' '; }

printf '%-5s %-38s %-22s %s\n' '' setting here wanted
# The kernel's settings, as 90-shadowcat.conf has them.
while IFS='=' read -r key wanted; do
    key=$(tr -d ' ' <<<"$key")
    wanted=$(sed 's/^ *//; s/ *$//' <<<"$wanted")
    name=${key#-}
    here=$(read_file "/proc/sys/${name//.//}")
    if [ -z "$here" ] && [ "$name" != "$key" ]; then
        say ok "$name" '(not here)' 'not needed'
        continue
    fi
    case $name in
    *port_range)
        read -r first last <<<"$here"
        read -r low high <<<"$wanted"
        if [ "$first" -le "$low" ] && [ "$last" -ge "$high" ]; then verdict=ok; else verdict=low; fi
        ;;
    *reserved_ports) if [ -n "$here" ]; then verdict=ok; else verdict=note; fi ;;
    *keepalive*) if number "$here" && [ "$here" -le "$wanted" ]; then verdict=ok; else verdict=low; fi ;;
    *tcp_tw_reuse | *slow_start* | *syncookies | *io_uring_disabled)
        if [ "$here" = "$wanted" ]; then verdict=ok; else verdict=low; fi
        ;;
    *) if number "$here" && [ "$here" -ge "$wanted" ]; then verdict=ok; else verdict=low; fi ;;
    esac
    say "$verdict" "$name" "${here:-(empty)}" "$wanted"
done < <(grep -E '^-?[a-z]' "$conf")

# Limits of the server, or of this shell.
limit() { awk -v name="$1" 'index($0, name) == 1 { print $(NF - 1) }' "/proc/${pid:-self}/limits"; }
at_least() { # NAME IS WANTED
    if [ "$2" = unlimited ] || { number "$2" && [ "$2" -ge "$3" ]; }; then say ok "$1" "$2" "$3"; else say low "$1" "$2" "$3"; fi
}
at_least 'descriptors (hard limit)' "$(limit 'Max open files')" 65536
kernel=$(uname -r | awk -F'[.-]' '{ print $1 * 1000 + $2 }')
if [ "$kernel" -lt 5012 ]; then at_least 'memory that may be locked, bytes' "$(limit 'Max locked memory')" 67108864; fi
if [ "$kernel" -lt 5019 ]; then
    say low kernel "$(uname -r)" 'io_uring from 5.19, best from 6.1'
elif [ "$kernel" -lt 6001 ]; then
    say note kernel "$(uname -r)" 'io_uring best from 6.1'
else
    say ok kernel "$(uname -r)" '6.1 or later'
fi

# What no sysctl says; undo each by the old value.
choice() { sed 's/.*\[\(.*\)\].*/\1/' "$1" 2>/dev/null; }
huge=$(choice /sys/kernel/mm/transparent_hugepage/enabled)
case $huge in
always) say note 'transparent huge pages' always 'madvise: less memory for each thread and connection' ;;
*) say ok 'transparent huge pages' "${huge:-(not here)}" 'madvise or never' ;;
esac
clock=$(read_file /sys/devices/system/clocksource/clocksource0/current_clocksource)
case $clock in
tsc | kvm-clock | arch_sys_counter | hyperv_clocksource_tsc_page) say ok 'clock source' "$clock" 'one that is read without a system call' ;;
*) say low 'clock source' "${clock:-(unknown)}" 'tsc: each look at the clock is a system call now' ;;
esac
governor=$(read_file /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor)
case $governor in
'' | performance | schedutil) say ok 'CPU frequency' "${governor:-(not ours to set)}" performance ;;
*) say note 'CPU frequency' "$governor" 'performance, where latency matters' ;;
esac

# Which CPUs take packets: workers are pinned to CPUs one after the other, and a CPU that takes all packets has less for its own.
cpus=$(nproc)
for card in /sys/class/net/*; do
    [ -e "$card/device" ] || continue
    queues=$(find "$card/queues" -maxdepth 1 -name 'rx-*' 2>/dev/null | wc -l)
    spread=$(cat "$card"/queues/rx-*/rps_cpus 2>/dev/null | tr -d '0,\n')
    if [ "$queues" -ge "$cpus" ] || [ -n "$spread" ]; then
        say ok "packets of $(basename "$card")" "$queues queues, $cpus CPUs" 'spread over the CPUs'
    else
        say note "packets of $(basename "$card")" "$queues queues, $cpus CPUs" 'RPS or more queues: tuning/README.md'
    fi
done

# A quota that is used up stops all workers at once.
group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/${pid:-self}/cgroup")
throttled=$(awk '$1 == "nr_throttled" { print $2 }' "$group/cpu.stat" 2>/dev/null)
case ${throttled:-0} in
0) say ok 'times stopped by a CPU quota' "${throttled:-(no quota)}" 0 ;;
*) say note 'times stopped by a CPU quota' "$throttled" '0: more CPUQuota, or fewer workers' ;;
esac
exit $worst
