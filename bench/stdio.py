#!/usr/bin/env python3
"""What `forward stdio` adds to a message: a client speaks to `cat` directly and through the proxy, rounds interleaved.

bench/stdio.py [--messages N] [--rounds N] [--bytes N] [--binary FILE]

A message goes, its echo comes back, and the next one goes: the time of both ways. The first tenth of each round warms up.
Then how fast 256 MiB pass one way, from `head -c 256M /dev/zero`.
"""

import argparse
import os
import statistics
import subprocess
import time

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
parser = argparse.ArgumentParser()
parser.add_argument("--messages", type=int, default=5000)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--bytes", type=int, default=250)
parser.add_argument("--binary", default=f"{root}/target/release/shadowcat")
args = parser.parse_args()
FORWARD = [args.binary, "forward", "stdio", "--"]
WAYS = {"direct": [], "forward": FORWARD}
message = b"x" * (args.bytes - 1) + b"\n"


def round_trips(way):
    """Microseconds of each message."""
    server = subprocess.Popen(WAYS[way] + ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    into, out = server.stdin.fileno(), server.stdout.fileno()
    taken = []
    for _ in range(args.messages * 11 // 10):
        begun = time.perf_counter_ns()
        os.write(into, message)
        missing = len(message)
        while missing:
            missing -= len(os.read(out, missing))
        taken.append((time.perf_counter_ns() - begun) / 1000)
    server.stdin.close()
    assert server.wait() == 0
    return taken[args.messages // 10 :]


def bulk(way):
    """MiB a second."""
    begun = time.perf_counter()
    server = subprocess.Popen(WAYS[way] + ["head", "-c", "256M", "/dev/zero"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    count = 0
    while data := os.read(server.stdout.fileno(), 65536):
        count += len(data)
    assert (server.wait(), count) == (0, 256 << 20)
    return 256 / (time.perf_counter() - begun)


def quantiles(values):
    cuts = statistics.quantiles(values, n=100)
    return cuts[49], cuts[98]


print(f"{'round':>5} {'direct p50':>11} {'p99':>8} {'forward p50':>12} {'p99':>8} {'added p50':>10} {'p99':>8} {'ratio p50':>10} {'p99':>6}   us")
added = []
for number in range(-1, args.rounds):
    order = ["direct", "forward"] if number % 2 else ["forward", "direct"]
    seen = {way: quantiles(round_trips(way)) for way in order}
    if number < 0:
        continue  # The machine warms up as well.
    (d50, d99), (f50, f99) = seen["direct"], seen["forward"]
    added.append((f50 - d50, f99 - d99, f50 / d50, f99 / d99))
    print(f"{number + 1:>5} {d50:>11.1f} {d99:>8.1f} {f50:>12.1f} {f99:>8.1f} {added[-1][0]:>10.1f} {added[-1][1]:>8.1f} {added[-1][2]:>10.2f} {added[-1][3]:>6.2f}")
p50, p99, ratio50, ratio99 = (statistics.median(column) for column in zip(*added))
print(f"added to a message there and back, median of rounds: p50 {p50:.1f} us (x{ratio50:.2f}), p99 {p99:.1f} us (x{ratio99:.2f})")
rates = {way: statistics.median(bulk(way) for _ in range(3)) for way in WAYS}
print(f"256 MiB one way: direct {rates['direct']:.0f} MiB/s, forward {rates['forward']:.0f} MiB/s")
