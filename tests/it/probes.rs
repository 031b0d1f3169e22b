//! `/health`, `/ready`, `/metrics`, and the end of a server.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    answers_probes_itself,
    metrics_have_the_names_and_labels_of_the_guide,
    metrics_are_well_formed,
    metrics_count_what_happened,
    a_drain_finishes_what_runs,
    a_drain_closes_idle_connections,
    a_drain_ends_streams_at_an_event,
    a_drain_lets_answers_that_stream_finish,
    a_drain_serves_what_waits_in_the_queue,
    a_second_signal_ends_now,
    the_shutdown_time_is_a_bound,
    interrupt_is_a_drain_too,
    a_signal_right_after_the_start_is_a_drain_too,
);

fn answers_probes_itself(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for path in ["/health", "/ready", "/metrics"] {
        let answer = client.ask(&get(path, ""));
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.is_empty());
        assert_eq!(client.ask(&get(&format!("{path}?x=y"), "")).status, 200);
        let head = client.ask(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(head.one("content-length").is_some_and(|length| length != "0"), "{head:?}");
        assert_eq!(proxy.ask(&post(path, "", b"x")).status, 405, "{path}");
        assert_eq!(proxy.ask(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).status, 200);
    }
    // What only begins like ours is upstream's.
    assert_eq!(upstream.requests().len(), 0);
    client.ask(&get("/healthy", ""));
    client.ask(&get("/metrics/x", ""));
    assert_eq!(upstream.requests().len(), 2);
}

/// A proxy with an upstream named as in the guide, and some traffic behind it.
fn with_traffic(driver: Driver, replica: &Replica) -> Proxy {
    let url = replica.upstream.url();
    let proxy = Proxy::builder(driver).config(&format!("[[upstreams]]\nname = \"primary\"\nurl = \"{url}\"\n")).start();
    let (_, id) = begin_session(&proxy);
    let (_, ended) = begin_session(&proxy);
    for n in 0..8 {
        assert_eq!(proxy.ask(&in_session(&id, &request(n, "ping"))).status, 200);
    }
    assert_eq!(proxy.ask(&delete(&ended)).status, 200);
    proxy
}

fn metrics_have_the_names_and_labels_of_the_guide(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = with_traffic(driver, &replica);
    let answer = proxy.ask(&get("/metrics", ""));
    assert!(answer.one("content-type").expect("a type").starts_with("text/plain; version=0.0.4"), "{answer:?}");
    let page = answer.text();
    for series in [
        "shadowcat_sessions_active{transport=\"http\"} 1\n",
        "shadowcat_sessions_total{transport=\"http\"} 2\n",
        "shadowcat_session_duration_seconds{quantile=\"0.99\"} ",
        "shadowcat_proxy_requests_total{upstream=\"primary\"} 11\n",
        "shadowcat_proxy_request_duration_seconds{upstream=\"primary\",quantile=\"0.99\"} ",
    ] {
        assert!(page.contains(series), "no {series:?} in {page}");
    }
    drop(replica.upstream);
    // The guide's example of an error is a time-out; its labels stand in this order.
    let silent = upstream::Silent::new();
    let config = format!("[[upstreams]]\nname = \"primary\"\nurl = \"{}\"\n", silent.url());
    let proxy = Proxy::builder(driver).config(&config).set("performance.connection_timeout", "200ms").start();
    assert_eq!(proxy.ask(&get("/", "")).status, 504);
    let page = proxy.metrics().0;
    let labels = ["upstream=\"primary\",error=\"timeout\"", "error=\"timeout\",upstream=\"primary\""];
    assert!(
        labels.iter().any(|labels| page.contains(&format!("shadowcat_proxy_errors_total{{{labels}}} 1\n"))),
        "{page}"
    );
}

