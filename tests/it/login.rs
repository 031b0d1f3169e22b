//! Browsers log in: there, back and out; what is sent along, what is refused, and what nobody else learns.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::on_both_drivers;
use crate::support::browser::{Jar, LOGIN, NAVIGATION, SESSION};
use crate::support::client::Response;
use crate::support::idp::{CLIENT, Idp, SECRET, Says, now};
use crate::support::mcp::request;
use crate::support::proxy::Builder;
use crate::support::tls::Authority;
use crate::support::*;

on_both_drivers!(
    a_browser_logs_in_and_is_known_from_then_on,
    an_issuer_and_a_proxy_over_tls_serve_as_well,
    a_program_is_still_told_401,
    a_state_is_for_one_browser_and_one_time,
    an_answer_of_another_issuer_is_refused,
    an_id_token_must_be_of_this_login,
    an_id_token_names_the_user_where_the_access_token_is_opaque,
    introspection_names_the_user_where_that_is_all_there_is,
    an_id_token_is_no_credential,
    what_a_server_says_is_shown_as_text,
    nobody_is_sent_elsewhere,
    changed_and_expired_cookies_are_refused,
    upstream_sees_no_cookie_of_ours,
    pages_of_others_cannot_use_the_cookie,
    a_logout_holds_on_every_worker,
    an_image_elsewhere_logs_nobody_out,
    an_issuer_that_is_down_is_told_clearly,
    a_server_without_s256_is_refused,
    a_flood_of_logins_is_limited_by_address,
    many_logins_that_were_only_begun_cost_no_memory,
    nothing_of_a_login_is_in_the_log,
);

const REDIRECT: &str = "https://mcp.example.com/callback";

fn before(driver: Driver, idp: &Idp, upstream: &FakeUpstream, more: &str) -> Builder {
    let config = format!(
        "[proxy]\nallowed_hosts = [\"mcp.example.com\"]\n[auth]\nissuer = \"{}\"\naudience = [\"https://mcp.example.com\"]\n\
         client_id = \"{CLIENT}\"\nclient_secret = \"{SECRET}\"\nredirect_uri = \"{REDIRECT}\"\n{more}",
        idp.issuer()
    );
    Proxy::before(driver, &[upstream]).config(&config)
}

/// Started, and the authorization server asked.
fn started(builder: Builder) -> Proxy {
    let proxy = builder.start();
    wait_until("the authorization server to be known", || proxy.ask(&get("/login", "")).status == 302);
    proxy
}

fn location(answer: &Response) -> String {
    answer.one("location").unwrap_or_else(|| panic!("no location: {answer:?}")).to_owned()
}

/// Have the authorization server log its user in: the path and query that the browser comes back with.
fn consent(idp: &Idp, to: &str) -> String {
    let path = to.strip_prefix(&idp.issuer()).expect("a page of the issuer");
    let mut client = RawClient::connect(idp.server.address);
    let back = location(&client.ask(&at_issuer(idp, path)));
    back.strip_prefix("https://mcp.example.com").expect("our own page").to_owned()
}

