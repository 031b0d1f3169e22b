//! The access log: a line a request, with who ended it and why, and nothing that is a secret.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::proxy::Builder;
use crate::support::upstream::{Refusing, Silent};
use crate::support::*;

on_both_drivers!(
    a_request_is_one_line_that_says_what_it_came_to,
    only_errors_have_lines_unless_all_are_asked_for,
    the_code_says_who_ended_it_and_when,
    what_clients_call_themselves_breaks_no_line,
);

/// A proxy with all lines in a file of their own.
pub struct Logged {
    pub proxy: Proxy,
    file: PathBuf,
    _directory: TempDir,
}

impl Logged {
    pub fn start(builder: Builder, key: &str) -> Logged {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lines.log");
        let proxy = builder.set(key, &file.display().to_string()).start();
        Logged { proxy, file, _directory: directory }
    }

    /// Every line to a file, as JSON.
    fn all(builder: Builder) -> Logged {
        Logged::start(builder.set("logging.access", "all").set("logging.format", "json"), "logging.access_output")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        // The last line may still be on its way.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Wait for the line of the request that the client called this.
    pub fn line(&self, request_id: &str) -> Value {
        wait::wait_for(&format!("the line of {request_id}"), || {
            let mut found = self.lines().into_iter().filter(|line| line["request_id"] == request_id);
            let line = found.next();
            assert!(found.next().is_none(), "two lines of {request_id}");
            line
        })
    }
}

fn named(request_id: &str) -> String {
    format!("X-Request-Id: {request_id}\r\n")
}

fn a_request_is_one_line_that_says_what_it_came_to(driver: Driver) {
    let replica = Replica::new("a");
    let config = format!("[[upstreams]]\nname = \"primary\"\nurl = \"{}\"\n", replica.upstream.url());
    let logged = Logged::all(Proxy::builder(driver).config(&config));
    let (_, id) = begin_session(&logged.proxy);
    let fields = format!("{}{}", session_fields(&id), named("one"));
    let request = post_json("/mcp?token=hunter2", &fields, &call(7, "echo"));
    let answer = logged.proxy.ask(&request);
    assert_eq!(answer.status, 200);
    let line = logged.line("one");
    for (key, expected) in [
        ("level", "INFO"),
        ("target", "access"),
        ("client", "127.0.0.1"),
        ("verb", "POST"),
        ("path", "/mcp"),
        ("era", "legacy"),
        ("method", "tools/call"),
        ("tool", "echo"),
        ("upstream", "primary"),
        ("outcome", "ok"),
        ("termination", "--"),
    ] {
        assert_eq!(line[key], expected, "{key} of {line}");
    }
    assert_eq!(line["status"], 200, "{line}");
    // Of the head and the body, without what frames them.
    assert!(
        line["bytes_in"].as_u64().unwrap() as usize <= request.len() && line["bytes_in"].as_u64() > Some(100),
        "{line}"
    );
    assert!(line["bytes_out"].as_u64().unwrap() as usize > answer.body.len(), "{line}");
    let time = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} of {line}"));
    assert!(time("total_ms") > time("upstream_ms") && time("upstream_ms") > 0.0, "{line}");
    let (date, of_day) = line["timestamp"].as_str().unwrap().split_once('T').unwrap();
    assert!(date.starts_with("20") && of_day.ends_with('Z') && of_day.len() == "17:00:00.000000Z".len(), "{line}");
    // The session is told by a hash that its id leads to, and nothing leads back.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let hash: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line["session"], hash);
    for secret in [&id, "a-secret-", "hunter2"] {
        assert!(!logged.text().contains(secret), "{secret} in {}", logged.text());
    }
    for absent in ["user", "reason", "code", "trace_id", "retries", "queue_ms"] {
        assert!(line.get(absent).is_none(), "{absent} in {line}");
    }
}