fn metrics_are_well_formed(driver: Driver) {
    let replica = Replica::new("a");
    let page = with_traffic(driver, &replica).metrics().0;
    assert!(page.ends_with('\n'));
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen = HashSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(matches!(kind, "counter" | "gauge" | "summary" | "histogram"), "{line}");
            assert!(types.insert(name, kind).is_none(), "{name} is told twice");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(series), "{series} stands there twice");
            let name = series.split('{').next().expect("a name");
            let family = ["_sum", "_count", "_bucket"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let kind = types.get(name).or_else(|| types.get(family)).unwrap_or_else(|| panic!("{name} has no type"));
            assert!(name.starts_with("shadowcat_") || name.starts_with("process_"), "{name}");
            if *kind == "counter" {
                assert!(name.ends_with("_total"), "{name} is a counter");
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            }
        }
    }
    assert!(seen.len() > 20);
}

fn metrics_count_what_happened(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = with_traffic(driver, &replica);
    assert_eq!(proxy.ask(&in_session("nobody", &request(1, "ping"))).status, 404);
    assert_eq!(proxy.ask(b"GET / HTTP/1.1\r\n\r\n").status, 400);
    let metrics = proxy.settled_metrics();
    let name = "shadowcat_proxy_request_duration_seconds_count";
    assert_eq!(metrics.sum(name, "upstream=\"primary\""), 11.0);
    let quantile = metrics.sum("shadowcat_proxy_request_duration_seconds", "quantile=\"0.99\"");
    assert!(quantile > 0.0 && quantile < 20.0, "{quantile}");
    assert_eq!(metrics.sum("shadowcat_refusals_total", "reason=\"session_unknown\""), 1.0);
    assert_eq!(metrics.sum("shadowcat_refusals_total", ""), 2.0, "{}", metrics.0);
    // Two for the sessions, and one for what their last-seen took, if it was saved by now.
    assert!(metrics.sum("shadowcat_store_commits_total", "") >= 2.0);
    // A connection that its client has closed is noticed a moment later; the one that asks is there.
    proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
}

/// Answers each request when it is let go.
fn holding() -> (FakeUpstream, impl Fn()) {
    let (go, gone) = channel::<()>();
    let gone: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(gone));
    let upstream = FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() != "/quick" {
                conversation.tell("asked");
                let _ = gone.lock().expect("gone").recv_timeout(PATIENCE);
            }
            conversation.respond(200, "", "finished");
        }
    });
    (upstream, move || go.send(()).expect("somebody waits"))
}

fn wait_for_closed_port(proxy: &Proxy) {
    wait_until("the port to close", || TcpStream::connect(proxy.address).is_err());
}

