//! Active health checks: who gets new work, what a check is on the wire, and what it leaves behind.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::on_both_drivers;
use crate::support::mcp::{Replica, begin_session, in_session, modern_call, modern_fields, request};
use crate::support::upstream::{Refusing, Silent};
use crate::support::*;

on_both_drivers!(
    the_thresholds_are_exact,
    what_is_good_and_what_is_not,
    what_a_check_asks,
    who_accepts_and_says_nothing_is_unhealthy,
    who_refuses_comes_back_with_the_first_good_checks,
    a_check_over_tls_is_verified,
    readiness_and_requests_follow_the_marks,
    a_session_starts_anew_elsewhere_and_goes_on_when_its_upstream_does,
    a_reload_changes_the_checks_and_ends_them,
    a_modern_server_is_asked_once_a_check,
    a_legacy_server_keeps_no_session_of_a_check,
    a_session_of_a_check_that_fails_is_ended_too,
    a_server_that_is_no_mcp_server_is_unhealthy,
    a_process_that_is_stopped_is_taken_out_until_it_goes_on,
    two_hundred_upstreams_are_not_asked_at_once,
);

const HEALTHY: &str = "shadowcat_upstream_healthy";
const CHECKS: &str = "shadowcat_health_checks_total";

/// `[[upstreams]]` of these names and URLs, and `[health_check]` with these lines.
fn config(upstreams: &[(&str, String)], checks: &str) -> String {
    let one = |(name, url): &(&str, String)| format!("[[upstreams]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    let tables: String = upstreams.iter().map(one).collect();
    format!("{tables}[health_check]\ninterval = \"50ms\"\n{checks}")
}

fn is_healthy(proxy: &Proxy, name: &str) -> bool {
    let metrics = proxy.metrics();
    let label = format!("upstream=\"{name}\"");
    metrics.sum(HEALTHY, &label) == 1.0
}

fn wait_for_health(proxy: &Proxy, name: &str, healthy: bool) {
    wait_until(&format!("{name} to be healthy: {healthy}"), || is_healthy(proxy, name) == healthy);
}

fn outcomes(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metrics().sum(CHECKS, &format!("outcome=\"{outcome}\""))
}

/// Answers checks with this status, everything else with its name.
fn with_status(name: &'static str, status: &Arc<AtomicU16>) -> FakeUpstream {
    let status = status.clone();
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/health" => conversation.respond(status.load(SeqCst), "", ""),
                _ => conversation.respond(200, "", name),
            }
        }
    })
}

/// Answers each check with what it is told next; until then the check waits.
fn told_what_to_say() -> (FakeUpstream, Sender<u16>) {
    let (tell, told) = channel();
    let told = Mutex::new(told);
    let upstream = FakeUpstream::new(move |conversation| {
        if conversation.request().is_some() {
            let Ok(status) = told.lock().expect("unbroken").recv() else { return };
            conversation.respond(status, "", "");
        }
    });
    (upstream, tell)
}

fn the_thresholds_are_exact(driver: Driver) {
    let (upstream, tell) = told_what_to_say();
    let checks = "timeout = \"60s\"\nunhealthy_threshold = 3\nhealthy_threshold = 2\n";
    let proxy = Proxy::builder(driver).config(&config(&[("a", upstream.url())], checks)).start();
    let (mut good, mut bad) = (0.0, 0.0);
    let mut say = |status: u16, healthy: bool| {
        tell.send(status).expect("somebody waits");
        *(if status == 200 { &mut good } else { &mut bad }) += 1.0;
        let label = if status == 200 { "good" } else { "status" };
        let expected = if status == 200 { good } else { bad };
        proxy.wait_for_metric(CHECKS, &format!("outcome=\"{label}\""), expected);
        assert_eq!(is_healthy(&proxy, "a"), healthy, "after {good} good and {bad} bad ones");
    };
    for round in [
        [(500, true), (500, true), (200, true)].as_slice(),
        &[(500, true), (500, true), (500, false), (500, false)],
        &[(200, false), (500, false), (200, false), (200, true), (500, true)],
    ] {
        round.iter().for_each(|&(status, healthy)| say(status, healthy));
    }
    let log = proxy.log();
    assert!(log.contains("an upstream is unhealthy and gets no new work"), "{log}");
    assert!(log.contains("status 500") && log.contains("checks=3"), "{log}");
    assert!(log.contains("an upstream is healthy again") && log.contains("checks=2"), "{log}");
    wait_until("the next check", || upstream.connections() == 13);
    wait_until("one check at a time", || upstream.open_connections() == 1);
}

