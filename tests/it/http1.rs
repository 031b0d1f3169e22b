//! HTTP/1.1 on both sides: connections, bodies, interim and early answers (RFC 9110, RFC 9112).

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    keeps_both_connections_alive,
    closes_when_the_client_says_so,
    answers_pipelined_requests_in_order,
    takes_requests_byte_by_byte,
    relays_bodies_with_a_length_byte_exact,
    relays_chunked_bodies_both_ways,
    frames_a_close_delimited_answer,
    answers_expect_100_continue_itself,
    sends_no_100_before_a_refusal,
    knows_answers_without_a_body,
    relays_interim_answers,
    refuses_interim_answers_without_end,
    refuses_an_unasked_switch_of_protocols,
    passes_an_early_answer_on,
    serves_a_client_that_finished_sending,
    ignores_upgrade,
    refuses_connect_and_trace,
    takes_the_absolute_form,
    serves_http_10_clients,
    passes_methods_that_it_does_not_know,
);

const GET: &[u8] = b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Answers with `METHOD target body`.
fn echoing() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let body = format!("{} {} {}", request.head.method(), request.head.target(), request.text());
            conversation.respond(200, "", &body);
        }
    })
}

fn keeps_both_connections_alive(driver: Driver) {
    let upstream = FakeUpstream::answering("hello");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for _ in 0..10 {
        let answer = client.ask(GET);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert!(!answer.closes());
    }
    assert_eq!(upstream.connections(), 1);
    assert!(upstream.requests().iter().all(|request| request.head.target() == "/a?b=c"));
    assert_eq!(proxy.metrics().sum("shadowcat_proxy_requests_total", ""), 10.0);
}

fn closes_when_the_client_says_so(driver: Driver) {
    let upstream = FakeUpstream::answering("bye");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let answer = client.ask(&get("/", "Connection: close\r\n"));
    assert_eq!(answer.text(), "bye");
    assert!(answer.closes());
    assert_eq!(client.expect_end(), Ending::Orderly);
    // What the client wants of its own connection is no business of upstream's.
    assert_eq!(proxy.ask(GET).text(), "bye");
    assert_eq!(proxy.ask(&get("/", "Connection: CLOSE, x\r\n")).text(), "bye");
}

fn answers_pipelined_requests_in_order(driver: Driver) {
    let upstream = echoing();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let chunked = b"POST /4 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
        Transfer-Encoding: chunked\r\n\r\n3\r\nfou\r\n1\r\nr\r\n0\r\n\r\n";
    let all = [
        get("/1", ""),
        post_json("/2", "", "{}"),
        get("/3", ""),
        chunked.to_vec(),
        post("/5", "", b"five"),
        get("/6", "Connection: close\r\n"),
        get("/never", ""),
    ]
    .concat();
    client.send(&all);
    let texts: Vec<String> = (0..6).map(|_| client.response().text()).collect();
    assert_eq!(texts, ["GET /1 ", "POST /2 {}", "GET /3 ", "POST /4 four", "POST /5 five", "GET /6 "]);
    client.expect_end();
    assert!(!upstream.received_text().contains("/never"));

    let mut client = proxy.connect();
    let many: Vec<u8> = (0..100).flat_map(|n| get(&format!("/{n}"), "")).collect();
    client.send_in_pieces(&many, 777);
    for n in 0..100 {
        assert_eq!(client.response().text(), format!("GET /{n} "));
    }
}

fn takes_requests_byte_by_byte(driver: Driver) {
    let upstream = echoing();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let chunked = b"POST /c HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n00\r\n\r\n";
    for (request, expected) in [(post_json("/p", "", "{}"), "POST /p {}"), (chunked.to_vec(), "POST /c {}")] {
        client.send_in_pieces(&request, 1);
        assert_eq!(client.response().text(), expected);
    }
}

fn relays_bodies_with_a_length_byte_exact(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            conversation.send(&[head.as_bytes(), &request.body].concat());
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for size in [0, 1, 255, 4096, 65_535, 65_536, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let request = post("/x", "", &body);
        let echoed = std::thread::scope(|scope| {
            let mut reader = client.another_handle();
            let reading = scope.spawn(move || reader.response());
            client.send(&request);
            reading.join().expect("an answer")
        });
        assert!(echoed.body == body, "{size}: {} bytes came back", echoed.body.len());
    }
    assert_eq!(upstream.connections(), 1);
}

fn relays_chunked_bodies_both_ways(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            conversation.begin_chunks("Trailer: X-Sum\r\n");
            conversation.send_chunk(request.text().as_bytes());
            conversation.send(b"3;extension=\"x\"\r\nend\r\n0\r\nX-Sum: 1\r\n\r\n");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client
        .send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in [b"5\r\nhel".as_slice(), b"lo\r\n1;a=b\r", b"\n!\r\n0\r\nX-Sum: 1\r\n", b"\r\n"] {
        client.send(piece);
    }
    // The strict reader of the client refuses any trailer: they are dropped (RFC 9110 section 6.5.1).
    assert_eq!(client.response().text(), "hello!end");
    assert_eq!(upstream.last_request().text(), "hello!");
    assert_eq!(client.ask(&post("/y", "", b"again")).text(), "againend");
    assert_eq!(upstream.connections(), 1);
}

