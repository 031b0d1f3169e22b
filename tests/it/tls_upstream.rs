//! `https://` upstreams.

use std::io::Write;

use tempfile::NamedTempFile;

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    speaks_tls_and_keeps_the_connection,
    streams_over_tls_byte_exact,
    a_certificate_of_another_authority_is_refused,
    a_certificate_for_another_name_is_refused,
    an_upstream_without_tls_is_502,
    a_body_that_tls_does_not_end_is_cut,
);

fn pem_file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(".pem").expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn before(driver: Driver, upstream: &FakeUpstream, host: &str, authority: &NamedTempFile) -> Proxy {
    let port = upstream.address.port();
    let config =
        format!("[[upstreams]]\nurl = \"https://{host}:{port}\"\nca_path = \"{}\"\n", authority.path().display());
    Proxy::builder(driver).workers(1).config(&config).start()
}

fn speaks_tls_and_keeps_the_connection(driver: Driver) {
    let (authority, server) = tls::authority_and_server("localhost");
    let upstream = tls::upstream(server, |conversation| {
        while let Some(request) = conversation.request() {
            conversation.respond(200, "", &format!("{} bytes", request.body.len()));
        }
    });
    let proxy = before(driver, &upstream, "localhost", &pem_file(&authority));
    let mut client = proxy.connect();
    for size in [0, 1, 1000, 100_000, 1_000_000] {
        assert_eq!(client.ask(&post("/x", "", &vec![b'x'; size])).text(), format!("{size} bytes"));
    }
    assert_eq!(upstream.connections(), 1);
    let seen = upstream.last_request().head;
    assert_eq!(seen.one("host"), Some("localhost"));
}

fn streams_over_tls_byte_exact(driver: Driver) {
    let (authority, server) = tls::authority_and_server("localhost");
    let upstream = tls::upstream(server, |conversation| {
        while conversation.request().is_some() {
            conversation.begin_events("");
            conversation.send_chunk(b": first\r\n\r\n");
            conversation.tell("begun");
            for n in 0..500 {
                conversation.send_chunk(format!("id: {n}\ndata: {}\n\n", "x".repeat(n)).as_bytes());
            }
            conversation.end_chunks();
        }
    });
    let proxy = before(driver, &upstream, "localhost", &pem_file(&authority));
    let mut client = proxy.connect();
    let expected: String = (0..500).map(|n| format!("id: {n}\ndata: {}\n\n", "x".repeat(n))).collect();
    for _ in 0..2 {
        assert_eq!(client.ask(&get("/sse", "")).text(), format!(": first\r\n\r\n{expected}"));
    }
}

fn a_certificate_of_another_authority_is_refused(driver: Driver) {
    let (_, server) = tls::authority_and_server("localhost");
    let (other, _) = tls::authority_and_server("localhost");
    let upstream = tls::upstream(server, |conversation| {
        conversation.request();
    });
    let proxy = before(driver, &upstream, "localhost", &pem_file(&other));
    assert_eq!(proxy.ask(&get("/secret", "")).status, 502);
    assert!(!upstream.received_text().contains("secret"));
}

fn a_certificate_for_another_name_is_refused(driver: Driver) {
    let (authority, server) = tls::authority_and_server("mcp.example");
    let upstream = tls::upstream(server, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "named");
        }
    });
    let file = pem_file(&authority);
    let proxy = before(driver, &upstream, "localhost", &file);
    assert_eq!(proxy.ask(&get("/secret", "")).status, 502);
    assert!(!upstream.received_text().contains("secret"));
    // Unless that is the name that the configuration gives.
    let config = format!(
        "[[upstreams]]\nurl = \"https://{}\"\nca_path = \"{}\"\nserver_name = \"mcp.example\"\n",
        upstream.address,
        file.path().display()
    );
    let proxy = Proxy::builder(driver).config(&config).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "named");
}

fn an_upstream_without_tls_is_502(driver: Driver) {
    let (authority, _) = tls::authority_and_server("localhost");
    let file = pem_file(&authority);
    // One that speaks before the handshake, one that answers it with HTTP, one that ends it.
    let early = FakeUpstream::new(|conversation| {
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        conversation.wait_for_end();
    });
    let plain = FakeUpstream::new(|conversation| {
        conversation.wire.fill(PATIENCE);
        conversation.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        conversation.wait_for_end();
    });
    let closing = FakeUpstream::new(|conversation| {
        conversation.wire.fill(PATIENCE);
    });
    for upstream in [&early, &plain, &closing] {
        let proxy = before(driver, upstream, "localhost", &file);
        assert_eq!(proxy.ask(&get("/secret", "")).status, 502);
        assert!(!upstream.received_text().contains("secret"));
        assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    }
}

fn a_body_that_tls_does_not_end_is_cut(driver: Driver) {
    // Without close_notify nobody knows whether the end is the end (RFC 9112 section 9.8).
    let (authority, server) = tls::authority_and_server("localhost");
    let upstream = tls::upstream(server, |conversation| {
        conversation.request();
        conversation.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of a body");
    });
    let proxy = before(driver, &upstream, "localhost", &pem_file(&authority));
    let outcome = proxy.connect().send(&get("/", "")).outcome();
    assert!(outcome.is_cut() || outcome.status() == 502, "{outcome:?}");
}
