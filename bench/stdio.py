#!/usr/bin/env python3
"""What `forward stdio` adds to a message: a client speaks to `cat` directly and through the proxy, rounds interleaved.

bench/stdio.py [--messages N] [--rounds N] [--bytes N] [--binary FILE]

A message goes, its echo comes back, and the next one goes: the time of both ways, with everybody on one CPU, where a switch is cheap,
and with the client on another CPU than proxy and server, where each message wakes a CPU. Left alone, the scheduler does now one and now
the other, and the median says which. The first tenth of each round warms up. The mean is from the clock over the whole round, so that
it can be held against the median. Then how fast 256 MiB pass one way, from `head -c 256M /dev/zero`.
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


PLACES = {"one CPU": ({0}, {0}), "two CPUs": ({0}, {1})}


def round_trips(way, place):
    """p50, p99 and mean in microseconds."""
    client, server_side = PLACES[place]
    os.sched_setaffinity(0, server_side)
    server = subprocess.Popen(WAYS[way] + ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    os.sched_setaffinity(0, client)
    into, out = server.stdin.fileno(), server.stdout.fileno()
    taken = []
    warm_up = args.messages // 10
    for number in range(warm_up + args.messages):
        begun = time.perf_counter_ns()
        if number == warm_up:
            first = begun
        os.write(into, message)
        missing = len(message)
        while missing:
            missing -= len(os.read(out, missing))
        taken.append((time.perf_counter_ns() - begun) / 1000)
    mean = (time.perf_counter_ns() - first) / 1000 / args.messages
    server.stdin.close()
    assert server.wait() == 0
    cuts = statistics.quantiles(taken[warm_up:], n=100)
    return cuts[49], cuts[98], mean


def bulk(way):
    """MiB a second."""
    begun = time.perf_counter()
    server = subprocess.Popen(WAYS[way] + ["head", "-c", "256M", "/dev/zero"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    count = 0
    while data := os.read(server.stdout.fileno(), 65536):
        count += len(data)
    assert (server.wait(), count) == (0, 256 << 20)
    return 256 / (time.perf_counter() - begun)


def column(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


everywhere = os.sched_getaffinity(0)
for place in PLACES:
    print(f"{place}, us there and back: direct p50, p99, mean | forward p50, p99, mean")
    added = []
    for number in range(-1, args.rounds):
        order = ["direct", "forward"] if number % 2 else ["forward", "direct"]
        seen = {way: round_trips(way, place) for way in order}
        if number < 0:
            continue  # The machine warms up as well.
        direct, forward = seen["direct"], seen["forward"]
        print("  " + " | ".join(" ".join(f"{value:8.1f}" for value in values) for values in (direct, forward)))
        added.append([value for d, f in zip(direct, forward) for value in (f - d, f / d)])
    p50, ratio50, p99, ratio99, mean, ratio = zip(*added)
    print(f"  added, median (range) of rounds: p50 {column(p50)} us, p99 {column(p99)} us, mean {column(mean)} us")
    print(f"  ratio: p50 {column(ratio50)}, p99 {column(ratio99)}, mean {column(ratio)}")
os.sched_setaffinity(0, everywhere)
rates = {way: [bulk(way) for _ in range(5)] for way in WAYS}
print(", ".join(f"{way} {statistics.median(values):.0f} MiB/s ({min(values):.0f} to {max(values):.0f})" for way, values in rates.items()))
