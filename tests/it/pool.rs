//! Connections to upstreams: kept, bounded, replaced when stale; and which upstream gets what.

use std::time::{Duration, Instant};

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::upstream::Refusing;
use crate::support::*;

on_both_drivers!(
    the_newest_idle_connection_is_taken_first,
    an_idle_connection_is_closed_after_its_time,
    an_announced_end_of_an_idle_connection_is_not_waited_for,
    the_pool_keeps_no_more_than_its_size,
    min_idle_connections_are_left_alone,
    an_upstream_that_closes_is_not_kept,
    a_connection_that_died_idle_is_replaced_for_any_method,
    max_connections_of_an_upstream_is_503,
    a_refused_connect_moves_the_request_on,
    a_refusing_upstream_is_left_alone_and_comes_back,
    all_upstreams_refusing_is_502,
    sessions_of_a_refusing_upstream_end_after_five_seconds,
    a_session_outlives_a_short_refusal,
    reaches_an_ipv6_upstream,
    reaches_an_upstream_by_name,
    ready_says_whether_an_upstream_is_reachable,
    upstream_names_must_differ,
);

fn table(name: &str, url: &str, more: &str) -> String {
    format!("[[upstreams]]\nname = \"{name}\"\nurl = \"{url}\"\n{more}\n")
}

/// Answers with the number of the connection; `/hold` waits until the other side is told to go on.
fn numbering() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() == "/hold" {
                conversation.tell("held");
                conversation.wire.fill(QUIET);
            }
            let body = conversation.number.to_string();
            conversation.respond(200, "", &body);
        }
        conversation.tell(format!("closed {}", conversation.number));
    })
}

/// `count` connections of the pool, made by as many requests at once.
fn fill_pool(proxy: &Proxy, upstream: &FakeUpstream, count: usize) {
    let mut clients: Vec<RawClient> = (0..count).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&get("/hold", ""));
        upstream.expect_event("held");
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}

fn the_newest_idle_connection_is_taken_first(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    fill_pool(&proxy, &upstream, 3);
    let newest = proxy.ask(&get("/", "")).text();
    for _ in 0..10 {
        assert_eq!(proxy.ask(&get("/", "")).text(), newest);
    }
    assert_eq!(upstream.connections(), 3);
    assert_eq!(proxy.metrics().sum("shadowcat_upstream_reuses_total", ""), 11.0);
}

fn an_idle_connection_is_closed_after_its_time(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).set("pool.idle_timeout", "300ms").start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "1");
    let begun = Instant::now();
    upstream.expect_event("closed 1");
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert_eq!(proxy.ask(&get("/", "")).text(), "2");
}

/// As Node announces it: a request that crossed with the end would be lost, and may not be sent twice.
fn an_announced_end_of_an_idle_connection_is_not_waited_for(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        let number = conversation.number;
        while conversation.request().is_some() {
            conversation.respond(200, "Keep-Alive: max=9, timeout=2\r\n", &number.to_string());
        }
        conversation.tell(format!("closed {number}"));
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set("pool.min_idle", "1").start();
    let begun = Instant::now();
    assert_eq!((proxy.ask(&get("/", "")).text(), proxy.ask(&get("/", "")).text()), ("1".into(), "1".into()));
    upstream.expect_event("closed 1");
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(proxy.ask(&get("/", "")).text(), "2");
}

fn the_pool_keeps_no_more_than_its_size(driver: Driver) {
    let upstream = numbering();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set("pool.max_size", "2").start();
    fill_pool(&proxy, &upstream, 5);
    for _ in 0..3 {
        assert!(upstream.event().starts_with("closed"));
    }
    upstream.expect_no_event();
    assert_eq!(upstream.open_connections(), 2);
    proxy.wait_for_metric("shadowcat_upstream_idle_connections", "", 2.0);
}

fn min_idle_connections_are_left_alone(driver: Driver) {
    let upstream = numbering();
    let builder = Proxy::before(driver, &[&upstream]).workers(1);
    let proxy = builder.set("pool.idle_timeout", "300ms").set("pool.min_idle", "2").start();
    fill_pool(&proxy, &upstream, 4);
    assert!(upstream.event().starts_with("closed"));
    assert!(upstream.event().starts_with("closed"));
    let begun = Instant::now();
    wait_until("some more lifetimes", || begun.elapsed() > Duration::from_millis(1500));
    assert_eq!(upstream.open_connections(), 2);
}

