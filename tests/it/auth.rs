//! Who may ask: tokens and keys that are taken, forgeries that are not, and what each side learns of the other.

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use shadowcat::wire::jose::encode_base64url;

use crate::on_both_drivers;
use crate::support::client::Response;
use crate::support::idp::{Idp, now};
use crate::support::mcp::{Replica, call, delete, in_session, initialize, listen, request};
use crate::support::proxy::Builder;
use crate::support::*;

on_both_drivers!(
    a_token_lets_in_and_goes_no_further,
    without_a_credential_a_client_is_told_where_to_get_one,
    forged_tokens_are_refused,
    ambiguous_credentials_are_refused,
    a_token_in_the_query_is_refused,
    an_expired_token_is_refused_on_a_connection_that_was_let_in,
    keys_that_rotate_are_found,
    a_flood_of_unknown_keys_costs_a_handful_of_fetches,
    an_issuer_without_keys_is_503_and_not_401,
    nothing_to_verify_with_fails_closed,
    opaque_tokens_are_introspected,
    an_answer_about_a_token_is_believed_as_long_as_configured,
    api_keys_are_taken_by_their_hash,
    providers_are_asked_in_order,
    scopes_are_asked_for,
    rules_look_into_the_body,
    public_paths_need_no_credential,
    sessions_belong_to_who_began_them,
    identity_is_told_to_upstream_and_claimed_by_nobody,
    upstream_gets_its_own_credential,
    users_are_limited_one_by_one,
    metrics_name_a_thousand_users,
    secrets_are_in_no_log,
);

const KEYS: &str = "audience = [\"https://mcp.example.com\"]\n";

