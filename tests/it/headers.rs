//! Which fields travel on, which are dropped, which are ours (RFC 9110 section 7.6, RFC 7239).

use crate::on_both_drivers;
use crate::support::http::Head;
use crate::support::*;

on_both_drivers!(
    strips_hop_by_hop_fields_of_requests,
    strips_hop_by_hop_fields_of_answers,
    connection_removes_no_field_that_mcp_needs,
    drops_proxy_and_underscored_names,
    leaves_other_fields_byte_exact_and_in_order,
    tells_upstream_who_asked,
    drops_what_a_client_says_of_itself,
    extends_what_a_trusted_proxy_says,
    trusts_no_proxy_outside_the_listed_ranges,
    keeps_host_as_sent,
    rewrites_host_when_told,
    maps_the_root_to_the_path_of_the_upstream,
);

/// What upstream got of one request with these fields.
fn forwarded(proxy: &Proxy, upstream: &FakeUpstream, fields: &str) -> Head {
    assert_eq!(proxy.ask(&get("/f", fields)).status, 200);
    upstream.last_request().head
}

fn strips_hop_by_hop_fields_of_requests(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let seen = forwarded(
        &proxy,
        &upstream,
        "Connection: keep-alive, X-Secret ,x-other\r\nConnection: X-Third\r\nX-Secret: 1\r\nX-Other: 1\r\nX-Third: 1\r\n\
         Keep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X-Sum\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic eDp5\r\nX-Public: 1\r\n",
    );
    for gone in [
        "connection",
        "x-secret",
        "x-other",
        "x-third",
        "keep-alive",
        "te",
        "trailer",
        "proxy-connection",
        "proxy-authorization",
    ] {
        assert!(!seen.has(gone), "{gone} in {seen:?}");
    }
    assert_eq!(seen.one("x-public"), Some("1"));
}

