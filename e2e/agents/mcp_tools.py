"""A server of tools by the official SDK of the Model Context Protocol, over HTTP, and a client that uses it.

    mcp_tools.py serve           says its port, and serves until it is ended: at /mcp, and at /sse by the first transport
    mcp_tools.py call URL        lists the tools, calls one that works and one that fails; says what came of it
"""

import asyncio
import socket
import sys


def serve():
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("tools")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool()
    def fail() -> str:
        """Always fails."""
        raise ValueError("as it was told to")

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = server.streamable_http_app()
    app.router.routes.extend(server.sse_app().routes)
    config = uvicorn.Config(app, log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


async def call(url):
    from mcp.client import Client
    from mcp.client.sse import sse_client

    async with Client(sse_client(url) if url.endswith("/sse") else url) as client:
        print(*sorted(tool.name for tool in (await client.list_tools()).tools))
        answer = await client.call_tool("add", {"a": 40, "b": 2})
        print(str(answer.is_error).lower(), answer.content[0].text)
        answer = await client.call_tool("fail", {})
        print(str(answer.is_error).lower())


if sys.argv[1] == "serve":
    serve()
else:
    asyncio.run(call(sys.argv[2]))
