//! Client certificates as proof of who asks, towards us and from us towards upstreams.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::client::RawClient;
use crate::support::idp::Idp;
use crate::support::mcp::{Replica, call, in_session, initialize, request};
use crate::support::proxy::Builder;
use crate::support::tls::{Authority, client, server_asking_for};
use crate::support::*;

on_both_drivers!(
    the_subject_is_told_to_upstream,
    sessions_belong_to_the_subject,
    scopes_and_rules_hold_for_certificates,
    certificates_and_tokens_go_together,
    a_resumed_session_is_the_same_subject,
    other_roots_end_what_could_be_resumed,
    an_expired_certificate_ends_what_it_began,
    upstream_is_shown_our_certificate,
);

struct Parties {
    authority: Authority,
    folder: TempDir,
}

impl Parties {
    fn new() -> Parties {
        let parties = Parties { authority: Authority::new(), folder: tempfile::tempdir().expect("a folder") };
        parties.authority.write(parties.folder.path(), "localhost", &parties.authority.sign("localhost"));
        std::fs::write(parties.path("ca.pem"), &parties.authority.pem).expect("written");
        parties
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn config(&self, name: Option<&str>) -> ClientConfig {
        let signed = name.map(|name| self.authority.sign(name));
        self.authority.client_with(&[&TLS13, &TLS12], signed.as_ref())
    }

    /// A proxy that takes certificates; `auth` are further lines of `[auth]`.
    fn before(&self, driver: Driver, upstream: &FakeUpstream, auth: &str) -> Builder {
        let tls = ["cert_path", "localhost.pem", "key_path", "localhost.key", "client_ca_path", "ca.pem"];
        let tls: Vec<String> =
            tls.chunks(2).map(|pair| format!("{} = \"{}\"\n", pair[0], self.path(pair[1]))).collect();
        let providers = if auth.contains("providers") { "" } else { "provider = \"mtls\"\n" };
        let config = format!("[tls]\n{}[auth]\n{providers}{auth}", tls.concat());
        Proxy::before(driver, &[upstream]).config(&config).over_tls(Arc::new(self.config(Some("harness"))))
    }

    fn connect(&self, proxy: &Proxy, name: Option<&str>) -> RawClient {
        client(proxy.address, "localhost", Arc::new(self.config(name))).expect("a handshake")
    }
}

fn the_subject_is_told_to_upstream(driver: Driver) {
    let (parties, upstream) = (Parties::new(), FakeUpstream::answering("ok"));
    let proxy = parties.before(driver, &upstream, "").start();
    let mut alice = parties.connect(&proxy, Some("alice"));
    for _ in 0..2 {
        assert_eq!(alice.ask(&get("/", "X-Forwarded-User: root\r\n")).status, 200);
        assert_eq!(upstream.last_request().head.all("x-forwarded-user"), ["CN=alice"]);
    }
    let nobody = parties.connect(&proxy, None).ask(&get("/", "Authorization: Bearer x\r\n"));
    assert_eq!(nobody.status, 401, "{nobody:?}");
    assert_eq!(upstream.requests().len(), 2);
    proxy.wait_for_metric("shadowcat_auth_failures_total", "reason=\"missing\"", 1.0);
}

fn sessions_belong_to_the_subject(driver: Driver) {
    let (parties, replica) = (Parties::new(), Replica::new("one"));
    let proxy = parties.before(driver, &replica.upstream, "").start();
    let begun = parties.connect(&proxy, Some("alice")).ask(&post_json("/mcp", "", &initialize(1)));
    let session = begun.one("mcp-session-id").expect("a session").to_owned();
    let ping = in_session(&session, &request(2, "ping"));
    assert_eq!(parties.connect(&proxy, Some("mallory")).ask(&ping).status, 404);
    // Another certificate of the same subject is as good.
    assert_eq!(parties.connect(&proxy, Some("alice")).ask(&ping).status, 200);
}

fn scopes_and_rules_hold_for_certificates(driver: Driver) {
    let (parties, upstream) = (Parties::new(), FakeUpstream::answering("ok"));
    let rule = "[[auth.rules]]\nmethod = \"tools/call\"\ntool = \"deploy\"\nscopes = [\"write\"]\n";
    let with = |scopes: &str| format!("scopes = [\"read\"]\n{scopes}{rule}");
    let status =
        |proxy: &Proxy, body: &str| parties.connect(proxy, Some("alice")).ask(&post_json("/mcp", "", body)).status;
    let none = parties.before(driver, &upstream, &with("")).start();
    assert_eq!(status(&none, &request(1, "ping")), 403);
    let some = parties.before(driver, &upstream, &with("certificate_scopes = [\"read\"]\n")).start();
    assert_eq!(status(&some, &request(1, "ping")), 200);
    assert_eq!(status(&some, &call(1, "deploy")), 403);
    let all = parties.before(driver, &upstream, &with("certificate_scopes = [\"read\", \"write\"]\n")).start();
    assert_eq!(status(&all, &call(1, "deploy")), 200);
}

fn certificates_and_tokens_go_together(driver: Driver) {
    let (parties, idp, upstream) = (Parties::new(), Idp::start(), FakeUpstream::answering("ok"));
    let auth = format!(
        "providers = [\"oauth2\", \"mtls\"]\nissuer = \"{}\"\naudience = [\"https://mcp.example.com\"]\n",
        idp.issuer()
    );
    let proxy = parties.before(driver, &upstream, &auth).start();
    let token = format!("Authorization: Bearer {}\r\n", idp.token("bob"));
    wait_until("the keys to be there", || parties.connect(&proxy, None).ask(&get("/", &token)).status == 200);
    let mut alice = parties.connect(&proxy, Some("alice"));
    // The order of the providers decides where a request shows both.
    for (fields, user) in [(token.as_str(), "bob"), ("", "CN=alice"), ("Authorization: Bearer forged\r\n", "CN=alice")]
    {
        assert_eq!(alice.ask(&get("/", fields)).status, 200, "{user}");
        assert_eq!(upstream.last_request().head.all("x-forwarded-user"), [user]);
    }
    assert_eq!(parties.connect(&proxy, None).ask(&get("/", "")).status, 401);
}

/// Connects again and again with one certificate; tells whether the session was resumed by the proxy's own count.
struct Returning<'a> {
    proxy: &'a Proxy,
    config: Arc<ClientConfig>,
}

