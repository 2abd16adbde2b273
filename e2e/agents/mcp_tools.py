"""A server of tools by the official SDK of the Model Context Protocol, and clients that use it.

    mcp_tools.py serve           over HTTP: says its port, and serves until it is ended: at /mcp, and at /sse by the first transport
    mcp_tools.py serve-stdio     over its standard input and output
    mcp_tools.py call URL        lists the tools, calls one that works and one that fails; says what came of it
    mcp_tools.py call-stdio      the same of a server that it starts, and that prints something first
    mcp_tools.py agent URL       asks the model at that URL what to do, and has the tool that it calls done by such a server
"""

import asyncio
import json
import socket
import sys
import urllib.request


def tools():
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

    return server


def serve():
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server = tools()
    app = server.streamable_http_app()
    app.router.routes.extend(server.sse_app().routes)
    config = uvicorn.Config(app, log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


def serve_stdio():
    # What many a library prints before anybody has asked.
    print("Warming up", flush=True)
    print('{"level": "info"}', flush=True)
    tools().run()


def client(url=None):
    from mcp.client import Client
    from mcp.client.sse import sse_client
    from mcp.client.stdio import StdioServerParameters

    if url is None:
        return Client(StdioServerParameters(command=sys.executable, args=[__file__, "serve-stdio"]))
    return Client(sse_client(url) if url.endswith("/sse") else url)


async def call(url=None):
    async with client(url) as server:
        print(*sorted(tool.name for tool in (await server.list_tools()).tools))
        answer = await server.call_tool("add", {"a": 40, "b": 2})
        print(str(answer.is_error).lower(), answer.content[0].text)
        answer = await server.call_tool("fail", {})
        print(str(answer.is_error).lower())


async def agent(url):
    number = {"type": "integer"}
    schema = {"type": "object", "properties": {"a": number, "b": number}, "required": ["a", "b"]}
    tool = {"name": "add", "description": "Adds two numbers", "parameters": schema}
    messages = [{"role": "user", "content": 'Please add {"a": 40, "b": 2}'}]

    def ask():
        body = {"model": "gpt-4o-mini", "messages": messages, "tools": [{"type": "function", "function": tool}]}
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as response:
            message = json.load(response)["choices"][0]["message"]
        messages.append(message)
        return message.get("tool_calls") or []

    async with client() as server:
        while calls := ask():
            for asked in calls:
                arguments = json.loads(asked["function"]["arguments"])
                answer = await server.call_tool(asked["function"]["name"], arguments)
                text = answer.content[0].text
                messages.append({"role": "tool", "tool_call_id": asked["id"], "content": text})
    print(messages[-1]["content"])


match sys.argv[1:]:
    case ["serve"]:
        serve()
    case ["serve-stdio"]:
        serve_stdio()
    case ["call", url]:
        asyncio.run(call(url))
    case ["call-stdio"]:
        asyncio.run(call())
    case ["agent", url]:
        asyncio.run(agent(url))
