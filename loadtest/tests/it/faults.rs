//! Targets that misbehave: every wrong answer is an error, of its kind.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::fake::{Fake, answer, result};
use crate::on_both_drivers;
use crate::support::{Server, kinds, load, run, said};

on_both_drivers!(
    wrong_answers_are_errors_by_kind,
    silence_is_a_time_out,
    a_session_that_was_forgotten_is_begun_anew,
    a_target_that_goes_away_is_counted_and_costs_no_core,
);

const CALLS: &str = r#"
duration = "1s"
warmup = "0s"
timeout = "500ms"
[[users]]
connections = 1
rate = 100
[[users.work]]
call = "echo"
arguments = { text = "hello" }
answer_contains = "hello"
"#;

fn wrong_answers_are_errors_by_kind(driver: &str) {
    let fake = Fake::start(|request| {
        let id = &request.body["id"];
        match request.number % 10 {
            0 => result(request, "hello"),
            1 => result(request, "good bye"),
            2 => answer(200, "", &json!({"jsonrpc": "2.0", "id": 1, "result": {}})),
            3 => answer(
                503,
                "Retry-After: 1\r\n",
                &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "full"}}),
            ),
            4 => answer(
                200,
                "",
                &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "no such tool"}}),
            ),
            5 => answer(200, "", &json!({"jsonrpc": "2.0", "id": id, "result": {"content": [], "isError": true}})),
            6 => "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>".to_owned(),
            7 => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{\"a\"".to_owned(),
            8 => "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
            _ => String::new(),
        }
    });
    let (code, result) = load(CALLS, &["--target", &fake.url, "--driver", driver]);
    assert_eq!(code, 3, "{result:#}");
    let target = &result["targets"][0];
    assert_eq!((&target["requests"], &target["errors"]), (&100.into(), &90.into()));
    let mut found = kinds(&result);
    found.sort();
    let mut expected = [
        "wrong result",
        "answer to another id",
        "status 503",
        "JSON-RPC error -32602",
        "tool error",
        "neither JSON nor events",
        "not a JSON-RPC answer",
        "malformed HTTP",
        "closed before the answer",
    ]
    .map(|kind| (kind.to_owned(), 10));
    expected.sort();
    assert_eq!(found, expected);
    let first = |kind: &str| {
        let errors = target["errors_by_kind"].as_array().unwrap();
        errors.iter().find(|error| error["kind"] == kind).unwrap()["first"].as_str().unwrap().to_owned()
    };
    assert!(first("status 503").contains("full") && first("wrong result").contains("good bye"));
}

fn silence_is_a_time_out(driver: &str) {
    // An answer that never ends.
    let fake = Fake::start(|_| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned());
    let scenario = CALLS.replace("connections = 1", "connections = 4").replace("rate = 100", "rate = 4");
    let (code, result) = load(&scenario, &["--target", &fake.url, "--driver", driver]);
    assert_eq!((code, kinds(&result)), (3, vec![("timed out".to_owned(), 4)]), "{result:#}");
}

fn a_session_that_was_forgotten_is_begun_anew(driver: &str) {
    let sessions: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = sessions.clone();
    let fake = Fake::start(move |request| {
        let session = request.field("mcp-session-id").unwrap_or("none").to_owned();
        let mut sessions = seen.lock().expect("a lock");
        if sessions.last() != Some(&session) {
            sessions.push(session);
        }
        match request.number {
            20 => answer(404, "", &json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": "gone"}})),
            _ => result(request, "hello"),
        }
    });
    let (code, result) = load(CALLS, &["--target", &fake.url, "--driver", driver]);
    assert_eq!((code, kinds(&result)), (3, vec![("status 404".to_owned(), 1)]));
    assert_eq!(result["targets"][0]["sessions_lost"], 1);
    assert_eq!(*sessions.lock().expect("a lock"), ["s-0", "s-1"]);
}

fn a_target_that_goes_away_is_counted_and_costs_no_core(driver: &str) {
    let demo = Server::demo();
    let scenario =
        CALLS.replace("rate = 100\n", "").replace("connections = 1", "connections = 16\nversion = \"2026-07-28\"");
    let (url, driver) = (demo.url(), driver.to_owned());
    let run = std::thread::spawn(move || load(&scenario, &["--target", &url, "--driver", &driver, "--duration", "3s"]));
    // It measures for three seconds; within them the target goes away.
    let address = demo.origin.trim_start_matches("http://").to_owned();
    while connections_to(&address) < 16 {
        std::thread::yield_now();
    }
    drop(demo);
    let (code, result) = run.join().expect("it ends");
    let target = &result["targets"][0];
    assert_eq!(code, 3, "{target:#}");
    let kinds = kinds(&result);
    assert!(kinds.iter().any(|(kind, _)| kind == "connection refused or failed"), "{kinds:?}");
    // Who cannot connect rests: a thousand failures at most, not a million.
    let failures = target["errors"].as_u64().expect("a number");
    assert!((16..2000).contains(&failures), "{failures}");
    assert!(target["generator"]["busy"].as_f64() < Some(0.9), "{target:#}");
}

/// Established connections to a server on this machine.
fn connections_to(address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let remote = format!("0100007F:{port:04X} 01");
    table.lines().filter(|line| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>().join(" ") == remote).count()
}

#[test]
fn tokens_are_taken_in_turn_and_told_to_nobody() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = seen.clone();
    let fake = Fake::start(move |request| {
        kept.lock().expect("a lock").push(request.field("authorization").unwrap_or_default().to_owned());
        answer(401, "", &json!({}))
    });
    let tokens = crate::support::file(".txt", "first-token\nsecond-token\n");
    let token_file = format!("token_file = {:?}\n[[users.work]]", tokens.path());
    let scenario = CALLS.replace("connections = 1", "connections = 2").replace("[[users.work]]", &token_file);
    let (code, result) = load(&scenario, &["--target", &fake.url]);
    assert_eq!((code, kinds(&result)), (3, vec![("status 401".to_owned(), 100)]));
    let mut seen = seen.lock().expect("a lock").clone();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["Bearer first-token", "Bearer second-token"]);
    assert!(!result.to_string().contains("second-token"));
}

#[test]
fn a_target_that_is_not_there_is_told_before_anything_is_measured() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (code, stdout, stderr) = said(&run(&["tools-call", "--target", &format!("http://{unused}/mcp")]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("cannot be reached") && stderr.contains(&unused.to_string()), "{stderr}");
    let fake = Fake::raw(|_| answer(403, "", &json!({"error": "go away"})));
    let (code, _, stderr) = said(&run(&["tools-call", "--target", &fake.url]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("a session could not be begun: status 403") && stderr.contains("go away"), "{stderr}");
}