fn what_is_good_and_what_is_not(driver: Driver) {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{}", "x".repeat(100_000));
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("HTTP/1.1 204 No Content\r\n\r\n", "good"),
        ("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "good"),
        ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "good"),
        (stream, "good"),
        (&long, "good"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "answer"),
        ("SSH-2.0-OpenSSH_9.9\r\n", "answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "closed"),
        ("", "closed"),
    ];
    for (answer, expected) in cases {
        let answer = answer.to_owned();
        let ends = expected == "closed";
        let upstream = FakeUpstream::new(move |conversation| {
            if conversation.request().is_some() {
                conversation.send(answer.as_bytes());
                if !ends {
                    conversation.wait_for_end();
                }
            }
        });
        let checks = "timeout = \"20s\"\nunhealthy_threshold = 1\n";
        let proxy = Proxy::builder(driver).config(&config(&[("a", upstream.url())], checks)).start();
        wait_until(&format!("two checks that are {expected}"), || outcomes(&proxy, expected) >= 2.0);
        assert_eq!(proxy.metrics().sum(CHECKS, ""), outcomes(&proxy, expected).max(2.0), "only {expected}");
        assert_eq!(is_healthy(&proxy, "a"), expected == "good", "{expected}");
    }
}

fn what_a_check_asks(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let text = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}/mcp\"\nbearer_token = \"upstreams-own\"\n\
         [health_check]\npath = \"/status\"\ninterval = \"20s\"\n",
        upstream.url()
    );
    let proxy = Proxy::builder(driver).config(&text).start();
    wait_until("the first check, at once", || outcomes(&proxy, "good") == 1.0);
    let head = upstream.last_request().head;
    assert_eq!((head.method(), head.target()), ("GET", "/status"));
    assert_eq!(head.one("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(head.one("authorization"), Some("Bearer upstreams-own"));
    let agent = head.one("user-agent").expect("a name");
    assert!(agent.starts_with("shadowcat/") && agent.contains("health check"), "{agent}");
    wait_until("the connection to close", || upstream.open_connections() == 0);
    assert!(!proxy.log().contains("upstreams-own"));
}

fn who_accepts_and_says_nothing_is_unhealthy(driver: Driver) {
    let hung = FakeUpstream::new(|conversation| _ = conversation.wait_for_end());
    let full = Silent::new();
    let (dripping, works) = (
        FakeUpstream::new(|conversation| {
            if conversation.request().is_some() {
                conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
                conversation.wait_for_end();
            }
        }),
        FakeUpstream::answering("works"),
    );
    let upstreams = [("hung", hung.url()), ("full", full.url()), ("drip", dripping.url()), ("works", works.url())];
    let checks = "timeout = \"200ms\"\nunhealthy_threshold = 2\n";
    let proxy = Proxy::builder(driver).config(&config(&upstreams, checks)).start();
    for name in ["hung", "full", "drip"] {
        wait_for_health(&proxy, name, false);
    }
    assert!(outcomes(&proxy, "timeout") >= 6.0);
    assert!(proxy.log().contains("no answer in time"), "{}", proxy.log());
    for _ in 0..12 {
        assert_eq!(proxy.ask(&get("/", "")).text(), "works");
    }
    assert!(is_healthy(&proxy, "works"));
}

fn who_refuses_comes_back_with_the_first_good_checks(driver: Driver) {
    let refusing = Refusing::new();
    let checks = "unhealthy_threshold = 2\nhealthy_threshold = 2\n";
    let proxy = Proxy::builder(driver).config(&config(&[("a", refusing.url())], checks)).start();
    wait_for_health(&proxy, "a", false);
    assert!(outcomes(&proxy, "connect") >= 2.0);
    assert_eq!(proxy.ask(&get("/", "")).status, 503);
    let address = refusing.address.to_string();
    drop(refusing);
    let back = FakeUpstream::at(&address, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "back");
        }
    });
    wait_for_health(&proxy, "a", true);
    assert_eq!(proxy.ask(&get("/", "")).text(), "back");
    back.stop();
}

