//! What metrics say of requests: outcomes apart, tools by name, where time went, who ended it; and that nobody can make
//! them grow.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::proxy::Metrics;
use crate::support::upstream::Refusing;
use crate::support::*;

on_both_drivers!(
    the_ways_to_fail_are_apart,
    events_say_it_as_well,
    what_is_not_looked_into_is_unknown,
    tools_are_named_up_to_a_bound,
    the_last_request_over_all_workers_is_counted,
    time_is_split,
    a_stream_without_end_is_counted_with_its_head,
    who_ended_a_request_is_told,
    breakers_tell_what_they_do,
    places_and_pools_are_told,
    bytes_and_statuses_are_told,
    the_store_tells_of_itself,
    the_process_tells_of_itself,
    what_stands_there_is_documented,
    many_upstreams_are_shown_at_once,
);

/// Answers a call of a tool as its name says, in JSON or in events.
fn tools(events: bool) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            let message = request.json();
            let long = format!(
                r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#,
                "\\\"isError\\\":true, and text ".repeat(800)
            );
            let (status, said) = match message["params"]["name"].as_str().unwrap_or_default() {
                "fails" => (200, r#""result":{"content":[{"type":"text","text":"no"}],"isError":true}"#.to_owned()),
                "unknown" => (200, r#""error":{"code":-32602,"message":"Unknown tool"}"#.to_owned()),
                "odd" => (200, r#""error":{"code":7,"message":"\"code\":1"}"#.to_owned()),
                "broken" => (500, r#""error":{"code":-32603,"message":"broken"}"#.to_owned()),
                "long" => (200, format!(r#""result":{long}"#)),
                _ => (200, r#""result":{"content":[],"isError":false}"#.to_owned()),
            };
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{},{said}}}"#, message["id"]);
            if events && status == 200 {
                conversation.begin_events("");
                conversation.send_chunk(b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n");
                conversation.send_chunk(format!("event: message\ndata: {answer}\n\n").as_bytes());
                conversation.end_chunks();
            } else {
                conversation.respond_json(status, "", &answer);
            }
        }
    })
}

fn counted(metrics: &Metrics, method: &str, tool: &str, outcome: &str) -> f64 {
    let labels = format!(r#"method="{method}",tool="{tool}",outcome="{outcome}""#);
    metrics.sum("shadowcat_mcp_requests_total", &labels)
}

fn call_each(proxy: &Proxy) {
    let mut client = proxy.connect();
    for tool in ["fine", "fine", "fails", "unknown", "odd", "broken", "long"] {
        client.ask(&post_json("/mcp", "", &call(1, tool)));
    }
}

fn expect_each(metrics: &Metrics) {
    for (tool, outcome, count) in [
        ("fine", "ok", 2.0),
        ("long", "ok", 1.0),
        ("fails", "tool_error", 1.0),
        ("unknown", "rpc_error", 1.0),
        ("odd", "rpc_error", 1.0),
        ("broken", "http_error", 1.0),
    ] {
        assert_eq!(counted(metrics, "tools/call", tool, outcome), count, "{tool}: {}", metrics.0);
    }
    for (outcome, count) in [("ok", 3.0), ("tool_error", 1.0), ("rpc_error", 2.0), ("http_error", 1.0)] {
        let labels = format!(r#"outcome="{outcome}""#);
        assert_eq!(metrics.sum("shadowcat_proxy_outcomes_total", &labels), count, "{outcome}");
        assert_eq!(metrics.sum("shadowcat_mcp_requests_total", &labels), count, "{outcome}");
    }
    for (code, count) in [("-32602", 1.0), ("7", 1.0), ("-32603", 1.0)] {
        let (name, labels) = ("shadowcat_mcp_errors_total", format!(r#"code="{code}""#));
        // The body of an HTTP error is looked into where it is JSON.
        assert_eq!(metrics.sum(name, &labels), count, "{code}: {}", metrics.0);
    }
    assert_eq!(metrics.sum("shadowcat_mcp_request_seconds_count", r#"tool="fine""#), 2.0);
    assert!(metrics.sum("shadowcat_mcp_request_duration_seconds", r#"tool="fine",quantile="0.99""#) > 0.0);
}

fn the_ways_to_fail_are_apart(driver: Driver) {
    let upstream = tools(false);
    let proxy = Proxy::before(driver, &[&upstream]).start();
    call_each(&proxy);
    proxy.ask(&post_json("/mcp", "", &request(1, "tools/list")));
    proxy.ask(&post_json("/mcp", "", &request(1, "made/up")));
    proxy.ask(&post_json("/mcp", "", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#));
    proxy.ask(&post_json("/mcp", "", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    proxy.ask(&get("/", ""));
    let metrics = proxy.settled_metrics();
    for method in ["tools/list", "other", "notifications/initialized", "response"] {
        assert_eq!(counted(&metrics, method, "", "ok"), 1.0, "{method}: {}", metrics.0);
    }
    // Those five, and no more.
    assert_eq!(metrics.sum("shadowcat_proxy_outcomes_total", r#"outcome="ok""#), 8.0);
    let proxy = Proxy::before(driver, &[&upstream]).start();
    call_each(&proxy);
    expect_each(&proxy.settled_metrics());
}

fn events_say_it_as_well(driver: Driver) {
    let upstream = tools(true);
    let proxy = Proxy::before(driver, &[&upstream]).start();
    call_each(&proxy);
    expect_each(&proxy.settled_metrics());
}

fn what_is_not_looked_into_is_unknown(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let long = "[".repeat(20_000) + &"]".repeat(20_000);
            let long = format!(r#"{{"result":{{"content":{long},"isError":true}}}}"#);
            match request.json()["params"]["name"].as_str().unwrap_or_default() {
                "encoded" => conversation.respond_json(200, "Content-Encoding: gzip\r\n", r#"{"result":{}}"#),
                "plain" => conversation.respond(200, "Content-Type: text/plain\r\n", r#"{"result":{}}"#),
                "long" => conversation.respond_json(200, "", &long),
                _ => {
                    conversation.begin_events("");
                    conversation.send_chunk(b": nothing\n\n");
                    conversation.end_chunks();
                }
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for tool in ["encoded", "plain", "long", "silent"] {
        assert_eq!(proxy.ask(&post_json("/mcp", "", &call(1, tool))).status, 200);
        assert_eq!(counted(&proxy.settled_metrics(), "tools/call", tool, "unknown"), 1.0, "{tool}");
    }
    // Whoever calls no tool is told by the first key.
    proxy.ask(&post_json("/mcp", "", &call(1, "long").replace("tools/call", "prompts/get")));
    assert_eq!(counted(&proxy.settled_metrics(), "prompts/get", "", "ok"), 1.0);
}

fn tools_are_named_up_to_a_bound(driver: Driver) {
    let upstream = tools(false);
    let proxy = Proxy::before(driver, &[&upstream]).workers(4).start();
    let mut client = proxy.connect();
    let mut ask = |tool: &str| client.ask(&post_json("/mcp", "", &call(1, tool))).status;
    // Somebody makes names up, all of which fail.
    for _ in 0..300 {
        ask("unknown");
    }
    let broken = |n: usize| call(1, "broken").replace("\"broken\"", &format!("\"made-up-{n}\",\"name2\":\"\""));
    let failing = FakeUpstream::saying("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let other = Proxy::before(driver, &[&failing]).start();
    let mut flood = other.connect();
    for n in 0..500 {
        assert_eq!(flood.ask(&post_json("/mcp", "", &broken(n))).status, 500);
    }
    let metrics = other.settled_metrics();
    let names =
        |metrics: &Metrics| metrics.0.lines().filter(|line| line.starts_with("shadowcat_mcp_requests_total{")).count();
    assert_eq!(names(&metrics), 65, "{}", metrics.0);
    assert_eq!(counted(&metrics, "tools/call", "other", "http_error"), 500.0 - 64.0);
    // Those that answer well have the rest of the names, and no more.
    for n in 0..200 {
        ask(&format!("tool-{n}"));
    }
    ask("other");
    ask(&"x".repeat(200));
    let metrics = proxy.settled_metrics();
    assert_eq!(names(&metrics), 129, "{}", metrics.0);
    assert_eq!(counted(&metrics, "tools/call", "unknown", "rpc_error"), 300.0);
    assert_eq!(counted(&metrics, "tools/call", "tool-126", "ok"), 1.0);
    assert_eq!(counted(&metrics, "tools/call", "other", "ok"), 75.0);
}

fn the_last_request_over_all_workers_is_counted(driver: Driver) {
    let upstream = tools(false);
    let proxy = Proxy::before(driver, &[&upstream]).workers(4).start();
    let address = proxy.address;
    for round in 1..=5 {
        let ask = move |n: usize| {
            let mut client = RawClient::connect(address);
            for _ in 0..20 {
                client.ask(&post_json("/mcp", "", &call(1, ["fine", "fails", "unknown"][n % 3])));
            }
        };
        let threads: Vec<_> = (0..12).map(|n| thread::spawn(move || ask(n))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("answers"));
        let metrics = proxy.settled_metrics();
        for (tool, outcome) in [("fine", "ok"), ("fails", "tool_error"), ("unknown", "rpc_error")] {
            assert_eq!(counted(&metrics, "tools/call", tool, outcome), 80.0 * f64::from(round), "{}", metrics.0);
        }
        for name in ["shadowcat_proxy_requests_total", "shadowcat_proxy_request_seconds_count"] {
            assert_eq!(metrics.sum(name, ""), 240.0 * f64::from(round), "{name}");
        }
        let unbounded = metrics.sum("shadowcat_proxy_request_seconds_bucket", "le=\"+Inf\"");
        assert_eq!(unbounded, 240.0 * f64::from(round));
    }
}

fn time_is_split(driver: Driver) {
    const LONG: Duration = Duration::from_millis(200);
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let upstream = FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() {
            conversation.tell("asked");
            let _ = gone.lock().expect("gone").recv_timeout(PATIENCE);
            conversation.respond_json(200, "", r#"{"result":{}}"#);
        }
    });
    let config = format!("[[upstreams]]\nname = \"one\"\nurl = \"{}\"\nmax_connections = 1\n", upstream.url());
    let proxy = Proxy::builder(driver).workers(1).config(&config).start();
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    first.send(&post_json("/mcp", "", &request(1, "ping")));
    upstream.expect_event("asked");
    second.send(&post_json("/mcp", "", &request(2, "ping")));
    proxy.wait_for_metric("shadowcat_upstream_queue", "", 1.0);
    let begun = std::time::Instant::now();
    wait_until("some time", || begun.elapsed() >= LONG);
    go.send(()).expect("somebody waits");
    first.response();
    upstream.expect_event("asked");
    go.send(()).expect("somebody waits");
    second.response();
    let metrics = proxy.settled_metrics();
    let spent =
        |part: &str| metrics.sum("shadowcat_proxy_part_seconds_total", &format!(r#"upstream="one",part="{part}""#));
    let total = metrics.sum("shadowcat_proxy_request_seconds_sum", r#"upstream="one""#);
    let long = LONG.as_secs_f64();
    assert!(spent("queue") >= long && spent("upstream") >= long, "{}", metrics.0);
    assert!(spent("connect") > 0.0 && spent("own") > 0.0 && spent("own") < long, "{}", metrics.0);
    let sum: f64 = ["queue", "connect", "upstream", "own"].iter().map(|part| spent(part)).sum();
    // Each is cut to whole microseconds.
    assert!((sum - total).abs() < 0.00002, "{sum} of {total}");
    // Of the first there was no wait in the line, of the second none for a connection.
    for (part, count) in [("queue", 1.0), ("connect", 1.0), ("upstream", 2.0), ("own", 2.0)] {
        let labels = format!(r#"part="{part}""#);
        assert_eq!(metrics.sum("shadowcat_request_part_seconds_count", &labels), count, "{part}");
    }
}

fn a_stream_without_end_is_counted_with_its_head(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let (_, id) = begin_session(&proxy);
    let mut stream = proxy.connect();
    stream.send(&listen(&id, ""));
    stream.stream_head();
    stream.stream_until(b"\n\n");
    // The stream is under way.
    proxy.wait_for_metric("shadowcat_proxy_request_seconds_count", "", 2.0);
    assert_eq!(proxy.metrics().sum("shadowcat_streams_active", ""), 1.0);
    replica.push(&Push::End);
    assert_eq!(stream.chunk(), None);
    proxy.wait_for_metric("shadowcat_streams_active", "", 0.0);
    let metrics = proxy.settled_metrics();
    assert_eq!(metrics.sum("shadowcat_proxy_request_seconds_count", ""), 2.0);
    assert_eq!(metrics.sum("shadowcat_proxy_outcomes_total", r#"outcome="ok""#), 2.0);
}

fn who_ended_a_request_is_told(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/cut" => {
                    conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return;
                }
                "/hang" => {
                    conversation.tell("asked");
                    conversation.wait_for_end();
                    return;
                }
                _ => conversation.respond(200, "", "ok"),
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let ended = |by: &str| proxy.settled_metrics().sum("shadowcat_requests_ended_total", &format!(r#"by="{by}""#));
    assert!(matches!(proxy.connect().send(&get("/cut", "")).outcome(), Outcome::Cut { .. }));
    wait_until("the cut", || ended("upstream") == 1.0);
    assert_eq!(proxy.settled_metrics().sum("shadowcat_proxy_outcomes_total", r#"outcome="failed""#), 1.0);
    // A modern request ends when its client leaves.
    let mut leaving = proxy.connect();
    let body = modern(1, "tools/call", r#""name":"x""#);
    leaving.send(&post_json("/hang", &modern_fields("tools/call", Some("x")), &body));
    upstream.expect_event("asked");
    drop(leaving);
    wait_until("the departure", || ended("client") == 1.0);
    assert_eq!(counted(&proxy.settled_metrics(), "tools/call", "x", "gone"), 1.0);
    assert_eq!(proxy.ask(&in_session("nobody", &request(1, "ping"))).status, 404);
    assert_eq!(proxy.ask(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n").status, 400);
    assert_eq!(proxy.ask(b"nonsense\r\n\r\n").status, 400);
    assert_eq!(ended("proxy"), 3.0);
    assert_eq!(counted(&proxy.settled_metrics(), "ping", "", "refused"), 1.0);
    assert_eq!(ended("drain"), 0.0);
}

fn breakers_tell_what_they_do(driver: Driver) {
    let broken = Arc::new(Mutex::new(true));
    let is_broken = broken.clone();
    let upstream = FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() && !*is_broken.lock().expect("a flag") {
            conversation.respond(200, "", "ok");
        }
    });
    let breaker = "[circuit_breaker]\nenabled = true\nfailure_threshold = 2\nrecovery_timeout = \"200ms\"\n";
    let config = format!("[[upstreams]]\nname = \"one\"\nurl = \"{}\"\n{breaker}", upstream.url());
    let proxy = Proxy::builder(driver).config(&config).start();
    let state = |state: &str| {
        let labels = format!(r#"upstream="one",endpoint="{}",state="{state}""#, upstream.address);
        proxy.settled_metrics().sum("shadowcat_upstream_breaker_state", &labels)
    };
    let changes = |state: &str| {
        proxy
            .settled_metrics()
            .sum("shadowcat_upstream_breaker_changes_total", &format!(r#"upstream="one",state="{state}""#))
    };
    assert_eq!((state("closed"), state("open"), state("half_open")), (1.0, 0.0, 0.0));
    for _ in 0..2 {
        assert_eq!(proxy.ask(&post("/", "", b"x")).status, 502);
    }
    assert_eq!((state("closed"), state("open"), changes("open")), (0.0, 1.0, 1.0));
    *broken.lock().expect("a flag") = false;
    wait_until("the probe", || proxy.ask(&post("/", "", b"x")).status == 200);
    assert_eq!((state("closed"), changes("half_open"), changes("closed")), (1.0, 1.0, 1.0));
}

fn places_and_pools_are_told(driver: Driver) {
    let (upstream, refusing) = (
        FakeUpstream::new(|conversation| {
            while conversation.request().is_some() {
                conversation.tell("asked");
                if conversation.number == 1 {
                    conversation.wait_for_end();
                }
                conversation.respond(200, "", "ok");
            }
        }),
        Refusing::new(),
    );
    let config = format!(
        "[[upstreams]]\nname = \"one\"\nurl = \"{}\"\n[[upstreams]]\nname = \"none\"\nurl = \"{}\"\n",
        upstream.url(),
        refusing.url()
    );
    let proxy = Proxy::builder(driver).workers(1).config(&config).start();
    let mut held = proxy.connect();
    held.send(&get("/", ""));
    upstream.expect_event("asked");
    let labels = format!(r#"upstream="one",endpoint="{}""#, upstream.address);
    assert_eq!(proxy.metrics().sum("shadowcat_upstream_connections_in_use", &labels), 1.0);
    for _ in 0..3 {
        assert_eq!(proxy.ask(&get("/", "")).status, 200);
    }
    proxy.wait_for_metric("shadowcat_upstream_idle_connections", "upstream=\"one\"", 1.0);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_upstream_connects_total", "upstream=\"one\""), 2.0);
    assert_eq!(metrics.sum("shadowcat_upstream_reuses_total", "upstream=\"one\""), 2.0);
    assert_eq!(metrics.sum("shadowcat_proxy_errors_total", "upstream=\"none\",error=\"connect\""), 1.0);
    assert_eq!(metrics.sum("shadowcat_upstream_drained", ""), 0.0);
    assert_eq!(metrics.sum("shadowcat_upstream_waiting", ""), 0.0);
}

fn bytes_and_statuses_are_told(driver: Driver) {
    let upstream = FakeUpstream::answering("four");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let before = proxy.settled_metrics();
    let mut client = proxy.connect();
    let requests = [get("/", ""), post("/", "", &[b'x'; 70_000]), in_session("nobody", &request(1, "ping"))];
    let sent: usize = requests.iter().map(Vec::len).sum();
    requests.iter().for_each(|request| drop(client.ask(request)));
    let page = get("/metrics", "Connection: close\r\n").len() as f64;
    let after = proxy.settled_metrics();
    let grown = |name: &str| after.sum(name, "") - before.sum(name, "");
    // The pages that were read meanwhile, as well.
    let pages = grown("shadowcat_requests_ended_total") - 3.0;
    assert_eq!(grown("shadowcat_received_bytes_total"), sent as f64 + pages * page);
    assert!(grown("shadowcat_sent_bytes_total") > before.0.len() as f64 + 8.0);
    let status = |status: &str| after.sum("shadowcat_responses_total", &format!("status=\"{status}\""));
    let fine = status("200") - before.sum("shadowcat_responses_total", "");
    assert_eq!((fine, status("404")), (2.0 + pages, 1.0));
}

fn the_store_tells_of_itself(driver: Driver) {
    let replica = Replica::new("a");
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = Proxy::before(driver, &[&replica.upstream]).store(directory.path()).start();
    let sessions: Vec<String> = (0..3).map(|_| begin_session(&proxy).1).collect();
    assert_eq!(proxy.ask(&delete(&sessions[0])).status, 200);
    let metrics = proxy.settled_metrics();
    let value = |name: &str| metrics.sum(&format!("shadowcat_{name}"), "");
    assert_eq!((value("store_entries"), value("sessions_active"), value("sessions_ended_total")), (2.0, 2.0, 1.0));
    assert!(value("store_used_bytes") > 0.0 && value("store_used_bytes") < value("store_map_bytes"));
    assert_eq!(value("store_commit_seconds_count"), 4.0, "{}", metrics.0);
    assert!(value("store_commits_total") >= 4.0 && value("store_commit_seconds_sum") > 0.0);
    assert_eq!((value("store_queue"), value("store_queue_limit")), (0.0, 8192.0));
    assert_eq!(value("session_seconds_count"), 1.0);
    assert_eq!(metrics.sum("shadowcat_dropped_total", "what=\"session_touches\""), 0.0);
}

fn the_process_tells_of_itself(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream]).workers(2).start();
    let first = proxy.settled_metrics();
    for (name, labels) in [
        ("shadowcat_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")),
        ("process_start_time_seconds", ""),
        ("process_open_fds", ""),
        ("process_max_fds", ""),
        ("process_threads", ""),
        ("process_virtual_memory_bytes", ""),
        ("shadowcat_worker_cpu_seconds_total", "worker=\"1\""),
    ] {
        assert!(first.sum(name, labels) > 0.0, "{name}: {}", first.0);
    }
    let resident = first.sum("process_resident_memory_bytes", "");
    assert!((resident - proxy.memory() as f64).abs() < 16e6, "{resident} against {}", proxy.memory());
    wait_until("both workers' hearts to beat", || {
        let beats = |worker: &str| proxy.settled_metrics().sum("shadowcat_worker_heartbeats_total", worker);
        beats("worker=\"0\"") > 0.0 && beats("worker=\"1\"") > 0.0
    });
    assert!(proxy.settled_metrics().sum("shadowcat_scrape_cpu_seconds_total", "") > 0.0);
}

/// Every family of a busy page is in the table, with its labels.
fn what_stands_there_is_documented(driver: Driver) {
    let upstream = tools(false);
    let proxy = Proxy::before(driver, &[&upstream]).set("rate_limit.global", "1000").start();
    call_each(&proxy);
    let documented = include_str!("../../docs/METRICS.md");
    let rows: BTreeSet<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let page = proxy.settled_metrics().0;
    let families: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(families.len() > 55, "{families:?}");
    for family in families {
        assert!(rows.contains(family), "{family} is not in docs/METRICS.md");
    }
}

fn many_upstreams_are_shown_at_once(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let config: String = (0..1000)
        .map(|n| format!("[[upstreams]]\nname = \"upstream-{n}\"\nurl = \"{}/{n}\"\n", upstream.url()))
        .collect();
    let proxy = Proxy::builder(driver).workers(2).config(&config).start();
    let mut client = proxy.connect();
    for _ in 0..1000 {
        assert_eq!(client.ask(&get("/", "")).status, 200);
    }
    let address = proxy.address;
    // Many who ask at once get one page, and others are served beside.
    let scrapers: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || RawClient::connect(address).ask(&get("/metrics", "Connection: close\r\n")).text())
        })
        .collect();
    assert_eq!(client.ask(&get("/", "")).status, 200);
    for page in scrapers.into_iter().map(|scraper| scraper.join().expect("a page")) {
        assert!(page.len() > 1 << 20 && page.ends_with('\n'), "{} bytes", page.len());
        let total = Metrics(page).sum("shadowcat_proxy_request_seconds_count", "");
        assert!((1000.0..=1001.0).contains(&total), "{total}");
    }
}
