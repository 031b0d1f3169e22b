// The client that the conformance suite's scenarios `auth/*` start: auth-client.mjs MODULES URL, on the TypeScript SDK
// (v2). Says on stdout how it went. `AUTH_WAY`:
//   direct  to the suite's server
//   name    the server's own name leads to a proxy in front of it, as DNS does it in a deployment
//   url     the proxy has a name of its own, which the server was not told
// Scenarios of other things end at once: the suite has no name for all of `auth/*`.
// A proxy is started for each scenario: `AUTH_PROXY` is its program, `AUTH_DRIVER` what it runs on.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Memory, authorized } from "./oauth.mjs";

const [modules, given] = process.argv.slice(2);
const scenario = process.env.MCP_CONFORMANCE_SCENARIO;
if (!scenario.startsWith("auth/")) process.exit(0);
const require = createRequire(join(modules, "x.js"));
const sdk = await import(pathToFileURL(require.resolve("@modelcontextprotocol/client")).href);
const way = process.env.AUTH_WAY ?? "direct";
const version = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION;
const told = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? "{}");

async function startProxy(upstream) {
  const args = ["reverse", "--bind", "127.0.0.1:0", "--workers", "1", "--driver", process.env.AUTH_DRIVER];
  args.push("--upstream", upstream, "--set", "session.store=memory");
  const child = spawn(process.env.AUTH_PROXY, args, { stdio: ["ignore", "ignore", "pipe"] });
  for await (const line of createInterface({ input: child.stderr })) {
    const at = line.match(/listening on http:\/\/([\d.:]+)/);
    if (at) {
      child.stderr.resume();
      return { child, address: at[1] };
    }
  }
  throw new Error("the proxy does not start");
}

const own = new URL(given).origin;
const proxy = way === "direct" ? undefined : await startProxy(own.replace("localhost", "127.0.0.1"));
const target = way === "url" ? given.replace(own, `http://${proxy.address}`) : given;

/** As fetch; where the server's name leads to the proxy, so do we, and the name is kept in `Host`. */
const reach = async (input, init = {}) => {
  const url = new URL(input.url ?? input);
  if (way !== "name" || url.origin !== own) return fetch(input, init);
  const headers = new Headers(init.headers);
  headers.set("host", url.host);
  return fetch(url.href.replace(own, `http://${proxy.address}`), { ...init, headers });
};

async function provider() {
  const clientId = told.client_id;
  const clientSecret = told.client_secret;
  switch (scenario) {
    case "auth/client-credentials-basic":
      return new sdk.ClientCredentialsProvider({ clientId, clientSecret });
    case "auth/client-credentials-jwt":
      return new sdk.PrivateKeyJwtProvider({ clientId, privateKey: told.private_key_pem, algorithm: told.signing_algorithm });
    case "auth/enterprise-managed-authorization":
      return new sdk.CrossAppAccessProvider({
        clientId,
        clientSecret,
        fetchFn: reach,
        assertion: async ({ authorizationServerUrl, resourceUrl, fetchFn }) => {
          const idToken = told.idp_id_token;
          const [idp, id] = [told.idp_token_endpoint, told.idp_client_id];
          const of = { audience: authorizationServerUrl, resource: resourceUrl, fetchFn, idToken, clientId: id };
          return (await sdk.requestJwtAuthorizationGrant({ tokenEndpoint: idp, ...of })).jwtAuthGrant;
        },
      });
    case "auth/wif-jwt-bearer": {
      // The SDK has no provider for it, and lets a provider say what its token request holds.
      const memory = new Memory({ registered: { client_id: clientId }, fetch: reach });
      const grant = { grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer", assertion: told.valid_jwt };
      memory.prepareTokenRequest = () => new URLSearchParams(grant);
      Object.defineProperty(memory, "redirectUrl", { value: undefined });
      return memory;
    }
    case "auth/pre-registration":
      return new Memory({ registered: { client_id: clientId, client_secret: clientSecret }, fetch: reach });
    case "auth/dpop":
    case "auth/dpop-nonce": {
      const [memory, session] = [new Memory({ fetch: reach }), await sdk.DpopSession.create()];
      memory.dpop = () => session;
      return memory;
    }
    default: {
      const metadataUrl = scenario === "auth/basic-cimd" ? "https://conformance-test.local/client-metadata.json" : undefined;
      return new Memory({ metadataUrl, fetch: reach });
    }
  }
}

const authProvider = await provider();
const mode = version === "2026-07-28" ? { pin: version } : "legacy";
let client;
let transport;
const connect = async () => {
  client = new sdk.Client({ name: "peer", version: "1" }, { versionNegotiation: { mode } });
  transport = new sdk.StreamableHTTPClientTransport(new URL(target), { authProvider, fetch: reach });
  await client.connect(transport);
};
const finish = (answered) => transport.finishAuth(answered);

let outcome = "completed";
try {
  await authorized(authProvider, connect, finish);
  await authorized(authProvider, () => client.listTools(), finish);
  await authorized(authProvider, () => client.callTool({ name: "test-tool", arguments: {} }), finish);
  await client.close();
} catch (error) {
  outcome = error.constructor.name;
  console.error(error);
}
let requests = 0;
if (proxy) {
  const metrics = await (await fetch(`http://${proxy.address}/metrics`)).text();
  for (const [, count] of metrics.matchAll(/^shadowcat_requests_total\{[^}]*\} (\d+)/gm)) requests += Number(count);
  proxy.child.kill();
}
console.log(JSON.stringify({ outcome, requests }));
process.exit(outcome === "completed" ? 0 : 1);