fn only_errors_have_lines_unless_all_are_asked_for(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let (status, body) = match request.head.target() {
                "/broken" => (500, ""),
                "/wrong" => (200, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#),
                _ => (200, r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#),
            };
            conversation.respond_json(status, "", body);
        }
    });
    let builder =
        |access: &str| Proxy::before(driver, &[&upstream]).set("logging.format", "json").set("logging.access", access);
    let ask = |proxy: &Proxy| {
        for (path, id) in [("/good", "good"), ("/wrong", "wrong"), ("/broken", "broken")] {
            proxy.ask(&post_json(path, &named(id), &call(1, "t")));
        }
        proxy.ask(&post_json("/mcp", &format!("Mcp-Session-Id: no\r\n{}", named("unknown")), &call(1, "t")));
    };
    // The default.
    let errors =
        Logged::start(Proxy::before(driver, &[&upstream]).set("logging.format", "json"), "logging.access_output");
    ask(&errors.proxy);
    assert_eq!(
        (&errors.line("broken")["status"], &errors.line("broken")["upstream"].is_string()),
        (&500.into(), &true)
    );
    let line = errors.line("unknown");
    assert_eq!((&line["outcome"], &line["reason"]), (&"refused".into(), &"session_unknown".into()), "{line}");
    assert_eq!(errors.lines().len(), 2);

    let all = Logged::start(builder("all"), "logging.access_output");
    ask(&all.proxy);
    assert_eq!(all.line("good")["outcome"], "tool_error");
    let line = all.line("wrong");
    assert_eq!((&line["outcome"], &line["code"]), (&"rpc_error".into(), &(-32602).into()), "{line}");
    assert_eq!(all.line("broken")["outcome"], "http_error");

    let off = Logged::start(builder("off"), "logging.access_output");
    ask(&off.proxy);
    let mut proxy = off.proxy;
    proxy.signal(Signal::TERM);
    proxy.wait_exit();
    assert!(!off.file.exists() && !proxy.log().contains("unknown"));
}

fn events(client: &mut RawClient, id: &str) {
    client.send(&get("/events", &format!("Accept: text/event-stream\r\n{}", named(id)))).stream_head();
    client.stream_until(b"data: {}\n\n");
}

fn the_code_says_who_ended_it_and_when(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/cut" => {
                    conversation.begin_chunks("");
                    conversation.send_chunk(b"half");
                    return;
                }
                "/silent" => return,
                "/waits" => {
                    conversation.tell("waits");
                    conversation.wait_for_end();
                    return;
                }
                "/events" => {
                    conversation.begin_events("");
                    conversation.send_chunk(b"data: {}\n\n");
                    conversation.wait_for_end();
                    return;
                }
                _ => conversation.respond(200, "", "x"),
            }
        }
    });
    let logged = Logged::all(Proxy::before(driver, &[&upstream]).set("timeouts.body", "200ms"));
    let expect = |logged: &Logged, id: &str, termination: &str, reason: &str, status: u16| {
        let line = logged.line(id);
        let reason = if reason.is_empty() { Value::Null } else { reason.into() };
        assert_eq!((&line["termination"], &line["reason"]), (&termination.into(), &reason), "{line}");
        assert_eq!(line["status"], status, "{line}");
    };
    let proxy = &logged.proxy;
    proxy.ask(&get("/whole", &named("whole")));
    expect(&logged, "whole", "--", "", 200);
    proxy.ask(&post_json("/", &named("refused"), "{"));
    expect(&logged, "refused", "PR", "json", 400);
    assert_eq!(proxy.ask(&post("/silent", &named("silent"), b"")).status, 502);
    expect(&logged, "silent", "UH", "upstream_closed", 502);
    let mut client = proxy.connect();
    assert!(client.send(&get("/cut", &named("cut"))).outcome().is_cut());
    expect(&logged, "cut", "UD", "upstream_closed", 200);

    // A body that never comes to its end.
    let half = format!(
        "POST /slow HTTP/1.1\r\nHost: localhost\r\n{}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{",
        named("slow")
    );
    assert_eq!(proxy.ask(half.as_bytes()).status, 408);
    expect(&logged, "slow", "CR", "body_timeout", 408);

    // The client leaves while upstream thinks, and in the middle of a stream.
    let mut client = proxy.connect();
    client.send(&get("/waits", &named("waits")));
    upstream.expect_event("waits");
    drop(client);
    expect(&logged, "waits", "CH", "client_gone", 0);
    let mut client = proxy.connect();
    events(&mut client, "left");
    drop(client);
    expect(&logged, "left", "CD", "client_gone", 200);

    // The proxy ends a stream when it drains.
    let mut client = proxy.connect();
    events(&mut client, "drain");
    proxy.signal(Signal::TERM);
    expect(&logged, "drain", "DD", "drain", 200);

    // Nobody listens; nobody accepts in time; no place comes free.
    let refusing = Refusing::new();
    let logged = Logged::all(Proxy::builder(driver).upstream(&refusing.url()));
    assert_eq!(logged.proxy.ask(&get("/", &named("connect"))).status, 502);
    expect(&logged, "connect", "UC", "upstream_connect", 502);
    let silent = Silent::new();
    let slow = Proxy::builder(driver).upstream(&silent.url()).set("performance.connection_timeout", "200ms");
    let logged = Logged::all(slow);
    assert_eq!(logged.proxy.ask(&get("/", &named("late"))).status, 504);
    expect(&logged, "late", "UC", "upstream_timeout", 504);
    let config = format!("[[upstreams]]\nurl = \"{}\"\nmax_connections = 1\n", upstream.url());
    let logged = Logged::all(Proxy::builder(driver).config(&config).set("pool.queue_timeout", "100ms"));
    let mut client = logged.proxy.connect();
    client.send(&get("/waits", ""));
    upstream.expect_event("waits");
    assert_eq!(logged.proxy.ask(&get("/", &named("busy"))).status, 503);
    expect(&logged, "busy", "PQ", "upstream_busy", 503);
    assert!(logged.line("busy")["queue_ms"].as_f64() >= Some(90.0));
}

