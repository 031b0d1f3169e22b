//! When resources run out and peers misbehave: others are served meanwhile, and everything comes back afterwards.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    outlives_running_out_of_descriptors,
    gives_back_what_a_storm_of_resets_took,
    bounds_connections_and_serves_those_it_has,
    serves_others_during_slow_headers,
);

fn outlives_running_out_of_descriptors(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).under(&["prlimit", "--nofile=64:64"]).start();
    let mut kept = proxy.connect();
    assert_eq!(kept.exchange(&get("/", "")).status, 200);
    let flood: Vec<Client> = (0..100).map(|_| proxy.connect()).collect();
    wait_for("descriptors to run out", || {
        let page = kept.exchange(&get("/metrics", ""));
        (Metrics(page.text()).sum("shadowcat_accept_errors_total", "") >= 1.0).then_some(())
    });
    assert_eq!(kept.exchange(&get("/", "")).status, 200);
    drop(flood);
    let mut client = proxy.connect();
    assert_eq!(client.exchange(&get("/", "")).status, 200);
}

fn gives_back_what_a_storm_of_resets_took(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.begin_events("");
            conversation.chunked("data: x\n\n");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    proxy.connect().exchange(&get("/health", ""));
    let settled = || {
        wait_for("connections to settle", || {
            let metrics = proxy.metrics();
            let quiet = metrics.sum("shadowcat_connections_active", "") <= 1.0
                && metrics.sum("shadowcat_streams_active", "") == 0.0;
            quiet.then(|| proxy.descriptors())
        })
    };
    let before = settled();
    for round in 0..300 {
        let mut client = proxy.connect();
        match round % 3 {
            0 => client.send(b"GET / HT"),
            1 => client.send(&get("/mcp", "Accept: text/event-stream\r\n")),
            _ => {
                client.send(&get("/mcp", "Accept: text/event-stream\r\n"));
                client.head();
            }
        }
        reset(&client.stream);
    }
    wait_for("descriptors to come back", || (settled() <= before + 2).then_some(()));
}

fn bounds_connections_and_serves_those_it_has(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).set("performance.max_connections", "4").start();
    let mut kept: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
    for client in &mut kept {
        assert_eq!(client.exchange(&get("/", "")).status, 200);
    }
    let mut waiting = proxy.connect();
    waiting.send(&get("/", ""));
    assert!(waiting.is_quiet());
    kept.pop();
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(kept[0].exchange(&get("/", "")).status, 200);
}

fn serves_others_during_slow_headers(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let before = proxy.memory();
    let mut slow: Vec<Client> = (0..500).map(|_| proxy.connect()).collect();
    for client in &mut slow {
        client.send(b"GET / HTTP/1.1\r\nX: ");
    }
    let mut client = proxy.connect();
    for _ in 0..50 {
        assert_eq!(client.exchange(&get("/", "")).status, 200);
    }
    let each = proxy.memory().saturating_sub(before) / 500;
    assert!(each < 48 << 10, "{each} bytes a slow client");
}