fn an_upstream_that_closes_is_not_kept(driver: Driver) {
    for (line, fields) in
        [("HTTP/1.1", "Connection: close\r\n"), ("HTTP/1.0", ""), ("HTTP/1.1", "Connection: x, Close\r\n")]
    {
        let upstream = FakeUpstream::saying(format!("{line} 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"));
        let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
        for n in 1..4 {
            assert_eq!(proxy.ask(&get("/", "")).text(), "ok");
            assert_eq!(upstream.connections(), n, "{line} {fields}");
        }
    }
    let old = FakeUpstream::saying("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::before(driver, &[&old]).workers(1).start();
    for _ in 0..3 {
        assert_eq!(proxy.ask(&get("/", "")).text(), "ok");
    }
    assert_eq!(old.connections(), 1);
}

fn a_connection_that_died_idle_is_replaced_for_any_method(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.respond(200, "", "ok");
        if conversation.number % 2 == 0 {
            conversation.reset();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    for n in 0..6 {
        assert_eq!(proxy.ask(&post_json("/mcp", "", &call(n, "pay"))).text(), "ok");
        wait_until("the upstream to close", || upstream.open_connections() == 0);
    }
    assert_eq!(upstream.requests().len(), 6);
}

fn max_connections_of_an_upstream_is_503(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() == "/hold" {
                conversation.begin_events("");
                conversation.tell("held");
                conversation.wait_for_end();
                return;
            }
            conversation.respond(200, "", "ok");
        }
    });
    let proxy = Proxy::builder(driver).config(&table("one", &upstream.url(), "max_connections = 2")).start();
    let mut held: Vec<RawClient> = (0..2).map(|_| proxy.connect()).collect();
    for client in &mut held {
        client.send(&get("/hold", ""));
        upstream.expect_event("held");
    }
    let refused = proxy.ask(&post_json("/mcp", "", &request(4, "ping")));
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(4)));
    assert!(refused.head.has("retry-after"));
    held.pop();
    wait_until("a place to be free", || proxy.ask(&get("/", "")).status == 200);
}

fn a_refused_connect_moves_the_request_on(driver: Driver) {
    let (refusing, good) = (Refusing::new(), FakeUpstream::answering("good"));
    let proxy = Proxy::builder(driver).upstream(&refusing.url()).upstream(&good.url()).start();
    for n in 0..40 {
        // Nothing was sent, so that even what must not be repeated moves on.
        let answer = proxy.ask(&post_json("/mcp", "", &call(n, "pay")));
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
    }
    assert_eq!(good.requests().len(), 40);
    // Left alone for a second after the first refusal: hardly anybody paid for it.
    let refusals = proxy.metrics().sum("shadowcat_proxy_errors_total", "error=\"connect\"");
    assert!((1.0..=3.0).contains(&refusals), "{refusals}");
}

fn a_refusing_upstream_is_left_alone_and_comes_back(driver: Driver) {
    let one = FakeUpstream::answering("one");
    let address = one.address.to_string();
    let two = FakeUpstream::answering("two");
    let proxy = Proxy::before(driver, &[&one, &two]).start();
    let asked = |count: usize| -> Vec<String> { (0..count).map(|_| proxy.ask(&get("/", "")).text()).collect() };
    assert!(asked(10).contains(&"one".to_owned()));
    one.stop();
    let during = asked(20);
    assert!(during.iter().all(|name| name == "two"), "{during:?}");
    let one = FakeUpstream::at(&address, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "one");
        }
    });
    wait_until("it to be asked again", || asked(4).contains(&"one".to_owned()));
    drop(one);
}