/// The issuer calls itself as it is asked.
fn at_issuer(idp: &Idp, path: &str) -> Vec<u8> {
    let host = idp.issuer().split_once("://").unwrap().1.to_owned();
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

fn log_in(proxy: &Proxy, idp: &Idp) -> Jar {
    let mut jar = Jar::default();
    let to = location(&jar.ask(proxy, "/login?return_to=/mcp", NAVIGATION));
    let done = jar.ask(proxy, &consent(idp, &to), NAVIGATION);
    assert_eq!((done.status, done.one("location")), (303, Some("/mcp")), "{}", done.text());
    assert!(jar.value(SESSION).is_some() && jar.value(LOGIN).is_none());
    jar
}

/// The outcome of a login that fails, by status and metric.
fn fails(proxy: &Proxy, jar: &mut Jar, target: &str, status: u16, outcome: &str) -> Response {
    let count = || proxy.metrics().sum("shadowcat_auth_logins_total", &format!("outcome=\"{outcome}\""));
    let earlier = count();
    let answer = jar.ask(proxy, target, NAVIGATION);
    assert_eq!(answer.status, status, "{outcome}: {}", answer.text());
    assert_eq!(count() - earlier, 1.0, "{outcome}: {}", proxy.log());
    assert!(jar.value(SESSION).is_none(), "{outcome}");
    assert_eq!(answer.one("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!((answer.one("cache-control"), answer.one("referrer-policy")), (Some("no-store"), Some("no-referrer")));
    assert!(answer.one("content-security-policy").unwrap().starts_with("default-src 'none'"));
    answer
}

fn with(target: &str, name: &str, value: Option<&str>) -> String {
    let mut url = url::Url::parse(&format!("http://localhost{target}")).unwrap();
    let kept: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(own, _)| own != name).collect();
    url.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(value.map(|value| (name, value)));
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

fn a_browser_logs_in_and_is_known_from_then_on(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, "scopes = [\"read\"]\n"));
    let mut jar = Jar::default();
    let sent = jar.ask(&proxy, "/mcp?a=b&c=%2Fd", NAVIGATION);
    assert_eq!((sent.status, location(&sent)), (302, "/login?return_to=%2Fmcp%3Fa%3Db%26c%3D%252Fd".into()));
    let to = location(&jar.ask(&proxy, &location(&sent), NAVIGATION));
    let asked: std::collections::HashMap<_, _> = url::Url::parse(&to).unwrap().query_pairs().into_owned().collect();
    for (name, value) in [
        ("client_id", CLIENT),
        ("redirect_uri", REDIRECT),
        ("scope", "openid read"),
        ("resource", "https://mcp.example.com"),
        ("tenant", "a b"),
    ] {
        assert_eq!(asked[name], value);
    }
    assert!(["state", "nonce", "code_challenge"].iter().all(|name| asked[*name].len() == 43));
    let done = jar.ask(&proxy, &consent(&idp, &to), &NAVIGATION.replace("none", "cross-site"));
    assert_eq!((done.status, done.one("location")), (303, Some("/mcp?a=b&c=%2Fd")));
    // Where the redirection leads, the browser comes from elsewhere still.
    assert_eq!(jar.ask(&proxy, "/mcp", &NAVIGATION.replace("none", "cross-site")).status, 200);
    let seen = upstream.last_request().head;
    assert_eq!((seen.one("x-forwarded-user"), seen.one("x-forwarded-scopes")), (Some("alice"), Some("read write")));
    let mut client = proxy.connect();
    for id in 0..5 {
        let fields = format!("{}Sec-Fetch-Site: same-origin\r\n", jar.field());
        assert_eq!(client.ask(&post_json("/mcp", &fields, &request(id, "ping"))).status, 200);
    }
    assert_eq!(idp.asked("/token"), 1);
    assert_eq!(proxy.metrics().sum("shadowcat_auth_logins_total", "outcome=\"success\""), 1.0);
}

fn an_issuer_and_a_proxy_over_tls_serve_as_well(driver: Driver) {
    let ((idp, pem), upstream) = (Idp::start_over_tls(), FakeUpstream::answering("ok"));
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = authority.write(directory.path(), "localhost", &authority.sign("localhost"));
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, &pem).unwrap();
    let builder = before(driver, &idp, &upstream, &format!("ca_path = \"{}\"\n", roots.display()))
        .set("tls.cert_path", &certificate.display().to_string())
        .set("tls.key_path", &key.display().to_string())
        .over_tls(authority.client().into());
    let proxy = started(builder);
    let mut jar = Jar::default();
    let to = location(&jar.ask(&proxy, "/login?return_to=/mcp", NAVIGATION));
    let path = to.strip_prefix(&idp.issuer()).expect("a page of the issuer");
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let mut browser = tls::client(idp.server.address, "localhost", config.into()).unwrap();
    let back = location(&browser.ask(&at_issuer(&idp, path)));
    let done = jar.ask(&proxy, back.strip_prefix("https://mcp.example.com").unwrap(), NAVIGATION);
    assert_eq!((done.status, done.one("location")), (303, Some("/mcp")), "{}", done.text());
    assert_eq!(jar.ask(&proxy, "/mcp", NAVIGATION).status, 200);
}

