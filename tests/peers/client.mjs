// A TypeScript SDK client (v1) drives a server: client.mjs MODULES URL http|sse demo|everything; prints what it saw.
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [modules, url, transport, kind] = process.argv.slice(2);
const sdk = (path) => import(pathToFileURL(join(modules, "@modelcontextprotocol/sdk/dist/esm", path)).href);
const { Client } = await sdk("client/index.js");
const { StreamableHTTPClientTransport } = await sdk("client/streamableHttp.js");
const { SSEClientTransport } = await sdk("client/sse.js");
const types = await sdk("types.js");

const client = new Client({ name: "peer", version: "1" }, { capabilities: { elicitation: {}, sampling: {} } });
let asked = 0;
client.setRequestHandler(types.ElicitRequestSchema, async () => {
  asked += 1;
  return { action: "accept", content: { name: "Ada", answer: "42", confirmed: true } };
});
const wire = transport === "sse" ? new SSEClientTransport(new URL(url)) : new StreamableHTTPClientTransport(new URL(url));
await client.connect(wire);
const seen = {};
seen.server = client.getServerVersion().name;
seen.tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
await client.ping();
seen.echo = await client.callTool({ name: "echo", arguments: kind === "demo" ? { text: "hello" } : { message: "hello" } });
if (kind === "demo") {
  const steps = [];
  seen.slow = await client.callTool({ name: "slow", arguments: { steps: 4, interval: 5 } }, undefined, {
    onprogress: (progress) => steps.push(progress.progress),
  });
  seen.progress = steps.length;
  seen.ask = await client.callTool({ name: "ask", arguments: { question: "who?" } });
  seen.asked = asked;
}
const { resources } = await client.listResources();
seen.resources = resources.length;
seen.read = (await client.readResource({ uri: resources[0].uri })).contents.length;
seen.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name).sort();
let missing = "";
try {
  const result = await client.callTool({ name: "no-such-tool", arguments: {} });
  missing = result.isError ? "isError" : "no error";
} catch (error) {
  missing = String(error.code);
}
seen.missing = missing;
if (transport === "http") {
  seen.session = typeof wire.sessionId;
  await wire.terminateSession();
}
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