fn all_upstreams_refusing_is_502(driver: Driver) {
    let (one, two) = (Refusing::new(), Refusing::new());
    let proxy = Proxy::builder(driver).upstream(&one.url()).upstream(&two.url()).start();
    for id in 0..5 {
        let begun = Instant::now();
        let answer = proxy.ask(&post_json("/mcp", "", &request(id, "ping")));
        assert_eq!((answer.status, answer.json()["id"].as_u64()), (502, Some(id)));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

fn sessions_of_a_refusing_upstream_end_after_five_seconds(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).start();
    let mut of_a = None;
    let mut of_b = None;
    while of_a.is_none() || of_b.is_none() {
        let (answer, id) = begin_session(&proxy);
        let name = answer.json()["result"]["serverInfo"]["name"] == "a";
        *(if name { &mut of_a } else { &mut of_b }) = Some(id);
    }
    let (of_a, of_b) = (of_a.expect("a session of a"), of_b.expect("a session of b"));
    a.upstream.stop();
    let begun = Instant::now();
    let mut statuses = Vec::new();
    wait_until("the session to end", || {
        let status = proxy.ask(&in_session(&of_a, &request(1, "ping"))).status;
        statuses.push(status);
        assert_eq!(proxy.ask(&in_session(&of_b, &request(1, "ping"))).status, 200);
        status == 404
    });
    let took = begun.elapsed();
    assert!((Duration::from_millis(4500)..Duration::from_secs(12)).contains(&took), "{took:?}");
    statuses.pop();
    assert!(statuses.iter().all(|status| matches!(status, 502 | 503)), "{statuses:?}");
    // The client begins anew, on the replica that is left.
    for _ in 0..4 {
        assert_eq!(begin_session(&proxy).0.json()["result"]["serverInfo"]["name"], "b");
    }
}

fn a_session_outlives_a_short_refusal(driver: Driver) {
    let script = |conversation: &mut Conversation| {
        while let Some(request) = conversation.request() {
            let known = request.head.one("mcp-session-id") == Some("theirs");
            let fields = if known { "" } else { "Mcp-Session-Id: theirs\r\n" };
            conversation.respond_json(200, fields, "{}");
        }
    };
    let first = FakeUpstream::new(script);
    let address = first.address.to_string();
    let proxy = Proxy::before(driver, &[&first]).start();
    let (_, id) = begin_session(&proxy);
    first.stop();
    assert_eq!(proxy.ask(&in_session(&id, &request(1, "ping"))).status, 502);
    let second = FakeUpstream::at(&address, script);
    wait_until("it to go on", || match proxy.ask(&in_session(&id, &request(1, "ping"))).status {
        200 => true,
        502 | 503 => false,
        other => panic!("{other}"),
    });
    assert_eq!(second.last_request().head.one("mcp-session-id"), Some("theirs"));
}

fn reaches_an_ipv6_upstream(driver: Driver) {
    let upstream = FakeUpstream::at("[::1]:0", |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "six");
        }
    });
    assert!(upstream.url().starts_with("http://[::1]:"));
    let proxy = Proxy::before(driver, &[&upstream]).set("proxy.rewrite_host", "true").start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "six");
    assert_eq!(upstream.last_request().head.one("host"), Some(upstream.address.to_string().as_str()));
    // And a proxy on IPv6 says so.
    let proxy = Proxy::before(driver, &[&upstream]).bind("[::1]:0").start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "six");
    let seen = upstream.last_request().head;
    assert_eq!(seen.one("x-forwarded-for"), Some("::1"));
    assert!(seen.one("forwarded").expect("Forwarded").contains("for=\"[::1]\""), "{seen:?}");
}

fn reaches_an_upstream_by_name(driver: Driver) {
    // Whatever the name resolves to first, the address that listens is found.
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let upstream = FakeUpstream::at(address, |conversation| {
            while conversation.request().is_some() {
                conversation.respond(200, "", "named");
            }
        });
        let url = format!("http://localhost:{}", upstream.address.port());
        let hosts = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 1)).expect("localhost");
        if !hosts.into_iter().any(|host| host.ip() == upstream.address.ip()) {
            continue; // this machine's localhost has one family only
        }
        let proxy = Proxy::builder(driver).upstream(&url).start();
        for _ in 0..3 {
            assert_eq!(proxy.ask(&get("/", "")).text(), "named");
        }
        assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", ""), 0.0);
    }
    let unknown = Proxy::builder(driver).upstream("http://no-such-host.invalid:80").start();
    assert_eq!(unknown.ask(&get("/", "")).status, 502);
    assert_eq!(unknown.ask(&get("/ready", "")).status, 503);
}

fn ready_says_whether_an_upstream_is_reachable(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let address = upstream.address.to_string();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.ask(&get("/ready", "")).status, 200);
    upstream.stop();
    assert_eq!(proxy.ask(&get("/", "")).status, 502);
    assert_eq!(proxy.ask(&get("/ready", "")).status, 503);
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    let _again = FakeUpstream::at(&address, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "");
        }
    });
    wait_until("it to be ready again", || {
        proxy.ask(&get("/", ""));
        proxy.ask(&get("/ready", "")).status == 200
    });
}

fn upstream_names_must_differ(driver: Driver) {
    let one = table("same", "http://127.0.0.1:1", "");
    let two = table("same", "http://127.0.0.1:2", "");
    let (code, said) = Proxy::builder(driver).config(&format!("{one}{two}")).run_to_end();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("same"), "{said}");
}
