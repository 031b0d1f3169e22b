// A TypeScript SDK client (v1) drives a server: client.mjs MODULES URL http|sse demo|everything, or
// client.mjs MODULES COMMAND stdio everything, the command as a JSON array; prints what it saw.
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [modules, url, transport, kind] = process.argv.slice(2);
const sdk = (path) => import(pathToFileURL(join(modules, "@modelcontextprotocol/sdk/dist/esm", path)).href);
const { Client } = await sdk("client/index.js");
const { StreamableHTTPClientTransport } = await sdk("client/streamableHttp.js");
const { SSEClientTransport } = await sdk("client/sse.js");
const { StdioClientTransport } = await sdk("client/stdio.js");
const types = await sdk("types.js");

const client = new Client({ name: "peer", version: "1" }, { capabilities: { elicitation: {}, sampling: {} } });
let asked = 0;
client.setRequestHandler(types.ElicitRequestSchema, async () => {
  asked += 1;
  return { action: "accept", content: { name: "Ada", answer: "42", confirmed: true } };
});
const wires = {
  http: () => new StreamableHTTPClientTransport(new URL(url)),
  sse: () => new SSEClientTransport(new URL(url)),
  stdio: () => {
    const [command, ...args] = JSON.parse(url);
    return new StdioClientTransport({ command, args });
  },
};
const wire = wires[transport]();
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
if (transport === "stdio" || kind === "bridged") {
  // A long message each way, progress, a request of the server's.
  const long = "long".repeat(300_000);
  seen.long = (await client.callTool({ name: "echo", arguments: { message: long } })).content[0].text === `Echo: ${long}`;
  // Counted as it arrives: this client drops progress that comes in one read with the answer, whoever sends it.
  const steps = [];
  const dispatch = wire.onmessage;
  wire.onmessage = (message, extra) => {
    if (message.method === "notifications/progress") steps.push(message.params.progress);
    dispatch(message, extra);
  };
  const operation = { name: "trigger-long-running-operation", arguments: { duration: 0.2, steps: 4 } };
  seen.operation = await client.callTool(operation, undefined, { onprogress: () => {} });
  seen.progress = steps;
  seen.elicited = await client.callTool({ name: "trigger-elicitation-request", arguments: {} });
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
const pid = wire.pid;
const begun = performance.now();
await client.close();
if (transport === "stdio") {
  // The client waits two seconds for the server's end before it sends signals.
  seen.closed = performance.now() - begun < 1900 ? "by itself" : "by signals";
  try {
    process.kill(pid, 0);
    seen.left = true;
  } catch {
    seen.left = false;
  }
}
console.log(JSON.stringify(seen));
process.exit(0);
