//! When resources run out and peers misbehave in numbers: others are served meanwhile, and everything comes back.

use std::time::{Duration, Instant};

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    out_of_descriptors_others_are_served_and_it_recovers,
    out_of_descriptors_the_way_up_stays_open,
    out_of_descriptors_towards_upstream_is_an_answer,
    out_of_descriptors_no_session_is_lost,
    a_storm_of_client_resets_leaves_nothing_behind,
    resets_in_mid_stream_leave_nothing_behind,
    a_storm_of_upstream_resets_leaves_nothing_behind,
    a_flood_of_slow_heads_is_bounded_in_memory_and_time,
    a_flood_of_slow_bodies_is_bounded_in_memory_and_time,
    half_open_readers_do_not_stop_others,
    silent_clients_are_asked_whether_they_live,
    a_storm_of_refused_requests_leaves_nothing_behind,
    idle_costs_no_time,
);

/// Handles of a proxy at rest: nothing is open but the connection that asks.
fn at_rest(proxy: &Proxy) -> usize {
    proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
    proxy.descriptors()
}

fn expect_handles_back(proxy: &Proxy, before: usize) {
    proxy.wait_for_metric("shadowcat_streams_active", "", 0.0);
    proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
    // A pooled connection or two may stay, and the one that just asked may not be gone yet.
    wait_until("the handles to come back", || proxy.descriptors() <= before + 4);
}

fn out_of_descriptors_others_are_served_and_it_recovers(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut kept = proxy.connect();
    assert_eq!(kept.ask(&get("/", "")).text(), "served");
    // Lowered under way: the proxy keeps room for upstreams within the limit that it started with.
    let limit = format!("--nofile={0}:{0}", proxy.descriptors() + 20);
    let lowered = std::process::Command::new("prlimit").args(["--pid", &proxy.pid().to_string(), &limit]).status();
    assert!(lowered.expect("prlimit runs").success());
    let flood: Vec<RawClient> = (0..150).map(|_| proxy.connect()).collect();
    let errors = |client: &mut RawClient| {
        let page = client.ask(&get("/metrics", "")).text();
        proxy::Metrics(page).sum("shadowcat_accept_errors_total", "")
    };
    let mut before = 0.0;
    wait_until("descriptors to run out", || {
        before = errors(&mut kept);
        before >= 1.0
    });
    // Served meanwhile, without spinning on accept.
    let window = Instant::now();
    wait_until("a second to pass", || {
        assert_eq!(kept.ask(&get("/", "")).text(), "served");
        window.elapsed() > Duration::from_secs(1)
    });
    let rate = (errors(&mut kept) - before) / window.elapsed().as_secs_f64();
    assert!(rate < 200.0, "{rate} accept errors a second");
    drop(flood);
    for _ in 0..20 {
        assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    }
}

fn out_of_descriptors_the_way_up_stays_open(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).under(&["prlimit", "--nofile=80:80"]).start();
    let mut kept = proxy.connect();
    assert_eq!(kept.ask(&get("/health", "")).status, 200);
    // They need not even say a word: who takes every descriptor must not take the service from all others.
    let flood: Vec<RawClient> = (0..150).map(|_| proxy.connect()).collect();
    wait_until("descriptors to run out, or to be kept back", || {
        let page = proxy::Metrics(kept.ask(&get("/metrics", "")).text());
        let taken = page.sum("shadowcat_connections_active", "");
        page.sum("shadowcat_accept_errors_total", "") >= 1.0 || (taken > 10.0 && proxy.descriptors() < 75)
    });
    assert_eq!(kept.ask(&get("/", "")).text(), "served");
    drop(flood);
}

