//! `replay`: clients get what was recorded, with their own ids, in the order of then; what is not on the tape is told to them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio as Stdio_};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shadowcat::wire::tape::{Side, Transport};

use super::making::{Making, echo, http, initialize, initialized, notice, request, says, stdio};
use super::wait::PATIENCE;

/// A replay over stdin and stdout.
struct Stdio {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Stdio {
    fn start(tape: &Path, speed: &str) -> Stdio {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
        command.arg("replay").arg(tape).args(["--stdio", "--speed", speed]);
        command.stdin(Stdio_::piped()).stdout(Stdio_::piped()).stderr(Stdio_::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Stdio { child, stdin, stdout, stderr }
    }

    fn say(&mut self, message: &Value) -> &mut Stdio {
        writeln!(self.stdin.as_mut().unwrap(), "{message}").unwrap();
        self
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn told(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// Everything else that it says once nobody says anything more to it, and whether it ended well.
    fn end(mut self) -> (String, bool) {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().success())
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_client_over_stdio_gets_what_was_recorded_under_its_own_ids() {
    let directory = tempfile::tempdir().unwrap();
    let tape = stdio().write(directory.path(), "a.tape");
    let mut replay = Stdio::start(&tape, "fast");
    replay.say(&initialize(100));
    assert_eq!(replay.hear(), initialized(100));
    replay.say(&notice("notifications/initialized", json!({})));
    assert_eq!(replay.hear()["method"], "notifications/tools/list_changed");
    // The same request twice, in the order of the tape, however it is spelt; then the last answer again.
    for (id, text) in [(json!("a"), "first"), (json!(7), "second"), (json!(8), "second")] {
        let params = json!({ "arguments": { "text": "hello" }, "name": "echo", "_meta": { "traceparent": "00-1" } });
        replay.say(&json!({ "id": id, "params": params, "method": "tools/call", "jsonrpc": "2.0" }));
        assert_eq!(replay.hear(), json!({ "jsonrpc": "2.0", "id": id, "result": says(text) }));
    }
    assert!(replay.told().contains("tools/call echo (frame 7) is asked more often than on the tape"), "told once");
    // Progress goes by the token of now.
    replay.say(&request(9, "tools/call", json!({ "name": "slow", "arguments": {}, "_meta": { "progressToken": 5 } })));
    for step in 1..=3 {
        let params = json!({ "progressToken": 5, "progress": step });
        assert_eq!(replay.hear(), notice("notifications/progress", params));
    }
    assert_eq!(replay.hear()["id"], 9);
    // Who wants no progress hears of none.
    replay.say(&request(10, "tools/call", json!({ "name": "slow", "arguments": {} })));
    assert_eq!(replay.hear()["id"], 10);
    // What comes after the client's answer waits for it.
    replay.say(&request(11, "tools/call", json!({ "name": "ask", "arguments": {} })));
    assert_eq!(replay.hear()["method"], "elicitation/create");
    replay.say(&request(12, "ping", json!({})));
    assert_eq!(replay.hear(), json!({ "jsonrpc": "2.0", "id": 12, "result": {} }));
    replay.say(&json!({ "jsonrpc": "2.0", "id": 70, "result": { "content": { "name": "Ada" }, "action": "accept" } }));
    assert_eq!(replay.hear(), json!({ "jsonrpc": "2.0", "id": 11, "result": says("Ada") }));
    assert_eq!(replay.end(), (String::new(), true));
}

#[test]
fn what_is_not_on_the_tape_is_told_with_what_is_nearest() {
    let directory = tempfile::tempdir().unwrap();
    let tape = stdio().write(directory.path(), "a.tape");
    let mut replay = Stdio::start(&tape, "fast");
    replay.say(&request(1, "tools/call", echo("hallo")));
    let answer = replay.hear();
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("Not on the tape: tools/call echo with"), "{message}");
    assert!(message.contains("the nearest there is tools/call echo (frame 5) with"), "{message}");
    assert_eq!(answer["error"]["data"]["nearest"]["params"]["arguments"]["text"], "hello");
    assert!(replay.told().contains("shadowcat replay: not on the tape: tools/call echo with"), "and to the operator");
    replay.say(&request(2, "tools/list", json!({})));
    assert!(replay.hear()["error"]["message"].as_str().unwrap().contains("the nearest there is tools/call"));
    // A client that answers otherwise gets no answer that does not fit.
    replay.say(&request(3, "tools/call", json!({ "name": "ask", "arguments": {} })));
    assert_eq!(replay.hear()["id"], 70);
    replay.say(&json!({ "jsonrpc": "2.0", "id": 70, "result": { "action": "decline" } }));
    let answer = replay.hear();
    assert_eq!(answer["id"], 3);
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("was answered otherwise than on the tape"),
        "{answer}"
    );
    for (line, code) in [("[]", -32600), ("{", -32700), (r#"{"jsonrpc":"2.0"}"#, -32600)] {
        writeln!(replay.stdin.as_mut().unwrap(), "{line}").unwrap();
        assert_eq!(replay.hear()["error"]["code"], code, "{line}");
    }
}

#[test]
fn secrets_that_are_not_on_the_tape_fit_whatever_they_are_now() {
    let directory = tempfile::tempdir().unwrap();
    let mut tape = Making::new(Transport::Stdio, None);
    let login =
        |password: &str| request(1, "tools/call", json!({ "name": "login", "arguments": { "password": password } }));
    let asked = tape.message(Side::Client, &login("[redacted]"), |frame| frame.redacted = true);
    tape.server(&json!({ "jsonrpc": "2.0", "id": 1, "result": says("in") }), Some(asked));
    let mut replay = Stdio::start(&tape.write(directory.path(), "a.tape"), "fast");
    replay.say(&login("hunter2"));
    assert_eq!(replay.hear()["result"], says("in"));
}

#[test]
fn a_tape_that_ends_before_an_answer_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut tape = Making::new(Transport::Stdio, None);
    tape.client(&request(1, "tools/call", echo("lost")));
    tape.client(&request(2, "tools/call", echo("cancelled")));
    tape.client(&notice("notifications/cancelled", json!({ "requestId": 2 })));
    let mut replay = Stdio::start(&tape.write(directory.path(), "a.tape"), "fast");
    replay.say(&request(5, "tools/call", echo("cancelled")));
    replay.say(&request(6, "tools/call", echo("lost")));
    let answer = replay.hear();
    assert_eq!(answer["id"], 6, "what was cancelled then is not answered now");
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("the tape has no answer to tools/call echo (frame 1)")
    );
}

#[test]
fn speed_is_that_of_then_or_a_multiple_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let tape = stdio().write(directory.path(), "a.tape");
    // 80 ms on the tape.
    let slow = request(1, "tools/call", json!({ "name": "slow", "arguments": {} }));
    for (speed, least) in [("realtime", 80), ("0.5x", 160), ("2x", 40)] {
        let mut replay = Stdio::start(&tape, speed);
        replay.say(&request(0, "ping", json!({}))).hear();
        let begun = Instant::now();
        replay.say(&slow).hear();
        assert!(begun.elapsed() >= Duration::from_millis(least), "{speed}: {:?}", begun.elapsed());
    }
    let refused =
        Command::new(env!("CARGO_BIN_EXE_shadowcat")).arg("replay").arg(&tape).args(["--speed", "0x"]).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(super::text(&refused.stderr).contains("expected realtime, fast, or a factor such as 2x"));
}

/// A replay over HTTP.
struct Http {
    child: Child,
    address: String,
    told: Receiver<String>,
}

impl Http {
    fn start(tape: &Path, driver: &str) -> Http {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
        command.arg("replay").arg(tape).args(["--bind", "127.0.0.1:0", "--speed", "fast", "--driver", driver]);
        let mut child = command.stdin(Stdio_::null()).stdout(Stdio_::null()).stderr(Stdio_::piped()).spawn().unwrap();
        let (tell, told) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let line: String = told.recv_timeout(PATIENCE).unwrap();
        let (_, url) = line.split_once("listening on http://").unwrap_or_else(|| panic!("{line}"));
        let address = url.split('/').next().unwrap().to_owned();
        Http { child, address, told }
    }

