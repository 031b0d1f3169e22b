//! What SDK clients did is recorded, and a replay of the tape is the same to them; what is made of tapes is read by programs that know
//! what it should be.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{node, output, peers, script};

fn shadowcat(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(arguments);
    command
}

/// A tape over HTTP with 10,000 frames: calls, streams, a refusal, texts that want to be markup, pauses.
fn long_tape(directory: &Path) -> PathBuf {
    let path = directory.join("long.tape");
    let mut lines = vec![json!({
        "shadowcat_tape": 1, "id": "ab".repeat(16), "started": "2026-11-25T20:00:00.000000Z", "software": "test", "transport": "http",
        "server": { "upstream": "http://127.0.0.1:3000" }, "session": "sha256:0123456789abcdef", "part": 1
    })];
    let (mut seq, mut us) = (0, 0);
    let mut frame = |lines: &mut Vec<Value>, wait: u64, from: &str, exchange: u64, more: Value| -> u64 {
        (seq, us) = (seq + 1, us + wait);
        let mut frame = json!({ "seq": seq, "us": us, "from": from, "connection": 1, "exchange": exchange });
        frame.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        lines.push(frame);
        seq
    };
    let post = |message: Value, rpc: Value| json!({ "http": { "kind": "request", "method": "POST", "target": "/mcp", "headers": [["host", "127.0.0.1:8080"]] }, "rpc": rpc, "message": message });
    let json_type = json!([["content-type", "application/json"]]);
    for id in 1..=3333 {
        let hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>";
        let name = if id % 50 == 7 { hostile } else { ["search", "fetch", "summarize"][id as usize % 3] };
        let text = if id == 1234 { "needle-in-the-tape".to_owned() } else { format!("weather {id}") };
        let params = json!({ "name": name, "arguments": { "query": text, "large": 12_345_678_901_234_567_890_u64 } });
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
        let wait = if id % 100 == 0 { 3_000_000 } else { 20_000 };
        let asked = frame(
            &mut lines,
            wait,
            "client",
            id,
            post(message, json!({ "method": "tools/call", "name": name, "id": id })),
        );
        if id % 97 == 0 {
            let error =
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32000, "message": "Too many requests" } });
            let response = json!({ "kind": "response", "status": 429, "headers": json_type });
            frame(
                &mut lines,
                500,
                "proxy",
                id,
                json!({ "http": response, "answers": asked, "error": true, "message": error }),
            );
            frame(&mut lines, 0, "proxy", id, json!({ "http": { "kind": "end", "how": "refused: rate limit" } }));
            continue;
        }
        let result =
            json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [{ "type": "text", "text": hostile }] } });
        let response = json!({ "kind": "response", "status": 200, "headers": json_type });
        frame(&mut lines, 9000, "server", id, json!({ "http": response, "answers": asked, "message": result }));
        frame(&mut lines, 0, "proxy", id, json!({ "http": { "kind": "end", "how": "complete" } }));
    }
    let mut file = std::fs::File::create(&path).unwrap();
    lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
    path
}

#[test]
fn a_browser_shows_the_page_of_a_long_and_hostile_tape() {
    let (peers, directory) = (peers(), tempfile::tempdir().unwrap());
    let tape = long_tape(directory.path());
    let page = directory.path().join("page.html");
    output(shadowcat(&["tape", "view", "--html"]).arg(&page).arg(&tape));
    let mut browser = node(&peers);
    browser.arg(script("page.mjs")).arg(peers.join("node_modules")).arg("/usr/bin/chromium").arg(&page);
    browser.args(std::env::var_os("SHADOWCAT_SCREENSHOTS"));
    let seen: Value = serde_json::from_str(&output(&mut browser)).unwrap();
    assert_eq!(seen["complaints"], json!([]), "nothing ran that is not the page's own, and nothing failed");
    assert_eq!(seen["requests"], json!(["page.html", "page.html", "page.html"]), "nothing was fetched");
    assert_eq!(seen["title"], "long.tape · shadowcat");
    for so in ["drawn", "closed", "errors", "fits", "sheet"] {
        assert_eq!(seen[so], true, "{so}: {seen:#}");
    }
    assert_eq!(
        (&seen["rows"], &seen["first"]),
        (&json!("6,700 rows"), &json!(["tools/call", "tools/call", "tools/call"]))
    );
    assert_eq!(
        (&seen["detail"], &seen["answer"], &seen["paired"]),
        (&json!("tools/call summarize"), &json!("answer"), &json!(1))
    );
    assert_eq!(seen["marked"], "needle-in-the-tape");
    assert!(seen["folded"].as_u64() > Some(2), "{seen:#}");
    assert_ne!(seen["dark"], seen["light"]);
}

#[test]
fn an_archive_is_what_its_schema_says() {
    let (peers, directory) = (peers(), tempfile::tempdir().unwrap());
    let stdio = directory.path().join("stdio.tape");
    let lines = [
        r#"{"shadowcat_tape":1,"id":"0","started":"2026-11-25T20:00:00.000000Z","software":"test","transport":"stdio","server":{"command":["/bin/a b"]}}"#,
        r#"{"seq":1,"us":10,"from":"client","rpc":{"method":"tools/call","name":"x","id":1},"message":{"id":1,"method":"tools/call"}}"#,
        r#"{"seq":2,"us":20,"from":"client","rpc":{"method":"notifications/x"},"message":{"method":"notifications/x"}}"#,
        r#"{"seq":3,"us":30,"from":"server","answers":1,"base64":"/w=="}"#,
    ];
    std::fs::write(&stdio, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    for (tape, entries) in [(long_tape(directory.path()), "3333"), (stdio, "2")] {
        let archive = directory.path().join("tape.har");
        std::fs::write(&archive, output(shadowcat(&["tape", "export", "--format", "har"]).arg(&tape))).unwrap();
        let mut check = node(&peers);
        let counted = output(check.arg(script("har.mjs")).arg(peers.join("node_modules")).arg(&archive));
        assert_eq!(counted.trim(), entries);
    }
}
