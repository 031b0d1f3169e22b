//! Health checks that speak MCP: in which era, what they leave behind, and what becomes of sessions.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::health::{CHECKS, config, is_healthy, outcomes, wait_for_health};
use crate::on_both_drivers;
use crate::support::mcp::{Replica, begin_session, in_session, modern_fields, request};
use crate::support::upstream::Request;
use crate::support::*;

on_both_drivers!(
    a_session_starts_anew_elsewhere_and_goes_on_when_its_upstream_does,
    a_modern_server_is_asked_once_a_check,
    a_legacy_server_keeps_no_session_of_a_check,
    a_session_of_a_check_that_fails_is_ended_too,
    a_server_that_ends_no_sessions_is_told_of_once,
    a_server_that_is_no_mcp_server_is_unhealthy,
    a_process_that_is_stopped_is_taken_out_until_it_goes_on,
);

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
                    ("POST", Some("server/discover")) if refusal.0 == 400 => {
                        // As the Python SDK does: it begins a session, and refuses then.
                        known.lock().expect("unbroken").insert(format!("{name}-refused"));
                        let field = format!("Mcp-Session-Id: {name}-refused\r\n");
                        conversation.respond_json(400, &field, refusal.1);
                    }
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
        let of_refused = |end: &&&Request| end.head.one("mcp-session-id") == Some("legacy-refused");
        assert_eq!(ended.iter().filter(of_refused).count(), usize::from(refusal.0 == 400));
        for end in ended.iter().filter(|end| !of_refused(end)) {
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

fn a_server_that_ends_no_sessions_is_told_of_once(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match (request.head.method(), request.json()["method"].as_str()) {
                ("POST", Some("initialize")) => {
                    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"}}"#;
                    conversation.respond_json(200, "Mcp-Session-Id: stays\r\n", result);
                }
                ("POST", _) => conversation.respond(400, "", ""),
                _ => conversation.respond(405, "", ""),
            }
        }
    });
    let checks = "protocol = \"mcp\"\n";
    let proxy = Proxy::builder(driver).config(&config(&[("a", upstream.url())], checks)).start();
    let ends = || upstream.requests().iter().filter(|request| request.head.method() == "DELETE").count();
    wait_until("some sessions that stay", || ends() >= 4);
    assert!(is_healthy(&proxy, "a"));
    wait_until("the warning", || proxy.log().contains("does not let sessions be ended"));
    assert_eq!(proxy.log().matches("does not let sessions be ended").count(), 1);
}

fn a_server_that_is_no_mcp_server_is_unhealthy(driver: Driver) {
    let web = FakeUpstream::answering("<html>");
    let gone = FakeUpstream::saying("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let broken = FakeUpstream::saying("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let upstreams = [("web", web.url()), ("gone", gone.url()), ("broken", broken.url())];
    let proxy = Proxy::builder(driver).config(&config(&upstreams, "protocol = \"mcp\"\n")).start();
    upstreams.iter().for_each(|(name, _)| wait_for_health(&proxy, name, false));
    for reason in ["not a JSON-RPC response", "status 404", "status 500"] {
        proxy.wait_for_log(reason);
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
    let checks = "protocol = \"mcp\"\ntimeout = \"1s\"\nunhealthy_threshold = 3\nhealthy_threshold = 2\n";
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