fn a_program_is_still_told_401(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    for fields in [
        "",
        "Accept: text/event-stream\r\n",
        "Accept: text/html, text/event-stream\r\n",
        "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n",
        "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
        "Accept: text/html\r\nAuthorization: Bearer x\r\n",
        "Accept: text/html\r\nX-API-Key: x\r\n",
    ] {
        let refused = proxy.ask(&get("/mcp", fields));
        assert_eq!(refused.status, 401, "{fields}");
        assert!(refused.one("www-authenticate").unwrap().starts_with("Bearer "));
    }
    assert_eq!(proxy.ask(&post_json("/mcp", "Accept: text/html\r\n", &request(1, "ping"))).status, 401);
    assert_eq!(proxy.ask(&get("/mcp", "Accept: text/html\r\n")).status, 302);
    for (target, method) in [("/login", "POST"), ("/callback", "POST"), ("/callback", "HEAD"), ("/logout", "DELETE")] {
        let answer = proxy.ask(&post_with(method, target, "", b""));
        assert_eq!(answer.status, 405, "{method} {target}");
    }
    assert_eq!(proxy.ask(b"GET /login HTTP/1.1\r\nHost: evil.example\r\n\r\n").status, 403);
    assert_eq!(upstream.requests().len(), 0);
}

fn a_state_is_for_one_browser_and_one_time(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, "").workers(4));
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
    // Whoever gets another browser to open the answer logs nobody in.
    fails(&proxy, &mut Jar::default(), &back, 400, "no_attempt");
    let mut other = Jar::default();
    other.ask(&proxy, "/login", NAVIGATION);
    fails(&proxy, &mut other, &back, 400, "state");
    for wrong in [None, Some(""), Some("AAAA")] {
        fails(&proxy, &mut jar, &with(&back, "state", wrong), 400, "state");
    }
    fails(&proxy, &mut jar, &format!("{back}&state=x"), 400, "malformed");
    fails(&proxy, &mut jar, &with(&back, "code", None), 400, "malformed");
    let mut copy = jar.clone();
    assert_eq!(jar.ask(&proxy, &back, NAVIGATION).status, 303);
    // On whichever worker: a copy of the cookie does not make the state good a second time.
    for _ in 0..8 {
        let mut again = copy.clone();
        fails(&proxy, &mut again, &back, 400, "replayed");
    }
    fails(&proxy, &mut copy, &with(&back, "code", Some("other")), 400, "replayed");
    assert_eq!(idp.asked("/token"), 1);
    // A code that the server does not know.
    let mut third = Jar::default();
    let back = consent(&idp, &location(&third.ask(&proxy, "/login", NAVIGATION)));
    fails(&proxy, &mut third, &with(&back, "code", Some("made-up")), 400, "code");
}

fn an_answer_of_another_issuer_is_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
    let slash = format!("{}/", idp.issuer());
    for iss in [None, Some("https://evil.example"), Some(slash.as_str()), Some("")] {
        fails(&proxy, &mut jar, &with(&back, "iss", iss), 400, "issuer");
    }
    // Of an error as well: it may be another server's.
    fails(&proxy, &mut jar, &with(&with(&back, "iss", None), "error", Some("access_denied")), 400, "issuer");
    assert_eq!(idp.asked("/token"), 0);
    assert_eq!(jar.ask(&proxy, &back, NAVIGATION).status, 303);
}

fn an_id_token_must_be_of_this_login(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    for wrong in [
        json!({"nonce": "other"}),
        json!({"nonce": null}),
        json!({"aud": "other"}),
        json!({"aud": [CLIENT, "other"]}),
        json!({"iss": "https://evil.example"}),
        json!({"exp": 1}),
    ] {
        idp.says(Says { id_token: wrong.clone(), ..Says::default() });
        let mut jar = Jar::default();
        let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
        fails(&proxy, &mut jar, &back, 502, "token");
        assert!(jar.value(LOGIN).is_none(), "{wrong}");
    }
}