fn guarded(driver: Driver, idp: &Idp, upstream: &FakeUpstream, more: &str) -> Builder {
    let auth = format!("[auth]\nissuer = \"{}\"\n{KEYS}{more}", idp.issuer());
    Proxy::before(driver, &[upstream]).config(&auth)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Ask until keys have been fetched: a proxy accepts before its issuers have answered.
fn ready(proxy: &Proxy, token: &str) -> Response {
    let mut last = None;
    wait_until("the keys to be there", || {
        let answer = last.insert(proxy.ask(&get("/", &bearer(token))));
        answer.status != 503
    });
    last.expect("an answer")
}

fn a_token_lets_in_and_goes_no_further(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").start();
    let token = idp.token("alice");
    assert_eq!(ready(&proxy, &token).status, 200);
    let mut client = proxy.connect();
    for id in 0..5 {
        assert_eq!(client.ask(&post_json("/mcp", &bearer(&token), &request(id, "ping"))).status, 200);
    }
    for request in upstream.requests() {
        assert!(!request.head.has("authorization"), "{:?}", request.head);
    }
    assert!(!upstream.received_text().contains(&token));
    for probe in ["/health", "/ready"] {
        assert_eq!(proxy.ask(&get(probe, "")).status, 200);
    }
    assert_eq!(idp.asked("/jwks"), 1);
}

fn without_a_credential_a_client_is_told_where_to_get_one(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "scopes = [\"read\", \"write\"]\n").start();
    ready(&proxy, &idp.token("alice"));
    let mut client = proxy.connect();
    let refused = client.ask(&post_json("/mcp", "", &request(7, "ping")));
    assert_eq!((refused.status, refused.closes()), (401, false));
    let metadata = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp";
    let challenge = format!(r#"Bearer scope="read write", resource_metadata="{metadata}""#);
    assert_eq!(refused.one("www-authenticate"), Some(challenge.as_str()));
    assert_eq!(refused.json()["id"], 7);
    // A client asks its token for the resource that the metadata names.
    for resource in ["https://mcp.example.com", "https://mcp.example.com/", "https://mcp.example.com/mcp"] {
        let mut claims = idp.claims("alice");
        claims["aud"] = resource.into();
        assert_eq!(client.ask(&get("/mcp", &bearer(&idp.sign(&claims)))).status, 200, "{resource}");
    }
    for (path, resource) in [("", ""), ("/mcp", "/mcp")] {
        let found = client.ask(&get(&format!("/.well-known/oauth-protected-resource{path}"), ""));
        assert_eq!((found.status, found.one("content-type")), (200, Some("application/json")));
        let expected = json!({
            "resource": format!("https://mcp.example.com{resource}"),
            "authorization_servers": [idp.issuer()],
            "scopes_supported": ["read", "write"],
            "bearer_methods_supported": ["header"],
        });
        assert_eq!(found.json(), expected);
    }
    // Neither a path nor a host can end the text that it would stand in.
    let by_host = format!("[auth]\nissuer = \"{}\"\naudience = [\"urn:mcp\"]\n", idp.issuer());
    let nameless = Proxy::before(driver, &[&upstream]).config(&by_host).start();
    assert_eq!(nameless.ask(&get("/a\",scope=\"admin", "")).status, 400);
    for host in ["127.0.0.1:80\",scope=\"admin", "127.0.0.1\\", "127.0.0.1:80,x"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(nameless.ask(head.as_bytes()).status, 400, "{host}");
    }
    let told = nameless.ask(b"GET /mcp HTTP/1.1\r\nHost: localhost:80\r\n\r\n");
    let expected = r#"Bearer resource_metadata="http://localhost:80/.well-known/oauth-protected-resource/mcp""#;
    assert_eq!(told.one("www-authenticate"), Some(expected));
    let wrong = client.ask(&get("/mcp", &bearer("nonsense")));
    assert_eq!(wrong.status, 401);
    assert!(wrong.one("www-authenticate").unwrap().starts_with(r#"Bearer error="invalid_token", "#));
    assert_eq!(upstream.requests().len(), 4);
}

fn forged_tokens_are_refused(driver: Driver) {
    let (idp, stranger, upstream) = (Idp::start(), Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").start();
    assert_eq!(ready(&proxy, &idp.token("alice")).status, 200);
    let with = |name: &str, value: Value| {
        let mut claims = idp.claims("alice");
        claims[name] = value;
        idp.sign(&claims)
    };
    let without = |name: &str| {
        let mut claims = idp.claims("alice");
        claims.as_object_mut().unwrap().remove(name);
        idp.sign(&claims)
    };
    let header = |header: Value| idp.sign_with(&header, &idp.claims("alice"));
    let unsigned = |header: &str| {
        format!(
            "{}.{}.",
            encode_base64url(header.as_bytes()),
            encode_base64url(idp.claims("alice").to_string().as_bytes())
        )
    };
    // HMAC with the public key, as its set publishes it, for a secret.
    let confused = {
        let text = unsigned(r#"{"alg":"HS256","kid":"one"}"#);
        let signed = text.trim_end_matches('.');
        let published = published_keys(&idp);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, published.as_bytes()), signed.as_bytes());
        format!("{signed}.{}", encode_base64url(tag.as_ref()))
    };
    let good = idp.token("alice");
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let mut other_claims = idp.claims("root");
    other_claims["iss"] = idp.issuer().into();
    // The key that it was signed with, and where to find it.
    let place = format!("{}/jwks", stranger.issuer());
    let brought_along = json!({
        "alg": "ES256", "kid": "one", "jku": place, "x5u": place, "x5c": ["AAAA"], "jwk": published_key(&stranger),
    });
    for (token, reason) in [
        (unsigned(r#"{"alg":"none"}"#), "algorithm"),
        (unsigned(r#"{"alg":"ES256","kid":"one"}"#), "signature"),
        (confused, "algorithm"),
        (with("iss", "https://evil.example".into()), "issuer"),
        (without("iss"), "issuer"),
        (with("aud", "https://other.example".into()), "audience"),
        (with("aud", json!(["a", "b"])), "audience"),
        (without("aud"), "audience"),
        (with("aud", "https://mcp.example.com.evil.example/mcp".into()), "audience"),
        (with("aud", "https://mcp.example.com@evil.example/".into()), "audience"),
        (with("aud", "http://mcp.example.com/mcp".into()), "audience"),
        (with("aud", json!({"0": "https://mcp.example.com"})), "audience"),
        (with("exp", (now() - 120).into()), "expired"),
        (without("exp"), "no_expiry"),
        (with("nbf", (now() + 3600).into()), "not_yet_valid"),
        (without("sub"), "subject"),
        (with("scope", "read\r\nX-Forwarded-User:root".into()), "malformed"),
        (with("scope", json!(["read write"])), "malformed"),
        (with("scope", json!({"read": true})), "malformed"),
        (with("nonce", "n".into()), "id_token"),
        (with("at_hash", "h".into()), "id_token"),
        (header(json!({"alg": "ES256", "kid": "unknown"})), "unknown_kid"),
        (header(json!({"alg": "ES256", "kid": "../../etc/passwd"})), "unknown_kid"),
        (header(json!({"alg": "RS256", "kid": "one"})), "algorithm"),
        (header(json!({"alg": "ES256", "kid": "one", "typ": "JOSE"})), "type"),
        (header(json!({"alg": "ES256", "kid": "one", "crit": ["exp"]})), "critical"),
        (header(json!({"alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false})), "critical"),
        (header(json!({"alg": "ES256", "kid": "one\u{0}"})), "unknown_kid"),
        (header(json!({"alg": "ES256", "kid": "one\r\nforged log line"})), "unknown_kid"),
        (header(json!({"alg": "ES256", "kid": ["one"]})), "malformed"),
        (stranger.sign(&other_claims), "signature"),
        (stranger.sign_with(&brought_along, &other_claims), "signature"),
        (format!("{rest}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]), "signature"),
        ("x".repeat(9000), "too_long"),
        ("opaque".into(), "opaque"),
    ] {
        let before = proxy.metrics().sum("shadowcat_auth_failures_total", &format!("reason=\"{reason}\""));
        let refused = proxy.ask(&get("/", &bearer(&token)));
        assert_eq!(refused.status, 401, "{reason}: {token}");
        let after = proxy.metrics().sum("shadowcat_auth_failures_total", &format!("reason=\"{reason}\""));
        assert_eq!(after - before, 1.0, "{reason}: {}", proxy.log());
    }
    // Where to find a key is not for the token to say.
    let elsewhere =
        json!({"alg": "ES256", "kid": "one", "jku": format!("{}/jwks", stranger.issuer()), "x5u": stranger.issuer()});
    assert_eq!(proxy.ask(&get("/", &bearer(&idp.sign_with(&elsewhere, &idp.claims("alice"))))).status, 200);
    assert_eq!(stranger.server.connections(), 1, "ours, above");
    assert!(!proxy.log().contains("forged log line"));
    assert_eq!(upstream.requests().len(), 2);
}

/// The key set as everybody may fetch it.
fn published_keys(idp: &Idp) -> String {
    let address = idp.issuer().trim_start_matches("http://").parse().unwrap();
    RawClient::connect(address).ask(&get("/jwks", "")).text()
}

fn published_key(idp: &Idp) -> Value {
    serde_json::from_str::<Value>(&published_keys(idp)).unwrap()["keys"][0].take()
}

fn ambiguous_credentials_are_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").start();
    let token = idp.token("alice");
    ready(&proxy, &token);
    for second in [bearer(&token), bearer("other"), "X-API-Key: k\r\n".to_owned()] {
        assert_eq!(proxy.ask(&get("/", &(bearer(&token) + &second))).status, 400);
    }
    for odd in
        [format!("Bearer\t{token}"), format!("Bearer {token} {token}"), "Bearer".into(), format!("Bearer,{token}")]
    {
        assert_eq!(proxy.ask(&get("/", &format!("Authorization: {odd}\r\n"))).status, 401, "{odd}");
    }
    for scheme in ["Basic", "bearer", "DPoP"] {
        let status = proxy.ask(&get("/", &format!("Authorization: {scheme} {token}\r\n"))).status;
        assert_eq!(status, if scheme == "bearer" { 200 } else { 401 }, "{scheme}");
    }
}

fn a_token_in_the_query_is_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").start();
    let token = idp.token("alice");
    ready(&proxy, &token);
    for query in [format!("access_token={token}"), format!("a=b&access%5Ftoken={token}"), "access_token=".into()] {
        assert_eq!(proxy.ask(&get(&format!("/?{query}"), &bearer(&token))).status, 400, "{query}");
    }
    assert_eq!(upstream.requests().len(), 1);
    assert!(!proxy.log().contains(&token));
}

fn an_expired_token_is_refused_on_a_connection_that_was_let_in(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "leeway = 0\n").start();
    ready(&proxy, &idp.token("alice"));
    let mut claims = idp.claims("alice");
    claims["exp"] = (now() + 2).into();
    let token = idp.sign(&claims);
    let mut client = proxy.connect();
    assert_eq!(client.ask(&get("/", &bearer(&token))).status, 200);
    wait_until("the token to expire", || client.ask(&get("/", &bearer(&token))).status == 401);
}

fn keys_that_rotate_are_found(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").start();
    let old = idp.token("alice");
    assert_eq!(ready(&proxy, &old).status, 200);
    idp.rotate("two");
    // One fetch for the key that nobody knew, and the request that named it is answered.
    assert_eq!(proxy.ask(&get("/", &bearer(&idp.token("alice")))).status, 200);
    assert_eq!(idp.asked("/jwks"), 2);
    // The old key is gone, and with it what was remembered of its tokens.
    assert_eq!(proxy.ask(&get("/", &bearer(&old))).status, 401);
}

fn a_flood_of_unknown_keys_costs_a_handful_of_fetches(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").workers(4).start();
    let token = idp.token("alice");
    ready(&proxy, &token);
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for n in 0..300 {
        let made_up = idp.sign_with(&json!({"alg": "ES256", "kid": format!("made-up-{n}")}), &idp.claims("mallory"));
        assert_eq!(clients[n % 8].ask(&get("/", &bearer(&made_up))).status, 401);
    }
    assert!(idp.asked("/jwks") <= 3, "{} fetches", idp.asked("/jwks"));
    assert_eq!(proxy.ask(&get("/", &bearer(&token))).status, 200);
}

fn an_issuer_without_keys_is_503_and_not_401(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let nowhere = upstream::Refusing::new();
    let auth = format!("[auth]\nissuer = \"{0}\"\njwks_url = \"{1}/jwks\"\n{KEYS}", idp.issuer(), nowhere.url());
    let proxy = Proxy::before(driver, &[&upstream]).config(&auth).start();
    let refused = proxy.ask(&get("/", &bearer(&idp.token("alice"))));
    assert_eq!((refused.status, refused.one("retry-after")), (503, Some("5")));
    assert_eq!(proxy.ask(&get("/", "")).status, 401);
    assert_eq!(upstream.requests().len(), 0);
}

fn nothing_to_verify_with_fails_closed(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream]).config("[auth]\nenabled = true\nprovider = \"oauth2\"\n").start();
    assert_eq!(proxy.ask(&get("/", "")).status, 503);
    assert_eq!(proxy.ask(&get("/", &bearer("x"))).status, 503);
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    wait_until("the warning", || proxy.log().contains("every request but those of probes will be refused"));
    assert_eq!(upstream.requests().len(), 0);
}

fn opaque_tokens_are_introspected(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let introspection = format!(
        "introspection_url = \"{}/introspect\"\nclient_id = \"proxy\"\nclient_secret = \"hunter2hunter2\"\n",
        idp.issuer()
    );
    let proxy = guarded(driver, &idp, &upstream, &introspection).start();
    assert_eq!(proxy.ask(&get("/", &bearer("opaque-1"))).status, 401);
    idp.introspects(json!({"active": true, "sub": "alice", "aud": "https://mcp.example.com", "iss": idp.issuer()}));
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.ask(&get("/", &bearer("opaque-2"))).status, 200);
    }
    assert_eq!(idp.asked("/introspect"), 2, "one for each token, the verdict is remembered");
    assert_eq!(upstream.last_request().head.one("x-forwarded-user"), Some("alice"));
    let question = idp.server.requests().into_iter().rfind(|request| request.head.target() == "/introspect").unwrap();
    assert!(question.text().contains("token=opaque-2"), "{}", question.text());
    assert!(question.head.one("authorization").unwrap().starts_with("Basic "));
}

fn an_answer_about_a_token_is_believed_as_long_as_configured(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let introspection = format!("introspection_url = \"{}/introspect\"\nintrospection_cache = 0\n", idp.issuer());
    let proxy = guarded(driver, &idp, &upstream, &introspection).start();
    idp.introspects(json!({"active": true, "sub": "alice", "aud": "https://mcp.example.com"}));
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(&get("/", &bearer("opaque"))).status, 200);
    }
    assert_eq!(idp.asked("/introspect"), 3);
    idp.introspects(json!({"active": false}));
    assert_eq!(client.ask(&get("/", &bearer("opaque"))).status, 401, "revoked");
}

const KEY: &str = "correct-horse-battery-staple";
const KEY_HASH: &str = "sha256:87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590";

fn api_keys(more: &str) -> String {
    format!("{more}[[auth.api_keys]]\nname = \"ci\"\nhash = \"{KEY_HASH}\"\nscopes = [\"read\"]\n")
}

fn api_keys_are_taken_by_their_hash(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let config = format!("[auth]\nprovider = \"api_key\"\n{}", api_keys(""));
    let proxy = Proxy::before(driver, &[&upstream]).config(&config).start();
    for field in [bearer(KEY), format!("X-API-Key: {KEY}\r\n")] {
        assert_eq!(proxy.ask(&get("/", &field)).status, 200, "{field}");
        let seen = upstream.last_request();
        assert_eq!(seen.head.one("x-forwarded-user"), Some("ci"));
        assert!(!seen.head.has("authorization") && !seen.head.has("x-api-key"), "{:?}", seen.head);
    }
    for field in [bearer("wrong"), format!("X-API-Key: {KEY_HASH}\r\n"), "X-API-Key:\r\n".into(), String::new()] {
        assert_eq!(proxy.ask(&get("/", &field)).status, 401, "{field}");
    }
}

fn providers_are_asked_in_order(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, &api_keys("providers = [\"oauth2\", \"api_key\"]\n")).start();
    assert_eq!(ready(&proxy, &idp.token("alice")).status, 200);
    for (field, user) in [
        (bearer(&idp.token("alice")), Some("alice")),
        (bearer(KEY), Some("ci")),
        (format!("X-API-Key: {KEY}\r\n"), Some("ci")),
        (bearer("neither"), None),
    ] {
        assert_eq!(proxy.ask(&get("/", &field)).status, if user.is_some() { 200 } else { 401 });
        if user.is_some() {
            assert_eq!(upstream.last_request().head.one("x-forwarded-user"), user);
        }
    }
}

fn scopes_are_asked_for(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "scopes = [\"write\", \"admin\"]\n").start();
    let with = |scope: &str| {
        let mut claims = idp.claims("alice");
        claims["scope"] = scope.into();
        bearer(&idp.sign(&claims))
    };
    ready(&proxy, &idp.token("alice"));
    assert_eq!(proxy.ask(&get("/", &with("read admin"))).status, 200);
    let refused = proxy.ask(&post_json("/mcp", &with("read"), &request(3, "ping")));
    assert_eq!(refused.status, 403);
    let challenge = refused.one("www-authenticate").unwrap();
    assert!(challenge.starts_with(r#"Bearer error="insufficient_scope", scope="write admin", resource_metadata=""#));
    assert_eq!(refused.json()["id"], 3);
}

fn rules_look_into_the_body(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let rules = "[[auth.rules]]\npath = \"/admin\"\nscopes = [\"admin\"]\n\
                 [[auth.rules]]\nmethod = \"tools/call\"\ntool = \"deploy\"\nscopes = [\"write\", \"deploy\"]\n";
    let proxy = guarded(driver, &idp, &upstream, rules).set("limits.peek_bytes", "4096").start();
    let token = bearer(&idp.token("alice"));
    ready(&proxy, &idp.token("alice"));
    let ask = |path: &str, body: &str| proxy.ask(&post_json(path, &token, body)).status;
    assert_eq!(ask("/mcp", &call(1, "echo")), 200);
    assert_eq!(ask("/mcp", &call(1, "deploy")), 403);
    assert_eq!(ask("/mcp", &call(1, "dep\\u006coy")), 403);
    let challenge =
        proxy.ask(&post_json("/mcp", &token, &call(1, "deploy"))).one("www-authenticate").unwrap().to_owned();
    assert!(challenge.contains(r#"error="insufficient_scope", scope="write deploy", "#), "{challenge}");
    assert_eq!(ask("/mcp", &request(1, "tools/list")), 200);
    assert_eq!(ask("/mcp", &format!("[{}]", call(1, "deploy"))), 400);
    let long = format!(r#"{{"pad":"{}",{}"#, "x".repeat(40_000), &call(1, "deploy")[1..]);
    assert_eq!(ask("/mcp", &long), 413);
    // What is no JSON by its type is not looked into, but some servers would read it.
    let plain = post("/mcp", &format!("{token}Content-Type: text/plain\r\n"), call(1, "deploy").as_bytes());
    assert_eq!(proxy.ask(&plain).status, 415);
    for path in ["/admin", "/admin/x", "/%61dmin", "//admin", "/x/../admin"] {
        assert_eq!(proxy.ask(&get(path, &token)).status, 403, "{path}");
    }
    assert_eq!(proxy.ask(&get("/administrator", &token)).status, 200);
    assert!(upstream.requests().iter().all(|request| !request.text().contains("deploy")));
}

fn public_paths_need_no_credential(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "public = [\"/docs/*\"]\n").start();
    assert_eq!(proxy.ask(&get("/docs/index.html", "")).status, 200);
    for path in ["/", "/docs", "/docs/../mcp", "/docs/%2e%2e/mcp", "/docsx"] {
        assert_eq!(proxy.ask(&get(path, "")).status, 401, "{path}");
    }
}

fn sessions_belong_to_who_began_them(driver: Driver) {
    let (idp, replica) = (Idp::start(), Replica::new("one"));
    let proxy = guarded(driver, &idp, &replica.upstream, "").start();
    let (alice, mallory) = (bearer(&idp.token("alice")), bearer(&idp.token("mallory")));
    ready(&proxy, &idp.token("alice"));
    let begun = proxy.ask(&post_json("/mcp", &alice, &initialize(1)));
    let session = begun.one("mcp-session-id").unwrap().to_owned();
    let with = |field: &str, bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        let (line, rest) = text.split_once("\r\n").unwrap();
        format!("{line}\r\n{field}{rest}").into_bytes()
    };
    let ping = in_session(&session, &request(2, "ping"));
    let unknown = proxy.ask(&with(&mallory, in_session(&"A".repeat(32), &request(2, "ping"))));
    let stolen = proxy.ask(&with(&mallory, ping.clone()));
    assert_eq!((stolen.status, stolen.text()), (404, unknown.text()));
    assert_eq!(proxy.ask(&with(&mallory, listen(&session, ""))).status, 404);
    assert_eq!(proxy.ask(&with(&mallory, delete(&session))).status, 404);
    // A newer token of the same user is as good.
    let mut later = idp.claims("alice");
    later["exp"] = (now() + 60).into();
    assert_eq!(proxy.ask(&with(&bearer(&idp.sign(&later)), ping.clone())).status, 200);
    assert_eq!(proxy.ask(&with(&alice, ping)).status, 200);
    assert_eq!(replica.sessions().len(), 1);
}

fn identity_is_told_to_upstream_and_claimed_by_nobody(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "").set("proxy.trusted_proxies", "127.0.0.0/8").start();
    let claimed = "X-Forwarded-User: root\r\nx-forwarded-scopes: admin\r\nX-Forwarded-Email: r@x\r\nX-Forwarded-Groups: wheel\r\n\
                   Remote-User: root\r\nX-Remote-User: root\r\nX-Auth-Request-User: root\r\nX_Forwarded_User: root\r\n";
    ready(&proxy, &idp.token("alice"));
    assert_eq!(proxy.ask(&get("/", &(bearer(&idp.token("al,ice")) + claimed))).status, 200);
    let seen = upstream.last_request();
    assert_eq!(seen.head.all("x-forwarded-user"), ["al%2Cice"]);
    assert_eq!(seen.head.all("x-forwarded-scopes"), ["read write"]);
    assert!(!seen.text().contains("root") && !seen.text().contains("wheel"), "{}", seen.text());
    // Without authentication a client still cannot claim to be somebody.
    let open = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(open.ask(&get("/", claimed)).status, 200);
    assert!(!upstream.last_request().text().contains("root"));
}

fn upstream_gets_its_own_credential(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let statically =
        format!("[[upstreams]]\nname = \"a\"\nurl = \"{}\"\nbearer_token = \"upstreams-own\"\n", upstream.url());
    let granted = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}\"\ntoken_url = \"{}/token\"\nclient_id = \"proxy\"\nclient_secret = \"hunter2hunter2\"\n",
        upstream.url(),
        idp.issuer()
    );
    for (config, expected) in [(statically, "Bearer upstreams-own"), (granted, "Bearer ours-at-upstream")] {
        let proxy = Proxy::builder(driver).config(&config).start();
        wait_until("the credential", || proxy.ask(&get("/", &bearer("clients-own"))).status == 200);
        let seen = upstream.last_request();
        assert_eq!(seen.head.all("authorization"), [expected]);
        assert!(!proxy.log().contains("upstreams-own") && !proxy.log().contains("hunter2"));
    }
}

fn users_are_limited_one_by_one(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let limits = "[rate_limit]\nper_user_limit = 3\nper_user_window = 100000\n";
    let proxy = guarded(driver, &idp, &upstream, limits).workers(4).start();
    ready(&proxy, &idp.token("zoe"));
    for user in ["alice", "bob"] {
        let statuses: Vec<u16> = (0..5).map(|_| proxy.ask(&get("/", &bearer(&idp.token(user)))).status).collect();
        assert_eq!(statuses, [200, 200, 200, 429, 429], "{user}");
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_rate_limit_remaining", r#"key="user:alice""#), 0.0);
    assert_eq!(metrics.sum("shadowcat_rate_limit_exceeded_total", r#"key="user:bob""#), 2.0);
}

fn metrics_name_a_thousand_users(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let limits = "[rate_limit]\nper_user_limit = 1\nper_user_window = 100000\n";
    let proxy = guarded(driver, &idp, &upstream, limits).start();
    ready(&proxy, &idp.token("user-0"));
    let mut client = proxy.connect();
    let mut ask = |user: &str| client.ask(&get("/", &bearer(&idp.token(user)))).status;
    assert_eq!(ask("user-0"), 429);
    // One of them has the name of those that have none.
    for user in (1..1100).map(|n| format!("user-{n}")).chain(["other".to_owned(), "x".repeat(200)]) {
        assert_eq!((ask(&user), ask(&user)), (200, 429), "{user}");
    }
    let metrics = proxy.metrics();
    for (name, each) in [("shadowcat_rate_limit_exceeded_total", 1.0), ("shadowcat_rate_limit_remaining", 0.0)] {
        let users = metrics.0.lines().filter(|line| line.starts_with(&format!("{name}{{key=\"user:"))).count();
        assert_eq!(users, 1001, "{name}");
        assert_eq!(metrics.sum(name, "key=\"user:user-999\""), each, "{name}");
    }
    assert_eq!(metrics.sum("shadowcat_rate_limit_exceeded_total", "key=\"user:other\""), 102.0);
    assert_eq!(metrics.sum("shadowcat_rate_limit_exceeded_total", ""), 1102.0);
}

fn secrets_are_in_no_log(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let more = format!(
        "client_id = \"proxy\"\nclient_secret = \"hunter2hunter2\"\nintrospection_url = \"{0}/introspect\"\njwks_url = \"{0}/jwks\"\n",
        idp.issuer()
    );
    let proxy = guarded(driver, &idp, &upstream, &more).variable("RUST_LOG", "trace").start();
    let token = idp.token("alice");
    ready(&proxy, &token);
    begin_session_with(&proxy, &token);
    proxy.ask(&get("/", &bearer("opaque-and-secret")));
    wait_until("the refusal to be logged", || proxy.log().contains("inactive"));
    let log = proxy.log();
    for secret in [token.rsplit_once('.').unwrap().1, "opaque-and-secret", "hunter2hunter2"] {
        assert!(!log.contains(secret), "{log}");
    }
}

fn begin_session_with(proxy: &Proxy, token: &str) {
    assert_eq!(proxy.ask(&post_json("/mcp", &bearer(token), &initialize(1))).status, 200);
}