impl Returning<'_> {
    fn new<'a>(parties: &Parties, proxy: &'a Proxy, name: &str) -> Returning<'a> {
        let mut config = parties.config(Some(name));
        config.resumption = Resumption::in_memory_sessions(64);
        Returning { proxy, config: Arc::new(config) }
    }

    /// The status, and whether it was resumed.
    fn come(&self) -> Option<(u16, bool)> {
        let mut client = client(self.proxy.address, "localhost", self.config.clone()).ok()?;
        client.send(&get("/", ""));
        let Outcome::Whole(answer) = client.outcome() else { return None };
        Some((answer.status, client.wire.is_resumed()))
    }
}

fn a_resumed_session_is_the_same_subject(driver: Driver) {
    let (parties, upstream) = (Parties::new(), FakeUpstream::answering("ok"));
    let proxy = parties.before(driver, &upstream, "").workers(2).start();
    let alice = Returning::new(&parties, &proxy, "alice");
    let met: Vec<_> = (0..6).map(|_| alice.come().expect("an answer")).collect();
    assert_eq!(met[0], (200, false));
    assert!(met[1..].iter().all(|met| *met == (200, true)), "{met:?}");
    assert!(upstream.requests().iter().all(|seen| seen.head.one("x-forwarded-user") == Some("CN=alice")));
}

fn other_roots_end_what_could_be_resumed(driver: Driver) {
    let (parties, upstream) = (Parties::new(), FakeUpstream::answering("ok"));
    let proxy = parties.before(driver, &upstream, "").start();
    let alice = Returning::new(&parties, &proxy, "alice");
    alice.come();
    assert_eq!(alice.come(), Some((200, true)));
    std::fs::write(parties.path("ca.pem"), Authority::new().pem).expect("written");
    wait_until("the new roots", || proxy.log().contains("loaded the certificates anew"));
    assert_eq!(alice.come(), None, "a certificate of the old roots");
}

fn an_expired_certificate_ends_what_it_began(driver: Driver) {
    let (parties, upstream) = (Parties::new(), FakeUpstream::answering("ok"));
    let proxy = parties.before(driver, &upstream, "").start();
    let brief = parties.authority.sign_for("alice", 3);
    let config = parties.authority.client_with(&[&TLS13], Some(&brief));
    let mut alice = client(proxy.address, "localhost", Arc::new(config)).expect("a handshake");
    assert_eq!(alice.ask(&get("/", "")).status, 200);
    wait_until("the certificate to expire", || alice.ask(&get("/", "")).status == 401);
}

fn upstream_is_shown_our_certificate(driver: Driver) {
    let parties = Parties::new();
    let (pem, key) = parties.authority.write(parties.folder.path(), "proxy", &parties.authority.sign("proxy"));
    let upstream = tls::upstream(server_asking_for(&parties.authority, "localhost"), |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "ok");
        }
    });
    let url = format!("https://localhost:{}", upstream.address.port());
    let bare = format!("[[upstreams]]\nurl = \"{url}\"\nca_path = \"{}\"\n", parties.path("ca.pem"));
    let shown = format!("{bare}client_cert_path = \"{}\"\nclient_key_path = \"{}\"\n", pem.display(), key.display());
    let status = |config: &str| Proxy::builder(driver).workers(1).config(config).start().ask(&get("/", "")).status;
    assert_eq!(status(&shown), 200);
    assert_eq!(status(&bare), 502);
    let half = format!("{bare}client_key_path = \"{}\"\n", key.display());
    let (code, said) = Proxy::builder(driver).config(&half).try_start().err().expect("it does not start");
    assert!(code == Some(78) && said.contains("need each other"), "{code:?} {said}");
}
