// What the authorizing clients of the tests share: a browser that is a user who agrees to everything, and the memory of
// a client (its registration, tokens, verifier), in the shape that the TypeScript SDK (v1 and v2) calls a provider.

const REDIRECTS_MAX = 12;

/** Where a user ends who opens `url` and agrees: the parameters of the redirection to `callback`. */
export async function browse(url, callback, fetch = globalThis.fetch) {
  const cookies = new Map();
  let at = new URL(url);
  for (let step = 0; step < REDIRECTS_MAX; step += 1) {
    if (`${at.origin}${at.pathname}` === String(callback)) return at.searchParams;
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const answer = await fetch(at, { redirect: "manual", headers: cookie ? { cookie } : {} });
    for (const field of answer.headers.getSetCookie()) {
      const [, name, value] = field.match(/^([^=]+)=([^;]*)/);
      cookies.set(name, value);
    }
    const location = answer.headers.get("location");
    if (location === null) throw new Error(`${at.origin}${at.pathname} answered ${answer.status}: ${await answer.text()}`);
    at = new URL(location, at);
  }
  throw new Error("too many redirections");
}

export class Memory {
  /** `registered`: a client that its authorization server knows already; `metadata`: laid over the client's own. */
  constructor({ registered, metadata = {}, metadataUrl, hint, fetch } = {}) {
    this.registered = registered;
    this.more = metadata;
    this.clientMetadataUrl = metadataUrl;
    this.hint = hint;
    this.fetch = fetch;
    /** What the authorization server was asked for: the parameters of each authorization request. */
    this.asked = [];
    this.answered = undefined;
    /** Every token that was ever held. */
    this.held = [];
  }

  get redirectUrl() {
    return "http://127.0.0.1:6274/callback";
  }

  get clientMetadata() {
    return {
      client_name: "peer",
      redirect_uris: [this.redirectUrl],
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
      application_type: "native",
      ...this.more,
    };
  }

  state() {
    this.sent = crypto.randomUUID();
    return this.sent;
  }

  // Registrations and tokens are kept by issuer: one of another issuer is none.
  clientInformation({ issuer } = {}) {
    const kept = this.registered;
    return kept?.issuer !== undefined && issuer !== undefined && kept.issuer !== issuer ? undefined : kept;
  }

  saveClientInformation(information) {
    this.registered = information;
  }

  tokens() {
    return this.current;
  }

  saveTokens(tokens) {
    this.current = tokens;
    this.held.push(tokens);
  }

  async redirectToAuthorization(url) {
    if (this.hint) url.searchParams.set("login_hint", this.hint);
    this.asked.push(Object.fromEntries(url.searchParams));
    this.answered = await browse(url, this.redirectUrl, this.fetch);
    if (this.answered.get("state") !== (this.sent ?? null)) throw new Error("another state came back");
  }

  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }

  codeVerifier() {
    return this.verifier;
  }

  invalidateCredentials(what) {
    if (what === "all" || what === "client") this.registered = undefined;
    if (what === "all" || what === "tokens") this.current = undefined;
    if (what === "all" || what === "verifier") this.verifier = undefined;
  }
}

/** Do `work`; when it needs the user, finish with what the user's browser brought, and do it again. */
export async function authorized(memory, work, finish, tries = 3) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      tries -= 1;
      if (tries === 0 || memory.answered === undefined) throw error;
      const answered = memory.answered;
      memory.answered = undefined;
      await finish(answered);
    }
  }
}
