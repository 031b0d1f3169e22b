#!/usr/bin/env python3
"""Three servers behind the proxy, killed, stopped, slowed and restarted under a steady load.

faults.py PEERS BINARY [SECONDS [everything]]: PEERS is where setup.sh has installed the programs, SECONDS the length of a
phase; the servers are fixture.mjs, or npm server-everything, which knows sessions only.
Prints a table a driver: what became of the requests of each phase. Ends with 1 if a read failed while a server was well.
"""

import collections
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS, BINARY = (os.path.abspath(argument) for argument in sys.argv[1:3])
SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
EVERYTHING = sys.argv[4:] == ["everything"]
# Requests a second of each client.
RATE = 10
MODERN = "2026-07-28"
LEGACY = "2025-11-25"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "faults", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
KINDS = ["read", "call", "begin", "in session"]
ENDS = ["ok", "404", "502", "503", "504", "other"]


def started(arguments, **more):
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(arguments, text=True, **streams, **more)
    for line in process.stderr:
        found = re.search(r"listening on (?:http://(127\.0\.0\.1:\d+)|port)", line)
        if found:
            threading.Thread(target=lambda: collections.deque(process.stderr, maxlen=0), daemon=True).start()
            return process, found.group(1)
    raise SystemExit(f"{arguments[0]} does not start")


class Replica:
    """A server that keeps its port over restarts."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        node = os.path.join(PEERS, "node_modules/node/bin/node")
        if EVERYTHING:
            program = os.path.join(PEERS, "node_modules/@modelcontextprotocol/server-everything/dist/index.js")
            self.process, _ = started([node, program, "streamableHttp"], env={**os.environ, "PORT": str(self.port)})
            return
        fixture = [node, os.path.join(HERE, "fixture.mjs"), os.path.join(PEERS, "node_modules"), str(self.port)]
        self.process, _ = started(fixture)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def restart(self):
        if self.process.poll() is None:
            self.kill()
        self.start()


class Duty:
    """Lets a process run for a part of the time only."""

    def __init__(self, replica, running, stopped):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.turn, args=(replica, running, stopped))
        self.thread.start()

    def turn(self, replica, running, stopped):
        while not self.over.is_set():
            replica.signal(signal.SIGSTOP)
            self.over.wait(stopped)
            replica.signal(signal.SIGCONT)
            self.over.wait(running)

    def end(self):
        self.over.set()
        self.thread.join()


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.phase = None
        self.cells = collections.Counter()
        self.examples = {}

    def add(self, phase, kind, end, example):
        with self.lock:
            self.cells[phase, kind, end] += 1
            if end != "ok":
                self.examples.setdefault((phase, kind, end), example)


class Client(threading.Thread):
    """Asks at a steady rate until it is told to stop."""

    def __init__(self, address, counts, over, work):
        super().__init__(daemon=True)
        self.address, self.counts, self.over, self.work = address, counts, over, work
        self.connection, self.number, self.session = None, 0, None
        self.start()

    def run(self):
        due = time.monotonic()
        while not self.over.is_set():
            self.work(self)
            due = max(due + 1 / RATE, time.monotonic() - 1)
            self.over.wait(max(0, due - time.monotonic()))

    def ask(self, kind, method, params, fields=None):
        """The answer's fields and JSON, `None` if it is not 200."""
        self.number += 1
        # A request counts where it was sent.
        phase, body = self.counts.phase, {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **(fields or {})}
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, timeout=30)
            self.connection.request("POST", "/mcp", json.dumps(body), headers)
            answer = self.connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.connection = None
            self.counts.add(phase, kind, "other", repr(error))
            return None
        if answer.status != 200:
            end = str(answer.status) if str(answer.status) in ENDS else "other"
            self.counts.add(phase, kind, end, f"{answer.status} {text[:200]}")
            return {} if answer.status == 404 else None
        message = [line[5:] for line in text.splitlines() if line.startswith("data:") and line[5:].strip()]
        message = json.loads(message[-1] if message else text)
        fine = message.get("id") == self.number and "result" in message
        self.counts.add(phase, kind, "ok" if fine else "other", text[:300])
        return answer.headers if fine else None

    def modern(self, kind, method, params):
        fields = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if "name" in params:
            fields["Mcp-Name"] = params["name"]
        self.ask(kind, method, {**params, "_meta": META}, fields)

    def read(self):
        self.modern("read", ["tools/list", "server/discover"][self.number % 2], {})

    def call(self):
        self.modern("call", "tools/call", {"name": "test_simple_text", "arguments": {}})

    def in_session(self):
        """Ten calls in a session, then the next one; at once when it is lost."""
        if self.session is None or self.number % 10 == 0:
            about = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "faults", "version": "1"}}
            answer = self.ask("begin", "initialize", about)
            self.session = answer and answer["mcp-session-id"]
            return
        fields = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": self.session}
        tool = {"name": "echo", "arguments": {"message": "x"}} if EVERYTHING else {"name": "test_simple_text", "arguments": {}}
        answer = self.ask("in session", "tools/call", tool, fields)
        if answer == {}:
            self.session = None