fn an_id_token_names_the_user_where_the_access_token_is_opaque(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, "scopes = [\"read\"]\n"));
    idp.says(Says { tokens: json!({"access_token": "opaque", "scope": "read"}), ..Says::default() });
    let mut jar = log_in(&proxy, &idp);
    assert_eq!(jar.ask(&proxy, "/mcp", NAVIGATION).status, 200);
    let seen = upstream.last_request().head;
    assert_eq!((seen.one("x-forwarded-user"), seen.one("x-forwarded-scopes")), (Some("alice"), Some("read")));
    // What was not granted is not there.
    idp.says(Says { tokens: json!({"access_token": "opaque", "scope": "openid"}), ..Says::default() });
    let mut jar = log_in(&proxy, &idp);
    assert_eq!(jar.ask(&proxy, "/mcp", NAVIGATION).status, 403);
    // A login that is over at once would be begun again without end.
    idp.says(Says { tokens: json!({"access_token": "opaque", "expires_in": 0}), ..Says::default() });
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
    fails(&proxy, &mut jar, &back, 502, "token");
    // With neither there is nobody.
    idp.says(Says { tokens: json!({"access_token": "opaque", "id_token": null}), ..Says::default() });
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
    fails(&proxy, &mut jar, &back, 502, "token");
}

fn introspection_names_the_user_where_that_is_all_there_is(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let introspection = format!("introspection_url = \"{}/introspect\"\nscopes = [\"read\"]\n", idp.issuer());
    let proxy = started(before(driver, &idp, &upstream, &introspection));
    idp.says(Says { tokens: json!({"access_token": "opaque"}), ..Says::default() });
    idp.introspects(json!({
        "active": true, "sub": "bob", "aud": "https://mcp.example.com", "iss": idp.issuer(), "scope": "read",
    }));
    let mut jar = log_in(&proxy, &idp);
    assert_eq!(jar.ask(&proxy, "/mcp", NAVIGATION).status, 200);
    assert_eq!(upstream.last_request().head.one("x-forwarded-user"), Some("bob"));
    idp.introspects(json!({"active": false}));
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
    fails(&proxy, &mut jar, &back, 502, "token");
}

fn an_id_token_is_no_credential(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    let jar = log_in(&proxy, &idp);
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": "one"});
    let mut claims = json!({"iss": idp.issuer(), "sub": "alice", "aud": CLIENT, "exp": now() + 60});
    for nonce in [Value::Null, json!("n")] {
        if !nonce.is_null() {
            claims["nonce"] = nonce;
        }
        let token = idp.sign_with(&header, &claims);
        assert_eq!(proxy.ask(&get("/mcp", &format!("Authorization: Bearer {token}\r\n"))).status, 401);
    }
    // Nor is the cookie, not even on a connection where it was taken as what it is.
    let cookie = jar.value(SESSION).unwrap();
    let mut client = proxy.connect();
    assert_eq!(client.ask(&get("/mcp", &jar.field())).status, 200);
    assert_eq!(client.ask(&get("/mcp", &format!("Authorization: Bearer {cookie}\r\n"))).status, 401);
    let token = idp.token("alice");
    assert_eq!(client.ask(&get("/mcp", &format!("Authorization: Bearer {token}\r\n"))).status, 200);
    assert_eq!(client.ask(&get("/mcp", &format!("Cookie: {SESSION}={token}\r\n"))).status, 401);
}

fn what_a_server_says_is_shown_as_text(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login?return_to=/%22%3E%3Cb%3E", NAVIGATION)));
    let back = with(&with(&back, "code", None), "error", Some("<script>alert(1)</script>"));
    let back = with(&back, "error_description", Some(&format!("'\"><img src=x onerror=y>\r\n\0{}", "z".repeat(5000))));
    let page = fails(&proxy, &mut jar, &back, 400, "denied").text();
    for markup in ["<script", "<img", "<b>", "\0"] {
        assert!(!page.contains(markup), "{page}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)") && page.len() < 2000, "{page}");
    assert!(jar.value(LOGIN).is_none());
    assert_eq!(idp.asked("/token"), 0);
}