fn a_check_over_tls_is_verified(driver: Driver) {
    let answering = |server| {
        tls::upstream(server, |conversation| {
            while conversation.request().is_some() {
                conversation.respond(200, "", "ok");
            }
        })
    };
    let (authority, server) = tls::authority_and_server("localhost");
    let (_, of_another) = tls::authority_and_server("localhost");
    let (known, unknown) = (answering(server), answering(of_another));
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, authority).expect("written");
    let one = |name: &str, upstream: &FakeUpstream| {
        let (port, roots) = (upstream.address.port(), roots.display());
        format!(
            "[[upstreams]]\nname = \"{name}\"\nurl = \"https://127.0.0.1:{port}\"\nserver_name = \"localhost\"\nca_path = \"{roots}\"\n"
        )
    };
    let tables = one("known", &known) + &one("unknown", &unknown);
    let proxy = Proxy::builder(driver).config(&(tables + &config(&[], "unhealthy_threshold = 2\n"))).start();
    wait_for_health(&proxy, "unknown", false);
    wait_until("good checks", || proxy.metrics().sum(CHECKS, "upstream=\"known\"") >= 3.0);
    assert!(is_healthy(&proxy, "known"));
    assert!(outcomes(&proxy, "good") >= 3.0 && outcomes(&proxy, "connect") >= 2.0);
    assert_eq!(known.last_request().head.target(), "/health");
}

fn readiness_and_requests_follow_the_marks(driver: Driver) {
    let (one_says, two_says) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let (one, two) = (with_status("one", &one_says), with_status("two", &two_says));
    let upstreams = [("one", one.url()), ("two", two.url())];
    let proxy = Proxy::builder(driver).config(&config(&upstreams, "unhealthy_threshold = 2\n")).start();
    let answers = || (0..8).map(|_| proxy.ask(&get("/", "")).text()).collect::<HashSet<_>>();
    assert_eq!(answers().len(), 2);
    one_says.store(500, SeqCst);
    wait_for_health(&proxy, "one", false);
    assert_eq!(answers(), HashSet::from(["two".to_owned()]));
    assert_eq!(proxy.ask(&get("/ready", "")).status, 200);
    two_says.store(503, SeqCst);
    wait_for_health(&proxy, "two", false);
    assert_eq!(proxy.ask(&get("/ready", "")).status, 503);
    assert_eq!(proxy.ask(&get("/health", "")).status, 200, "this is about ourselves");
    let seen = one.requests().iter().chain(&two.requests()).filter(|request| request.head.target() == "/").count();
    let refused = proxy.ask(&modern_call(1, "x", ""));
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(1)));
    assert!(refused.one("retry-after").is_some());
    assert_eq!(proxy.metrics().sum("shadowcat_refusals_total", "reason=\"upstream_unhealthy\""), 1.0);
    let still = one.requests().iter().chain(&two.requests()).filter(|request| request.head.target() == "/").count();
    assert_eq!(seen, still, "nobody was asked");
    one_says.store(200, SeqCst);
    wait_for_health(&proxy, "one", true);
    assert_eq!(proxy.ask(&get("/ready", "")).status, 200);
    assert_eq!(answers(), HashSet::from(["one".to_owned()]));
}

fn a_session_starts_anew_elsewhere_and_goes_on_when_its_upstream_does(driver: Driver) {
    let servers = ["a", "b"].map(|name| Legacy::new(name, REFUSALS[0], false));
    let upstreams = [("a", servers[0].upstream.url()), ("b", servers[1].upstream.url())];
    let proxy = Proxy::builder(driver).config(&config(&upstreams, "unhealthy_threshold = 1\n")).start();
    let (_, session) = begin_session(&proxy);
    let ping = in_session(&session, &request(2, "ping"));
    let at = usize::from(!servers[1].sessions().is_empty());
    let (own, other) = (&servers[at], &servers[1 - at]);
    assert_eq!(proxy.ask(&ping).status, 200);
    // Another one works: the client is sent there, and the session is kept.
    own.status.store(500, SeqCst);
    wait_for_health(&proxy, own.name, false);
    assert_eq!(proxy.ask(&ping).status, 404);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 1.0);
    begin_session(&proxy);
    assert_eq!((own.sessions().len(), other.sessions().len()), (1, 1));
    // None works: later, perhaps.
    other.status.store(500, SeqCst);
    wait_for_health(&proxy, other.name, false);
    let refused = proxy.ask(&ping);
    assert_eq!((refused.status, refused.one("retry-after").is_some()), (503, true));
    own.status.store(200, SeqCst);
    wait_for_health(&proxy, own.name, true);
    assert_eq!(proxy.ask(&ping).status, 200);
}