fn a_drain_finishes_what_runs(driver: Driver) {
    let (upstream, let_go) = holding();
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut clients: Vec<RawClient> = (0..20).map(|_| proxy.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&post_json("/mcp", "", &call(n as u64, "slow")));
        upstream.expect_event("asked");
    }
    // One is in the middle of its request.
    let mut half = proxy.connect();
    half.send(b"POST /quick HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nha");
    wait_until("its first half to arrive", || upstream.received_text().ends_with("ha"));
    proxy.signal(Signal::TERM);
    wait_for_closed_port(&proxy);
    half.send(b"lf");
    assert_eq!(half.response().text(), "finished");
    clients.iter().for_each(|_| let_go());
    for client in &mut clients {
        let answer = client.response();
        assert_eq!((answer.text().as_str(), answer.closes()), ("finished", true));
        assert_eq!(client.expect_end(), Ending::Orderly);
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_drain_closes_idle_connections(driver: Driver) {
    let (upstream, let_go) = holding();
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut idle: Vec<RawClient> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut idle[..10] {
        assert_eq!(client.ask(&get("/quick", "")).status, 200);
    }
    let mut busy = proxy.connect();
    busy.send(&get("/slow", ""));
    upstream.expect_event("asked");
    proxy.signal(Signal::TERM);
    for client in &mut idle[..10] {
        assert_eq!(client.expect_end(), Ending::Orderly);
    }
    let_go();
    assert_eq!(busy.response().text(), "finished");
    // Those that never said a word do not hold it up for long either.
    let begun = Instant::now();
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn a_drain_ends_streams_at_an_event(driver: Driver) {
    let replica = Replica::new("a");
    let mut proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let mut streams: Vec<RawClient> = (0..10).map(|_| proxy.connect()).collect();
    for stream in &mut streams {
        let (_, id) = begin_session(&proxy);
        stream.send(&listen(&id, ""));
        stream.stream_head();
        stream.stream_until(b"\n\n");
    }
    // Half of them are between two events, half of them in the middle of one.
    replica.push(&Push::Bytes(b"data: begun".to_vec()));
    for stream in &mut streams {
        stream.stream_until(b"data: begun");
    }
    proxy.signal(Signal::TERM);
    wait_for_closed_port(&proxy);
    streams[0].expect_quiet();
    replica.push(&Push::Bytes(b" and ended\n\n".to_vec()));
    for stream in &mut streams {
        assert_eq!(stream.stream_until(b"\n\n"), b" and ended\n\n");
        assert_eq!(stream.chunk(), None);
        assert_eq!(stream.expect_end(), Ending::Orderly);
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
    // Between two events the end comes at once.
    let mut proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let (_, id) = begin_session(&proxy);
    let mut stream = proxy.connect();
    stream.send(&listen(&id, ""));
    stream.stream_head();
    stream.stream_until(b"\n\n");
    proxy.signal(Signal::TERM);
    assert_eq!(stream.chunk(), None);
    assert_eq!(stream.expect_end(), Ending::Orderly);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_drain_lets_answers_that_stream_finish(driver: Driver) {
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let upstream = FakeUpstream::new(move |conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.send_chunk(b"data: progress\n\n");
        let _ = gone.lock().expect("gone").recv_timeout(PATIENCE);
        conversation.send_chunk(b"data: result\n\n");
        conversation.end_chunks();
    });
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&post_json("/mcp", "", &call(1, "slow")));
    client.stream_head();
    client.stream_until(b"\n\n");
    proxy.signal(Signal::TERM);
    wait_for_closed_port(&proxy);
    client.expect_quiet();
    go.send(()).expect("somebody waits");
    assert_eq!(client.stream_until(b"\n\n"), b"data: result\n\n");
    assert_eq!(client.chunk(), None);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_drain_serves_what_waits_in_the_queue(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let mut proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    // Stopped, so that connections gather in the kernel's queue, with their requests.
    proxy.signal(Signal::STOP);
    let mut clients: Vec<RawClient> = (0..10).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&get("/", ""));
    }
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.response().text(), "served");
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_second_signal_ends_now(driver: Driver) {
    let (upstream, _let_go) = holding();
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&get("/slow", ""));
    upstream.expect_event("asked");
    proxy.signal(Signal::TERM);
    wait_for_closed_port(&proxy);
    client.expect_quiet();
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    let status = proxy.wait_exit();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    assert!(matches!(client.outcome(), Outcome::Nothing(_)));
}

fn the_shutdown_time_is_a_bound(driver: Driver) {
    let (upstream, _let_go) = holding();
    let mut proxy = Proxy::before(driver, &[&upstream]).set("timeouts.shutdown", "500ms").start();
    let mut client = proxy.connect();
    client.send(&get("/slow", ""));
    upstream.expect_event("asked");
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    let status = proxy.wait_exit();
    let bounds = Duration::from_millis(400)..Duration::from_secs(4);
    assert!(bounds.contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    assert!(matches!(client.outcome(), Outcome::Nothing(_)));
}

fn interrupt_is_a_drain_too(driver: Driver) {
    let (upstream, let_go) = holding();
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&get("/slow", ""));
    upstream.expect_event("asked");
    proxy.signal(Signal::INT);
    wait_for_closed_port(&proxy);
    let_go();
    assert_eq!(client.response().text(), "finished");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_signal_right_after_the_start_is_a_drain_too(driver: Driver) {
    for round in 0..20 {
        let arguments = ["reverse", "--bind", "127.0.0.1:0", "--workers", "1", "--set", "session.store=memory"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_shadowcat"))
            .args(arguments)
            .args(["--driver", driver.name()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut said = BufReader::new(child.stderr.take().expect("stderr"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(said.read_line(&mut line).is_ok_and(|read| read > 0), "it does not listen");
        }
        kill_process(Pid::from_child(&child), Signal::TERM).expect("a signal");
        std::io::copy(&mut said, &mut std::io::sink()).expect("what it says");
        assert_eq!(child.wait().expect("its end").code(), Some(0), "round {round}");
    }
}