fn out_of_descriptors_towards_upstream_is_an_answer(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).under(&["prlimit", "--nofile=80:80"]).start();
    let mut flood = Vec::new();
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    // Every client holds its connection; sooner or later none is left for the way up.
    for _ in 0..150 {
        let mut client = proxy.connect();
        client.send(&get("/", "Connection: keep-alive\r\n"));
        flood.push(client);
    }
    for client in &mut flood {
        if client.wire.fill(QUIET / 10) == wire::Input::Quiet {
            continue; // still in the kernel's queue
        }
        *statuses.entry(client.response().status).or_default() += 1;
    }
    assert!(statuses.keys().all(|status| matches!(status, 200 | 502 | 503)), "{statuses:?}");
    drop(flood);
    wait_until("it to recover", || proxy.ask(&get("/", "")).status == 200);
}

fn out_of_descriptors_no_session_is_lost(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).workers(1).under(&["prlimit", "--nofile=80:80"]).start();
    let mut kept = proxy.connect();
    let id = begin_session_on(&mut kept);
    // Two requests at once in one session, so that the pool alone cannot serve them.
    let mut stream = proxy.connect();
    stream.send(&listen(&id, ""));
    stream.stream_head();
    let flood: Vec<RawClient> = (0..150).map(|_| proxy.connect()).collect();
    let begun = Instant::now();
    wait_until("longer than an upstream may refuse", || {
        let status = kept.ask(&in_session(&id, &request(1, "ping"))).status;
        // Upstream refuses nothing: it is we who have run out.
        assert!(matches!(status, 200 | 502 | 503), "{status} after {:?}", begun.elapsed());
        begun.elapsed() > Duration::from_secs(7)
    });
    drop(flood);
    wait_until("the session to go on", || match kept.ask(&in_session(&id, &request(1, "ping"))).status {
        200 => true,
        502 | 503 => false,
        other => panic!("{other}"),
    });
}

/// Streams without end to `/sse`, answers to everything else.
fn streaming() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() != "/sse" {
                conversation.respond(200, "", "served");
                continue;
            }
            conversation.begin_events("");
            while conversation.send_chunk(&[b'x'; 16 * 1024]) {}
            return;
        }
    })
}

fn a_storm_of_client_resets_leaves_nothing_behind(driver: Driver) {
    let upstream = streaming();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    let before = at_rest(&proxy);
    for round in 0..600 {
        let mut client = proxy.connect();
        match round % 6 {
            0 => {}
            1 => drop(client.send(b"GET / HT")),
            2 => drop(client.send(&get("/", ""))),
            3 => drop(client.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nha")),
            4 => drop(client.send(&get("/sse", ""))),
            _ => {
                client.send(&get("/sse", ""));
                client.head();
            }
        }
        client.wire.reset();
    }
    expect_handles_back(&proxy, before);
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
}

fn resets_in_mid_stream_leave_nothing_behind(driver: Driver) {
    let upstream = streaming();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    let before = at_rest(&proxy);
    let mut memory = 0;
    for round in 0..8 {
        let mut clients: Vec<RawClient> = (0..50).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.wire.take_little(8 * 1024);
            client.send(&get("/sse", ""));
        }
        for client in &mut clients {
            client.head();
            client.chunk().expect("a chunk");
        }
        // Reads and writes are under way in both directions now.
        for client in clients {
            client.wire.reset();
        }
        expect_handles_back(&proxy, before);
        match round {
            0..2 => memory = memory.max(proxy.memory()),
            _ => assert!(proxy.memory() < memory + (16 << 20), "round {round}: {} above {memory}", proxy.memory()),
        }
    }
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
}