fn a_reload_changes_the_checks_and_ends_them(driver: Driver) {
    let (one_says, two_says) = (Arc::new(AtomicU16::new(500)), Arc::new(AtomicU16::new(200)));
    let (one, two) = (with_status("one", &one_says), with_status("two", &two_says));
    let both = [("one", one.url()), ("two", two.url())];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shadowcat.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    write(&config(&both, "unhealthy_threshold = 2\n"));
    let proxy = Proxy::builder(driver).argument("--config").argument(&path).start();
    let reload = |text: &str| {
        let before = proxy.metrics().sum("shadowcat_config_reloads_total", "outcome=\"taken\"");
        write(text);
        proxy.signal(Signal::HUP);
        let taken = || proxy.metrics().sum("shadowcat_config_reloads_total", "outcome=\"taken\"");
        wait_until("the reload", || taken() > before);
    };
    wait_for_health(&proxy, "one", false);
    // What has nothing to do with the checks leaves the marks alone.
    reload(&(config(&both, "unhealthy_threshold = 2\n") + "[pool]\nmax_size = 7\n"));
    assert!(!is_healthy(&proxy, "one"));
    // Long waits that are under way end when the checks change: another path, which is good.
    reload(&config(&both, "unhealthy_threshold = 2\n").replace("50ms", "1h"));
    reload(&config(&both, "path = \"/other\"\n"));
    wait_for_health(&proxy, "one", true);
    reload(&config(&both, "unhealthy_threshold = 2\n"));
    wait_for_health(&proxy, "one", false);
    // One that is gone is asked no more.
    reload(&config(&both[1..], "unhealthy_threshold = 2\n"));
    wait_until("its series to end", || !series_of(&proxy, "one") && is_healthy(&proxy, "two"));
    wait_until("its last check to end", || one.open_connections() == 0);
    let asked = one.requests().len();
    let checks = outcomes(&proxy, "good");
    wait_until("further checks of the other", || outcomes(&proxy, "good") >= checks + 3.0);
    assert_eq!(one.requests().len(), asked);
    // It begins as healthy when it comes back, and is found out again.
    reload(&config(&both, "unhealthy_threshold = 2\n"));
    wait_for_health(&proxy, "one", false);
    // Off: nothing is held against anybody.
    reload(&config(&both, "enabled = false\n"));
    wait_until("no series", || !series_of(&proxy, "one") && !series_of(&proxy, "two"));
    let answers: HashSet<String> = (0..8).map(|_| proxy.ask(&get("/", "")).text()).collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
}

fn series_of(proxy: &Proxy, name: &str) -> bool {
    let metrics = proxy.metrics();
    metrics.0.lines().any(|line| line.starts_with(HEALTHY) && line.contains(&format!("upstream=\"{name}\"")))
}

