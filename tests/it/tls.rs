//! TLS towards clients: handshakes, certificates and their change, and HTTP that is the same as without.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::mcp::{Push, Replica, begin_session, in_session, listen, request};
use crate::support::proxy::Builder;
use crate::support::tls::{Authority, client};
use crate::support::*;

on_both_drivers!(
    sessions_and_streams_go_over_tls,
    large_bodies_go_both_ways,
    full_and_small_records_in_turn_are_whole,
    pipelined_and_slow_requests_are_whole,
    a_slow_reader_grows_no_memory,
    a_cut_answer_is_visibly_cut,
    a_drain_says_that_it_is_the_end,
    plain_requests_are_told_to_use_tls,
    old_versions_and_other_protocols_are_refused,
    the_name_chooses_the_certificate,
    sessions_resume_on_every_worker_and_after_a_reload,
    client_certificates_are_asked_for,
    certificates_are_loaded_anew,
    a_broken_pair_keeps_the_old_one,
    a_handshake_has_its_time,
    bad_settings_are_refused_at_start,
);

pub struct Files {
    authority: Authority,
    folder: TempDir,
}

impl Files {
    /// With a pair for `localhost`.
    pub fn new() -> Files {
        let files = Files { authority: Authority::new(), folder: tempfile::tempdir().expect("a folder") };
        files.renew("localhost");
        files
    }

    fn renew(&self, name: &str) {
        self.authority.write(self.folder.path(), name, &self.authority.sign(name));
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.authority.client())
    }

    pub fn before(&self, driver: Driver, upstream: &FakeUpstream) -> Builder {
        let builder = Proxy::before(driver, &[upstream]).argument("--tls-cert").argument(self.path("localhost.pem"));
        builder.argument("--tls-key").argument(self.path("localhost.key")).over_tls(self.client())
    }
}

fn sessions_and_streams_go_over_tls(driver: Driver) {
    let (files, replica) = (Files::new(), Replica::new("one"));
    let proxy = files.before(driver, &replica.upstream).start();
    let (_, session) = begin_session(&proxy);
    let mut stream = proxy.connect();
    stream.send(&listen(&session, ""));
    assert_eq!(stream.stream_head().status(), Ok(200));
    for text in ["data: one\n\n", "data: two\n\n"] {
        replica.push(&Push::Bytes(text.into()));
        stream.stream_until(text.as_bytes());
        assert_eq!(proxy.ask(&in_session(&session, &request(2, "ping"))).status, 200);
    }
    let seen = replica.upstream.last_request();
    assert_eq!(seen.head.one("x-forwarded-proto"), Some("https"));
    assert!(seen.head.one("forwarded").unwrap().contains("proto=https"));
    replica.push(&Push::End);
}

fn large_bodies_go_both_ways(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            conversation.begin_chunks("");
            request.body.chunks(100_000).all(|piece| conversation.send_chunk(piece));
            conversation.end_chunks();
        }
    });
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let body: Vec<u8> = (0..10u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut client = proxy.connect();
    for _ in 0..2 {
        let answer = client.ask(&post("/", "Content-Type: application/octet-stream\r\n", &body));
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    }
}

/// What fills the reader's room for plaintext, and a little more behind it.
fn full_and_small_records_in_turn_are_whole(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let body: Vec<u8> = (0..40 * (16_384 + 8)).map(|n| (n % 249) as u8).collect();
    let asking = post("/", "Content-Type: application/octet-stream\r\n", &body);
    let mut client = proxy.connect();
    for _ in 0..5 {
        let (head, mut rest) = asking.split_at(asking.len() - body.len());
        client.send(head);
        while !rest.is_empty() {
            let (full, behind) = rest.split_at(16_384);
            let (small, behind) = behind.split_at(8);
            client.send(full).send(small);
            rest = behind;
        }
        assert_eq!(client.response().status, 200);
    }
    assert!(upstream.requests().iter().all(|request| request.body == body));
}

fn pipelined_and_slow_requests_are_whole(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let mut client = proxy.connect();
    client.send(&[get("/1", ""), post("/2", "", b"body"), get("/3", "")].concat());
    for _ in 0..3 {
        assert_eq!(client.response().text(), "ok");
    }
    // Each piece is a record of its own.
    client.send_in_pieces(&post_json("/mcp", "", &request(1, "ping")), 7);
    assert_eq!(client.response().status, 200);
    let targets: Vec<_> = upstream.requests().iter().map(|request| request.head.target().to_owned()).collect();
    assert_eq!(targets, ["/1", "/2", "/3", "/mcp"]);
}

