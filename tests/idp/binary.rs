//! The proxy with oidc-provider behind it, from outside, on both drivers.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use shadowcat::wire::jose::{decode_base64url, encode_base64url};

use super::{Idp, RESOURCE};
use crate::on_both_drivers;
use crate::support::client::Response;
use crate::support::*;

on_both_drivers!(
    tokens_pass_while_keys_rotate_under_traffic,
    tokens_of_a_key_that_is_gone_are_refused,
    forged_tokens_are_refused,
    opaque_tokens_pass_until_they_are_revoked,
    refresh_tokens_are_no_access_tokens,
    an_upstream_gets_tokens_of_our_own_and_new_ones_in_time,
);

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn guarded(driver: Driver, idp: &Idp, upstream: &FakeUpstream, more: &str) -> Proxy {
    let auth = format!("[auth]\nissuer = \"{}\"\naudience = [\"{RESOURCE}\", \"shadowcat\"]\n{more}", idp.issuer);
    Proxy::before(driver, &[upstream]).config(&auth).start()
}

/// Ask, until there are keys to answer with.
fn ask(proxy: &Proxy, token: &str) -> Response {
    let mut last = None;
    wait_until("the keys to be there", || last.insert(proxy.ask(&get("/", &bearer(token)))).status != 503);
    last.expect("an answer")
}

/// The token is refused, for this reason.
fn refused(proxy: &Proxy, token: &str, reason: &str) {
    let count = || proxy.metrics().sum("shadowcat_auth_failures_total", &format!("reason=\"{reason}\""));
    let before = count();
    assert_eq!(ask(proxy, token).status, 401, "{reason}: {token}");
    assert_eq!(count() - before, 1.0, "{reason}: {}", proxy.log());
}

fn tokens_pass_while_keys_rotate_under_traffic(driver: Driver) {
    for (algorithm, next) in [("RS256", "ES256"), ("ES256", "EdDSA"), ("EdDSA", "RS256")] {
        let (idp, upstream) = (Idp::start("", algorithm), FakeUpstream::answering("ok"));
        let proxy = guarded(driver, &idp, &upstream, &format!("algorithms = [\"{algorithm}\", \"{next}\"]\n"));
        let old = idp.token("robot");
        assert_eq!(ask(&proxy, &old).status, 200, "{algorithm}: {}", proxy.log());
        assert_eq!(upstream.last_request().head.one("x-forwarded-user"), Some("robot"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (done, old) = (&done, &old);
            let traffic = |mut client: RawClient| {
                let mut passed = 0;
                while !done.load(Ordering::Relaxed) {
                    let status = client.ask(&get("/", &bearer(old))).status;
                    assert_eq!(status, 200, "{algorithm}");
                    passed += 1;
                }
                passed
            };
            let clients = [proxy.connect(), proxy.connect()];
            let threads = clients.map(|client| scope.spawn(move || traffic(client)));
            idp.hook("rotate", &json!({"keep": true, "alg": next}));
            let new = idp.token("robot");
            let answers = [ask(&proxy, &new).status, ask(&proxy, old).status];
            done.store(true, Ordering::Relaxed);
            let passed: Vec<u32> = threads.map(|thread| thread.join().unwrap()).into();
            assert_eq!(answers, [200, 200], "{next}: {}", proxy.log());
            assert!(passed.iter().all(|passed| *passed > 0), "{passed:?}");
        });
        assert_eq!(idp.asked("/jwks"), 2, "once at first, once for the key that nobody knew");
        assert!(!upstream.received_text().contains("Bearer"), "tokens go no further");
    }
}

fn tokens_of_a_key_that_is_gone_are_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start("/realm", "ES256"), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "algorithms = [\"ES256\"]\n");
    let old = idp.token("robot");
    assert_eq!(ask(&proxy, &old).status, 200);
    idp.hook("rotate", &json!({"keep": false}));
    assert_eq!(ask(&proxy, &idp.token("robot")).status, 200);
    // What was remembered of it is forgotten with the key.
    refused(&proxy, &old, "unknown_kid");
    refused(&proxy, &idp.mint(&json!({"old": true})), "unknown_kid");
}

