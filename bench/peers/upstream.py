"""The upstream of the rows with large bodies, event streams and idle connections: an MCP server that does as little as it can.

POST: a session for `initialize`, 1 MiB for a call of the tool `big`, a short result otherwise. GET: an event a second.
"""

import asyncio
import random
import resource
import secrets

MIB = 1 << 20
TEXT = b"0123456789abcdef" * (MIB // 16)


def answer(body: bytes, fields: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n" % (fields, len(body))
    return head + body


START = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"'
BIG = answer(START + TEXT[: MIB - len(START) - 5] + b'"}]}}')
SHORT = answer(START + TEXT[:16] + b'"}]}}')
BEGUN = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"bench","version":"1"}}}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'event: message\nid: %d\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"bench","progress":%d,"total":100000}}\n\n'


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.head, self.start, self.missing, self.ticks = b"", b"", 0, None

    def connection_made(self, transport) -> None:
        self.transport = transport

    def connection_lost(self, _error) -> None:
        if self.ticks:
            self.ticks.cancel()

    def data_received(self, data: bytes) -> None:
        while data:
            if not self.missing:
                self.head += data
                head, end, data = self.head.partition(b"\r\n\r\n")
                if not end:
                    return
                self.head, self.start = b"", b""
                if head.startswith(b"GET"):
                    self.stream()
                    return
                fields = head.lower()
                at = fields.index(b"content-length:")
                self.missing = int(fields[at + 15 :].split(b"\r\n", 1)[0])
            piece = data[: self.missing]
            if len(self.start) < 100:
                self.start += piece[:100]
            self.missing -= len(piece)
            data = data[len(piece) :]
            if not self.missing:
                self.answer()

    def answer(self) -> None:
        if b'"initialize"' in self.start:
            self.transport.write(answer(BEGUN, b"Mcp-Session-Id: %s\r\n" % secrets.token_hex(16).encode()))
        else:
            self.transport.write(BIG if b'"big"' in self.start else SHORT)

    def stream(self) -> None:
        self.transport.write(STREAM)
        self.number = 0
        loop = asyncio.get_running_loop()
        self.due = loop.time() + random.random()
        self.ticks = loop.call_at(self.due, self.tick)

    def tick(self) -> None:
        self.number += 1
        event = EVENT % (self.number, self.number)
        self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.due += 1
        self.ticks = asyncio.get_running_loop().call_at(self.due, self.tick)


async def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
