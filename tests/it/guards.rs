//! Which pages and which names may ask: Origin and Host (DNS rebinding).

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    refuses_foreign_origins,
    allows_listed_origins,
    refuses_foreign_hosts_on_loopback,
    allows_listed_hosts,
    a_trusted_proxy_tells_who_connected,
    a_connection_without_its_proxy_header_is_lost,
    nobody_else_tells_who_connected,
);

/// Answers everything with 200.
fn server() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond_json(200, "", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        }
    })
}

fn refuses_foreign_origins(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for origin in [
        "http://evil.example",
        "https://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "null",
        "",
        "file://",
        "chrome-extension://x",
        "http://evil@localhost",
        "localhost",
    ] {
        for target in ["/mcp", "/metrics"] {
            let answer = proxy.ask(&get(target, &format!("Origin: {origin}\r\n")));
            assert_eq!(answer.status, 403, "{origin:?} {target}");
        }
        let post = proxy.ask(&post_json("/mcp", &format!("Origin: {origin}\r\n"), &request(1, "ping")));
        assert_eq!(post.status, 403, "{origin:?}");
    }
    let two = "Origin: http://localhost\r\nOrigin: http://evil.example\r\n";
    assert_eq!(proxy.ask(&get("/mcp", two)).status, 403);
    assert_eq!(upstream.received_text(), "");
    for origin in ["http://localhost", "http://localhost:5173", "https://127.0.0.1:8443", "http://[::1]:80"] {
        assert_eq!(proxy.ask(&get("/mcp", &format!("Origin: {origin}\r\n"))).status, 200, "{origin}");
    }
}

fn allows_listed_origins(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.allowed_origins", "https://app.example").start();
    assert_eq!(proxy.ask(&get("/mcp", "Origin: https://app.example\r\n")).status, 200);
    assert_eq!(upstream.last_request().head.one("origin"), Some("https://app.example"));
    for origin in ["http://app.example", "https://app.example:8443", "https://app.example.evil", "https://xapp.example"]
    {
        assert_eq!(proxy.ask(&get("/mcp", &format!("Origin: {origin}\r\n"))).status, 403, "{origin}");
    }
}

fn with_host(target: &str, host: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

fn refuses_foreign_hosts_on_loopback(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"] {
        for target in ["/mcp", "/metrics"] {
            assert_eq!(proxy.ask(&with_host(target, host)).status, 403, "{host} {target}");
        }
        for probe in ["/health", "/ready"] {
            assert_eq!(proxy.ask(&with_host(probe, host)).status, 200, "{host} {probe}");
        }
    }
    assert_eq!(upstream.received_text(), "");
    // Rebinding: the page's Origin equals its Host, and still neither is ours.
    let rebound = b"GET /mcp HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n";
    assert_eq!(proxy.ask(rebound).status, 403);

    let anywhere = Proxy::before(driver, &[&upstream]).bind("0.0.0.0:0").start();
    let reachable = std::net::SocketAddr::from(([127, 0, 0, 1], anywhere.address.port()));
    assert_eq!(RawClient::connect(reachable).ask(&with_host("/mcp", "mcp.example")).status, 200);
    let rebound = b"GET /mcp HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n";
    assert_eq!(RawClient::connect(reachable).ask(rebound).status, 403);
    let literal = b"GET /mcp HTTP/1.1\r\nHost: 10.1.2.3:80\r\nOrigin: http://10.1.2.3:80\r\n\r\n";
    assert_eq!(RawClient::connect(reachable).ask(literal).status, 200);
}

fn allows_listed_hosts(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).bind("0.0.0.0:0");
    let proxy = proxy.set("proxy.allowed_hosts", "mcp.example.com,localhost").start();
    let reachable = std::net::SocketAddr::from(([127, 0, 0, 1], proxy.address.port()));
    for (host, status) in [("mcp.example.com", 200), ("MCP.Example.com:443", 200), ("other.example.com", 403)] {
        assert_eq!(RawClient::connect(reachable).ask(&with_host("/mcp", host)).status, status, "{host}");
    }
}

/// The address of the proxy in front; whatever asks for metrics comes from another one.
const IN_FRONT: &str = "127.0.0.9";

fn announcing(driver: Driver, upstream: &FakeUpstream) -> Proxy {
    Proxy::before(driver, &[upstream])
        .set("proxy.trusted_proxies", &format!("{IN_FRONT}/32"))
        .set("proxy.proxy_protocol", "true")
        .set("timeouts.header", "1s")
        .start()
}

fn a_trusted_proxy_tells_who_connected(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = announcing(driver, &upstream);
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 80\r\n".to_vec();
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 80]);
    let pretends = get("/", "X-Forwarded-For: 10.0.0.1\r\n");
    for header in [line, binary] {
        for piece in [header.len() + pretends.len(), 5, 1] {
            let mut client = RawClient::connect_from(IN_FRONT, proxy.address);
            client.send_in_pieces(&[header.as_slice(), &pretends].concat(), piece);
            assert_eq!(client.response().status, 200);
            // The next request on the connection has no header of its own.
            assert_eq!(client.ask(&get("/", "")).status, 200);
        }
    }
    for request in upstream.requests() {
        assert_eq!(request.head.all("x-forwarded-for"), ["192.0.2.1"]);
        assert!(request.head.one("forwarded").unwrap().starts_with("for=192.0.2.1;"), "{:?}", request.head);
    }
    // The proxy's own check of us.
    let mut check = RawClient::connect_from(IN_FRONT, proxy.address);
    check.send(b"PROXY UNKNOWN\r\n").send(&get("/", "X-Forwarded-For: 10.0.0.1\r\n"));
    assert_eq!(check.response().status, 200);
    assert_eq!(upstream.requests().last().unwrap().head.all("x-forwarded-for"), [IN_FRONT]);
}

fn a_connection_without_its_proxy_header_is_lost(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = announcing(driver, &upstream);
    for bytes in [get("/", ""), b"PROXY TCP4 x y 1 2\r\n".to_vec(), b"PROXY TC".to_vec(), Vec::new()] {
        let mut client = RawClient::connect_from(IN_FRONT, proxy.address);
        client.send(&bytes);
        let outcome = client.outcome();
        assert!(outcome.is_cut() && outcome.status() == 0, "{}: {outcome:?}", bytes.escape_ascii());
    }
    assert_eq!(upstream.requests().len(), 0);
    proxy.wait_for_metric("shadowcat_refusals_total", r#"reason="proxy_protocol""#, 4.0);
}

fn nobody_else_tells_who_connected(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let wary = Proxy::before(driver, &[&upstream]).set("proxy.trusted_proxies", "192.0.2.0/24");
    let proxy = wary.set("proxy.proxy_protocol", "true").start();
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
    let mut client = proxy.connect();
    client.send(b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 80\r\n").send(&get("/", ""));
    assert_eq!(client.outcome().status(), 400);
}
