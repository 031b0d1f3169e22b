//! What upstreams do wrong, which of them gets the work, and the connections to them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    refuses_answers_that_are_not_valid,
    keeps_cut_answers_visibly_cut,
    never_reuses_a_connection_in_doubt,
    repeats_only_what_may_be_repeated,
    gives_up_on_upstreams_that_are_too_slow,
    moves_on_when_an_upstream_refuses,
    ends_sessions_of_an_upstream_that_stays_away,
    spreads_new_work_by_weight,
    bounds_connections_to_an_upstream,
    speaks_to_ipv6_and_tls_upstreams,
    answers_without_an_upstream,
    maps_the_root_to_the_path_of_the_url,
);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn refuses_answers_that_are_not_valid(driver: &str) {
    let bomb: &'static str = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(40_000)).leak();
    let many: &'static str = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)).leak();
    for (name, answer) in [
        (
            "CL and TE",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        ("bad length", "HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc"),
        ("TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc"),
        ("HTTP/0.9", "hello there"),
        ("binary", "\u{16}\u{3}\u{1}"),
        ("HTTP/2", "HTTP/2.0 200 OK\r\n\r\n"),
        ("status 99", "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n"),
        ("status 600", "HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        ("NUL", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("obs-fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        ("splitting", "HTTP/1.1 200 OK\r\nX: a\rHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc"),
        ("header bomb", bomb),
        ("too many fields", many),
        ("bad first chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ] {
        let upstream = Upstream::saying(answer.as_bytes());
        let proxy = Proxy::before(driver, &[&upstream]).start();
        let answer = proxy.connect().exchange(GET);
        assert_eq!(answer.status, 502, "{name}: {}", answer.head);
        assert!(answer.json()["error"]["message"].is_string());
        assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", "error=\"protocol\""), 1.0, "{name}");
    }
}

fn keeps_cut_answers_visibly_cut(driver: &str) {
    for (name, answer, resets) in [
        ("short of its length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", false),
        ("chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("cut inside a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", false),
        ("a bad later chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("reset behind a close-delimited body", "HTTP/1.1 200 OK\r\n\r\nabc", true),
    ] {
        let upstream = Upstream::new(move |conversation| {
            conversation.request();
            conversation.say(answer.as_bytes());
            // The rest is decided once the client has what came so far.
            conversation.tell("said");
            if name == "a bad later chunk" {
                conversation.say(b"nonsense\r\n");
            }
            if resets {
                conversation.reset();
            }
        });
        let proxy = Proxy::before(driver, &[&upstream]).start();
        let mut client = proxy.connect();
        client.send(&get("/", "Connection: close\r\n"));
        let (got, ending) = client.rest();
        let got = String::from_utf8_lossy(&got).into_owned();
        if got.starts_with("HTTP/1.1 502") {
            continue;
        }
        assert!(!got.ends_with("0\r\n\r\n"), "{name}: looks whole: {got}");
        let by_length = got.contains("Content-Length: 10") && !got.ends_with("0123456789");
        assert!(by_length || got.contains("chunked") || ending == Ending::Reset, "{name}: {got}");
        let mut old = proxy.connect();
        old.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let (got, ending) = old.rest();
        let got = String::from_utf8_lossy(&got).into_owned();
        let visible = ending == Ending::Reset || got.contains("Content-Length: 10") || got.starts_with("HTTP/1.1 502");
        assert!(visible, "{name} to HTTP/1.0: {got}");
    }
}

fn never_reuses_a_connection_in_doubt(driver: &str) {
    for (name, first) in [
        (
            "surplus bytes",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        ("connection close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        ("close-delimited", "HTTP/1.1 200 OK\r\n\r\nok"),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let upstream = Upstream::new(move |conversation| {
            conversation.request();
            conversation.say(first.as_bytes());
            if !first.contains("Content-Length") {
                return;
            }
            if conversation.request().is_some() {
                conversation.tell("used again");
            }
        });
        let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
        let mut client = proxy.connect();
        assert_eq!(client.exchange(GET).text(), "ok", "{name}");
        assert_eq!(client.exchange(GET).text(), "ok", "{name}");
        assert_eq!(upstream.connections(), 2, "{name}");
        upstream.no_event();
    }
    // A byte that arrives while the connection is idle belongs to no request.
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.answer(200, "", "ok");
        conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        conversation.tell("poisoned");
        conversation.wait_for_close();
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    assert_eq!(client.exchange(GET).text(), "ok");
    upstream.event();
    assert_eq!(client.exchange(GET).text(), "ok");
    assert_eq!(upstream.connections(), 2);
}

fn repeats_only_what_may_be_repeated(driver: &str) {
    let upstream = || {
        Upstream::new(|conversation| {
            conversation.request();
            conversation.answer(200, "", "first");
            if conversation.number == 1 {
                // Dies with the second request in it, without a word.
                conversation.request();
                conversation.tell("died");
                return;
            }
            while conversation.request().is_some() {
                conversation.answer(200, "", "again");
            }
        })
    };
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}"#;
    let list = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
    for (request, expected) in [(GET.to_vec(), 200), (post("", list), 200), (post("", call), 502)] {
        let upstream = upstream();
        let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
        let mut client = proxy.connect();
        assert_eq!(client.exchange(GET).text(), "first");
        let answer = client.exchange(&request);
        upstream.event();
        assert_eq!(answer.status, expected, "{}", String::from_utf8_lossy(&request));
        if expected == 502 {
            assert_eq!(answer.json()["id"], 7);
        }
    }
}

fn gives_up_on_upstreams_that_are_too_slow(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        let request = conversation.request().unwrap();
        if request.path() == "/half" {
            conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        }
        conversation.wait_for_close();
        conversation.tell("closed");
    });
    let config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config.as_file(), "[[upstreams]]\nurl = \"http://{}\"\ntimeout = \"300ms\"", upstream.address).unwrap();
    let proxy = Proxy::before(driver, &[]).argument("--config").argument(config.path().to_str().unwrap()).start();
    let answer = proxy.connect().exchange(&post("", r#"{"jsonrpc":"2.0","id":"x","method":"tools/call"}"#));
    assert_eq!((answer.status, answer.json()["id"].as_str()), (504, Some("x")));
    assert_eq!(upstream.event(), "closed");
    let mut client = proxy.connect();
    client.send(&get("/half", ""));
    let (got, _) = client.rest();
    assert!(String::from_utf8_lossy(&got).ends_with("abc"));
    assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", "error=\"timeout\""), 2.0);

    let slow = Upstream::new(|conversation| conversation.wait_for_close());
    let proxy = Proxy::before(driver, &[&slow]).set("timeouts.request", "200ms").start();
    assert_eq!(proxy.connect().exchange(GET).status, 504);
}

