//! `record` in front of `forward stdio`: the conversation is as without it, and on a tape.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

#[path = "support/tape.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod tape;
#[path = "support/wait.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod wait;

use serde_json::Value;
use tape::{Tape, tapes};
use wait::{wait_for, wait_until};

fn record(directory: &Path, arguments: &[&str], server: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHADOWCAT_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).arg("record").args(arguments).args(["--", "forward", "stdio", "--"]).args(server);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().expect("it starts");
    let (mut stdin, input) = (child.stdin.take().expect("stdin"), input.to_vec());
    let writing = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("a thread").expect("all is taken");
    output
}

/// What a side said, put together from its frames.
fn said(tape: &Tape, from: &str, stream: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in tape.frames().into_iter().filter(|frame| frame["from"] == from && frame["stream"].as_str() == stream) {
        match (frame.get("message"), frame["text"].as_str(), frame["base64"].as_str()) {
            (Some(_), ..) => {
                // As it stands in the line, which a parser would not keep.
                let line = tape.text.lines().find(|line| line.starts_with(&format!("{{\"seq\":{},", frame["seq"])));
                let (_, message) = line.expect("the line").split_once("\"message\":").expect("a message");
                bytes.extend_from_slice(&message.as_bytes()[..message.len() - 1]);
                bytes.push(b'\n');
            }
            (_, Some(text), _) => bytes.extend_from_slice(text.as_bytes()),
            (.., Some(text)) => bytes.extend(shadowcat::wire::tape::decode_base64(text).expect("base64")),
            _ => panic!("{frame}"),
        }
    }
    bytes
}

#[test]
fn the_tape_gives_back_every_byte_and_the_conversation_is_as_without_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut input = Vec::new();
    for n in 0..2000 {
        input.extend_from_slice(format!("{{\"jsonrpc\":\"2.0\", \"id\":{n},\"method\":\"ping\"}}\n").as_bytes());
    }
    input.extend_from_slice(b"plain\r\n\n[1,\n\xff\xfe\x00\n{\"no\":\"end\"}");
    let script = "printf 'begun\\n' >&2; cat; printf 'done' >&2; exit 7";
    let output = run(record(directory.path(), &["--output", "debug.tape"], &["sh", "-c", script]), &input);
    assert_eq!((output.status.code(), output.stdout == input), (Some(7), true));
    assert_eq!(output.stderr, b"begun\ndone");
    let tape = Tape::read(&directory.path().join("debug.tape"));
    tape.check();
    assert_eq!((tape.end(), tape.head()["transport"].as_str()), (Some("finished"), Some("stdio")));
    assert_eq!(tape.head()["server"]["command"], serde_json::json!(["sh", "-c", script]));
    assert_eq!(said(&tape, "client", None), input);
    assert_eq!(said(&tape, "server", None), input);
    assert_eq!(said(&tape, "server", Some("stderr")), b"begun\ndone");
    assert_eq!(tape.gaps().len(), 0);
}

#[test]
fn answers_name_the_requests_that_they_are_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = r#"read a; read b
        echo '{"jsonrpc":"2.0","id":"s","method":"sampling/createMessage","params":{}}'; read c
        echo '{"jsonrpc":"2.0","id":2,"result":{"isError":true,"content":[]}}'
        echo '{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}'"#;
    let input = concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a?token=abcd"}}"#,
        "\n",
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo"}}"#,
        "\n",
        r#"{"jsonrpc":"2.0","id":"s","result":{}}"#,
        "\n"
    );
    let mut running =
        Running(record(directory.path(), &["--output", "t.tape"], &["sh", "-c", server]).spawn().expect("it starts"));
    let mut stdin = running.0.stdin.take().expect("stdin");
    let mut lines = BufReader::new(running.0.stdout.take().expect("stdout")).lines();
    let (asking, answering) = input.split_at(input.find("{\"jsonrpc\":\"2.0\",\"id\":\"s\"").expect("the answer"));
    stdin.write_all(asking.as_bytes()).expect("written");
    assert!(lines.next().is_some_and(|line| line.expect("a line").contains("sampling")));
    stdin.write_all(answering.as_bytes()).expect("written");
    assert_eq!(lines.count(), 2);
    running.0.wait().expect("ended");
    let tape = Tape::read(&directory.path().join("t.tape"));
    tape.check();
    let find = |is: &dyn Fn(&Value) -> bool| -> Value {
        tape.frames().into_iter().find(|frame| is(frame)).unwrap_or_else(|| panic!("{}", tape.text)).clone()
    };
    let asked = |method: &str| find(&|frame| frame["rpc"]["method"] == method);
    let answer = |from: &str, id: Value| {
        find(&|frame| frame["from"] == from && frame.get("rpc").is_none() && frame["message"]["id"] == id)
    };
    assert_eq!(asked("resources/read")["rpc"]["name"], "file:///a?token=[redacted]");
    for (method, from, id, error) in [
        ("resources/read", "server", Value::from(1), true),
        ("tools/call", "server", Value::from(2), true),
        ("sampling/createMessage", "client", Value::from("s"), false),
    ] {
        let answer = answer(from, id);
        assert_eq!((&answer["answers"], answer["error"] == true), (&asked(method)["seq"], error), "{method}");
    }
}

