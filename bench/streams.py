#!/usr/bin/env python3
"""Many event streams through one worker: what is lost, and the proxy's memory a stream.

usage: bench/streams.py [--streams 2000] [--seconds 10] [--driver io_uring|epoll] [--binary target/release/shadowcat]

One event a second on each stream. Upstream and clients are processes of this script; memory is the resident set of the
proxy with all streams open less that with none (user memory: the kernel's socket buffers are not in it).
"""

import argparse
import asyncio
import multiprocessing
import os
import re
import resource
import subprocess


async def serve(queue, seconds: int) -> None:
    async def one(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(seconds):
                event = b"id: %d\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tick\"}\n\n" % number
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(1)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, backlog=4096)
    queue.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def upstream(queue, seconds: int) -> None:
    raise_limit()
    asyncio.run(serve(queue, seconds))


async def listen(port: int, opened: asyncio.Semaphore) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    opened.release()
    body = b""
    while not body.endswith(b"0\r\n\r\n"):
        piece = await reader.read(65536)
        if not piece:
            break
        body += piece
    writer.close()
    ids = re.findall(rb"id: (\d+)\n", body)
    assert ids == [b"%d" % i for i in range(len(ids))], "events out of order"
    return len(ids)


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def cpu(pid: int) -> int:
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total


async def drive(port: int, pid: int, streams: int, seconds: int) -> None:
    idle = resident(pid)
    opened = asyncio.Semaphore(0)
    before = cpu(pid)
    tasks = []
    for start in range(0, streams, 100):
        tasks += [asyncio.create_task(listen(port, opened)) for _ in range(min(100, streams - start))]
        for _ in range(min(100, streams - start)):
            await opened.acquire()
    await asyncio.sleep(2)
    each = (resident(pid) - idle) / streams
    got = sum(await asyncio.gather(*tasks))
    spent = cpu(pid) - before
    print(f"{streams} streams, {seconds} events each: {got} of {streams * seconds} events came")
    print(f"user memory a stream: {each / 1024:.1f} KiB; CPU an event: {spent / got / 1000:.1f} us (with opening)")
    if got != streams * seconds:
        raise SystemExit("events were lost")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--binary", default="target/release/shadowcat")
    options = parser.parse_args()
    raise_limit()
    queue = multiprocessing.Queue()
    server = multiprocessing.Process(target=upstream, args=(queue, options.seconds), daemon=True)
    server.start()
    target = f"http://127.0.0.1:{queue.get()}"
    command = [options.binary, "reverse", "--bind", "127.0.0.1:0", "--upstream", target, "--workers", "1"]
    command += ["--driver", options.driver, "--set", "session.store=memory"]
    proxy = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in proxy.stderr if "listening on" in line)
        port = int(line.strip().rsplit(":", 1)[1])
        asyncio.run(drive(port, proxy.pid, options.streams, options.seconds))
    finally:
        proxy.kill()
        server.kill()


main()