fn nobody_is_sent_elsewhere(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    for to in [
        "https://evil.example/",
        "//evil.example",
        "/%5Cevil.example",
        "%5C%5Cevil.example",
        "/%09/evil.example",
        "/%0d%0aSet-Cookie:%20a=b",
        "javascript:alert(1)",
        "mcp",
        "/login",
        "/logout?x",
        "/callback?code=x",
        "/a&return_to=/b",
        "",
    ] {
        let mut jar = Jar::default();
        let to = location(&jar.ask(&proxy, &format!("/login?return_to={to}"), NAVIGATION));
        let done = jar.ask(&proxy, &consent(&idp, &to), NAVIGATION);
        assert_eq!((done.status, done.one("location")), (303, Some("/")), "{to}");
    }
    let invited = proxy.ask(&get("//evil.example/", NAVIGATION));
    let mut jar = Jar::default();
    let to = location(&jar.ask(&proxy, &location(&invited), NAVIGATION));
    assert_eq!(jar.ask(&proxy, &consent(&idp, &to), NAVIGATION).one("location"), Some("/"));
}

fn changed_and_expired_cookies_are_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    let jar = log_in(&proxy, &idp);
    let good = jar.value(SESSION).unwrap().to_owned();
    let ask = |value: &str| proxy.ask(&get("/mcp", &format!("Cookie: {SESSION}={value}\r\n"))).status;
    assert_eq!(ask(&good), 200);
    for at in (0..good.len()).step_by(17) {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(ask(std::str::from_utf8(&bytes).unwrap()), 401, "{at}");
    }
    assert_eq!(ask(""), 401);
    assert_eq!(ask(&format!("{good}; {SESSION}={good}")), 401);
    // A login that was only begun is none.
    let mut begun = Jar::default();
    begun.ask(&proxy, "/login", NAVIGATION);
    assert_eq!(ask(begun.value(LOGIN).unwrap()), 401);
    // Another process does not know it.
    let other = started(before(driver, &idp, &upstream, ""));
    assert_eq!(other.ask(&get("/mcp", &jar.field())).status, 401);
    // A browser with a cookie that is no good is sent to log in.
    assert_eq!(other.ask(&get("/mcp", &(jar.field() + NAVIGATION))).status, 302);
    idp.says(Says { tokens: json!({"access_token": "opaque", "expires_in": 2}), ..Says::default() });
    let jar = log_in(&proxy, &idp);
    let mut client = proxy.connect();
    assert_eq!(client.ask(&get("/mcp", &jar.field())).status, 200);
    wait_until("the login to end", || client.ask(&get("/mcp", &jar.field())).status == 401);
    assert!(proxy.metrics().sum("shadowcat_auth_failures_total", "reason=\"expired\"") >= 1.0);
}

fn upstream_sees_no_cookie_of_ours(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, "public = [\"/open\"]\n"));
    let mut jar = log_in(&proxy, &idp);
    let session = jar.value(SESSION).unwrap().to_owned();
    for path in ["/mcp", "/open"] {
        assert_eq!(proxy.ask(&get(path, &jar.field())).status, 200);
        assert!(!upstream.last_request().head.has("cookie"));
        jar.0.insert(0, ("a".into(), "b c".into()));
        jar.0.push(("d".into(), "\"e\"".into()));
        assert_eq!(proxy.ask(&get(path, &jar.field())).status, 200);
        assert_eq!(upstream.last_request().head.all("cookie"), ["a=b c; d=\"e\""]);
        jar.0.retain(|(name, _)| name.len() > 1);
    }
    assert!(!upstream.received_text().contains(&session));
}

