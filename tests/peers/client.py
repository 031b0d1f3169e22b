"""The Python SDK drives a server: client.py URL http|sse, or for server-everything over stdin and stdout client.py COMMAND stdio, the
command as a JSON array, or client.py URL bridged, where it stands behind HTTP; prints what it saw."""

import asyncio
import json
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client

try:
    from mcp.client.streamable_http import streamable_http_client as http_client
except ImportError:
    from mcp.client.streamable_http import streamablehttp_client as http_client


async def main(url: str, transport: str) -> None:
    if transport == "stdio":
        command, *arguments = json.loads(url)
        connected = stdio_client(StdioServerParameters(command=command, args=arguments))
        said = ("echo", {"message": "hello"})
        slow = ("trigger-long-running-operation", {"duration": 0.2, "steps": 4})
    elif transport == "bridged":
        connected = http_client(url)
        said = ("echo", {"message": "hello"})
        slow = ("trigger-long-running-operation", {"duration": 0.2, "steps": 4})
    else:
        connected = (sse_client if transport == "sse" else http_client)(url)
        said = ("echo", {"text": "hello"})
        slow = ("slow", {"steps": 4, "interval": 5})
    async with connected as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            begun = await session.initialize()
            tools = await session.list_tools()
            echo = await session.call_tool(*said)
            progress = []

            async def report(done, total, message) -> None:
                progress.append(done)

            await session.call_tool(*slow, progress_callback=report)
            resources = await session.list_resources()
            prompts = await session.list_prompts()
            info = getattr(begun, "serverInfo", None) or getattr(begun, "server_info")
            seen = {
                "server": info.name,
                "tools": sorted(tool.name for tool in tools.tools),
                "echo": echo.content[0].text,
                "progress": len(progress),
                "resources": len(resources.resources),
                "prompts": sorted(prompt.name for prompt in prompts.prompts),
            }
            print(json.dumps(seen, sort_keys=True))


asyncio.run(main(sys.argv[1], sys.argv[2]))