def proxy(driver, replicas, directory):
    config = os.path.join(directory, f"{driver}.toml")
    with open(config, "w") as file:
        for number, replica in enumerate(replicas):
            file.write(f'[[upstreams]]\nname = "{"abc"[number]}"\nurl = "http://127.0.0.1:{replica.port}"\ntimeout = "1s"\n')
        file.write('[circuit_breaker]\nfailure_threshold = 5\nfailure_ratio = 0.5\nrecovery_timeout = "2s"\n')
    arguments = [BINARY, "reverse", "--bind", "127.0.0.1:0", "--workers", "2", "--driver", driver]
    return started([*arguments, "--set", "session.store=memory", "--config", config])


def run(driver, directory):
    replicas = [Replica() for _ in range(3)]
    process, address = proxy(driver, replicas, directory)
    counts, over = Counts(), threading.Event()
    first, second, third = replicas
    duty = []

    def restart_all():
        for replica in replicas:
            replica.restart()
            over.wait(SECONDS / 6)

    phases = [
        ("all well", lambda: None),
        ("a killed", first.kill),
        ("a restarted", first.start),
        ("b hung (SIGSTOP)", lambda: second.signal(signal.SIGSTOP)),
        ("b goes on (SIGCONT)", lambda: second.signal(signal.SIGCONT)),
        ("c slowed (runs 20 ms of 200)", lambda: duty.append(Duty(third, 0.02, 0.18))),
        ("c as before", lambda: duty.pop().end()),
        ("a killed, b hung", lambda: (first.kill(), second.signal(signal.SIGSTOP))),
        ("all restarted, one by one", restart_all),
        ("all well again", lambda: None),
    ]
    clients = []
    try:
        for name, begin in phases:
            counts.phase = name
            if not clients:
                works = [Client.in_session] * 8
                if not EVERYTHING:
                    works = [Client.read] * 3 + [Client.call] * 2 + [Client.in_session] * 3
                clients = [Client(address, counts, over, work) for work in works]
            begin()
            over.wait(SECONDS)
        over.set()
        for client in clients:
            client.join(35)
            assert not client.is_alive(), "a request without end"
        panics = metric(address, "shadowcat_connection_panics_total") + metric(address, "shadowcat_worker_restarts_total")
        assert panics == 0 and process.poll() is None, "the proxy failed"
    finally:
        over.set()
        for one in duty:
            one.end()
        for child in [process, *(replica.process for replica in replicas)]:
            if child.poll() is None:
                child.kill()
            child.wait()
    return [name for name, _ in phases], counts


def metric(address, name):
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def table(driver, phases, counts):
    """A row a phase; a cell names all ends of a kind, e.g. `148 ok, 2 404`."""
    print(f"\n### {driver}\n\n| phase | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for phase in phases:
        cells = []
        for kind in KINDS:
            ends = [(counts.cells[phase, kind, end], end) for end in ENDS]
            words = [f"{count} {end}" if end in ("ok", "other") else f"{count} × {end}" for count, end in ends if count]
            cells.append(", ".join(words) or "-")
        print(f"| {phase} | {' | '.join(cells)} |")
    for (phase, kind, end), example in sorted(counts.examples.items()):
        print(f"{driver}: {phase}: {kind}: {end}: {example}", file=sys.stderr)


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for driver in ["io_uring", "epoll"]:
            phases, counts = run(driver, directory)
            table(driver, phases, counts)
            failed += sum(n for (_, kind, end), n in counts.cells.items() if kind == "read" and end != "ok")
    sys.exit(f"{failed} reads failed" if failed else 0)


main()
