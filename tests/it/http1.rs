//! HTTP/1.1 on both sides, as RFC 9110 and RFC 9112 have it.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    relays_and_keeps_both_connections,
    answers_pipelined_requests_in_order,
    relays_bodies_with_length_and_chunked,
    answers_expect_itself,
    knows_answers_without_a_body,
    relays_interim_answers_but_not_without_end,
    passes_an_early_answer_on,
    serves_a_client_that_finished_sending,
    ignores_upgrades_and_refuses_tunnels,
    takes_the_absolute_form,
    speaks_http_10,
    strips_what_is_of_one_hop_only,
    tells_upstream_who_asked,
    believes_forwarding_of_trusted_proxies_only,
    rewrites_host_when_told,
);

const GET: &[u8] = b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn relays_and_keeps_both_connections(driver: &str) {
    let upstream = Upstream::answering("hello");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        let answer = client.exchange(GET);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    }
    assert_eq!(upstream.connections(), 1);
    assert!(upstream.received().starts_with("GET /a?b=c HTTP/1.1\r\nHost: localhost\r\n"));
    assert_eq!(proxy.metrics().sum("shadowcat_proxy_requests_total", ""), 3.0);
}

fn answers_pipelined_requests_in_order(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let body = format!("{} {}", request.path(), String::from_utf8_lossy(&request.body));
            conversation.answer(200, "", &body);
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let three = [get("/1", ""), post_to("/2", "", "{}"), get("/3", "Connection: close\r\n")].concat();
    client.send(&three);
    let texts: Vec<String> = (0..3).map(|_| client.answer().text()).collect();
    assert_eq!(texts, ["/1 ", "/2 {}", "/3 "]);
    assert_eq!(client.rest(), (vec![], Ending::Orderly));
}

fn relays_bodies_with_length_and_chunked(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let body = String::from_utf8(request.body).unwrap();
            conversation.begin_chunked();
            if !body.is_empty() {
                conversation.chunked(&body);
            }
            conversation.say(b"3;extension=\"x\"\r\nend\r\n0\r\nTrailer-Field: x\r\n\r\n");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let chunked =
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(chunked);
    for piece in [b"5\r\nhel".as_slice(), b"lo\r\n1;a=b\r", b"\n!\r\n0\r\n", b"\r\n"] {
        client.send(piece);
    }
    let answer = client.answer();
    assert_eq!(answer.text(), "hello!end");
    assert_eq!(answer.field("trailer-field"), None);
    assert_eq!(client.exchange(&post("", "{\"a\":1}")).text(), "{\"a\":1}end");
    assert_eq!(client.exchange(GET).text(), "end");
}

impl Conversation {
    fn begin_chunked(&mut self) {
        self.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    }
}

