// A TypeScript SDK client without a token is led through the whole of the authorization by what a server answers:
// auth-flow.mjs MODULES URL v1|v2 user|offline|machine; prints what it saw. The tool `slow` needs a scope more than the others.
// Of what it held, tokens and codes, it prints all, for whoever wants to know where they went.
import { createHash, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Memory, authorized, browse } from "./oauth.mjs";

const [modules, url, sdk, kind] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const v1 = (path) => load(`@modelcontextprotocol/sdk/client/${path}`);
const { Client, StreamableHTTPClientTransport, ClientCredentialsProvider } =
  sdk === "v2"
    ? await load("@modelcontextprotocol/client")
    : { ...(await v1("index.js")), ...(await v1("streamableHttp.js")), ...(await v1("auth-extensions.js")) };

// v1 comes with a client that its authorization server knows; v2 registers one (RFC 7591).
const registered = sdk === "v1" ? { client_id: "app", redirect_uris: ["http://127.0.0.1/callback"] } : undefined;
const machine = { clientId: "robot", clientSecret: "robot-secret", scope: "read" };
const memory = kind === "machine" ? new ClientCredentialsProvider(machine) : new Memory({ registered, hint: "ada" });
const held = [];
const save = memory.saveTokens.bind(memory);
memory.saveTokens = (tokens) => {
  held.push(tokens);
  return save(tokens);
};
if (kind === "offline" && sdk === "v1") {
  // It asks for the scopes of the challenge alone; a refresh token is for the application to ask for.
  const redirect = memory.redirectToAuthorization.bind(memory);
  memory.redirectToAuthorization = (to) => {
    to.searchParams.set("scope", `${to.searchParams.get("scope")} offline_access`);
    to.searchParams.set("prompt", "consent");
    return redirect(to);
  };
}

const statuses = [];
const counting = async (...args) => {
  const answer = await fetch(...args);
  if (String(args[0].url ?? args[0]) === url) statuses.push(answer.status);
  return answer;
};
let client;
let transport;
const connect = async () => {
  client = new Client({ name: "peer", version: "1" }, { capabilities: {} });
  transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: memory, fetch: counting });
  await client.connect(transport);
};
const finish = (answered) => (sdk === "v2" ? transport.finishAuth(answered) : transport.finishAuth(answered.get("code")));
const call = (name, args) => authorized(memory, () => client.callTool({ name, arguments: args }), finish);
const echo = async () => (await call("echo", { text: "hello" })).content[0].text;
const slow = async () => (await call("slow", { steps: 1, interval: 1 })).content[0].text;

const seen = {};
await authorized(memory, connect, finish);
seen.first = [...statuses];
seen.echo = await echo();
seen.scope = held.at(-1).scope;
try {
  seen.slow = await slow();
} catch (error) {
  seen.slow = `refused: ${error.message}`;
}
seen.stepped = held.at(-1).scope;

// Until the token has expired: the client gets another, by its refresh token or its secret, or asks the user again.
const before = held.length;
const asked = memory.asked?.length;
for (let tries = 0; held.length === before && tries < 200; tries += 1) {
  await after(100);
  await echo();
}
seen.renewed = held.length === before ? "no" : memory.asked?.length === asked ? "alone" : "by the user";
seen.still = await echo();
await transport.terminateSession();
await client.close();
seen.asked = [];
if (kind !== "machine") {
  seen.asked = memory.asked.map(({ scope, resource, code_challenge_method }) => ({ scope, resource, code_challenge_method }));
  seen.elsewhere = await elsewhere();
}
seen.held = held.flatMap((tokens) => [tokens.access_token, tokens.refresh_token]).filter((token) => token !== undefined);
console.log(JSON.stringify(seen));
process.exit(0);

/** What a token of the same user and client, which was asked for another resource, is worth here. */
async function elsewhere() {
  const metadataUrl = new URL(`/.well-known/oauth-protected-resource${new URL(url).pathname}`, url);
  const [issuer] = (await (await fetch(metadataUrl)).json()).authorization_servers;
  const server = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
  const verifier = randomBytes(32).toString("base64url");
  const challenge = createHash("sha256").update(verifier).digest("base64url");
  const { client_id } = memory.clientInformation();
  const resource = "https://other.example/mcp";
  const query = { client_id, response_type: "code", redirect_uri: memory.redirectUrl, scope: "read", resource, state: "s" };
  const to = new URL(server.authorization_endpoint);
  to.search = new URLSearchParams({ ...query, code_challenge: challenge, code_challenge_method: "S256", login_hint: "ada" });
  const code = (await browse(to, memory.redirectUrl)).get("code");
  const grant = { grant_type: "authorization_code", code, client_id, redirect_uri: memory.redirectUrl, resource };
  const body = new URLSearchParams({ ...grant, code_verifier: verifier });
  const tokens = await (await fetch(server.token_endpoint, { method: "POST", body })).json();
  held.push(tokens);
  const claims = JSON.parse(Buffer.from(tokens.access_token.split(".")[1], "base64url"));
  const headers = { authorization: `Bearer ${tokens.access_token}`, "content-type": "application/json" };
  const ping = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "ping" });
  const answer = await fetch(url, { method: "POST", headers, body: ping });
  return { aud: claims.aud, status: answer.status, challenge: answer.headers.get("www-authenticate").split(",")[0] };
}