fn strips_hop_by_hop_fields_of_answers(driver: Driver) {
    let upstream = FakeUpstream::saying(
        "HTTP/1.1 200 OK\r\nConnection: X-Private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTrailer: X-Sum\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let answer = proxy.ask(&get("/", ""));
    for gone in ["x-private", "keep-alive", "proxy-authenticate", "upgrade", "trailer", "connection"] {
        assert!(!answer.head.has(gone), "{gone} in {:?}", answer.head);
    }
    assert_eq!(answer.one("x-kept"), Some("1"));
}

fn connection_removes_no_field_that_mcp_needs(driver: Driver) {
    let upstream = FakeUpstream::saying(
        "HTTP/1.1 200 OK\r\nConnection: Content-Type, X-Gone\r\nContent-Type: application/json\r\nX-Gone: 1\r\n\
         Content-Length: 2\r\n\r\n{}",
    );
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let kept =
        ["Content-Type", "Accept", "Authorization", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Last-Event-ID"];
    let fields = format!(
        "Connection: {}, Host, Content-Length, Mcp-Session-Id, X-Gone\r\nAuthorization: Bearer t\r\nMcp-Method: ping\r\n\
         Mcp-Name: n\r\nMCP-Protocol-Version: 2025-11-25\r\nLast-Event-ID: 7\r\nX-Gone: 1\r\n",
        kept.join(", ")
    );
    let answer = proxy.ask(&post_json("/mcp", &fields, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
    assert_eq!((answer.status, answer.one("content-type")), (200, Some("application/json")));
    assert!(!answer.head.has("x-gone"));
    let seen = upstream.last_request();
    for name in kept {
        assert!(seen.head.has(name), "{name} not in {:?}", seen.head);
    }
    assert_eq!(seen.head.one("host"), Some("localhost"));
    assert!(!seen.head.has("x-gone"));
    assert_eq!(seen.json()["method"], "ping");
}

fn drops_proxy_and_underscored_names(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let seen = forwarded(
        &proxy,
        &upstream,
        "Proxy: http://evil\r\nX_Forwarded_For: 6.6.6.6\r\nMcp_Session_Id: stolen\r\nContent_Length: 5\r\n",
    );
    let text = String::from_utf8_lossy(&seen.raw).to_lowercase();
    assert!(!text.contains("evil") && !text.contains("6.6.6.6") && !text.contains("stolen"), "{text}");
    assert!(!text.contains("content_length"), "{text}");
}

fn leaves_other_fields_byte_exact_and_in_order(driver: Driver) {
    let upstream = FakeUpstream::saying(
        b"HTTP/1.1 200 Ganz gut\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Empty:\r\nX-Size: gr\xc3\xb6\xc3\x9fe\r\n\
          WWW-Authenticate: Bearer a=\"b, c\"\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
    );
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let request = b"GET /f HTTP/1.1\r\nHost: localhost\r\nX-One:   spaced out \t\r\nx-ONE: two\r\nX-Size: gr\xc3\xb6\xc3\x9fe\r\n\
        Mcp-Param-City: =?base64?TcO8bmNoZW4=?=\r\nCookie: a=1; b=2\r\nX-Empty:\r\n\r\n";
    let mut client = proxy.connect();
    client.send(request);
    let head = client.head();
    assert_eq!(head.line, "HTTP/1.1 200 Ganz gut");
    assert_eq!(head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!((head.one("x-empty"), head.one("www-authenticate")), (Some(""), Some("Bearer a=\"b, c\"")));
    let size = b"X-Size: gr\xc3\xb6\xc3\x9fe\r\n".as_slice();
    assert!(memchr::memmem::find(&head.raw, size).is_some(), "{head:?}");
    let seen = upstream.last_request().head;
    assert_eq!(seen.all("x-one"), ["spaced out", "two"]);
    assert_eq!(seen.one("mcp-param-city"), Some("=?base64?TcO8bmNoZW4=?="));
    assert_eq!((seen.one("cookie"), seen.one("x-empty")), (Some("a=1; b=2"), Some("")));
    assert!(memchr::memmem::find(&seen.raw, size).is_some(), "{seen:?}");
    let names: Vec<&str> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
    let at = |name: &str| names.iter().position(|&other| other == name).expect(name);
    assert!(at("X-One") < at("x-ONE") && at("x-ONE") < at("X-Size") && at("X-Size") < at("Cookie"), "{names:?}");
}

fn tells_upstream_who_asked(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let seen = forwarded(&proxy, &upstream, "");
    assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.one("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.one("x-forwarded-host"), Some("localhost"));
    let forwarded = seen.one("forwarded").expect("Forwarded").to_lowercase();
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
    assert!(forwarded.contains("host=localhost") || forwarded.contains("host=\"localhost\""), "{forwarded}");
}

const SPOOFED: &str = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nForwarded: for=6.6.6.6;host=evil\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\n";

fn drops_what_a_client_says_of_itself(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    // Nor can `Connection` make room for a lie, or remove what is ours.
    for connection in ["", "Connection: X-Forwarded-For, Forwarded, X-Forwarded-Host\r\n"] {
        let seen = forwarded(&proxy, &upstream, &format!("{SPOOFED}{connection}"));
        let text = String::from_utf8_lossy(&seen.raw).to_lowercase();
        assert!(!["6.6.6.6", "7.7.7.7", "evil", "https", "-port"].iter().any(|lie| text.contains(lie)), "{text}");
        assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.one("x-forwarded-host"), Some("localhost"));
        assert!(seen.has("forwarded"));
    }
}

fn extends_what_a_trusted_proxy_says(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.trusted_proxies", "10.0.0.0/8,127.0.0.0/8").start();
    let seen = forwarded(
        &proxy,
        &upstream,
        "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: mcp.example\r\n\
         Forwarded: for=9.9.9.9;proto=https\r\n",
    );
    assert_eq!(seen.all("x-forwarded-for").join(", "), "9.9.9.9, 127.0.0.1");
    assert_eq!(seen.one("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.one("x-forwarded-host"), Some("mcp.example"));
    let forwarded = seen.all("forwarded").join(", ");
    assert!(forwarded.starts_with("for=9.9.9.9;proto=https, for=127.0.0.1"), "{forwarded}");
}

fn trusts_no_proxy_outside_the_listed_ranges(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.trusted_proxies", "10.0.0.0/8,127.0.0.2/32").start();
    let seen = forwarded(&proxy, &upstream, SPOOFED);
    assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.one("x-forwarded-proto"), Some("http"));
}

fn keeps_host_as_sent(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for host in ["localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]:8080", "app.localhost"] {
        let answer = proxy.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(answer.status, 200, "{host}");
        assert_eq!(upstream.last_request().head.one("host"), Some(host));
    }
}

fn rewrites_host_when_told(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.rewrite_host", "true").start();
    let seen = forwarded(&proxy, &upstream, "");
    assert_eq!(seen.one("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(seen.one("x-forwarded-host"), Some("localhost"));
}

fn maps_the_root_to_the_path_of_the_upstream(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::builder(driver).upstream(&format!("{}/mcp", upstream.url())).start();
    for (asked, seen) in
        [("/", "/mcp"), ("/?a=b", "/mcp?a=b"), ("/mcp", "/mcp"), ("/other?x", "/other?x"), ("//", "//")]
    {
        assert_eq!(proxy.ask(&get(asked, "")).status, 200);
        assert_eq!(upstream.last_request().head.target(), seen, "{asked}");
    }
}