fn what_clients_call_themselves_breaks_no_line(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let tool =
        "x\\\"\\r\\n forged=\\u001b[31m \u{202e}größe and more than sixty-four bytes of a name, so that it is cut";
    let ask = |logged: &Logged| {
        assert_eq!(logged.proxy.ask(&post_json("/", &named("a\"b=c\\"), &call(1, tool))).status, 200);
    };
    let logged = Logged::all(Proxy::before(driver, &[&upstream]));
    ask(&logged);
    let line = logged.line("a\"b=c\\");
    assert!(line["tool"].as_str().unwrap().starts_with("x\"\r\n forged=\u{1b}[31m"), "{line}");
    assert!(line["tool"].as_str().unwrap().ends_with('…'), "{line}");
    let human = Proxy::before(driver, &[&upstream]).set("logging.access", "all");
    let human = Logged::start(human, "logging.access_output");
    ask(&human);
    wait_until("the line", || human.text().contains("a\\\"b=c"));
    let line = human.text().lines().find(|line| line.contains("a\\\"b=c")).unwrap().to_owned();
    assert!(line.contains(r#" tool="x\"\u000d\u000a forged=\u001b[31m "#), "{line}");
    assert!(
        line.contains(" INFO access: client=127.0.0.1 verb=POST path=\"/\" era=legacy method=tools/call"),
        "{line}"
    );
    assert!(!human.text().chars().any(|c| c.is_control() && c != '\n'), "{}", human.text());
}

/// Two logs in one file are written by one thread; the line of a request is whole.
#[test]
fn lines_of_all_kinds_may_share_a_file() {
    let replica = Replica::new("a");
    let builder = Proxy::before(Driver::Epoll, &[&replica.upstream]);
    let builder = builder.set("logging.access", "all").set("logging.format", "json").variable("RUST_LOG", "debug");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("all.log").display().to_string();
    let proxy = builder.set("logging.output", &file).set("logging.audit", &file).start();
    let (_, id) = begin_session(&proxy);
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for n in 0..25 {
        for client in &mut clients {
            client.send(&in_session(&id, &call(n, "t")));
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
    }
    let count = |target: &str| {
        let text = fs::read_to_string(Path::new(&file)).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let lines =
            whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        lines.filter(|line| line["target"] == target && line["method"] == "tools/call").count()
    };
    wait_until("all lines", || count("access") == 200 && count("audit") == 200);
    wait_until("the counts", || {
        let metrics = proxy.metrics();
        metrics.sum("shadowcat_log_lines_total", r#"log="audit""#) == 200.0
            && metrics.sum("shadowcat_log_lines_total", r#"log="access""#) >= 201.0
    });
    assert_eq!(proxy.metrics().sum("shadowcat_log_lines_lost_total", ""), 0.0);
}