    /// A request that is sent; lines of its answer come as they are there.
    fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAccept: application/json, text/event-stream\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n{body}",
            self.address
        )
        .unwrap();
        BufReader::new(stream)
    }

    /// A message that is posted: status, session, body.
    fn post(&self, session: &str, message: &Value) -> (u16, String, String) {
        self.whole("POST", session, &message.to_string())
    }

    fn whole(&self, method: &str, session: &str, body: &str) -> (u16, String, String) {
        let mut text = String::new();
        self.ask(method, "/mcp", &field("Mcp-Session-Id", session), body).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let session = head.lines().find_map(|line| line.strip_prefix("Mcp-Session-Id: ")).unwrap_or_default();
        (status, session.to_owned(), body.to_owned())
    }

    fn begin(&self) -> String {
        let (status, session, body) = self.post("", &initialize(9));
        assert_eq!((status, serde_json::from_str(&body).ok()), (200, Some(initialized(9))));
        assert!(session.len() > 20, "{session}");
        assert_eq!(self.post(&session, &notice("notifications/initialized", json!({}))).0, 202);
        session
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn field(name: &str, value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{name}: {value}\r\n") }
}

/// Events as they come: id and data.
fn event(lines: &mut impl BufRead) -> (String, String) {
    let (mut id, mut data) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the stream ended");
        match line.trim_end().split_once(": ").or(line.trim_end().split_once(':')) {
            Some(("id", value)) => id = value.to_owned(),
            Some(("data", value)) => data = value.to_owned(),
            None if line == "\n" && !(id.is_empty() && data.is_empty()) => return (id, data),
            _ => {}
        }
    }
}

