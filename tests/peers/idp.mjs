// A real authorization server on loopback: npm oidc-provider, set up as MCP deployments have it.
//   node idp.mjs            says on stderr where it listens: "idp listening on http://127.0.0.1:PORT"
// Environment: IDP_RESOURCE (default resource of tokens), IDP_ALG (RS256, ES256, EdDSA), IDP_TTL (seconds), IDP_ISSUER_PATH
// (such as /realm, to serve below a path).
//
// Clients: `shadowcat` (confidential; login, introspection), `upstream` (confidential; client credentials),
// `robot` and `robot-opaque` (client credentials as a caller), `app` (public, PKCE); others may register (RFC 7591).
// The secret of each is its name with `-secret`. Tokens are JWTs, but for clients whose name ends in `-opaque`.
// Users log in without a page: the one of `login_hint`, else alice.
//
// For tests alone: POST /rotate {"keep": bool, "alg"}: new signing key, the old one published on or gone;
// POST /mint {"claims", "header", "old"}: a token with these, signed with the current or the former key;
// POST /refresh-token {"client"}: a refresh token of that client, as it would have been given;
// POST /fail {"path", "status"}: answers to paths that end so are this status, until told otherwise (status 0);
// GET /asked: how often each path was asked for.
import { createServer } from 'node:http';
import { createPrivateKey, generateKeyPairSync, randomUUID, sign as signBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

// Packages stand where setup.sh put them, which is where this node is, not where this file is.
const modules = process.env.IDP_MODULES ?? join(dirname(process.execPath), '..', '..');
const { Provider } = await import(pathToFileURL(join(modules, 'oidc-provider', 'lib', 'index.js')));

const ttl = Number(process.env.IDP_TTL ?? 3600);
const path = process.env.IDP_ISSUER_PATH ?? '';
const scopes = ['read', 'write', 'mcp'];

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
const issuer = `${origin}${path}`;
const resource = process.env.IDP_RESOURCE ?? 'https://proxy.example.com';

let alg = process.env.IDP_ALG ?? 'RS256';
let [current, former] = [newKey(alg), undefined];
let provider = build([current]);
const asked = {};
const failing = new Map();

server.on('request', async (request, response) => {
  const url = new URL(request.url, origin);
  asked[url.pathname] = (asked[url.pathname] ?? 0) + 1;
  const hook = hooks[`${request.method} ${url.pathname}`];
  const failure = [...failing].find(([ending]) => url.pathname.endsWith(ending));
  try {
    if (hook) {
      answer(response, 200, await hook(request.method === 'POST' ? JSON.parse((await body(request)) || '{}') : {}));
    } else if (failure) {
      answer(response, failure[1], {});
    } else if (url.pathname.startsWith(`${path}/login/`)) {
      await logIn(request, response);
    } else if (request.method === 'POST' && url.pathname === `${path}/reg`) {
      // What a client may ask for is for the user to say, each time, and not for its first request: clients register
      // with the scopes that they were asked for at that moment.
      const { scope: _, ...metadata } = JSON.parse(await body(request));
      Object.assign(request, { body: metadata, originalUrl: request.url, url: '/reg' });
      provider.callback()(request, response);
    } else if (url.pathname.startsWith('/.well-known/') && path && url.pathname.endsWith(path)) {
      // Metadata with the issuer's path at its end (RFC 8414 section 3.1).
      request.url = url.pathname.slice(0, -path.length) + url.search;
      request.originalUrl = path + request.url;
      provider.callback()(request, response);
    } else if (url.pathname.startsWith(path)) {
      request.originalUrl = request.url;
      request.url = request.url.slice(path.length) || '/';
      provider.callback()(request, response);
    } else {
      answer(response, 404, {});
    }
  } catch (error) {
    answer(response, 500, { error: String(error) });
  }
});
console.error(`idp listening on ${origin}`);

const hooks = {
  'POST /rotate': ({ keep = true, alg: next = alg }) => {
    [former, current, alg] = [current, newKey(next), next];
    // Tokens and grants live on: the storage is shared by all providers of the process.
    provider = build(keep ? [current, former] : [current]);
    return { kid: current.kid };
  },
  'POST /mint': ({ claims = {}, header = {}, old = false }) => ({ token: mint(old ? former : current, header, claims) }),
  'POST /refresh-token': async ({ client }) => {
    const grant = new provider.Grant({ accountId: 'alice', clientId: client });
    grant.addResourceScope(resource, 'read');
    const more = { grantId: await grant.save(), scope: 'read', resource, gty: 'authorization_code' };
    const token = new provider.RefreshToken({ accountId: 'alice', client: await provider.Client.find(client), ...more });
    return { token: await token.save() };
  },
  'POST /fail': ({ path: ending, status }) => {
    failing.delete(ending);
    if (status) failing.set(ending, status);
    return {};
  },
  'GET /asked': () => asked,
};

function newKey(alg) {
  const pair = {
    RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    EdDSA: () => generateKeyPairSync('ed25519'),
  }[alg]();
  return { ...pair.privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg, use: 'sig' };
}

function mint(key, header, claims) {
  const now = Math.floor(Date.now() / 1000);
  const good = { iss: issuer, sub: 'alice', aud: resource, scope: 'read', iat: now, exp: now + ttl };
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const signed = `${encode({ alg: key.alg, typ: 'at+jwt', kid: key.kid, ...header })}.${encode({ ...good, ...claims })}`;
  const options = { key: createPrivateKey({ key, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
  const signature = signBytes(key.alg === 'EdDSA' ? null : 'sha256', Buffer.from(signed), options);
  return `${signed}.${signature.toString('base64url')}`;
}

function build(keys) {
  const client = (client_id, more) => ({
    client_id,
    client_secret: `${client_id}-secret`,
    token_endpoint_auth_method: 'client_secret_basic',
    id_token_signed_response_alg: keys[0].alg,
    redirect_uris: [],
    response_types: [],
    grant_types: ['client_credentials'],
    scope: scopes.join(' '),
    ...more,
  });
  const login = {
    // Native: a redirection to loopback fits with any port (RFC 8252 section 7.3).
    application_type: 'native',
    redirect_uris: ['http://127.0.0.1/callback', 'http://localhost/callback', 'https://proxy.example.com/callback'],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    scope: ['openid', 'offline_access', ...scopes].join(' '),
  };
  const made = new Provider(issuer, {
    jwks: { keys },
    clients: [
      client('shadowcat', login),
      client('app', { ...login, client_secret: undefined, token_endpoint_auth_method: 'none' }),
      client('upstream'),
      client('robot'),
      client('robot-opaque'),
    ],
    scopes: ['openid', 'offline_access', ...scopes],
    cookies: { keys: ['only for tests'] },
    pkce: { required: () => true },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA', 'Ed25519'] },
    ttl: { AccessToken: ttl, ClientCredentials: ttl, AuthorizationCode: 60, IdToken: 60, Grant: 3600, Session: 3600, Interaction: 60 },
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    interactions: { url: (_, interaction) => `${path}/login/${interaction.uid}` },
    clientBasedCORS: () => true,
    clientDefaults: { id_token_signed_response_alg: keys[0].alg },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => resource,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, audience, { clientId }) => ({
          audience,
          scope: scopes.join(' '),
          accessTokenTTL: ttl,
          accessTokenFormat: clientId.endsWith('-opaque') ? 'opaque' : 'jwt',
          jwt: { sign: { alg: keys[0].alg } },
        }),
      },
    },
  });
  made.on('server_error', (_, error) => console.error('server_error', error));
  return made;
}

// Log the user in and consent to everything that is asked.
async function logIn(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    const result = { login: { accountId: params.login_hint ?? 'alice' } };
    return provider.interactionFinished(request, response, result);
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope ?? 'openid');
  grant.addResourceScope(params.resource ?? resource, params.scope ?? scopes.join(' '));
  const result = { consent: { grantId: await grant.save() } };
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

function answer(response, status, value) {
  const text = JSON.stringify(value);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