#[test]
fn secrets_are_not_on_the_disk_and_pass_unchanged() {
    let directory = tempfile::tempdir().expect("a directory");
    let input =
        b"{\"params\":{\"password\":\"s3cret-1\",\"pin\":\"s3cret-2\"}}\nAPI_TOKEN=s3cret-3\n\xff token=s3cret-4\n";
    let arguments = ["--output", "tapes/", "--set", "record.redact_paths=[\"$..pin\"]"];
    let script = "cat; echo 'Authorization: Bearer s3cret-5' >&2";
    let server = ["env", "MY_SECRET=s3cret-6", "sh", "-c", script, "--api-key", "s3cret-7"];
    let output = run(record(directory.path(), &arguments, &server), input);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &input[..]));
    let found = tapes(&directory.path().join("tapes"));
    assert_eq!(found.len(), 1);
    found[0].check();
    assert!(!found[0].text.contains("s3cret"), "{}", found[0].text);
    assert!(found[0].path.to_string_lossy().ends_with("Z-env.tape"));
    assert_eq!(found[0].head()["server"]["command"][1], "MY_SECRET=[redacted]");
    assert!(found[0].frames().iter().any(|frame| frame["cut"].as_u64() == Some(17)), "{}", found[0].text);
}

#[test]
fn a_tape_that_is_there_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--output", "a.tape"];
    run(record(directory.path(), &arguments, &["cat"]), b"first\n");
    let again = run(record(directory.path(), &arguments, &["cat"]), b"second\n");
    assert_eq!(String::from_utf8_lossy(&again.stderr), "shadowcat: recording to ./a-2.tape\n");
    for (name, text) in [("a.tape", "first\n"), ("a-2.tape", "second\n")] {
        let tape = Tape::read(&directory.path().join(name));
        tape.check();
        assert_eq!(said(&tape, "server", None), text.as_bytes());
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tape_is_whole_while_it_is_written_and_after_kill_9() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.tape");
    let child = record(directory.path(), &["--output", "a.tape"], &["cat"]).spawn().expect("it starts");
    let mut running = Running(child);
    // There from the start.
    wait_until("a head", || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let (mut stdin, mut stdout) = (running.0.stdin.take().expect("stdin"), running.0.stdout.take().expect("stdout"));
    let mut answer = [0; 5];
    for _ in 0..100 {
        stdin.write_all(b"ping\n").expect("written");
        stdout.read_exact(&mut answer).expect("read");
    }
    wait_for("all on the tape", || {
        let tape = Tape::read(&path);
        tape.check();
        (tape.frames().len() == 200 && tape.lines.last()?.get("checkpoint").is_some()).then_some(())
    });
    running.0.kill().expect("killed");
    running.0.wait().expect("ended");
    let tape = Tape::read(&path);
    tape.check();
    assert_eq!((tape.frames().len(), tape.end()), (200, None));
}

#[test]
fn what_cannot_be_recorded_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
        let output = command.current_dir(directory.path()).arg("record").args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, code, expected) in [
        (&["--output", "x", "--", "config", "default"][..], 2, "forward, reverse, gateway"),
        (&["--output", "x"], 2, "required"),
        (&["--output", "x", "--", "forward", "stdio"], 2, "required"),
        (&["--", "forward", "stdio", "--", "cat"], 78, "say where the tapes go (record --output)"),
        (
            &["--output", "no/x.tape", "--", "forward", "stdio", "--", "cat"],
            78,
            "no/x.tape: no tape can be written there",
        ),
        (&["--output", "x", "--config", "y", "--", "reverse"], 2, "give --config to the command"),
        (
            &["--output", "x", "--set", "record.redact_patterns=(", "--", "forward", "stdio", "--", "cat"],
            78,
            "unclosed group",
        ),
    ] {
        let (found, said) = run(arguments);
        assert!(found == Some(code) && said.contains(expected), "{arguments:?}: {found:?}: {said}");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
}

#[test]
fn forward_http_is_recorded_like_any_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let answering = r#"s/.*"id":\([^,}]*\).*/{"jsonrpc":"2.0","id":\1,"result":{"tools":[]}}/p"#;
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.current_dir(directory.path()).args(["record", "--output", "tapes", "--", "forward", "http"]);
    command.args(["--listen", "127.0.0.1:0", "--", "sed", "-un", answering]).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("it starts"));
    let mut lines = BufReader::new(running.0.stderr.take().expect("stderr")).lines().map_while(Result::ok);
    let address =
        lines.find_map(|line| Some(line.split_once("listening on http://")?.1.to_owned())).expect("an address");
    let said = thread::spawn(move || lines.count());
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let mut client = std::net::TcpStream::connect(&address).expect("a connection");
    let fields = "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n\
        MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\nConnection: close\r\n";
    let head = format!("POST /mcp HTTP/1.1\r\nHost: {address}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    client.write_all((head + body).as_bytes()).expect("written");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(r#""tools":[]"#), "{answer}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&running.0), rustix::process::Signal::TERM)
        .expect("a signal");
    running.0.wait().expect("ended");
    said.join().expect("a thread");
    let found = tapes(&directory.path().join("tapes"));
    assert_eq!(found.len(), 1);
    found[0].check();
    let asked =
        found[0].frames().into_iter().find(|frame| frame["rpc"]["method"] == "tools/list").expect("the request");
    assert!(found[0].frames().iter().any(|frame| frame["answers"] == asked["seq"] && frame["from"] == "server"));
    assert_eq!(found[0].end(), Some("finished"));
}