/// What is left of a stream that ends, without its events' other lines.
fn ids(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

fn on_both_drivers(test: impl Fn(&str)) {
    ["io_uring", "epoll"].iter().for_each(|driver| test(driver));
}

#[test]
fn a_client_over_http_gets_json_where_it_was_json_and_streams_where_it_was_streams() {
    let directory = tempfile::tempdir().unwrap();
    let tape = http().write(directory.path(), "a.tape");
    on_both_drivers(|driver| {
        let replay = Http::start(&tape, driver);
        let session = replay.begin();
        let (status, _, body) = replay.post(&session, &request(51, "tools/call", echo("json")));
        assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["id"].clone()), (200, json!(51)));
        let (status, _, body) = replay.post(&session, &request(52, "tools/call", echo("stream")));
        assert_eq!((status, ids(&body)), (200, vec!["s0", "s1", "s2"]), "{body}");
        assert!(body.contains(r#"data: {"id":52,"#), "{body}");
        // The status of then too.
        let (status, _, body) = replay.post(&session, &request(53, "tools/call", json!({ "name": "nowhere" })));
        assert_eq!(status, 400);
        assert!(body.contains(r#""id":53"#) && body.contains("-32602"), "{body}");
        // Sessions are as strict as then.
        assert_eq!(replay.post("", &request(54, "tools/call", echo("json"))).0, 400);
        assert_eq!(replay.post("made-up", &request(54, "tools/call", echo("json"))).0, 404);
        assert_eq!(replay.whole("DELETE", &session, "").0, 200);
        assert_eq!(replay.post(&session, &request(55, "tools/call", echo("json"))).0, 404);
    });
}

#[test]
fn what_a_get_streamed_comes_when_what_led_to_it_came() {
    let directory = tempfile::tempdir().unwrap();
    let tape = http().write(directory.path(), "a.tape");
    on_both_drivers(|driver| {
        let replay = Http::start(&tape, driver);
        let session = replay.begin();
        let mut stream = replay.ask("GET", "/mcp", &field("Mcp-Session-Id", &session), "");
        assert_eq!(event(&mut stream), ("g0".to_owned(), String::new()));
        replay.post(&session, &request(1, "tools/call", echo("json")));
        let (id, data) = event(&mut stream);
        assert_eq!((id.as_str(), data.contains("notifications/resources/updated")), ("g1", true));
        // Whoever lost it names the last event.
        let fields = field("Mcp-Session-Id", &session) + &field("Last-Event-ID", "g0");
        assert_eq!(event(&mut replay.ask("GET", "/mcp", &fields, "")).0, "g1");
        let fields = field("Mcp-Session-Id", &session) + &field("Last-Event-ID", "no such");
        let mut refused = String::new();
        replay.ask("GET", "/mcp", &fields, "").read_to_string(&mut refused).unwrap();
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    });
}

#[test]
fn a_stream_that_was_closed_is_resumed_by_its_last_event() {
    let directory = tempfile::tempdir().unwrap();
    let tape = http().write(directory.path(), "a.tape");
    on_both_drivers(|driver| {
        let replay = Http::start(&tape, driver);
        let session = replay.begin();
        let (_, _, body) = replay.post(&session, &request(61, "tools/call", echo("resumed")));
        assert_eq!(ids(&body), ["r0", "r1"], "{body}");
        let after = |id: &str| {
            let mut text = String::new();
            let fields = field("Mcp-Session-Id", &session) + &field("Last-Event-ID", id);
            replay.ask("GET", "/mcp", &fields, "").read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(ids(&after("r0")), ["r1"], "to where it was closed");
        let rest = after("r1");
        assert_eq!(ids(&rest), ["r2"], "{rest}");
        assert!(rest.contains(r#""id":61"#), "{rest}");
    });
}

#[test]
fn a_request_of_the_server_waits_for_the_clients_answer() {
    let directory = tempfile::tempdir().unwrap();
    let tape = http().write(directory.path(), "a.tape");
    on_both_drivers(|driver| {
        let replay = Http::start(&tape, driver);
        let session = replay.begin();
        let ask = request(5, "tools/call", json!({ "name": "ask", "arguments": {} })).to_string();
        let mut stream = replay.ask("POST", "/mcp", &field("Mcp-Session-Id", &session), &ask);
        let (id, data) = event(&mut stream);
        assert_eq!((id.as_str(), data.contains("elicitation/create")), ("a1", true));
        let answer = json!({ "jsonrpc": "2.0", "id": 70, "result": { "action": "accept" } });
        assert_eq!(replay.post(&session, &answer).0, 202);
        let (id, data) = event(&mut stream);
        assert_eq!((id.as_str(), serde_json::from_str::<Value>(&data).unwrap()["id"].clone()), ("a2", json!(5)));
        // Each session plays the tape from its beginning.
        let other = replay.begin();
        let mut stream = replay.ask("POST", "/mcp", &field("Mcp-Session-Id", &other), &ask);
        assert_eq!(event(&mut stream).0, "a1");
    });
}

#[test]
fn a_tape_of_stdio_can_be_served_over_http_and_the_other_way_round() {
    let directory = tempfile::tempdir().unwrap();
    let replay = Http::start(&stdio().write(directory.path(), "a.tape"), "epoll");
    let session = replay.begin();
    let mut stream = replay.ask("GET", "/mcp", &field("Mcp-Session-Id", &session), "");
    assert!(event(&mut stream).1.contains("notifications/tools/list_changed"));
    let slow = json!({ "name": "slow", "arguments": {}, "_meta": { "progressToken": 1 } });
    let (_, _, body) = replay.post(&session, &request(1, "tools/call", slow));
    assert_eq!((body.matches("notifications/progress").count(), body.contains(r#""id":1"#)), (3, true), "{body}");
    let mut replay = Stdio::start(&http().write(directory.path(), "b.tape"), "fast");
    replay.say(&initialize(1)).hear();
    replay.say(&request(2, "tools/call", echo("resumed")));
    assert_eq!(replay.hear()["params"]["data"], 2);
    assert_eq!(replay.hear()["id"], 2);
}

#[test]
fn what_is_not_on_the_tape_is_told_over_http_too() {
    let directory = tempfile::tempdir().unwrap();
    let replay = Http::start(&http().write(directory.path(), "a.tape"), "epoll");
    let session = replay.begin();
    let (status, _, body) = replay.post(&session, &request(7, "tools/call", echo("jsn")));
    assert_eq!(status, 200);
    assert!(body.contains("the nearest there is tools/call echo"), "{body}");
    assert!(replay.told.recv_timeout(PATIENCE).unwrap().contains("not on the tape: tools/call echo with"));
    // A page elsewhere gets nothing.
    let mut refused = String::new();
    replay.ask("POST", "/mcp", "Origin: http://elsewhere.example\r\n", "{}").read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

#[test]
fn every_cut_of_a_tape_is_read_and_none_breaks_a_replay() {
    let directory = tempfile::tempdir().unwrap();
    let whole = http().bytes;
    let path = directory.path().join("cut.tape");
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
        let mut seen = 0;
        let read = shadowcat::tape::read(&path, |entry, _| {
            seen += usize::from(entry.line.is_ok());
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!((read.is_ok(), seen), (lines > 0, lines), "cut at {length}");
        assert_eq!(shadowcat::replay::Script::read(&path).is_ok(), lines > 0, "cut at {length}");
    }
}

#[test]
fn nothing_to_replay_is_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let no_tape = directory.path().join("notes.txt");
    std::fs::write(&no_tape, "hello\n").unwrap();
    let empty = Making::new(Transport::Stdio, None).write(directory.path(), "empty.tape");
    for (path, says) in [
        (no_tape.as_path(), "not a tape"),
        (&empty, "no request on this tape"),
        (Path::new("/nowhere"), "No such file"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_shadowcat")).arg("replay").arg(path).arg("--stdio").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(super::text(&output.stderr).contains(says), "{}", super::text(&output.stderr));
    }
}
