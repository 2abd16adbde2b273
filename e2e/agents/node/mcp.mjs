// A client of a server of tools, by the official SDK of the Model Context Protocol; what it does and says is what mcp_tools.py does.
//
//     node mcp.mjs http|sse URL
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [transport, url] = process.argv.slice(2);
const Transport = transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
const client = new Client({ name: "e2e", version: "1" });
await client.connect(new Transport(new URL(url)));
console.log((await client.listTools()).tools.map((tool) => tool.name).sort().join(" "));
const add = await client.callTool({ name: "add", arguments: { a: 40, b: 2 } });
console.log(add.isError ?? false, add.content[0].text);
console.log((await client.callTool({ name: "fail", arguments: {} })).isError);
await client.close();
