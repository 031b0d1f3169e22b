// A TypeScript SDK client (v2) drives the fixture server in one of its three ways to find the era:
// client-v2.mjs MODULES URL legacy|auto|pinned, or a command as a JSON array in place of the URL; prints what it saw.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, url, way] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const sdk = await import(pathToFileURL(require.resolve("@modelcontextprotocol/client")).href);

const mode = way === "pinned" ? { pin: "2026-07-28" } : way;
const client = new sdk.Client(
  { name: "peer", version: "2" },
  { capabilities: { elicitation: {}, sampling: {}, roots: {} }, versionNegotiation: { mode } },
);
const asked = [];
client.setRequestHandler("elicitation/create", async ({ params }) => {
  asked.push(params.message);
  const content = { username: "ada", email: "ada@example.com", name: "Ada", color: "green", ok: true };
  const known = Object.keys(params.requestedSchema.properties);
  return { action: "accept", content: Object.fromEntries(Object.entries(content).filter(([key]) => known.includes(key))) };
});
client.setRequestHandler("sampling/createMessage", async () => ({
  role: "assistant",
  model: "none",
  content: { type: "text", text: "Paris" },
}));
client.setRequestHandler("roots/list", async () => ({ roots: [{ uri: "file:///a", name: "a" }] }));

const connect = async () => {
  if (!url.startsWith("[")) return new sdk.StreamableHTTPClientTransport(new URL(url));
  const stdio = await import(pathToFileURL(require.resolve("@modelcontextprotocol/client/stdio")).href);
  const [command, ...args] = JSON.parse(url);
  return new stdio.StdioClientTransport({ command, args });
};
const transport = await connect();
await client.connect(transport);
const modern = way !== "legacy";
const seen = { server: client.getServerVersion()?.name, era: client.getProtocolEra?.() };
const call = async (name, args = {}, options) => (await client.callTool({ name, arguments: args }, options)).content;

seen.tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
seen.text = await call("test_simple_text");
seen.image = (await call("test_image_content"))[0].mimeType;
seen.failed = (await client.callTool({ name: "test_error_handling", arguments: {} })).isError;
const steps = [];
seen.progressed = await call("test_tool_with_progress", {}, { onprogress: ({ progress }) => steps.push(progress) });
seen.steps = steps;
seen.read = (await client.readResource({ uri: "test://static-text" })).contents;
seen.template = (await client.readResource({ uri: "test://template/7/data" })).contents;
const prompt = { name: "test_prompt_with_arguments", arguments: { arg1: "a", arg2: "b" } };
seen.prompt = (await client.getPrompt(prompt)).messages;
const ref = { type: "ref/prompt", name: "test_prompt_with_arguments" };
seen.completion = (await client.complete({ ref, argument: { name: "arg1", value: "par" } })).completion.values;

if (modern) {
  seen.input = await call("test_input_required_result_elicitation");
  seen.rounds = await call("test_input_required_result_multi_round");
  seen.several = await call("test_input_required_result_multiple_inputs");
  seen.state = await call("test_input_required_result_request_state");
  const heard = new Promise((resolve) => client.setNotificationHandler("notifications/tools/list_changed", resolve));
  const subscription = await client.listen({ toolsListChanged: true });
  await call("test_trigger_tool_change");
  seen.heard = (await heard).method;
  await subscription.close();
} else {
  seen.elicited = await call("test_elicitation", { message: "Who?" });
  seen.sampled = await call("test_sampling", { prompt: "The capital of France?" });
}
seen.asked = asked;

// Cancelled in the middle: upstream hears of it, in whatever way its era has.
const before = (await call("test_count_cancelled"))[0].text;
const cut = new AbortController();
const running = call("test_until_cancelled", {}, { signal: cut.signal }).then(() => "answered", () => "cancelled");
await call("test_simple_text");
cut.abort();
seen.cut = await running;
let after = before;
for (let tries = 0; after === before && tries < 500; tries += 1) after = (await call("test_count_cancelled"))[0].text;
seen.cancelled = Number(after) - Number(before);
let missing = "no error";
try {
  await client.readResource({ uri: "test://nowhere" });
} catch (error) {
  missing = error.code;
}
seen.missing = missing;
if (!modern) await transport.terminateSession?.();
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