/// How servers of the legacy era refuse what they do not know.
const REFUSALS: [(u16, &str); 5] = [
    (
        400,
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: no valid session ID provided"},"id":null}"#,
    ),
    (404, ""),
    (405, "no"),
    (400, "Bad Request"),
    (200, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#),
];

/// A legacy MCP server whose sessions are counted, and which answers `/health` with a status.
struct Legacy {
    name: &'static str,
    upstream: FakeUpstream,
    status: Arc<AtomicU16>,
    sessions: Arc<Mutex<HashSet<String>>>,
    begun: Arc<AtomicUsize>,
}

impl Legacy {
    fn new(name: &'static str, refusal: (u16, &'static str), as_events: bool) -> Legacy {
        let (status, sessions, begun) = (Arc::new(AtomicU16::new(200)), Arc::default(), Arc::default());
        let (says, known, count): (_, Arc<Mutex<HashSet<String>>>, Arc<AtomicUsize>) =
            (status.clone(), Arc::clone(&sessions), Arc::clone(&begun));
        let upstream = FakeUpstream::new(move |conversation| {
            while let Some(request) = conversation.request() {
                let session = request.head.one("mcp-session-id").unwrap_or_default().to_owned();
                let is_known = known.lock().expect("unbroken").contains(&session);
                let message = request.json();
                match (request.head.method(), message["method"].as_str()) {
                    ("GET", _) => conversation.respond(says.load(SeqCst), "", ""),
                    ("POST", Some("server/discover")) => conversation.respond_json(refusal.0, "", refusal.1),
                    ("POST", Some("initialize")) => {
                        let id = format!("{name}-{}", count.fetch_add(1, SeqCst));
                        known.lock().expect("unbroken").insert(id.clone());
                        let field = format!("Mcp-Session-Id: {id}\r\n");
                        let result = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"x","version":"1"}}}"#;
                        if as_events {
                            // An event without data to begin with, as servers do whose streams can be resumed.
                            conversation.begin_events(&field);
                            conversation.send_chunk(b"id: 0\ndata: \n\n: comment\n\n");
                            conversation.send_chunk(br#"data: {"jsonrpc":"2.0","method":"notifications/message"}"#);
                            conversation.send_chunk(format!("\n\nevent: message\ndata: {result}\n\n").as_bytes());
                            conversation.wait_for_end();
                            return;
                        }
                        conversation.respond_json(200, &field, result);
                    }
                    (_, _) if !is_known => conversation.respond(404, "", ""),
                    ("DELETE", _) => {
                        known.lock().expect("unbroken").remove(&session);
                        conversation.respond(200, "", "");
                    }
                    _ => conversation.respond_json(200, "", r#"{"jsonrpc":"2.0","id":2,"result":{}}"#),
                }
            }
        });
        Legacy { name, upstream, status, sessions, begun }
    }

    fn sessions(&self) -> HashSet<String> {
        self.sessions.lock().expect("unbroken").clone()
    }
}

fn a_modern_server_is_asked_once_a_check(driver: Driver) {
    let replica = Replica::new("modern");
    let url = format!("{}/mcp", replica.upstream.url());
    let proxy = Proxy::builder(driver).config(&config(&[("a", url)], "protocol = \"mcp\"\n")).start();
    wait_until("some checks", || outcomes(&proxy, "good") >= 4.0);
    let requests = replica.upstream.requests();
    for request in &requests {
        assert_eq!((request.head.method(), request.head.target()), ("POST", "/mcp"));
        assert_eq!(request.json()["method"], "server/discover");
        assert_eq!(request.head.one("mcp-method"), Some("server/discover"));
        assert_eq!(request.head.one("mcp-protocol-version"), Some("2026-07-28"));
        assert_eq!(request.json()["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    }
    assert!(replica.sessions().is_empty());
}

fn a_legacy_server_keeps_no_session_of_a_check(driver: Driver) {
    for (refusal, as_events) in REFUSALS.into_iter().flat_map(|refusal| [(refusal, false), (refusal, true)]) {
        let server = Legacy::new("legacy", refusal, as_events);
        // A URL without a path: the checks say which.
        let checks = "protocol = \"mcp\"\npath = \"/its/mcp\"\nunhealthy_threshold = 1\n";
        let proxy = Proxy::builder(driver).config(&config(&[("a", server.upstream.url())], checks)).start();
        wait_until(&format!("some checks after {refusal:?}"), || outcomes(&proxy, "good") >= 3.0);
        assert!(is_healthy(&proxy, "a"));
        wait_until("sessions to end as fast as they begin", || server.sessions().is_empty());
        assert!(server.begun.load(SeqCst) >= 3);
        let requests = server.upstream.requests();
        let of = |method: &str| requests.iter().filter(|one| one.json()["method"] == method).count();
        assert_eq!(of("server/discover"), 1, "the era is remembered");
        let ended: Vec<_> = requests.iter().filter(|request| request.head.method() == "DELETE").collect();
        assert!(ended.len() + 1 >= of("initialize"), "{} of {}", ended.len(), of("initialize"));
        for end in ended {
            assert_eq!((end.head.target(), end.head.one("mcp-protocol-version")), ("/its/mcp", Some("2025-06-18")));
        }
    }
}

fn a_session_of_a_check_that_fails_is_ended_too(driver: Driver) {
    // The head with the session comes, the rest never.
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match (request.head.method(), request.json()["method"].as_str()) {
                ("DELETE", _) => {
                    conversation.tell(format!("ended {}", request.head.one("mcp-session-id").expect("a session")));
                    conversation.respond(204, "", "");
                }
                (_, Some("initialize")) => {
                    conversation.send(b"HTTP/1.1 200 OK\r\nMcp-Session-Id: s-1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{");
                    conversation.wait_for_end();
                    return;
                }
                _ => conversation.respond(400, "", ""),
            }
        }
    });
    let checks = "protocol = \"mcp\"\ntimeout = \"100ms\"\n";
    let proxy = Proxy::builder(driver).config(&config(&[("a", upstream.url())], checks)).start();
    wait_for_health(&proxy, "a", false);
    upstream.expect_event("ended s-1");
    assert!(outcomes(&proxy, "timeout") >= 3.0);
}

