#!/usr/bin/env python3
"""Idle keep-alive connections on one worker: the proxy's user memory each, plain and over TLS.

usage: bench/idle.py [--connections 5000] [--driver io_uring|epoll] [--binary target/release/shadowcat]

Each connection asks once and stays. Memory is the proportional set (Pss) of the proxy with all connections open less
that with the first hundred (which pay for pools and tables); the kernel's socket buffers are not in it. Afterwards one
in fifty asks again, and the descriptors must be back when all have left. The clients are processes of this script, so
that neither side runs out of descriptors.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time

WARM = 100
REQUEST = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"


def raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Upstream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            if line == b"\r\n":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def certificate(directory: str) -> None:
    script = """
    for name in ca leaf; do openssl ecparam -name prime256v1 -genkey -noout -out $name.key; done
    openssl req -x509 -new -key ca.key -days 30 -subj /CN=bench-authority -out ca.pem
    openssl req -new -key leaf.key -subj /CN=localhost -out leaf.csr
    printf 'subjectAltName=DNS:localhost\\n' >extensions
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out leaf.pem
    chmod 600 leaf.key
    """
    subprocess.run(["bash", "-ec", script], cwd=directory, check=True, capture_output=True)


def ask(connection) -> None:
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"ok\n"):
        piece = connection.recv(4096)
        assert piece, f"cut after {answer!r}"
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer


def clients(port: int, ca, pipe) -> None:
    """Open as many as the parent says, each time it says so; None: one in fifty asks again, then all leave."""
    raise_limit()
    context = ssl.create_default_context(cafile=ca) if ca else None
    held = []
    while (count := pipe.recv()) is not None:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            if context:
                connection = context.wrap_socket(connection, server_hostname="localhost")
            ask(connection)
            held.append(connection)
        pipe.send(len(held))
    for connection in held[::50]:
        ask(connection)
    for connection in held:
        connection.close()
    pipe.send(0)


def proportional(pid: int) -> int:
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled(read, wanted) -> int:
    for _ in range(100):
        if (value := read()) <= wanted:
            break
        time.sleep(0.1)
    return value


def measure(options, target: str, directory: str, tls: bool) -> None:
    command = [options.binary, "reverse", "--bind", "127.0.0.1:0", "--upstream", target, "--workers", "1"]
    command += ["--driver", options.driver, "--set", "session.store=memory", "--set", "performance.keep_alive_timeout=600"]
    if tls:
        command += ["--tls-cert", f"{directory}/leaf.pem", "--tls-key", f"{directory}/leaf.key"]
    proxy = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in proxy.stderr if "listening on" in line)
        port = int(line.strip().rsplit(":", 1)[1])
        threading.Thread(target=lambda: [None for _ in proxy.stderr], daemon=True).start()
        fresh = descriptors(proxy.pid)
        ours, theirs = multiprocessing.Pipe()
        ca = f"{directory}/ca.pem" if tls else None
        process = multiprocessing.Process(target=clients, args=(port, ca, theirs), daemon=True)
        process.start()
        ours.send(WARM)
        ours.recv()
        time.sleep(1)
        before = proportional(proxy.pid)
        ours.send(options.connections - WARM)
        ours.recv()
        # Quiet connections give their buffers back.
        time.sleep(1)
        each = (proportional(proxy.pid) - before) / (options.connections - WARM)
        ours.send(None)
        ours.recv()
        left = settled(lambda: descriptors(proxy.pid) - fresh, 2)
        kind = "TLS" if tls else "plain"
        print(f"{options.driver}, {kind}: {each / 1024:.2f} KiB a connection; {left} descriptors more than at the start", flush=True)
        process.join()
    finally:
        proxy.kill()
        proxy.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--driver", default="io_uring")
    parser.add_argument("--binary", default="target/release/shadowcat")
    options = parser.parse_args()
    raise_limit()
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as directory:
        certificate(directory)
        for tls in (False, True):
            measure(options, f"http://127.0.0.1:{server.server_address[1]}", directory, tls)


main()
