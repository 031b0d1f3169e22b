//! Requests that two readers could understand differently: 400 and close, and upstream sees not a byte.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    refuses_every_ambiguous_head,
    refuses_every_ambiguous_head_in_whatever_pieces,
    refuses_other_versions_of_http,
    refuses_malformed_chunks_before_upstream_sees_a_byte,
    cuts_a_streamed_body_that_turns_out_malformed,
    a_refused_request_takes_what_follows_it_along,
    bytes_behind_a_body_are_a_request_of_their_own,
    a_head_like_the_one_before_has_a_length_of_its_own,
    answers_noise_and_foreign_protocols_at_once,
    tolerates_one_empty_line_before_a_request,
);

/// Name, and the bytes of a request that must be refused with 400. Each carries a second request that would show up at
/// upstream if anything went through.
fn ambiguous_heads() -> Vec<(String, Vec<u8>)> {
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut raw = |name: &str, bytes: &[u8]| cases.push((name.to_owned(), bytes.to_vec()));
    let host = "Host: localhost\r\n";
    for (name, fields) in FRAMING_FIELDS {
        let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
        raw(name, format!("POST / HTTP/1.1\r\n{host}{fields}\r\n{body}").as_bytes());
    }
    for (name, fields) in BAD_FIELDS {
        let bytes: Vec<u8> = fields.iter().flat_map(|part| part.to_vec()).collect();
        raw(name, &[b"GET / HTTP/1.1\r\nHost: localhost\r\n", bytes.as_slice(), b"\r\n"].concat());
    }
    for (name, fields) in HOSTS {
        raw(name, format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
    }
    for line in REQUEST_LINES {
        raw(&format!("request line {line:?}"), format!("{line}\r\n{host}\r\n").as_bytes());
    }
    for target in TARGETS {
        raw(&format!("target {target:?}"), format!("GET {target} HTTP/1.1\r\n{host}\r\n").as_bytes());
    }
    raw("bare LF as line end", b"GET / HTTP/1.1\nHost: localhost\n\n");
    raw("bare LF behind the request line", b"GET / HTTP/1.1\nHost: localhost\r\n\r\n");
    raw("bare LF ends the head", b"GET / HTTP/1.1\r\nHost: localhost\r\n\n");
    raw("bare CR as line end", b"GET / HTTP/1.1\rHost: localhost\r\r\n\r\n");
    raw("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: localhost\r\n\r\n");
    raw("NUL in the request line", b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    raw("a high byte in the target", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n");
    raw("a high byte in the method", b"G\xffT / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    raw("white space before the request line", b" GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    raw("a tab between the words", b"GET\t/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    raw("white space before the first field", b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n");
    raw(
        "Transfer-Encoding in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    raw("Host in HTTP/1.0 twice", b"GET / HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n");
    cases
}

const FRAMING_FIELDS: &[(&str, &str)] = &[
    ("CL and TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    ("TE and CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    ("CL 0 and TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
    ("CL twice, different", "Content-Length: 5\r\nContent-Length: 6\r\n"),
    ("CL twice, the same", "Content-Length: 5\r\nContent-Length: 5\r\n"),
    ("CL twice in two spellings", "Content-Length: 5\r\ncontent-LENGTH: 5\r\n"),
    ("CL list", "Content-Length: 5, 5\r\n"),
    ("CL list of different", "Content-Length: 5, 6\r\n"),
    ("CL with plus", "Content-Length: +5\r\n"),
    ("CL with minus", "Content-Length: -5\r\n"),
    ("CL minus zero", "Content-Length: -0\r\n"),
    ("CL hexadecimal", "Content-Length: 0x5\r\n"),
    ("CL octal prefix", "Content-Length: 0o5\r\n"),
    ("CL with letters", "Content-Length: 5a\r\n"),
    ("CL with inner space", "Content-Length: 5 0\r\n"),
    ("CL fraction", "Content-Length: 5.0\r\n"),
    ("CL exponent", "Content-Length: 5e1\r\n"),
    ("CL underscore", "Content-Length: 1_0\r\n"),
    ("CL quoted", "Content-Length: \"5\"\r\n"),
    ("CL empty", "Content-Length:\r\n"),
    ("CL blank", "Content-Length:  \r\n"),
    ("CL comma", "Content-Length: ,\r\n"),
    ("CL trailing comma", "Content-Length: 5,\r\n"),
    ("CL beyond 64 bits", "Content-Length: 18446744073709551616\r\n"),
    ("CL far beyond", "Content-Length: 99999999999999999999999999999999\r\n"),
    ("CL wraps to 5", "Content-Length: 18446744073709551621\r\n"),
    ("CL Arabic digits", "Content-Length: \u{665}\r\n"),
    ("CL full-width digits", "Content-Length: \u{ff15}\r\n"),
    ("TE gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"),
    ("TE chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n"),
    ("TE chunked, chunked", "Transfer-Encoding: chunked, chunked\r\n"),
    ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    ("TE twice, one else", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
    ("TE identity", "Transfer-Encoding: identity\r\n"),
    ("TE gzip", "Transfer-Encoding: gzip\r\n"),
    ("TE unknown", "Transfer-Encoding: xchunked\r\n"),
    ("TE with a prefix", "Transfer-Encoding: x chunked\r\n"),
    ("TE with parameter", "Transfer-Encoding: chunked;q=1\r\n"),
    ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n"),
    ("TE with leading comma", "Transfer-Encoding: , chunked\r\n"),
    ("TE with trailing comma", "Transfer-Encoding: chunked,\r\n"),
    ("TE empty", "Transfer-Encoding:\r\n"),
    ("TE empty with CL", "Transfer-Encoding:\r\nContent-Length: 5\r\n"),
    ("TE with vertical tab", "Transfer-Encoding: \x0bchunked\r\n"),
    ("TE with form feed", "Transfer-Encoding: chunked\x0c\r\n"),
    ("TE with NUL", "Transfer-Encoding: chunked\0\r\n"),
    ("TE with bare CR", "Transfer-Encoding: chunked\r \r\n"),
    ("TE folded", "Transfer-Encoding:\r\n chunked\r\n"),
    ("TE with space before colon", "Transfer-Encoding : chunked\r\n"),
    ("TE with tab before colon", "Transfer-Encoding\t: chunked\r\n"),
    ("TE name with leading space", " Transfer-Encoding: chunked\r\n"),
    ("TE name broken over lines", "Transfer\r\n-Encoding: chunked\r\n"),
    ("TE name with NUL", "Transfer-Encoding\0: chunked\r\n"),
    ("TE with non-breaking space", "Transfer-Encoding: \u{a0}chunked\r\n"),
    ("CL with space before colon", "Content-Length : 5\r\n"),
    ("CL folded", "Content-Length: 5\r\n 0\r\n"),
    ("CL behind a bare LF", "X: y\nContent-Length: 5\r\n"),
    ("TE behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n"),
    ("TE behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n"),
];

const BAD_FIELDS: &[(&str, &[&[u8]])] = &[
    ("obs-fold with a space", &[b"X: a\r\n b\r\n"]),
    ("obs-fold with a tab", &[b"X: a\r\n\tb\r\n"]),
    ("obs-fold of nothing", &[b"X:\r\n \r\n"]),
    ("space before the colon", &[b"X : a\r\n"]),
    ("tab before the colon", &[b"X\t: a\r\n"]),
    ("space in a name", &[b"X Y: a\r\n"]),
    ("no colon", &[b"X\r\n"]),
    ("empty name", &[b": a\r\n"]),
    ("name with parentheses", &[b"X(Y): a\r\n"]),
    ("name with a slash", &[b"X/Y: a\r\n"]),
    ("name with a high byte", &[b"X\xe9: a\r\n"]),
    ("name with NUL", &[b"X\0: a\r\n"]),
    ("value with NUL", &[b"X: a\0b\r\n"]),
    ("value with bell", &[b"X: a\x07b\r\n"]),
    ("value with escape", &[b"X: a\x1bb\r\n"]),
    ("value with delete", &[b"X: a\x7fb\r\n"]),
    ("value with vertical tab", &[b"X: a\x0bb\r\n"]),
    ("value with bare CR", &[b"X: a\rb\r\n"]),
    ("value with bare LF", &[b"X: a\nb: c\r\n"]),
    ("value ends with CR CR LF", &[b"X: a\r\r\n"]),
    ("line of spaces", &[b"   \r\n"]),
];

const HOSTS: &[(&str, &str)] = &[
    ("no Host", "X: y\r\n"),
    ("Host twice", "Host: localhost\r\nHost: localhost\r\n"),
    ("Host twice, different", "Host: localhost\r\nHost: evil.example\r\n"),
    ("Host twice in two spellings", "Host: localhost\r\nhOST: evil.example\r\n"),
    ("Host empty", "Host:\r\n"),
    ("Host list", "Host: localhost, evil.example\r\n"),
    ("Host with user", "Host: user@localhost\r\n"),
    ("Host with path", "Host: localhost/x\r\n"),
    ("Host with backslash", "Host: localhost\\x\r\n"),
    ("Host with query", "Host: localhost?x\r\n"),
    ("Host with fragment", "Host: localhost#x\r\n"),
    ("Host with space", "Host: local host\r\n"),
    ("Host with a bad port", "Host: localhost:80x\r\n"),
    ("Host with two ports", "Host: localhost:80:90\r\n"),
    ("Host with a huge port", "Host: localhost:999999\r\n"),
    ("Host without a name", "Host: :80\r\n"),
    ("Host with an open bracket", "Host: [::1\r\n"),
    ("Host with a bad literal", "Host: [::x]\r\n"),
    ("Host with text behind the bracket", "Host: [::1]x\r\n"),
    ("Host in quotes", "Host: \"localhost\"\r\n"),
    ("Host folded", "Host:\r\n localhost\r\n"),
    ("Host with space before colon", "Host : localhost\r\n"),
    ("Host with scheme", "Host: http://localhost\r\n"),
];

const REQUEST_LINES: &[&str] = &[
    "GET  / HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET / HTTP/1.1 ",
    "GET / x HTTP/1.1",
    "GET / HTTP/1.1 HTTP/1.1",
    "GET /",
    "GET",
    " / HTTP/1.1",
    "GET HTTP/1.1",
    "GE(T / HTTP/1.1",
    "GET: / HTTP/1.1",
    "GET / http/1.1",
    "GET / HTTP/1",
    "GET / HTTP/11",
    "GET / HTTP/1.1x",
    "GET / HTTP/01.1",
    "GET / HTTP/+1.1",
    "GET / XTTP/1.1",
    "GET / HTTP 1.1",
];

const TARGETS: &[&str] = &[
    "relative",
    "?query",
    "*",
    "//\\x",
    "/a#fragment",
    "/a b",
    "/a\tb",
    "/<script>",
    "/\"x\"",
    "/{x}",
    "/a|b",
    "/a^b",
    "/a`b",
    "/%zz",
    "/%4",
    "/%",
    "http://",
    "http:///x",
    "http://localhost?x",
    "http://user@localhost/",
    "http://local host/",
    "http://localhost:x/",
    "http://evil.example/",
    "ftp://localhost/",
    "localhost:80",
    "mailto:x@y",
];

fn refuses_every_ambiguous_head(driver: Driver) {
    let upstream = FakeUpstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut wrong = Vec::new();
    for (name, request) in ambiguous_heads() {
        let mut client = proxy.connect();
        let outcome = client.send(&request).outcome();
        let surplus = client.wire.rest(PATIENCE);
        if outcome.status() != 400 || !surplus.0.is_empty() || surplus.1.is_none() {
            wrong.push(format!("{name}: {}, then {surplus:?}", outcome.status()));
        }
        let received = upstream.received_text();
        if !received.is_empty() {
            wrong.push(format!("{name}: upstream got {received:?}"));
            break;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(proxy.ask(&get("/", "")).text(), "leaked");
}

fn refuses_every_ambiguous_head_in_whatever_pieces(driver: Driver) {
    let upstream = FakeUpstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut wrong = Vec::new();
    for (name, request) in ambiguous_heads() {
        for piece in [1, 7, 30] {
            let mut client = proxy.connect();
            let outcome = client.send_in_pieces(&request, piece).outcome();
            if outcome.status() != 400 {
                wrong.push(format!("{name} in pieces of {piece}: {}", outcome.status()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(upstream.received_text(), "");
}

fn refuses_other_versions_of_http(driver: Driver) {
    let upstream = FakeUpstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        let answer = proxy.ask(format!("GET / {version}\r\nHost: localhost\r\n\r\n").as_bytes());
        assert!(matches!(answer.status, 400 | 505) && answer.closes(), "{version}: {answer:?}");
    }
    assert_eq!(upstream.received_text(), "");
}

/// Name, and a chunked body that is malformed.
const BAD_CHUNKS: &[(&str, &str)] = &[
    ("size with sign", "+1\r\nx\r\n0\r\n\r\n"),
    ("negative size", "-1\r\nx\r\n0\r\n\r\n"),
    ("hexadecimal prefix", "0x1\r\nx\r\n0\r\n\r\n"),
    ("no size", "\r\nx\r\n0\r\n\r\n"),
    ("only an extension", ";a=b\r\n\r\n"),
    ("letters", "g\r\nx\r\n0\r\n\r\n"),
    ("space before the size", " 1\r\nx\r\n0\r\n\r\n"),
    ("space behind the size", "1 \r\nx\r\n0\r\n\r\n"),
    ("tab behind the size", "1\t\r\nx\r\n0\r\n\r\n"),
    ("size in quotes", "\"1\"\r\nx\r\n0\r\n\r\n"),
    ("size beyond 64 bits", "10000000000000001\r\nx\r\n0\r\n\r\n"),
    ("size of 17 zeros and a one", "000000000000000001\r\nx\r\n0\r\n\r\n"),
    ("size wraps to one", "10000000000000000000000000000001\r\nx\r\n0\r\n\r\n"),
    ("largest size", "ffffffffffffffff\r\nx\r\n0\r\n\r\n"),
    ("bare LF behind the size", "1\nx\r\n0\r\n\r\n"),
    ("bare CR behind the size", "1\rx\r\n0\r\n\r\n"),
    ("bare LF behind the data", "1\r\nx\n0\r\n\r\n"),
    ("nothing behind the data", "1\r\nx0\r\n\r\n"),
    ("two bytes for one", "1\r\nxy\r\n0\r\n\r\n"),
    ("wrong bytes behind the data", "1\r\nx--0\r\n\r\n"),
    ("extension with bare LF", "1;a\nx\r\n0\r\n\r\n"),
    ("extension with bare CR", "1;a\rb\r\nx\r\n0\r\n\r\n"),
    ("extension with NUL", "1;a\0\r\nx\r\n0\r\n\r\n"),
    ("last chunk with bare LF", "1\r\nx\r\n0\n\r\n"),
    ("last chunk ends with bare LF", "1\r\nx\r\n0\r\n\n"),
    ("trailer with bare LF", "1\r\nx\r\n0\r\nA: b\n\r\n"),
    ("trailer without colon", "1\r\nx\r\n0\r\nA\r\n\r\n"),
    ("trailer with a space before the colon", "1\r\nx\r\n0\r\nA : b\r\n\r\n"),
    ("trailer folded", "1\r\nx\r\n0\r\nA: b\r\n c\r\n\r\n"),
    ("trailer with NUL", "1\r\nx\r\n0\r\nA: \0\r\n\r\n"),
];

fn bad_chunks() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> =
        BAD_CHUNKS.iter().map(|(name, body)| ((*name).to_owned(), (*body).to_owned())).collect();
    cases.push(("extension too long".to_owned(), format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(300))));
    cases.push(("trailers too long".to_owned(), format!("1\r\nx\r\n0\r\n{}\r\n", "A: b\r\n".repeat(2000))));
    cases
}

fn chunked_post(kind: &str, body: &str) -> Vec<u8> {
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: ";
    format!("{head}{kind}\r\n\r\n{body}").into_bytes()
}

fn refuses_malformed_chunks_before_upstream_sees_a_byte(driver: Driver) {
    let upstream = FakeUpstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut wrong = Vec::new();
    for (name, body) in bad_chunks() {
        let request =
            chunked_post("application/json", &format!("{body}GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        for piece in [request.len(), 1] {
            let mut client = proxy.connect();
            let outcome = client.send_in_pieces(&request, piece).outcome();
            let (rest, ending) = client.wire.rest(PATIENCE);
            if outcome.status() != 400 || !rest.is_empty() || ending.is_none() {
                wrong.push(format!("{name} in pieces of {piece}: {outcome:?}, then {rest:?} {ending:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(upstream.received_text(), "");
}

fn cuts_a_streamed_body_that_turns_out_malformed(driver: Driver) {
    let upstream = FakeUpstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    // As a stream, the largest size is the start of a very long body and no mistake yet.
    for (name, body) in bad_chunks().into_iter().filter(|(name, _)| name != "largest size") {
        let request =
            chunked_post("text/plain", &format!("3\r\nabc\r\n{body}GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let mut client = proxy.connect();
        let outcome = client.send(&request).finish_sending().outcome();
        assert!(matches!(outcome.status(), 0 | 400), "{name}: {outcome:?}");
        assert_eq!(client.wire.rest(PATIENCE).0, b"", "{name}");
    }
    // The body may have begun to travel; it never arrives as a whole one, and nothing behind it is a request.
    assert_eq!(upstream.requests().len(), 0);
    assert!(!upstream.received_text().contains("smuggled"));
    assert_eq!(proxy.ask(&get("/", "")).text(), "leaked");
}

fn a_refused_request_takes_what_follows_it_along(driver: Driver) {
    let upstream = FakeUpstream::answering("fine");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for bad in [
        "POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /b HTTP/1.1\r\n\r\n",
        "GET /b HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
        "TRACE /b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut client = proxy.connect();
        client.send(&[&get("/first", ""), bad.as_bytes(), &get("/after", "")].concat());
        assert_eq!(client.response().text(), "fine");
        let refused = client.response();
        assert!(matches!(refused.status, 400 | 405 | 501) && refused.closes(), "{refused:?}");
        client.expect_end();
    }
    assert!(upstream.requests().iter().all(|request| request.head.target() == "/first"));
}

fn bytes_behind_a_body_are_a_request_of_their_own(driver: Driver) {
    let upstream = FakeUpstream::answering("fine");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for request in [
        post("/p", "", b"12345"),
        post_json("/p", "", "[]"),
        chunked_post("text/plain", "5\r\n12345\r\n0\r\n\r\n"),
        chunked_post("application/json", "2\r\n{}\r\n0\r\n\r\n"),
    ] {
        let mut client = proxy.connect();
        client.send(&[request.as_slice(), b"garbage\r\n\r\n"].concat());
        assert_eq!(client.response().text(), "fine");
        assert_eq!(client.response().status, 400);
        client.expect_end();
    }
    assert!(!upstream.received_text().contains("garbage"));
}

fn a_head_like_the_one_before_has_a_length_of_its_own(driver: Driver) {
    let upstream = FakeUpstream::answering("fine");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    // The heads differ in the digits of the length alone; what is left of a longer body would be a request.
    let bodies = ["[1]", "[1,2,3]", "[]", "[1,2]", "[1,2,3,4]"];
    for body in bodies {
        client.send(&post_json("/p", "", body));
        assert_eq!(client.response().text(), "fine", "{body}");
    }
    let like = |length: &str| format!("POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    client.send(format!("{}12", like("00000000000000000002")).as_bytes());
    assert_eq!(client.response().text(), "fine");
    client.send(like("99999999999999999999").as_bytes());
    assert_eq!(client.response().status, 400);
    client.expect_end();
    let seen: Vec<String> =
        upstream.requests().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    assert_eq!(seen, [&bodies[..], &["12"]].concat());
}

fn answers_noise_and_foreign_protocols_at_once(driver: Driver) {
    let upstream = FakeUpstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice();
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let binary: Vec<u8> = (0..=255).collect();
    for noise in [tls_hello, http2, &binary, b"\0\0\0\0", b"{\"jsonrpc\":\"2.0\"}\n"] {
        let mut client = proxy.connect();
        let outcome = client.send(noise).outcome();
        assert!(matches!(outcome.status(), 400 | 505), "{noise:?}: {outcome:?}");
        client.wire.rest(PATIENCE).1.expect("an end");
    }
    assert_eq!(upstream.received_text(), "");
}

fn tolerates_one_empty_line_before_a_request(driver: Driver) {
    let upstream = FakeUpstream::answering("fine");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    // RFC 9112 section 2.2 lets a server ignore one; more are noise.
    let mut client = proxy.connect();
    client.send(&[b"\r\n", get("/", "").as_slice(), b"\r\n", &get("/", "")].concat());
    assert_eq!((client.response().status, client.response().status), (200, 200));
    assert_eq!(proxy.ask(&[b"\r\n\r\n", get("/", "").as_slice()].concat()).status, 400);
    assert_eq!(proxy.ask(&[b"\n", get("/", "").as_slice()].concat()).status, 400);
}