fn answers_expect_itself(driver: &str) {
    let upstream = Upstream::answering("done");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send(b"{}");
    assert_eq!(client.answer().text(), "done");
    assert!(!upstream.received().to_lowercase().contains("expect"));
    let refused =
        client.exchange(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(refused.status, 417);
}

fn knows_answers_without_a_body(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.path() {
                "/head" => conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
                "/204" => conversation.say(b"HTTP/1.1 204 No Content\r\n\r\n"),
                "/304" => conversation.say(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 7\r\n\r\n"),
                _ => conversation.answer(200, "", "after"),
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(b"HEAD /head HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(client.head().contains("Content-Length: 100"));
    let answer = client.exchange(&get("/204", ""));
    assert_eq!((answer.status, answer.field("content-length")), (204, None));
    assert_eq!(client.exchange(&get("/304", "")).field("content-length").as_deref(), Some("7"));
    assert_eq!(client.exchange(GET).text(), "after");
    assert_eq!(upstream.connections(), 1);
}

fn relays_interim_answers_but_not_without_end(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.path() {
                "/hints" => {
                    conversation.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
                    conversation.answer(200, "", "then");
                }
                "/switch" => conversation.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
                _ => (0..17).for_each(|_| conversation.say(b"HTTP/1.1 102 Processing\r\n\r\n")),
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let hints = client.exchange(&get("/hints", ""));
    assert_eq!((hints.status, hints.field("link").as_deref()), (103, Some("</a>")));
    assert_eq!(client.answer().text(), "then");
    assert_eq!(client.exchange(&get("/switch", "")).status, 502);
    let statuses: Vec<u16> = std::iter::once(client.exchange(&get("/endless", "")).status)
        .chain(std::iter::repeat_with(|| client.answer().status))
        .take(17)
        .collect();
    assert_eq!(statuses[16], 502, "{statuses:?}");
    assert_eq!(proxy.connect().exchange(b"GET /hints HTTP/1.0\r\nHost: localhost\r\n\r\n").status, 200);
}

fn passes_an_early_answer_on(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.head();
        conversation.answer(413, "", "enough");
        conversation.wait_for_close();
        conversation.tell("closed");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\nstart",
    );
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "enough"));
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    assert_eq!(upstream.event(), "closed");
}

fn serves_a_client_that_finished_sending(driver: &str) {
    let upstream = Upstream::answering("whole");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(GET);
    client.finish_sending();
    assert_eq!(client.answer().text(), "whole");
    assert_eq!(client.rest(), (vec![], Ending::Orderly));
}

fn ignores_upgrades_and_refuses_tunnels(driver: &str) {
    let upstream = Upstream::answering("plain");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let upgrade = get("/", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    assert_eq!(client.exchange(&upgrade).text(), "plain");
    assert!(!upstream.received().to_lowercase().contains("upgrade"));
    for request in
        ["CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    {
        let mut client = proxy.connect();
        let answer = client.exchange(request.as_bytes());
        assert!([405, 501].contains(&answer.status), "{}", answer.head);
    }
    assert_eq!(upstream.received().matches("HTTP/1.1").count(), 1);
}

fn takes_the_absolute_form(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    assert_eq!(client.exchange(b"GET http://localhost/p?q HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    assert!(upstream.received().starts_with("GET /p?q HTTP/1.1\r\nHost: localhost\r\n"));
    let other = client.exchange(b"GET http://localhost/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert_eq!(other.status, 400);
}

fn speaks_http_10(driver: &str) {
    let upstream = Upstream::saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let answer = client.exchange(b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(answer.text(), "abc");
    assert_eq!(answer.field("transfer-encoding"), None);

    let upstream = Upstream::answering("abc");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let kept = client.exchange(b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(kept.field("connection").as_deref(), Some("keep-alive"));
    let last = client.exchange(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
    assert_eq!(last.text(), "abc");
    assert_eq!(client.rest(), (vec![], Ending::Orderly));
}

fn strips_what_is_of_one_hop_only(driver: &str) {
    let upstream = Upstream::saying(
        b"HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let fields = "Connection: keep-alive, X-Secret, Content-Type, Accept, Mcp-Method, Authorization\r\nX-Secret: 1\r\n\
                  Authorization: Bearer t\r\nMcp-Method: x\r\nTE: trailers\r\nProxy: http://evil\r\nX_Under: 1\r\n\
                  Proxy-Authorization: y\r\nKeep-Alive: 1\r\nX-Public: 1\r\n";
    let answer = client.exchange(&post(fields, "{}"));
    assert_eq!(answer.field("x-kept").as_deref(), Some("1"));
    assert_eq!((answer.field("x-private"), answer.field("keep-alive")), (None, None));
    let received = upstream.received().to_lowercase();
    for gone in ["x-secret", "te:", "proxy:", "x_under", "proxy-authorization", "keep-alive", "connection:"] {
        assert!(!received.contains(&format!("\r\n{gone}")), "{gone} in {received}");
    }
    for kept in ["content-type", "accept", "mcp-method", "authorization", "x-public"] {
        assert!(received.contains(&format!("\r\n{kept}")), "{kept} not in {received}");
    }
}

fn tells_upstream_who_asked(driver: &str) {
    let upstream = Upstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let spoofed = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\n\
                   X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n";
    proxy.connect().exchange(&get("/", spoofed));
    let received = upstream.received();
    assert!(!received.contains("6.6.6.6") && !received.contains("evil") && !received.contains("-Port"), "{received}");
    for expected in [
        "X-Forwarded-For: 127.0.0.1\r\n",
        "X-Forwarded-Proto: http\r\n",
        "X-Forwarded-Host: localhost\r\n",
        "Forwarded: for=127.0.0.1;proto=http;host=\"localhost\"\r\n",
        "Via: 1.1 shadowcat\r\n",
    ] {
        assert!(received.contains(expected), "{expected} not in {received}");
    }
}

fn believes_forwarding_of_trusted_proxies_only(driver: &str) {
    let upstream = Upstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.trusted_proxies", "127.0.0.0/8").start();
    let fields = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=9.9.9.9;proto=https\r\n";
    proxy.connect().exchange(&get("/", fields));
    let received = upstream.received();
    assert!(received.contains("X-Forwarded-For: 9.9.9.9, 127.0.0.1\r\n"), "{received}");
    assert!(received.contains("X-Forwarded-Proto: https\r\n"), "{received}");
    assert!(received.contains("Forwarded: for=9.9.9.9;proto=https, for=127.0.0.1;"), "{received}");
}

fn rewrites_host_when_told(driver: &str) {
    let upstream = Upstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.rewrite_host", "true").start();
    proxy.connect().exchange(GET);
    assert!(upstream.received().contains(&format!("\r\nHost: {}\r\n", upstream.address)));
}