/// An address where nobody listens.
fn closed_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn moves_on_when_an_upstream_refuses(driver: &str) {
    let alive = Upstream::answering("alive");
    let dead = format!("http://{}", closed_address());
    let proxy = Proxy::builder(driver)
        .set("session.store", "memory")
        .upstream(&dead)
        .upstream(&format!("http://{}", alive.address))
        .start();
    let mut client = proxy.connect();
    for _ in 0..6 {
        assert_eq!(client.exchange(&post("", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#)).text(), "alive");
    }
    let metrics = proxy.metrics();
    // The one that refused is left alone for a second.
    assert_eq!(metrics.sum("shadowcat_proxy_errors_total", "error=\"connect\""), 1.0);
    assert_eq!(client.exchange(&get("/ready", "")).status, 200);

    let proxy = Proxy::builder(driver).set("session.store", "memory").upstream(&dead).start();
    let answer = proxy.connect().exchange(&post("", r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#));
    assert_eq!((answer.status, answer.json()["id"].as_i64()), (502, Some(5)));
    assert_eq!(proxy.connect().exchange(&get("/ready", "")).status, 503);
}

fn ends_sessions_of_an_upstream_that_stays_away(driver: &str) {
    let server = session_server("a");
    let address = server.address;
    let proxy = Proxy::before(driver, &[&server]).start();
    let mut client = proxy.connect();
    let id = begin_session(&mut client);
    drop(server);
    // The pooled connection may still be served; a fresh one is refused.
    let status = wait_for("the session to end", || {
        let answer = call(&mut proxy.connect(), &id);
        assert_ne!(answer.status, 503, "{}", answer.text());
        (answer.status == 404).then_some(answer.status)
    });
    assert_eq!(status, 404);
    let _again = session_server_at(&address.to_string(), "a", Arc::default());
    assert_eq!(call(&mut proxy.connect(), &id).status, 404);
}

fn spreads_new_work_by_weight(driver: &str) {
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let config = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        config.as_file(),
        "[[upstreams]]\nurl = \"http://{}\"\nweight = 10\n[[upstreams]]\nurl = \"http://{}\"\nweight = 5",
        one.address,
        two.address
    )
    .unwrap();
    let proxy = Proxy::before(driver, &[]).argument("--config").argument(config.path().to_str().unwrap()).start();
    let mut ones = 0;
    for _ in 0..6 {
        let mut client = proxy.connect();
        ones += (0..10).filter(|_| client.exchange(GET).text() == "one").count();
    }
    assert_eq!(ones, 40);
}

fn bounds_connections_to_an_upstream(driver: &str) {
    let served = Arc::new(AtomicUsize::new(0));
    let counter = served.clone();
    let upstream = Upstream::new(move |conversation| {
        conversation.request();
        counter.fetch_add(1, SeqCst);
        conversation.tell("busy");
        conversation.wait_for_close();
    });
    let config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config.as_file(), "[[upstreams]]\nurl = \"http://{}\"\nmax_connections = 2", upstream.address).unwrap();
    let proxy = Proxy::before(driver, &[]).argument("--config").argument(config.path().to_str().unwrap()).start();
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    first.send(GET);
    upstream.event();
    second.send(GET);
    upstream.event();
    let answer = proxy.connect().exchange(GET);
    assert_eq!((answer.status, answer.field("retry-after").as_deref()), (503, Some("1")));
    assert_eq!(served.load(SeqCst), 2);
}

fn speaks_to_ipv6_and_tls_upstreams(driver: &str) {
    let six = Upstream::at("[::1]:0", |conversation| {
        while conversation.request().is_some() {
            conversation.answer(200, "", "six");
        }
    });
    let proxy = Proxy::before(driver, &[&six]).start();
    assert_eq!(proxy.connect().exchange(GET).text(), "six");

    let (address, ca) = tls_server();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(ca.as_bytes()).unwrap();
    let config = tempfile::NamedTempFile::new().unwrap();
    let url = format!("https://localhost:{}", address.port());
    writeln!(config.as_file(), "[[upstreams]]\nurl = \"{url}\"\nca_path = \"{}\"", file.path().display()).unwrap();
    let proxy = Proxy::before(driver, &[]).argument("--config").argument(config.path().to_str().unwrap()).start();
    let mut client = proxy.connect();
    assert_eq!(client.exchange(GET).text(), "secret");
    assert_eq!(client.exchange(GET).text(), "secret");
    // Without that root its certificate is not accepted; there is no way to skip the check.
    let proxy = Proxy::builder(driver).set("session.store", "memory").upstream(&url).start();
    assert_eq!(proxy.connect().exchange(GET).status, 502);
}

/// A server with a certificate of its own for `localhost`; its address and the certificate.
fn tls_server() -> (std::net::SocketAddr, String) {
    use rustls::pki_types::PrivatePkcs8KeyDer;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            std::thread::spawn(move || {
                use std::io::{BufRead, BufReader};
                let mut tls = BufReader::new(rustls::StreamOwned::new(session, stream));
                let mut line = String::new();
                while tls.read_line(&mut line).is_ok_and(|n| n > 0) {
                    if line == "\r\n" {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
                        if tls.get_mut().write_all(answer).is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    (address, made.cert.pem())
}

fn answers_without_an_upstream(driver: &str) {
    let proxy = Proxy::builder(driver).set("session.store", "memory").start();
    let mut client = proxy.connect();
    assert_eq!(client.exchange(&get("/health", "")).status, 200);
    assert_eq!(client.exchange(&get("/ready", "")).status, 503);
    let answer = client.exchange(&post("", r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#));
    assert_eq!((answer.status, answer.json()["id"].as_i64()), (503, Some(3)));
    assert!(answer.text().contains("--upstream"));
}

fn maps_the_root_to_the_path_of_the_url(driver: &str) {
    let upstream = Upstream::answering("");
    let url = format!("http://{}/api/mcp", upstream.address);
    let proxy = Proxy::builder(driver).set("session.store", "memory").upstream(&url).start();
    let mut client = proxy.connect();
    for path in ["/", "/?a=b", "/mcp"] {
        client.exchange(&get(path, ""));
    }
    let received = upstream.received();
    for line in ["GET /api/mcp HTTP/1.1", "GET /api/mcp?a=b HTTP/1.1", "GET /mcp HTTP/1.1"] {
        assert!(received.contains(line), "{line} not in {received}");
    }
}