fn a_storm_of_upstream_resets_leaves_nothing_behind(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        let Some(request) = conversation.request() else { return };
        match request.head.target() {
            "/silent" => conversation.reset(),
            "/head" => {
                conversation.send(b"HTTP/1.1 200 OK\r\nContent-Le");
                conversation.reset();
            }
            "/body" => {
                conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhello");
                conversation.reset();
            }
            "/sse" => {
                conversation.begin_events("");
                conversation.send_chunk(b"data: x\n\n");
                conversation.reset();
            }
            _ => conversation.respond(200, "", "served"),
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    let before = at_rest(&proxy);
    for round in 0..400 {
        let target = ["/silent", "/head", "/body", "/sse"][round % 4];
        let outcome = proxy.connect().send(&get(target, "")).outcome();
        assert!(outcome.is_cut() || outcome.status() == 502, "{target}: {outcome:?}");
    }
    expect_handles_back(&proxy, before);
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
}

fn flood_is_bounded(driver: Driver, start: &[u8], key: &str) {
    const CLIENTS: usize = 500;
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set(key, "3s").start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    let before = (at_rest(&proxy), proxy.memory());
    let mut slow: Vec<RawClient> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &mut slow {
        client.send(start);
    }
    let mut other = proxy.connect();
    for _ in 0..100 {
        assert_eq!(other.ask(&get("/", "")).text(), "served");
    }
    let each = proxy.memory().saturating_sub(before.1) / CLIENTS as u64;
    assert!(each < 32 << 10, "{each} bytes for one slow client");
    drop(other);
    // Their time runs out, all at once, and nothing of them stays.
    for client in &mut slow {
        assert_eq!(client.response().status, 408);
    }
    drop(slow);
    expect_handles_back(&proxy, before.0);
}

fn a_flood_of_slow_heads_is_bounded_in_memory_and_time(driver: Driver) {
    flood_is_bounded(driver, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", "timeouts.header");
}

fn a_flood_of_slow_bodies_is_bounded_in_memory_and_time(driver: Driver) {
    let head =
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{";
    flood_is_bounded(driver, head.as_bytes(), "timeouts.body");
}

fn half_open_readers_do_not_stop_others(driver: Driver) {
    let upstream = streaming();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set("timeouts.write", "2s").start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    let before = at_rest(&proxy);
    let mut deaf: Vec<RawClient> = (0..30).map(|_| proxy.connect()).collect();
    for client in &mut deaf {
        client.wire.take_little(4096);
        client.send(&get("/sse", "")).finish_sending();
    }
    let mut other = proxy.connect();
    for _ in 0..50 {
        assert_eq!(other.ask(&get("/", "")).text(), "served");
    }
    drop(other);
    // They are dropped for not reading, without having said goodbye.
    expect_handles_back(&proxy, before);
}

fn a_storm_of_refused_requests_leaves_nothing_behind(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
    let before = at_rest(&proxy);
    for round in 0..300 {
        let mut client = proxy.connect();
        match round % 3 {
            0 => drop(client.send(b"\0\0\0\0")),
            1 => drop(client.send(b"GET / HTTP/1.1\r\n\r\n")),
            _ => drop(client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n")),
        }
        assert_eq!(client.response().status, 400);
    }
    expect_handles_back(&proxy, before);
}

fn idle_costs_no_time(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.wait_for_end();
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut clients: Vec<RawClient> = (0..200).map(|_| proxy.connect()).collect();
    for client in &mut clients[..100] {
        client.send(&get("/sse", ""));
        client.stream_head();
    }
    let (begun, before) = (Instant::now(), proxy.cpu_ticks());
    wait_until("three quiet seconds", || begun.elapsed() > Duration::from_secs(3));
    let used = proxy.cpu_ticks() - before;
    assert!(used < 45, "{used}0 ms of CPU in three seconds of nothing");
}

/// One that lost its power ends no stream; the kernel finds out, if it was told to ask (the timer 2 of /proc/net/tcp).
fn silent_clients_are_asked_whether_they_live(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.wait_for_end();
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&get("/sse", ""));
    client.stream_head();
    let ours = format!(":{:04X}", proxy.address.port());
    let theirs = format!(":{:04X}", client.wire.socket().local_addr().expect("an address").port());
    wait_until("the timer that asks", || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("connections");
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1].ends_with(&ours) && row[2].ends_with(&theirs)).expect("the connection");
        row[5].starts_with("02:")
    });
}