fn a_server_that_is_no_mcp_server_is_unhealthy(driver: Driver) {
    let web = FakeUpstream::answering("<html>");
    let gone = FakeUpstream::saying("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let broken = FakeUpstream::saying("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let upstreams = [("web", web.url()), ("gone", gone.url()), ("broken", broken.url())];
    let proxy = Proxy::builder(driver).config(&config(&upstreams, "protocol = \"mcp\"\n")).start();
    upstreams.iter().for_each(|(name, _)| wait_for_health(&proxy, name, false));
    let log = proxy.log();
    for reason in ["not a JSON-RPC response", "status 404", "status 500"] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
}

/// The built-in server in a process of its own.
struct DemoProcess {
    child: Child,
    url: String,
}

impl DemoProcess {
    fn start() -> DemoProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
        command.args(["demo", "--bind", "127.0.0.1:0"]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("stderr")).read_line(&mut line).expect("a line");
        let url = line.trim().rsplit(' ').next().expect("a URL").to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{line}");
        DemoProcess { child, url }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).expect("a pid"), signal).expect("a signal");
    }
}

impl Drop for DemoProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_process_that_is_stopped_is_taken_out_until_it_goes_on(driver: Driver) {
    let (stops, stays) = (DemoProcess::start(), DemoProcess::start());
    let upstreams = [("stops", stops.url.clone()), ("stays", stays.url.clone())];
    let checks = "protocol = \"mcp\"\ntimeout = \"500ms\"\nunhealthy_threshold = 2\nhealthy_threshold = 2\n";
    let proxy = Proxy::builder(driver).config(&config(&upstreams, checks)).start();
    wait_until("checks of both", || {
        let metrics = proxy.metrics();
        ["stops", "stays"]
            .iter()
            .all(|name| metrics.sum(CHECKS, &format!("upstream=\"{name}\",outcome=\"good\"")) >= 2.0)
    });
    let discover = post_json("/mcp", &modern_fields("server/discover", None), DISCOVER);
    for _ in 0..4 {
        assert_eq!(proxy.ask(&discover).status, 200);
    }
    stops.signal(Signal::STOP);
    wait_for_health(&proxy, "stops", false);
    for _ in 0..8 {
        assert_eq!(proxy.ask(&discover).status, 200, "the one that works answers");
    }
    assert!(is_healthy(&proxy, "stays"));
    stops.signal(Signal::CONT);
    wait_for_health(&proxy, "stops", true);
    assert!(outcomes(&proxy, "timeout") >= 2.0);
}

const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// Holds every check until all that may come are there.
fn two_hundred_upstreams_are_not_asked_at_once(driver: Driver) {
    const AT_ONCE: usize = 64;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = gate.clone();
    let upstream = FakeUpstream::new(move |conversation| {
        if conversation.request().is_some() {
            let (open, opened) = &*held;
            drop(opened.wait_while(open.lock().expect("unbroken"), |open| !*open).expect("unbroken"));
            conversation.respond(200, "", "");
        }
    });
    let names: Vec<String> = (0..200).map(|n| format!("u{n}")).collect();
    let upstreams: Vec<(&str, String)> = names.iter().map(|name| (name.as_str(), upstream.url())).collect();
    let text = config(&upstreams, "timeout = \"60s\"\n").replace("50ms", "60s");
    let proxy = Proxy::builder(driver).config(&text).start();
    wait_until("as many checks as may be", || upstream.requests().len() == AT_ONCE);
    // Those that wait are due, and come only when others end.
    proxy.metrics();
    assert_eq!(upstream.connections(), AT_ONCE);
    *gate.0.lock().expect("unbroken") = true;
    gate.1.notify_all();
    wait_until("all checks", || outcomes(&proxy, "good") == 200.0);
    assert_eq!(upstream.connections(), 200);
}
