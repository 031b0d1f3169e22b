// A server on the TypeScript SDK (v2) with everything that the conformance suite names, in both eras: sessions with
// resumption for 2025-11-25, stateless for 2026-07-28. fixture.mjs MODULES [PORT]; says on stderr where it listens.
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { fixture, requestState } from "./fixture-offers.mjs";

const modules = process.argv[2];
const require = createRequire(join(modules, "x.js"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const sdk = await load("@modelcontextprotocol/server");
const node = await load("@modelcontextprotocol/node");
const zod = (await load("zod")).z;

// --- what happens to all: the modern era's open subscriptions hear of changes

const modern = sdk.createMcpHandler(() => build("modern"), { legacy: "reject", keepAliveMs: 0 });
const state = requestState(sdk);

const build = (era) => fixture({ sdk, zod, era, state, changes: modern.notify });

// --- the legacy era: sessions, and events that are kept for who comes back

class Events {
  #events = [];

  async storeEvent(stream, message) {
    this.#events.push({ stream, message });
    return `${stream}_${this.#events.length}`;
  }

  async getStreamIdForEventId(id) {
    return id.slice(0, id.lastIndexOf("_"));
  }

  async replayEventsAfter(id, { send }) {
    const stream = id.slice(0, id.lastIndexOf("_"));
    const after = Number(id.slice(id.lastIndexOf("_") + 1));
    for (const [index, event] of this.#events.entries()) {
      if (event.stream === stream && index + 1 > after) await send(`${stream}_${index + 1}`, event.message);
    }
    return stream;
  }
}

const sessions = new Map();

async function legacy(request, response) {
  const known = request.headers["mcp-session-id"];
  let transport = sessions.get(known);
  if (known !== undefined && transport === undefined) {
    response.writeHead(404, { "Content-Type": "application/json" });
    response.end('{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}');
    return;
  }
  if (transport === undefined) {
    transport = new node.NodeStreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      eventStore: new Events(),
      retryInterval: 50,
      onsessioninitialized: (id) => sessions.set(id, transport),
      onsessionclosed: (id) => sessions.delete(id),
    });
    await build("legacy").connect(transport);
  }
  await transport.handleRequest(request, response, request.parsed);
}

// --- both on one path

const toModern = node.toNodeHandler(modern);
const hostIsLocal = node.localhostHostValidation();
const originIsLocal = node.localhostOriginValidation();

async function serve(request, response) {
  if (!hostIsLocal(request, response) || !originIsLocal(request, response)) return;
  if (request.method === "POST") {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    try {
      request.parsed = JSON.parse(Buffer.concat(pieces).toString("utf8"));
    } catch {
      response.writeHead(400, { "Content-Type": "application/json" });
      response.end('{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}');
      return;
    }
  }
  const web = await node.toWebRequest(request, request.parsed);
  const isLegacy = await sdk.isLegacyRequest(web, request.parsed);
  await (isLegacy ? legacy(request, response) : toModern(request, response, request.parsed));
}

const http = createServer((request, response) => {
  serve(request, response).catch((error) => {
    console.error("failed:", error);
    response.destroy();
  });
});
http.listen(Number(process.argv[3] ?? 0), "127.0.0.1", () => console.error(`listening on http://127.0.0.1:${http.address().port}`));
