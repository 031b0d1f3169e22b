//! Requests that two parsers could read differently: refused, the connection closed, and nothing of them upstream.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    refuses_ambiguous_requests_before_upstream_sees_a_byte,
    bounds_heads_targets_and_bodies,
    tolerates_one_empty_line
);

/// The request line and fields up to the empty line, then the rest; the status.
fn cases() -> Vec<(&'static str, Vec<u8>, u16)> {
    let post =
        |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}").into_bytes();
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").into_bytes();
    let raw = |bytes: &str| bytes.as_bytes().to_vec();
    let long_size = format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(17));
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(300));
    let long_trailer = format!("0\r\nX: {}\r\n\r\n", "t".repeat(9000));
    let chunked = |body: &str| post("Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n", body);
    vec![
        ("CL and TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        ("TE and CL", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), 400),
        ("two CL", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), 400),
        ("two equal CL", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), 400),
        ("CL list", post("Content-Length: 5, 5\r\n", "hello"), 400),
        ("CL sign", post("Content-Length: +5\r\n", "hello"), 400),
        ("CL minus", post("Content-Length: -5\r\n", "hello"), 400),
        ("CL hex", post("Content-Length: 0x5\r\n", "hello"), 400),
        ("CL empty", post("Content-Length: \r\n", ""), 400),
        ("CL overflow", post("Content-Length: 18446744073709551616\r\n", ""), 400),
        ("CL with space inside", post("Content-Length: 1 0\r\n", "hello"), 400),
        ("TE unknown", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400),
        ("TE list", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 400),
        ("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        ("TE identity", post("Transfer-Encoding: identity\r\n", ""), 400),
        ("TE quoted", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), 400),
        ("TE with vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400),
        ("TE with space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400),
        ("TE in 1.0", raw("POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("bare LF after the request line", raw("GET / HTTP/1.1\nHost: localhost\r\n\r\n"), 400),
        ("bare LF after a field", raw("GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n"), 400),
        ("bare LF end", raw("GET / HTTP/1.1\r\nHost: localhost\r\n\n"), 400),
        ("bare CR in a value", get("X: a\rb\r\n"), 400),
        ("obs-fold", get("X: a\r\n b\r\n"), 400),
        ("field before the first", raw("GET / HTTP/1.1\r\n X: a\r\nHost: localhost\r\n\r\n"), 400),
        ("space before the colon", get("X : a\r\n"), 400),
        ("no colon", get("X\r\n"), 400),
        ("empty name", get(": a\r\n"), 400),
        ("NUL in a value", get("X: a\0b\r\n"), 400),
        ("NUL in a name", get("X\0: a\r\n"), 400),
        ("control in a value", get("X: a\x01b\r\n"), 400),
        ("DEL in a value", get("X: a\x7fb\r\n"), 400),
        ("space in a name", get("X Y: a\r\n"), 400),
        ("no Host", raw("GET / HTTP/1.1\r\n\r\n"), 400),
        ("two Hosts", raw("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"), 400),
        ("empty Host", raw("GET / HTTP/1.1\r\nHost: \r\n\r\n"), 400),
        ("Host with user", raw("GET / HTTP/1.1\r\nHost: a@localhost\r\n\r\n"), 400),
        ("Host with path", raw("GET / HTTP/1.1\r\nHost: localhost/x\r\n\r\n"), 400),
        ("Host list", raw("GET / HTTP/1.1\r\nHost: localhost, evil\r\n\r\n"), 400),
        ("Host port", raw("GET / HTTP/1.1\r\nHost: localhost:8o\r\n\r\n"), 400),
        ("no target", raw("GET  HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("relative target", raw("GET x HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("target with fragment", raw("GET /#a HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("target with a bad escape", raw("GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("target with high bytes", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("target with two spaces", raw("GET / x HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("other scheme", raw("GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("asterisk for GET", raw("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("version 2.0", raw("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"), 505),
        ("version 1.2", raw("GET / HTTP/1.2\r\nHost: localhost\r\n\r\n"), 505),
        ("lower-case version", raw("GET / http/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("no version", raw("GET /\r\nHost: localhost\r\n\r\n"), 400),
        ("method with a bracket", raw("G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), 400),
        ("HTTP/2 preface", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505),
        ("chunk size not hex", chunked("g\r\n\r\n0\r\n\r\n"), 400),
        ("chunk size empty", chunked("\r\nabc\r\n0\r\n\r\n"), 400),
        ("chunk size signed", chunked("+1\r\na\r\n0\r\n\r\n"), 400),
        ("chunk size 0x", chunked("0x1\r\na\r\n0\r\n\r\n"), 400),
        ("chunk size with space", chunked("1 \r\na\r\n0\r\n\r\n"), 400),
        ("chunk size too long", chunked(&long_size), 400),
        ("chunk size overflow", chunked("fffffffffffffffff\r\na\r\n0\r\n\r\n"), 400),
        ("chunk extension with bare LF", chunked("1;a\nb\r\na\r\n0\r\n\r\n"), 400),
        ("chunk extension with bare CR", chunked("1;a\rb\r\na\r\n0\r\n\r\n"), 400),
        ("chunk extension too long", chunked(&long_extension), 400),
        ("chunk size with bare LF", chunked("1\na\r\n0\r\n\r\n"), 400),
        ("no CRLF after chunk data", chunked("1\r\nabc\r\n0\r\n\r\n"), 400),
        ("bare LF after chunk data", chunked("1\r\na\n0\r\n\r\n"), 400),
        ("trailers too long", chunked(&long_trailer), 400),
        ("trailer with space before the colon", chunked("0\r\nX : a\r\n\r\n"), 400),
    ]
}

fn refuses_ambiguous_requests_before_upstream_sees_a_byte(driver: &str) {
    let upstream = Upstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for (name, request, status) in cases() {
        // A second request behind it must never be answered.
        let mut client = proxy.connect();
        client.send(&[request, get("/smuggled", "")].concat());
        let answer = client.answer();
        assert_eq!(answer.status, status, "{name}: {} {}", answer.head, answer.text());
        assert_eq!(answer.field("connection").as_deref(), Some("close"), "{name}");
        let (rest, _) = client.rest();
        assert!(rest.is_empty(), "{name}: {}", String::from_utf8_lossy(&rest));
        let received = upstream.received();
        // A body that turns out to be malformed while it streams may have begun; it must never look whole.
        assert!(!received.contains("smuggled"), "{name}: {received}");
        assert!(received.is_empty(), "{name}: {received}");
    }
    assert_eq!(proxy.connect().exchange(&get("/", "")).text(), "leaked");
}

fn bounds_heads_targets_and_bodies(driver: &str) {
    let upstream = Upstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("limits.head_bytes", "4096")
        .set("limits.fields", "20")
        .set("limits.target_bytes", "100")
        .set("limits.body_bytes", "1000")
        .start();
    let status = |request: &[u8]| proxy.connect().exchange(request).status;
    assert_eq!(status(&get("/", &format!("X: {}\r\n", "x".repeat(4100)))), 431);
    assert_eq!(status(&get("/", &"X: y\r\n".repeat(20))), 431);
    assert_eq!(status(&get("/", &"X: y\r\n".repeat(19))), 200);
    assert_eq!(status(&get(&format!("/{}", "p".repeat(100)), "")), 414);
    assert_eq!(status(&get(&format!("/{}", "p".repeat(99)), "")), 200);
    assert_eq!(status(&post("", &" ".repeat(1001))), 413);
    let chunked =
        "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n";
    assert_eq!(status(chunked.as_bytes()), 413);
    // A head without an end is answered as soon as it is too long.
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(5000)).as_bytes()), 431);
    assert_eq!(status(format!("GET /{}", "p".repeat(500)).as_bytes()), 414);
}

fn tolerates_one_empty_line(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.connect().exchange(&[b"\r\n", get("/", "").as_slice()].concat()).status, 200);
    assert_eq!(proxy.connect().exchange(&[b"\r\n\r\n", get("/", "").as_slice()].concat()).status, 400);
}
