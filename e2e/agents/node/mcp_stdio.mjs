// A server of tools by the official SDK of the Model Context Protocol for TypeScript, and a client that starts it and speaks to
// it over its standard input and output: lists the tools, calls one that works and one that fails; says what came of it.
import { fileURLToPath } from 'node:url';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { z } from 'zod';

async function serve() {
  const server = new McpServer({ name: 'tools', version: '1.0.0' });
  server.registerTool('add', { inputSchema: { a: z.number(), b: z.number() } }, ({ a, b }) => ({
    content: [{ type: 'text', text: String(a + b) }],
  }));
  server.registerTool('fail', { inputSchema: {} }, () => {
    throw new Error('as it was told to');
  });
  console.log('Listening');
  await server.connect(new StdioServerTransport());
}

async function call() {
  const args = [fileURLToPath(import.meta.url), 'serve'];
  const client = new Client({ name: 'client', version: '1.0.0' });
  // It complains about what the server prints beside its messages, and goes on.
  client.onerror = () => {};
  await client.connect(new StdioClientTransport({ command: process.execPath, args }));
  const { tools } = await client.listTools();
  console.log(JSON.stringify(tools.map((tool) => tool.name).sort()));
  const answer = await client.callTool({ name: 'add', arguments: { a: 40, b: 2 } });
  console.log(answer.isError ?? false, answer.content[0].text);
  // Longer than a socket takes at once: written in parts.
  const long = await client.callTool({ name: 'add', arguments: { a: 1, b: 2, text: 'x'.repeat(1 << 20) } });
  console.log(long.content[0].text);
  console.log((await client.callTool({ name: 'fail', arguments: {} })).isError);
  await client.close();
}

await (process.argv[2] === 'serve' ? serve() : call());