fn frames_a_close_delimited_answer(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil ");
        conversation.send(b"the end");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        let answer = client.ask(GET);
        assert_eq!(answer.text(), "until the end");
        assert_eq!(answer.one("transfer-encoding"), Some("chunked"));
    }
    assert_eq!(upstream.connections(), 2);
}

fn answers_expect_100_continue_itself(driver: Driver) {
    let upstream = FakeUpstream::answering("done");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for kind in ["application/json", "text/plain"] {
        let head = format!(
            "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        );
        client.send(head.as_bytes());
        assert_eq!(client.head().status(), Ok(100), "{kind}");
        client.send(b"{}");
        assert_eq!(client.response().text(), "done", "{kind}");
        // A client that does not wait gets an answer all the same, with or without a 100 before it.
        client.send(&[head.as_bytes(), b"{}"].concat());
        let mut answer = client.response();
        if answer.status == 100 {
            answer = client.response();
        }
        assert_eq!(answer.text(), "done", "{kind}");
    }
    assert!(upstream.requests().iter().all(|request| !request.head.has("expect")));
    let unknown = b"POST /x HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(client.ask(unknown).status, 417);
    let old = b"POST /x HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(proxy.ask(old).status, 200);
}

fn sends_no_100_before_a_refusal(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("limits.body_bytes", "10").start();
    let expect = "Expect: 100-continue\r\nContent-Type: application/json\r\n";
    for (fields, status) in [
        ("Content-Length: 11\r\n", 413),
        ("Content-Length: 2\r\nOrigin: http://evil.example\r\n", 403),
        ("Content-Length: 2\r\nMcp-Session-Id: nobody-knows-this-session-at-all\r\n", 404),
        ("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400),
    ] {
        let head = format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\n{expect}{fields}\r\n");
        let mut client = proxy.connect();
        client.send(head.as_bytes());
        let first = client.response();
        // An unknown session is told only once the body was seen: there a 100 may come first.
        if status == 404 && first.status == 100 {
            assert_eq!(client.send(b"{}").response().status, 404);
            continue;
        }
        assert_eq!(first.status, status, "{fields}");
    }
    assert_eq!(upstream.received_text(), "");
}

fn knows_answers_without_a_body(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/length" => conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
                "/chunked" => conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
                "/204" => conversation.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
                "/304" => conversation.send(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 7\r\n\r\n"),
                "/202" => conversation.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"),
                _ => conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter"),
            };
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let head = client.ask(b"HEAD /length HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(head.one("content-length"), Some("100"));
    assert_eq!(client.ask(b"HEAD /chunked HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    let empty = client.ask(&get("/204", ""));
    assert_eq!((empty.status, empty.one("content-length")), (204, None));
    let same = client.ask(&get("/304", "If-None-Match: x\r\n"));
    assert_eq!((same.status, same.one("content-length"), same.one("etag")), (304, Some("7"), Some("x")));
    let accepted = client.ask(&post_json("/202", "", "{}"));
    assert_eq!((accepted.status, accepted.one("content-length")), (202, Some("0")));
    assert_eq!(client.ask(&get("/after", "")).text(), "after");
    assert_eq!(upstream.connections(), 1);
}

/// Says `interims` times 103 before its answer.
fn hinting(interims: usize) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() {
            for _ in 0..interims {
                conversation.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-P\r\nX-P: 1\r\n\r\n");
            }
            conversation.respond(200, "", "final");
        }
    })
}

fn relays_interim_answers(driver: Driver) {
    let upstream = hinting(16);
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(GET);
    for _ in 0..16 {
        let hint = client.head();
        assert_eq!((hint.status(), hint.one("link"), hint.has("x-p")), (Ok(103), Some("</a>"), false));
    }
    assert_eq!(client.response().text(), "final");
    assert_eq!(client.ask(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 103);
    // HTTP/1.0 knows no interim answers (RFC 9110 section 15.2).
    assert_eq!(proxy.ask(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").status, 200);
}

fn refuses_interim_answers_without_end(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        while conversation.send(b"HTTP/1.1 102 Processing\r\n\r\n") {}
        conversation.tell("closed");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(GET);
    let mut interims = 0;
    let answer = loop {
        let answer = client.response();
        if answer.status != 102 {
            break answer;
        }
        interims += 1;
    };
    assert!(interims <= 16, "{interims}");
    assert_eq!(answer.status, 502);
    upstream.expect_event("closed");
}

fn refuses_an_unasked_switch_of_protocols(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nx-protocol");
        conversation.wait_for_end();
        conversation.tell("closed");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for request in [get("/", ""), get("/", "Connection: Upgrade\r\nUpgrade: x\r\n")] {
        assert_eq!(proxy.ask(&request).status, 502);
        upstream.expect_event("closed");
    }
}

fn passes_an_early_answer_on(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        let Some(head) = conversation.head() else { return };
        if head.method() == "GET" {
            return conversation.respond(200, "", "fresh");
        }
        conversation.respond(413, "", "enough");
        conversation.wait_for_end();
        conversation.tell("closed");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let head = "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n";
    client.send(head.as_bytes()).send(b"begin");
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (413, "enough"));
    assert!(answer.closes());
    // A connection on which a request is still being written is never used again.
    upstream.expect_event("closed");
    assert_eq!(proxy.ask(GET).text(), "fresh");
    // The client may go on sending for a while without losing the answer to a reset.
    client.send(&vec![b'x'; 100_000]);
    client.finish_sending();
    client.expect_end();
}

fn serves_a_client_that_finished_sending(driver: Driver) {
    let upstream = echoing();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for request in [get("/w", ""), post_json("/w", "", "{}"), post("/w", "", b"body")] {
        let mut client = proxy.connect();
        client.send(&request).finish_sending();
        assert!(client.response().text().contains(" /w "));
        assert_eq!(client.expect_end(), Ending::Orderly);
    }
    // Two requests and then the end: both are served.
    let mut client = proxy.connect();
    client.send(&[get("/1", ""), get("/2", "")].concat()).finish_sending();
    assert_eq!(client.response().text(), "GET /1 ");
    assert_eq!(client.response().text(), "GET /2 ");
    assert_eq!(client.expect_end(), Ending::Orderly);
    // The end in the middle of a request is the end: nothing whole may reach upstream.
    let mut client = proxy.connect();
    client.send(b"POST /half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf").finish_sending();
    client.outcome();
    assert!(!upstream.requests().iter().any(|request| request.head.target() == "/half"));
}

fn ignores_upgrade(driver: Driver) {
    let upstream = echoing();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for fields in [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Upgrade: TLS/1.2\r\n",
    ] {
        assert_eq!(client.ask(&get("/u", fields)).text(), "GET /u ");
        let seen = upstream.last_request().head;
        assert!(!seen.has("upgrade") && !seen.has("http2-settings") && !seen.has("connection"), "{seen:?}");
    }
}

fn refuses_connect_and_trace(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for request in [
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let status = proxy.ask(request.as_bytes()).status;
        assert!([405, 501].contains(&status), "{status}: {request}");
    }
    assert_eq!(upstream.received_text(), "");
}

fn takes_the_absolute_form(driver: Driver) {
    let upstream = echoing();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for (target, host, seen) in [
        ("http://localhost/p?q", "localhost", "/p?q"),
        ("HTTP://localhost:80/", "localhost:80", "/"),
        ("http://localhost", "localhost", "/"),
    ] {
        let answer = client.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(answer.text(), format!("GET {seen} "), "{target}");
        assert_eq!(upstream.last_request().head.one("host"), Some(host));
    }
    let before = upstream.requests().len();
    let two_hosts = proxy.ask(b"GET http://localhost/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert_eq!(two_hosts.status, 400);
    assert!(two_hosts.closes());
    // An absolute target is checked like a Host: it is the name that was asked for.
    let foreign = proxy.ask(b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(foreign.status, 403);
    assert_eq!(upstream.requests().len(), before);
}

fn serves_http_10_clients(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/chunked" => {
                    conversation.begin_chunks("");
                    conversation.send_chunk(b"abc");
                    conversation.end_chunks();
                }
                _ => conversation.respond(200, "", "abc"),
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let keep = "Host: localhost\r\nConnection: keep-alive\r\n\r\n";
    let mut client = proxy.connect();
    for _ in 0..2 {
        let kept = client.ask(format!("GET / HTTP/1.0\r\n{keep}").as_bytes());
        assert_eq!((kept.text().as_str(), kept.one("connection")), ("abc", Some("keep-alive")));
    }
    // No keep-alive asked for: none given.
    assert_eq!(client.ask(b"GET / HTTP/1.0\r\n\r\n").text(), "abc");
    assert_eq!(client.expect_end(), Ending::Orderly);
    // No chunks for HTTP/1.0: the end of the connection ends the body.
    let mut client = proxy.connect();
    let streamed = client.ask(format!("GET /chunked HTTP/1.0\r\n{keep}").as_bytes());
    assert_eq!((streamed.text().as_str(), streamed.one("transfer-encoding")), ("abc", None));
    assert!(upstream.requests().iter().all(|request| request.head.line.ends_with(" HTTP/1.1")));
}

fn passes_methods_that_it_does_not_know(driver: Driver) {
    let upstream = echoing();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get"] {
        let answer = client.ask(&post_with(method, "/m", "Content-Type: text/plain\r\n", b"x"));
        assert_eq!(answer.text(), format!("{method} /m x"));
    }
    let answer = client.ask(b"DELETE /empty HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer.text(), "DELETE /empty ");
    assert_eq!(upstream.connections(), 1);
}
