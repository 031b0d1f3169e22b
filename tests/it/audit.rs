//! The audit log: one record for each tool call, with who, what, the decision and what came of it.

use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::access::Logged;
use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    every_tool_call_is_recorded_with_the_decision,
    what_hides_its_calls_is_refused,
    a_call_that_cannot_be_recorded_is_refused_if_so_configured,
    records_that_find_no_room_are_counted_and_loud,
);

/// What `shadowcat auth hash-key` makes of `sc_test-key`.
fn key_hash(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn every_tool_call_is_recorded_with_the_decision(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let result = match request.json()["params"]["name"].as_str() {
                Some("fails") => r#"{"isError":true}"#,
                _ => "{}",
            };
            conversation.respond_json(200, "", &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#));
        }
    });
    let key = "sc_0123456789abcdef0123456789abcdef";
    let config = format!(
        "[[upstreams]]\nname = \"primary\"\nurl = \"{}\"\n[auth]\nprovider = \"api_key\"\n\
         [[auth.rules]]\npath = \"/x\"\nscopes = [\"x\"]\n[[auth.rules]]\ntool = \"deploy\"\nscopes = [\"write\"]\n\
         [[auth.api_keys]]\nname = \"ci\"\nhash = \"{}\"\nscopes = [\"read\"]\n",
        upstream.url(),
        key_hash(key),
    );
    let builder = Proxy::builder(driver).config(&config).set("logging.access", "off");
    let logged = Logged::start(builder, "logging.audit");
    let ask = |id: &str, fields: &str, tool: &str, arguments: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        );
        logged.proxy.ask(&post_json("/mcp", &format!("X-Request-Id: {id}\r\n{fields}"), &body)).status
    };
    let own = format!("X-API-Key: {key}\r\n");
    assert_eq!(ask("allowed", &own, "echo", r#"{"a":1}"#), 200);
    assert_eq!(ask("fails", &own, "fails", r#"{"password":"hunter2"}"#), 200);
    assert_eq!(ask("denied", &own, "deploy", "{}"), 403);
    assert_eq!(ask("nobody", "", "echo", "{}"), 401);
    assert_eq!(logged.proxy.ask(&post_json("/mcp", &own, &request(1, "tools/list"))).status, 200);

    let line = logged.line("allowed");
    for (key, expected) in [
        ("target", "audit"),
        ("client", "127.0.0.1"),
        ("user", "ci"),
        ("tool", "echo"),
        ("upstream", "primary"),
        ("decision", "allow"),
        ("outcome", "ok"),
        ("termination", "--"),
        ("arguments_sha256", "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"),
    ] {
        assert_eq!(line[key], expected, "{key} of {line}");
    }
    assert_eq!(logged.line("fails")["outcome"], "tool_error");
    let line = logged.line("denied");
    assert_eq!((&line["decision"], &line["rule"], &line["status"]), (&"deny".into(), &2.into(), &403.into()), "{line}");
    assert_eq!((&line["reason"], &line["user"]), (&"insufficient_scope".into(), &"ci".into()), "{line}");
    let line = logged.line("nobody");
    assert_eq!((&line["decision"], &line["reason"]), (&"deny".into(), &"unauthorized".into()), "{line}");
    assert!(line.get("user").is_none(), "{line}");
    // Tool calls alone, and of their arguments the hash alone.
    assert_eq!(logged.lines().len(), 4);
    assert!(!logged.text().contains("hunter2") && !logged.text().contains(key), "{}", logged.text());
}

fn what_hides_its_calls_is_refused(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let logged = Logged::start(Proxy::before(driver, &[&upstream]).set("limits.peek_bytes", "2KiB"), "logging.audit");
    let batch = format!("[{}]", call(1, "t"));
    assert_eq!(logged.proxy.ask(&post_json("/", "", &batch)).status, 400);
    let long = call(1, "t").replace("{}", &format!("{{\"text\":\"{}\"}}", "x".repeat(64 * 1024)));
    assert_eq!(logged.proxy.ask(&post_json("/", "", &long)).status, 413);
    assert_eq!(logged.proxy.ask(&post("/", "Content-Type: text/plain\r\n", call(1, "t").as_bytes())).status, 415);
    assert_eq!(upstream.requests().len(), 0);
    let twice =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{},"arguments":{"a":1}}}"#;
    assert_eq!(logged.proxy.ask(&post_json("/", "", twice)).status, 400);
    assert_eq!(logged.proxy.ask(&post_json("/", "", &call(1, "t"))).status, 200);
}

fn a_call_that_cannot_be_recorded_is_refused_if_so_configured(driver: Driver) {
    let upstream = FakeUpstream::answering("{}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    symlink("/dev/full", &file).unwrap();
    let builder = Proxy::before(driver, &[&upstream]).workers(1).set("logging.audit", &file.display().to_string());
    let proxy = builder.set("logging.audit_required", "true").set("logging.access", "off").start();
    let mut client = proxy.connect();
    let mut recorded = 0;
    let refusal = loop {
        let answer = client.ask(&post_json("/", "", &call(1, "t")));
        match answer.status {
            200 => recorded += 1,
            _ => break answer,
        }
        assert!(recorded < 20_000, "no end of records");
    };
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(refusal.text().contains("logging.audit_required") && refusal.one("retry-after").is_some(), "{refusal:?}");
    assert_eq!(upstream.requests().len(), recorded);
    // What is no tool call goes on.
    assert_eq!(client.ask(&post_json("/", "", &request(1, "tools/list"))).status, 200);
    proxy.wait_for_log("a log cannot be written: what it is told waits");
    assert_eq!(proxy.metrics().sum("shadowcat_log_lines_lost_total", r#"log="audit",reason="unwritten""#), 0.0);

    // The disk has room again: everything is written, and calls go on.
    std::fs::remove_file(&file).unwrap();
    proxy.signal(Signal::HUP);
    wait_until("calls to go on", || client.ask(&post_json("/", "", &call(1, "t"))).status == 200);
    let written =
        || std::fs::read_to_string(&file).unwrap_or_default().lines().filter(|line| line.contains("\"allow\"")).count();
    wait_until("all records", || written() == recorded + 1);
    proxy.wait_for_log("a log can be written again");
}

fn records_that_find_no_room_are_counted_and_loud(driver: Driver) {
    let upstream = FakeUpstream::answering("{}");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set("logging.audit", "/dev/full").start();
    let mut client = proxy.connect();
    for _ in 0..6000 {
        assert_eq!(client.ask(&post_json("/", "", &call(1, "t"))).status, 200);
    }
    proxy.wait_for_log("records of the audit log are lost");
    assert!(proxy.metrics().sum("shadowcat_log_lines_lost_total", r#"log="audit",reason="no_room""#) > 0.0);
}

#[test]
fn audit_required_without_an_audit_log_is_an_error() {
    let (code, said) = Proxy::builder(Driver::Epoll).set("logging.audit_required", "true").run_to_end();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("logging.audit_required without logging.audit"), "{said}");
}
