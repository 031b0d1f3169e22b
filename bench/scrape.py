#!/usr/bin/env python3
"""What a page of metrics costs with many upstreams and tools: CPU time, bytes, and whether workers stand still meanwhile.

bench/scrape.py [--upstreams N] [--tools N] [--workers N] [--scrapes N] [--driver D]

Needs target/release/shadowcat. A server of its own stands for all upstreams. Each upstream and tool is asked on every worker
first, so that all series are there. Then somebody asks /health, which a worker answers itself, over a connection to each
worker, as fast as answers come: without scrapes, and with one scrape after the other.
"""

import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--upstreams", type=int, default=1000)
parser.add_argument("--tools", type=int, default=100)
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--scrapes", type=int, default=30)
parser.add_argument("--driver", default="io_uring")
args = parser.parse_args()
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER


def serve(listener):
    def one(client):
        received = b""
        while data := client.recv(65536):
            received += data
            while (end := received.find(b"\r\n\r\n")) >= 0:
                length = re.search(rb"(?i)content-length: (\d+)", received[:end])
                whole = end + 4 + (int(length[1]) if length else 0)
                if len(received) < whole:
                    break
                received = received[whole:]
                client.sendall(REPLY)

    while True:
        client, _ = listener.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
threading.Thread(target=serve, args=(listener,), daemon=True).start()
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
config = tempfile.NamedTemporaryFile("w", suffix=".toml")
for n in range(args.upstreams):
    config.write(f'[[upstreams]]\nname = "upstream-{n}"\nurl = "{url}/{n}"\n')
config.flush()
command = [f"{root}/target/release/shadowcat", "reverse", "--config", config.name, "--bind", "127.0.0.1:0"]
command += ["--workers", str(args.workers), "--driver", args.driver, "--set", "session.store=memory"]
proxy = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
for line in proxy.stderr:
    if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
        port = int(found[1])
        break
threading.Thread(target=proxy.stderr.read, daemon=True).start()


def ask(connection, method, path, body=None, fields={}):
    connection.request(method, path, body, fields)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, (answer.status, text)
    return text.decode()


def series(page, name):
    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.M)
    return [float(value) for value in values]


def scrape():
    return ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/metrics")


def connections():
    """One to each worker: whose requests went up is told by the page."""
    found = {}
    while len(found) < args.workers:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        before = series(scrape(), "shadowcat_requests_total")
        for _ in range(50):
            ask(connection, "GET", "/health")
        after = series(scrape(), "shadowcat_requests_total")
        worker = max(range(args.workers), key=lambda n: after[n] - before[n])
        found.setdefault(worker, connection)
    return found


each = connections()
fields = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
for connection in each.values():
    for n in range(max(args.upstreams, args.tools) * args.workers):
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": f"tool-{n % args.tools}"}}
        ask(connection, "POST", "/mcp", json.dumps(call), fields)


def latencies(until):
    """Of each worker in microseconds, sorted."""
    taken = {worker: [] for worker in each}

    def one(worker, raw):
        while not until():
            begun = time.perf_counter()
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            raw.recv(4096)
            taken[worker].append((time.perf_counter() - begun) * 1e6)
            time.sleep(0.0005)

    threads = [threading.Thread(target=one, args=(worker, each[worker].sock)) for worker in each]
    for thread in threads:
        thread.start()
    return threads, taken


def report(name, taken):
    for worker, values in sorted(taken.items()):
        values.sort()
        at = lambda part: values[min(int(len(values) * part), len(values) - 1)]
        print(f"  {name:8} worker {worker}: {len(values):6} answers, p50 {at(0.5):6.0f} us, p99 {at(0.99):6.0f} us, "
              f"p99.9 {at(0.999):6.0f} us, most {values[-1]:6.0f} us")


page = scrape()
lines = sum(1 for line in page.splitlines() if not line.startswith("#"))
print(f"{args.upstreams} upstreams, {args.tools} tools, {args.workers} workers, {args.driver}: "
      f"{len(page) / 1e6:.2f} MB, {lines} series")
end = time.monotonic() + 5
threads, quiet = latencies(lambda: time.monotonic() > end)
for thread in threads:
    thread.join()
before = series(scrape(), "shadowcat_scrape_cpu_seconds_total")[0]
workers = sum(series(page, "shadowcat_worker_cpu_seconds_total"))
done = threading.Event()
threads, busy = latencies(done.is_set)
begun = time.monotonic()
# In another process, so that reading the page holds nobody up who measures.
subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/metrics?[1-{args.scrapes}]"], check=True)
wall = (time.monotonic() - begun) / args.scrapes
done.set()
for thread in threads:
    thread.join()
after = series(scrape(), "shadowcat_scrape_cpu_seconds_total")[0]
print(f"  a scrape: {(after - before) / (args.scrapes + 1) * 1e3:.1f} ms of CPU beside the workers, {wall * 1e3:.1f} ms in all")
print(f"  memory: {series(page, 'shadowcat_quantile_bytes')[0] / 1e6:.1f} MB of quantiles, "
      f"{series(page, 'process_resident_memory_bytes')[0] / 1e6:.1f} MB in all")
report("quiet", quiet)
report("scraped", busy)
proxy.terminate()
proxy.wait()