fn a_slow_reader_grows_no_memory(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.begin_chunks("");
            while conversation.send_chunk(&[b'x'; 65_536]) {}
        }
    });
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let before = proxy.memory();
    let mut readers: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for reader in &mut readers {
        reader.send(&get("/", ""));
        reader.head();
    }
    // Enough that unbounded buffers would show: each upstream writes as fast as it may.
    let mut fast = proxy.connect();
    fast.send(&get("/", ""));
    fast.head();
    for _ in 0..500 {
        fast.chunk();
    }
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
}

fn a_cut_answer_is_visibly_cut(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        if conversation.request().is_some() {
            conversation.begin_chunks("");
            conversation.send_chunk(b"some");
            conversation.reset();
        }
    });
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    assert!(client.outcome().is_cut());
}

fn a_drain_says_that_it_is_the_end(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let mut proxy = files.before(driver, &upstream).start();
    let mut client = proxy.connect();
    assert_eq!(client.ask(&get("/", "")).status, 200);
    proxy.signal(Signal::TERM);
    // rustls reports an end without close_notify as an error, which the strict reader takes for a reset.
    assert_eq!(client.expect_end(), Ending::Orderly);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn plain_requests_are_told_to_use_tls(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let mut plain = RawClient::connect(proxy.address);
    let answer = plain.ask(&post("/", "", b"body"));
    assert_eq!((answer.status, answer.closes()), (400, true));
    assert!(answer.text().contains("https://"), "{}", answer.text());
    let mut noise = RawClient::connect(proxy.address);
    noise.send(b"\x01\x02\x03 not a handshake");
    assert!(matches!(noise.outcome(), Outcome::Nothing(_)));
    proxy.wait_for_metric("shadowcat_tls_handshakes_total", "outcome=\"failed\"", 2.0);
    assert_eq!(upstream.requests().len(), 0);
}

fn old_versions_and_other_protocols_are_refused(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let try_with = |proxy: &Proxy, config: ClientConfig| {
        client(proxy.address, "localhost", Arc::new(config)).is_ok_and(|mut client| {
            client.send(&get("/", ""));
            matches!(client.outcome(), Outcome::Whole(_))
        })
    };
    let both = files.before(driver, &upstream).start();
    let newest = files.before(driver, &upstream).argument("--tls-min-version").argument("1.3").start();
    for (proxy, version, taken) in
        [(&both, &TLS12, true), (&both, &TLS13, true), (&newest, &TLS12, false), (&newest, &TLS13, true)]
    {
        assert_eq!(try_with(proxy, files.authority.client_with(&[version], None)), taken, "{version:?}");
    }
    for (offered, taken) in [(vec!["h2", "http/1.1"], true), (vec!["http/1.1"], true), (vec!["h2"], false)] {
        let mut config = files.authority.client();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        assert_eq!(try_with(&both, config), taken, "{offered:?}");
    }
}

fn the_name_chooses_the_certificate(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    files.renew("other.example");
    let more = format!(
        "[[tls.certificates]]\ncert_path = \"{}\"\nkey_path = \"{}\"\n",
        files.path("other.example.pem"),
        files.path("other.example.key")
    );
    let proxy = files.before(driver, &upstream).config(&more).start();
    // The client checks the name in the certificate.
    for (name, fits) in [("localhost", true), ("other.example", true), ("third.example", false)] {
        assert_eq!(client(proxy.address, name, files.client()).is_ok(), fits, "{name}");
    }
}

fn sessions_resume_on_every_worker_and_after_a_reload(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    for version in [&TLS12, &TLS13] {
        let proxy = files.before(driver, &upstream).workers(4).start();
        let mut config = files.authority.client_with(&[version], None);
        config.resumption = Resumption::in_memory_sessions(64);
        let config = Arc::new(config);
        let ask = || {
            let mut client = client(proxy.address, "localhost", config.clone()).expect("a handshake");
            assert_eq!(client.ask(&get("/", "")).status, 200);
        };
        let resumed = || proxy.metrics().sum("shadowcat_tls_handshakes_total", "outcome=\"resumed\"");
        let before = resumed();
        (0..20).for_each(|_| ask());
        let after = resumed();
        // The harness resumes as well, with settings of its own; of ours only the first cannot.
        assert!(after - before >= 19.0, "{version:?}: {before} {after}");
        files.renew("localhost");
        proxy.signal(Signal::HUP);
        wait_until("the certificates to be loaded", || proxy.log().contains("loaded the certificates anew"));
        ask();
        assert!(resumed() > after, "{version:?}");
    }
}

fn client_certificates_are_asked_for(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    std::fs::write(files.path("ca.pem"), &files.authority.pem).expect("written");
    let (known, stranger) = (files.authority.sign("alice"), Authority::new().sign("mallory"));
    let with = |certificate| files.authority.client_with(&[&TLS13, &TLS12], certificate);
    let demanding = |required: &str| {
        let builder = files.before(driver, &upstream).set("tls.client_ca_path", &files.path("ca.pem"));
        builder.set("tls.require_client_cert", required).over_tls(Arc::new(with(Some(&known)))).start()
    };
    for required in [true, false] {
        let proxy = demanding(if required { "true" } else { "false" });
        for (certificate, taken) in [(Some(&known), true), (Some(&stranger), false), (None, !required)] {
            // In TLS 1.3 the client learns of a refusal only after its own handshake.
            let served = client(proxy.address, "localhost", Arc::new(with(certificate))).is_ok_and(|mut client| {
                client.send(&get("/", ""));
                matches!(client.outcome(), Outcome::Whole(_))
            });
            assert_eq!(served, taken, "required {required}, {}", certificate.is_some());
        }
    }
}

fn certificates_are_loaded_anew(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let mut open = proxy.connect();
    assert_eq!(open.ask(&get("/", "")).status, 200);
    let other = Files::new();
    let newcomer = || client(proxy.address, "localhost", other.client()).is_ok();
    assert!(!newcomer());
    // By the change of the files alone, while a connection is open.
    other.authority.write(files.folder.path(), "localhost", &other.authority.sign("localhost"));
    wait_until("the new certificate", newcomer);
    assert_eq!(open.ask(&get("/", "")).status, 200);
}

fn a_broken_pair_keeps_the_old_one(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let proxy = files.before(driver, &upstream).start();
    let (certificate, _) = files.authority.sign("localhost");
    std::fs::write(files.path("localhost.pem"), certificate).expect("written");
    proxy.signal(Signal::HUP);
    wait_until("the complaint", || proxy.log().contains("the old ones stay"));
    assert!(proxy.log().contains("localhost.key"), "{}", proxy.log());
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
    files.renew("localhost");
    proxy.signal(Signal::HUP);
    wait_until("the certificates to be loaded", || proxy.log().contains("loaded the certificates anew"));
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
}

fn a_handshake_has_its_time(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let builder = files.before(driver, &upstream).set("tls.handshake_timeout", "500ms");
    let proxy = builder.set("tls.max_handshakes", "4").start();
    // One says nothing, the others begin a record that never ends.
    let mut slow: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(proxy.address).expect("connected")).collect();
    for stream in &mut slow[1..] {
        stream.write_all(&[22, 3, 1, 2, 0, 1]).expect("sent");
    }
    wait_until("the handshakes to be given up", || {
        slow.iter().all(|stream| stream.peek(&mut [0]).is_ok_and(|n| n == 0))
    });
    proxy.wait_for_metric("shadowcat_tls_handshakes_total", "outcome=\"timeout\"", 4.0);
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
}

fn bad_settings_are_refused_at_start(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let files = Files::new();
    let refused = |builder: Builder, message: &str| {
        let (code, said) = builder.try_start().err().expect("it does not start");
        assert!(code.is_some_and(|code| code != 0) && said.contains(message), "{code:?} {said}");
    };
    std::fs::set_permissions(files.path("localhost.key"), std::fs::Permissions::from_mode(0o644)).expect("permissions");
    refused(files.before(driver, &upstream), "others can read this private key");
    files.renew("localhost");
    let (_, key) = files.authority.sign("localhost");
    std::fs::write(files.path("localhost.key"), key).expect("written");
    refused(files.before(driver, &upstream), "localhost.key");
    std::fs::write(files.path("localhost.pem"), "no certificate").expect("written");
    refused(files.before(driver, &upstream), "no certificate");
    std::fs::remove_file(files.path("localhost.pem")).expect("removed");
    refused(files.before(driver, &upstream), "localhost.pem");
}
