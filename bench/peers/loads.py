"""What is sent through a proxy, and what it costs it. Each load returns the figures of one round."""

import asyncio
import http.client
import json
import multiprocessing
import pathlib
import re
import socket
import ssl
import subprocess
import time

import machine
from proxies import Running

LUA = pathlib.Path(__file__).parent / "post.lua"
INITIALIZE = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}}).encode()
FIELDS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class Failed(Exception):
    """A load that did not go as it should: its figures mean nothing."""


def measured(proxy: Running, work) -> tuple[dict, int]:
    """What `work` returned, and the proxy's CPU time meanwhile."""
    ticks, before = machine.user_share(proxy.pid), machine.cpu_ns(proxy.pid, proxy.setup.threads)
    result = work()
    spent = machine.cpu_ns(proxy.pid, proxy.setup.threads) - before
    user, system = (after - first for after, first in zip(machine.user_share(proxy.pid), ticks))
    return result | {"user_share": round(user / max(user + system, 1), 3)}, spent


def a_request(proxy: Running, run) -> dict:
    """The same for each of the requests that `run` made, none of which may have failed."""
    result, spent = measured(proxy, run)
    if result["errors"]:
        raise Failed(f"{proxy.name}: {result['errors']} of {result['requests']} requests failed")
    return result | {"value": spent / result["requests"]}


# --- sessions


def session(proxy: Running, token: str = "-", path: str = "/mcp") -> str:
    """A session through the proxy, or `-` where nobody issued one."""
    context = ssl._create_unverified_context() if proxy.setup.tls else None
    fields = FIELDS | ({"Authorization": f"Bearer {token}"} if token != "-" else {})
    for attempt in range(50):
        if context:
            connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
        connection.request("POST", path, INITIALIZE, fields)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status == 200:
            return answer.getheader("mcp-session-id", "-")
        # Keys of tokens may still be on their way.
        time.sleep(0.1)
    raise Failed(f"{proxy.name}: initialize was answered {answer.status}: {text[:200]!r}")


def field(head: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r?$", head, re.I | re.M)
    if not found:
        raise Failed(f"no {name} in {head}")
    return found[1]


def sessions(proxy: Running, count: int, path: str) -> list[str]:
    """Many sessions, 64 at a time."""
    head = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(INITIALIZE)}\r\n\r\n".encode() + INITIALIZE
    found, left = [], [count]

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        while left[0] > 0:
            left[0] -= 1
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if not head.startswith("HTTP/1.1 200"):
                raise Failed(f"{proxy.name}: initialize was answered {head}")
            await reader.readexactly(int(field(head, "content-length")))
            found.append(field(head, "mcp-session-id"))
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(min(64, count))))

    asyncio.run(all_of_them())
    return found


# --- requests