fn pages_of_others_cannot_use_the_cookie(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let allowed = "[proxy]\nallowed_hosts = [\"mcp.example.com\"]\nallowed_origins = [\"https://app.example.com\"]";
    let config = before(driver, &idp, &upstream, "").config(&format!(
        "{allowed}\n[auth]\nissuer = \"{}\"\naudience = [\"https://mcp.example.com\"]\nclient_id = \"{CLIENT}\"\n\
         client_secret = \"{SECRET}\"\nredirect_uri = \"{REDIRECT}\"\n",
        idp.issuer()
    ));
    let proxy = started(config);
    let jar = log_in(&proxy, &idp);
    let (own, other) = ("Origin: https://mcp.example.com\r\n", "Origin: https://app.example.com\r\n");
    let site = |site: &str| format!("Sec-Fetch-Site: {site}\r\n");
    for (fields, status) in [
        (String::new(), 403),
        (own.to_owned(), 200),
        (other.to_owned(), 403),
        (site("same-origin"), 200),
        (site("none"), 200),
        (site("same-site"), 403),
        (site("cross-site"), 403),
        (site("cross-site") + "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", 403),
        (site("same-origin") + other, 403),
        (site("cross-site") + own, 403),
    ] {
        for bytes in [post_json("/mcp", &(jar.field() + &fields), &request(1, "ping")), delete(&jar, &fields)] {
            assert_eq!(proxy.ask(&bytes).status, status, "{fields} {}", String::from_utf8_lossy(&bytes));
        }
    }
    for (fields, status) in [
        (String::new(), 200),
        (site("same-origin"), 200),
        (site("none"), 200),
        (site("same-site"), 403),
        (site("cross-site"), 403),
        (site("cross-site") + "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n", 403),
        (site("cross-site") + "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", 200),
        (other.to_owned(), 403),
    ] {
        let answer = proxy.ask(&get("/mcp", &(jar.field() + "Accept: text/event-stream\r\n" + &fields)));
        assert_eq!(answer.status, status, "{fields}");
    }
    // Whoever shows a token needs no cookie and is asked no such thing.
    let token = format!("Authorization: Bearer {}\r\n{}", idp.token("alice"), site("cross-site"));
    assert_eq!(proxy.ask(&post_json("/mcp", &(jar.field() + &token), &request(1, "ping"))).status, 200);
    assert!(proxy.metrics().sum("shadowcat_refusals_total", "reason=\"cross_site\"") >= 10.0);
}

fn delete(jar: &Jar, fields: &str) -> Vec<u8> {
    format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\n{}{fields}\r\n", jar.field()).into_bytes()
}

fn a_logout_holds_on_every_worker(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, "").workers(4));
    let (mut jar, another) = (log_in(&proxy, &idp), log_in(&proxy, &idp));
    let copy = jar.clone();
    let mut clients: Vec<RawClient> = (0..16).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&get("/mcp", &copy.field())).status, 200);
    }
    let out = proxy.ask(&post("/logout", &(jar.field() + "Sec-Fetch-Site: same-origin\r\n"), b""));
    jar.keep(&out);
    assert_eq!(out.status, 303);
    assert_eq!(location(&out), format!("{}/end?client_id={CLIENT}", idp.issuer()));
    assert!(jar.0.is_empty(), "{:?}", jar.0);
    // Also where the verdict was remembered.
    for client in &mut clients {
        assert_eq!(client.ask(&get("/mcp", &copy.field())).status, 401);
        assert_eq!(client.ask(&get("/mcp", &another.field())).status, 200, "another login of the same user goes on");
    }
    assert!(proxy.metrics().sum("shadowcat_auth_failures_total", "reason=\"logged_out\"") >= 16.0);
    assert!(proxy.ask(&get("/logout", &copy.field())).text().contains("You are not logged in here"));
}

fn an_image_elsewhere_logs_nobody_out(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    let jar = log_in(&proxy, &idp);
    for fields in [
        "",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
    ] {
        let page = proxy.ask(&get("/logout", &(jar.field() + fields)));
        assert_eq!((page.status, page.head.has("set-cookie")), (200, false), "{fields}");
        assert!(page.text().contains("<form method=\"post\" action=\"/logout\">"), "{}", page.text());
        // Without referrers a browser would post the form as `Origin: null`.
        assert_eq!(page.one("referrer-policy"), Some("same-origin"));
        let forged = proxy.ask(&post("/logout", &(jar.field() + fields), b""));
        assert_eq!((forged.status, forged.head.has("set-cookie")), (200, false), "{fields}");
    }
    assert_eq!(proxy.ask(&get("/mcp", &jar.field())).status, 200);
    // Whoever types it means it.
    assert_eq!(proxy.ask(&get("/logout", &(jar.field() + NAVIGATION))).status, 303);
    assert_eq!(proxy.ask(&get("/mcp", &jar.field())).status, 401);
}