fn forged_tokens_are_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start("", "RS256"), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, "");
    let good = idp.token("robot");
    assert_eq!(ask(&proxy, &good).status, 200);
    refused(&proxy, &idp.token_for("robot", "https://other.example/mcp"), "audience");
    assert_eq!(ask(&proxy, &idp.token_for("robot", &format!("{RESOURCE}/mcp"))).status, 200, "a resource of ours");
    let now = crate::support::idp::now();
    for (claims, reason) in [
        (json!({"exp": now - 120}), "expired"),
        (json!({"nbf": now + 120}), "not_yet_valid"),
        (json!({"iat": now + 120}), "issued_in_future"),
        (json!({"aud": "https://other.example"}), "audience"),
        (json!({"iss": "https://other.example"}), "issuer"),
        (json!({"iss": format!("{}/", idp.issuer)}), "issuer"),
        (json!({"nonce": "n"}), "id_token"),
        (json!({"cnf": {"jkt": "x"}}), "sender_constrained"),
    ] {
        refused(&proxy, &idp.mint(&json!({ "claims": claims })), reason);
    }
    for (header, reason) in [
        (json!({"kid": "unknown"}), "unknown_kid"),
        (json!({"kid": "' or 1=1 --"}), "unknown_kid"),
        (json!({"alg": "PS256"}), "algorithm"),
        (json!({"typ": "id+jwt"}), "type"),
        (json!({"crit": ["exp"]}), "critical"),
    ] {
        refused(&proxy, &idp.mint(&json!({ "header": header })), reason);
    }
    // Its real claims, and a header of the forger's.
    let parts: Vec<&str> = good.split('.').collect();
    let header: Value = serde_json::from_slice(&decode_base64url(parts[0]).unwrap()).unwrap();
    let signed = |alg: &str| {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": header["kid"]}).to_string();
        format!("{}.{}", encode_base64url(header.as_bytes()), parts[1])
    };
    for none in ["none", "None", "NONE"] {
        refused(&proxy, &format!("{}.", signed(none)), "algorithm");
        refused(&proxy, &format!("{}.{}", signed(none), parts[2]), "algorithm");
    }
    // The public RSA key, as published, for a secret.
    let set = ureq::get(format!("{}/jwks", idp.origin)).call().unwrap().body_mut().read_to_string().unwrap();
    let key = serde_json::from_str::<Value>(&set).unwrap()["keys"][0].take();
    let modulus = decode_base64url(key["n"].as_str().unwrap()).unwrap();
    for secret in [set.as_bytes(), key.to_string().as_bytes(), &modulus[..], key["n"].as_str().unwrap().as_bytes()] {
        for (alg, reason) in [("HS256", "algorithm"), ("RS256", "signature")] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed(alg).as_bytes());
            refused(&proxy, &format!("{}.{}", signed(alg), encode_base64url(tag.as_ref())), reason);
        }
    }
    assert_eq!(upstream.requests().len(), 2);
}

fn introspecting(idp: &Idp) -> String {
    format!(
        "jwks_url = \"{0}/jwks\"\nintrospection_url = \"{0}/token/introspection\"\nintrospection_cache = 0\n\
         client_id = \"shadowcat\"\nclient_secret = \"shadowcat-secret\"\n",
        idp.issuer
    )
}

fn opaque_tokens_pass_until_they_are_revoked(driver: Driver) {
    let (idp, upstream) = (Idp::start("", "RS256"), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, &introspecting(&idp));
    let token = idp.token("robot-opaque");
    assert!(!token.contains('.'), "{token}");
    assert_eq!(ask(&proxy, &token).status, 200, "{}", proxy.log());
    assert_eq!(upstream.last_request().head.one("x-forwarded-user"), Some("client_id:robot-opaque"));
    assert_eq!(ask(&proxy, &idp.token("robot")).status, 200, "JWTs are verified by keys beside");
    refused(&proxy, "never-issued", "inactive");
    refused(&proxy, &idp.token_for("robot-opaque", "https://other.example"), "audience");
    idp.post("/token/revocation", "robot-opaque", &[("token", &token)]);
    refused(&proxy, &token, "inactive");
    idp.hook("fail", &json!({"path": "/introspection", "status": 500}));
    let answer = proxy.ask(&get("/", &bearer("another")));
    assert_eq!((answer.status, answer.one("retry-after")), (503, Some("5")), "nobody can tell");
    assert_eq!(upstream.requests().len(), 2);
}

fn refresh_tokens_are_no_access_tokens(driver: Driver) {
    let (idp, upstream) = (Idp::start("", "RS256"), FakeUpstream::answering("ok"));
    let proxy = guarded(driver, &idp, &upstream, &introspecting(&idp));
    // The issuer says of it that it is active; that of our own client as well, whose name is an audience.
    for client in ["app", "shadowcat"] {
        let token = idp.hook("refresh-token", &json!({ "client": client }))["token"].as_str().unwrap().to_owned();
        let said = idp.post("/token/introspection", "shadowcat", &[("token", &token)]);
        assert_eq!(said["active"], true, "{said}");
        let status = ask(&proxy, &token).status;
        assert_eq!(status, 401, "{client}: {said}");
    }
    assert_eq!(upstream.requests().len(), 0);
}

fn an_upstream_gets_tokens_of_our_own_and_new_ones_in_time(driver: Driver) {
    let (idp, upstream) = (Idp::with("", "ES256", 3), FakeUpstream::answering("ok"));
    let config = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}\"\ntoken_url = \"{}/token\"\nclient_id = \"upstream\"\n\
         client_secret = \"upstream-secret\"\nscopes = [\"mcp\"]\nresource = \"https://mcp.example.com\"\n",
        upstream.url(),
        idp.issuer
    );
    let proxy = Proxy::builder(driver).config(&config).start();
    let mut seen = Vec::new();
    wait_until("a second token", || {
        let status = proxy.ask(&get("/", &bearer("clients-own"))).status;
        assert!(status == 200 || (status == 503 && seen.is_empty()), "{status}");
        if status == 200 {
            seen.push(upstream.last_request().head.all("authorization").join(","));
        }
        seen.last() != seen.first()
    });
    for field in [&seen[0], &seen[seen.len() - 1]] {
        let token = field.strip_prefix("Bearer ").unwrap();
        let claims = token.split('.').nth(1).and_then(decode_base64url).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["client_id"], &claims["scope"]), (&json!("upstream"), &json!("mcp")));
        assert_eq!((&claims["aud"], &claims["iss"]), (&json!("https://mcp.example.com"), &json!(idp.issuer)));
    }
    assert!(!upstream.received_text().contains("clients-own"));
    assert!(!proxy.log().contains(seen[0].strip_prefix("Bearer ").unwrap()));
}