def wrk(proxy: Running, callers: pathlib.Path, connections: int, seconds: float, words: list[str], threads: int = 1, settle: float = 0) -> dict:
    """As fast as answers come, over connections that stay open; a client on each core that the proxy has, if that is not one of its own."""
    machine.need("wrk", "wrk")
    cores = [machine.CLIENT_CORE] if proxy.setup.cores == machine.PROXY_CORE else proxy.setup.cores.split(",")
    command = ["wrk", f"-t{threads}", f"-c{connections // len(cores)}", f"-d{max(1, round(seconds))}s", "-s", str(LUA), proxy.url(), "--", str(callers), *words]

    def run() -> dict:
        clients = [subprocess.Popen(["taskset", "-c", core, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for core in cores]
        said = [client.communicate()[0] for client in clients]
        # What still gathers belongs to this round.
        time.sleep(settle)
        try:
            each = [json.loads(text.splitlines()[-1]) for text in said]
        except (IndexError, ValueError):
            raise Failed(f"wrk through {proxy.name}: {said}") from None
        counted = {name: sum(one[name] for one in each) for name in ("requests", "errors")}
        return counted | {name: max(one[name] for one in each) for name in ("p50_us", "p99_us", "seconds")}

    return a_request(proxy, run)


def loadtest(proxy: Running, scenario: str, seconds: float) -> dict:
    """Ours, for what wrk cannot do: each connection is a user of its own, and one thread has them all."""
    command = [str(machine.ROOT / "target/release/loadtest"), scenario, "--target", proxy.url(), "--threads", "1", "--quiet", "--json", "-"]

    def run() -> dict:
        said = subprocess.run([*command, "--duration", f"{max(1, round(seconds))}s"], capture_output=True, text=True)
        if not said.stdout:
            raise Failed(f"loadtest through {proxy.name}: {said.stderr}")
        told = json.loads(said.stdout)["targets"][0]
        times = {f"{name}_us": told["latency"][name] / 1000 for name in ("p50", "p99")}
        return {"requests": told["requests"], "errors": told["errors"]} | times

    return a_request(proxy, run)


def fixed(proxy: Running, session: str, rate: int, seconds: float, work: pathlib.Path) -> dict:
    """h2load over HTTP/1.1, so many requests a second on 50 connections whatever the answers take."""
    machine.need("h2load", "nghttp2-client")
    (work / "body").write_bytes(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"' + b"x" * 156 + b'"}}}')
    log = work / "times"
    log.unlink(missing_ok=True)
    fields = FIELDS | {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25", "X-Request-Id": "0123456789abcdef0123456789abcdef"}
    fields |= {"Cookie": "c" * 300, "baggage": "b" * 200, "Accept-Language": "en-US,en;q=0.9"}
    fields |= {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    command = ["h2load", "--h1", "-c", "50", "--rps", str(rate // 50), "-D", str(round(seconds)), "-d", str(work / "body"), "--log-file", str(log)]
    command += [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")] + [proxy.url()]

    def run() -> dict:
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode:
            raise Failed(f"h2load through {proxy.name}: {said.stdout}{said.stderr}")
        lines = [line.split() for line in log.read_text().splitlines()]
        taken = sorted(int(line[2]) for line in lines)
        return {"requests": len(lines), "errors": sum(line[1] != "200" for line in lines),
                "p50_us": taken[len(taken) // 2], "p99_us": taken[len(taken) * 99 // 100]}

    result = a_request(proxy, run)
    if result["requests"] < rate * seconds * 0.95:
        raise Failed(f"{proxy.name}: {result['requests']} requests of {rate * seconds:.0f}")
    return result


# --- handshakes


def handshakes(proxy: Running, client: str, kind: str, group: str, connections: int, work: pathlib.Path) -> dict:
    """One connection after the other: a TLS 1.3 handshake, one small request, the end."""
    command = [client, str(work / "ca.pem"), str(proxy.port), kind, group, str(connections)]

    def run() -> dict:
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode:
            raise Failed(f"{proxy.name}: {said.stderr}")
        return {"requests": connections, "negotiated": said.stdout.strip()}

    result, spent = measured(proxy, run)
    return result | {"value": spent / connections}


# --- event streams


class Stream(asyncio.Protocol):
    """A session, then its event stream, on one connection."""

    opened = events = 0
    refused = None

    def connection_made(self, transport) -> None:
        self.transport, self.data = transport, b""
        head = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
        transport.write(f"POST /mcp HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(INITIALIZE)}\r\n\r\n".encode() + INITIALIZE)
        self.data_received = self.begun

    def begun(self, data: bytes) -> None:
        self.data += data
        if not self.data.endswith(b"}}"):
            return
        session, self.data = field(self.data.decode(), "mcp-session-id"), b""
        head = f"Host: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n"
        self.transport.write(f"GET /mcp HTTP/1.1\r\n{head}\r\n".encode())
        self.data_received = self.listening

    def listening(self, data: bytes) -> None:
        self.data += data
        if b"\r\n\r\n" in self.data:
            if not self.data.startswith(b"HTTP/1.1 200"):
                Stream.refused = self.data[:100]
                return self.transport.abort()
            Stream.opened += 1
            Stream.events += self.data.count(b"event: message")
            self.data_received = self.hear

    def hear(self, data: bytes) -> None:
        # An event is far smaller than a packet, and is written in one.
        Stream.events += data.count(b"event: message")

    def connection_lost(self, _error) -> None:
        Stream.opened -= 1


def streams(proxy: Running, count: int, seconds: float) -> dict:
    async def run() -> dict:
        Stream.opened = Stream.events = 0
        loop = asyncio.get_running_loop()

        async def open_up_to(wanted: int) -> None:
            while len(transports) < wanted:
                piece = min(50, wanted - len(transports))
                made = await asyncio.gather(*(loop.create_connection(Stream, "127.0.0.1", proxy.port) for _ in range(piece)))
                transports.extend(transport for transport, _ in made)
                for _ in range(500):
                    if Stream.opened == len(transports):
                        break
                    await asyncio.sleep(0.01)
                else:
                    raise Failed(f"{proxy.name}: {Stream.opened} of {len(transports)} streams opened, {Stream.refused}")

        transports = []
        await open_up_to(100)
        await asyncio.sleep(1)
        before = machine.pss(proxy.pid)
        await open_up_to(count)
        await asyncio.sleep(2)
        memory = (machine.pss(proxy.pid) - before) / (count - 100)
        ticks, spent, heard = machine.user_share(proxy.pid), machine.cpu_ns(proxy.pid), Stream.events
        await asyncio.sleep(seconds)
        spent, heard = machine.cpu_ns(proxy.pid) - spent, Stream.events - heard
        user, system = (after - first for after, first in zip(machine.user_share(proxy.pid), ticks))
        if Stream.opened != count or abs(heard - count * seconds) > count * 0.5:
            raise Failed(f"{proxy.name}: {Stream.opened} of {count} streams open, {heard} of {count * seconds:.0f} events")
        for transport in transports:
            transport.abort()
        return {"value": spent / heard, "requests": heard, "memory": memory, "user_share": round(user / max(user + system, 1), 3)}

    return asyncio.run(run())


# --- idle connections


def hold(port: int, ca: str | None, request: bytes, pipe) -> None:
    """Open as many as the parent says, each time it says so; None: one in fifty asks again, then all leave."""
    context = ssl.create_default_context(cafile=ca) if ca else None

    def ask(connection) -> None:
        connection.sendall(request)
        answer = b""
        while not answer.endswith(b"}}"):
            piece = connection.recv(4096)
            if not piece or not (answer := answer + piece).startswith(b"HTTP/1.1 200"):
                raise Failed(f"not an answer: {answer!r}")

    held = []
    while (count := pipe.recv()) is not None:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            if context:
                connection = context.wrap_socket(connection, server_hostname="localhost")
            ask(connection)
            held.append(connection)
        pipe.send(len(held))
    for connection in held[::50]:
        ask(connection)
    pipe.send(0)


def idle(proxy: Running, session: str, connections: int, work: pathlib.Path) -> dict:
    """User memory of a connection that asked once and stays, above that with the first hundred."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    fields = "".join(f"{name}: {value}\r\n" for name, value in (FIELDS | {"Mcp-Session-Id": session}).items())
    request = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body
    ours, theirs = multiprocessing.Pipe()
    ca = str(work / "ca.pem") if proxy.setup.tls else None
    client = multiprocessing.Process(target=hold, args=(proxy.port, ca, request, theirs), daemon=True)
    client.start()

    def say(what) -> None:
        ours.send(what)
        while not ours.poll(1):
            if not client.is_alive():
                raise Failed(f"{proxy.name}: not all of {connections} connections were served")
        ours.recv()
        # Quiet connections give their buffers back.
        time.sleep(2)

    say(100)
    before = machine.pss(proxy.pid)
    say(connections - 100)
    each = (machine.pss(proxy.pid) - before) / (connections - 100)
    say(None)
    client.join()
    return {"value": each, "connections": connections}