fn an_issuer_that_is_down_is_told_clearly(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let nowhere = upstream::Refusing::new();
    let auth =
        format!("[auth]\nissuer = \"{}\"\nclient_id = \"{CLIENT}\"\nredirect_uri = \"{REDIRECT}\"\n", nowhere.url());
    let proxy = Proxy::before(driver, &[&upstream]).config(&auth).start();
    let page = fails(&proxy, &mut Jar::default(), "/login", 503, "unavailable");
    assert!(page.text().contains("could not be asked") && page.one("retry-after") == Some("5"), "{}", page.text());
    let proxy = started(before(driver, &idp, &upstream, ""));
    for (status, outcome, shown) in [(500, "unavailable", 503), (401, "token_endpoint", 502)] {
        let mut jar = Jar::default();
        let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
        idp.says(Says { token_status: Some(status), ..Says::default() });
        fails(&proxy, &mut jar, &back, shown, outcome);
        idp.says(Says::default());
    }
    let mut jar = Jar::default();
    let back = consent(&idp, &location(&jar.ask(&proxy, "/login", NAVIGATION)));
    let known = log_in(&proxy, &idp);
    idp.server.stop();
    fails(&proxy, &mut jar, &back, 503, "unavailable");
    assert_eq!(proxy.ask(&get("/mcp", &known.field())).status, 200, "whoever is logged in stays so");
}

fn a_server_without_s256_is_refused(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    idp.says(Says { metadata: json!({"code_challenge_methods_supported": ["plain"]}), ..Says::default() });
    let proxy = before(driver, &idp, &upstream, "").start();
    wait_until("its metadata to be read", || proxy.ask(&get("/login", "")).status == 502);
    let page = fails(&proxy, &mut Jar::default(), "/login", 502, "no_pkce");
    assert!(page.text().contains("auth.pkce_required"), "{}", page.text());
    // It may be taken all the same, and is sent the proof key in any case: the server here insists on it.
    let lenient = started(before(driver, &idp, &upstream, "pkce_required = false\n"));
    log_in(&lenient, &idp);
}

fn a_flood_of_logins_is_limited_by_address(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let limits = "[rate_limit]\nper_address_limit = 6\nper_address_window = 100000\n";
    let proxy = before(driver, &idp, &upstream, limits).start();
    let answers: Vec<u16> = (0..8).map(|_| proxy.ask(&get("/callback?code=x&state=y", NAVIGATION)).status).collect();
    assert_eq!(answers, [400, 400, 400, 400, 400, 400, 429, 429]);
    assert_eq!(idp.asked("/token"), 0);
}

fn many_logins_that_were_only_begun_cost_no_memory(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, ""));
    let mut client = proxy.connect();
    let mut begin = |times: usize| {
        for _ in 0..times {
            assert_eq!(client.ask(&get("/login?return_to=/mcp", NAVIGATION)).status, 302);
        }
    };
    begin(500);
    let before = proxy.memory();
    begin(5_000);
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes more");
}

fn nothing_of_a_login_is_in_the_log(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let proxy = started(before(driver, &idp, &upstream, "").variable("RUST_LOG", "trace"));
    let mut jar = Jar::default();
    let to = location(&jar.ask(&proxy, "/login", NAVIGATION));
    let begun = jar.value(LOGIN).unwrap().to_owned();
    let back = consent(&idp, &to);
    fails(&proxy, &mut jar, &with(&back, "state", Some("made-up-state")), 400, "state");
    assert_eq!(jar.ask(&proxy, &back, NAVIGATION).status, 303);
    assert_eq!(jar.ask(&proxy, "/mcp", NAVIGATION).status, 200);
    wait_until("the login to be logged", || proxy.log().contains("logged in"));
    let query: std::collections::HashMap<_, _> =
        url::Url::parse(&format!("http://localhost{back}")).unwrap().query_pairs().into_owned().collect();
    let log = proxy.log();
    for secret in [&query["code"], &query["state"], &begun, jar.value(SESSION).unwrap(), "made-up-state", "hunter2"] {
        assert!(!log.contains(secret), "{log}");
    }
    let token = idp.server.requests().into_iter().rfind(|request| request.head.target() == "/token").unwrap();
    let verifier = token.text().split("code_verifier=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    assert!(verifier.len() == 43 && !log.contains(&verifier));
}
