//! `forward http` as its user and the clients see it: an HTTP server, or a command that speaks over stdin and stdout, behind the
//! proxy, on both drivers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

#[path = "demo/client.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod client;
#[path = "support/wait.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod wait;

use client::{Answer, Client, call, modern, modern_fields, open, request, with_progress};
use wait::{PATIENCE, wait_for, wait_until};

const LATEST: &str = "2025-11-25";

/// A proxy that listens.
struct Forward {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(["forward", "http"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Forward {
    fn start(driver: &str, arguments: &[&str]) -> Forward {
        let mut command = command(&["--listen", "127.0.0.1:0", "--driver", driver]);
        let mut child = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::<Mutex<String>>::default();
        let heard = said.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut said = heard.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        let address = wait_for("the proxy to listen", || {
            let said = said.lock().unwrap();
            let (_, rest) = said.split_once("listening on http://")?;
            rest.lines().next()?.parse().ok()
        });
        Forward { child, address, said }
    }

    /// In front of the scripted server.
    fn scripted(driver: &str, arguments: &[&str], habits: &[&str]) -> Forward {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stdio-server.py");
        let server = [arguments, &["--", "python3", script], habits].concat();
        Forward::start(driver, &server)
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn wait_for_words(&self, words: &str) {
        wait_until(&format!("{words:?} on stderr"), || self.said().contains(words));
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, "--", &pid]).status().unwrap().success());
    }

    fn wait_exit(&mut self) -> ExitStatus {
        wait_for("the proxy to end", || self.child.try_wait().unwrap())
    }

    /// Guards and servers that run now.
    fn processes(&self) -> Vec<i32> {
        let guards = children(self.child.id().cast_signed());
        guards.iter().flat_map(|&guard| [vec![guard], children(guard)].concat()).collect()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Gone, or waiting to be reaped by whoever adopts processes on this machine.
fn is_gone(pid: i32) -> bool {
    stat(pid).is_none_or(|stat| stat[0] == "Z")
}

fn children(parent: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|stat| stat[1] == parent.to_string() && stat[0] != "Z")).collect()
}

fn words(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// A whole answer with these words.
fn says(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    words(&answer.json()).to_owned()
}

fn pid_of(client: &mut Client, session: &str) -> i32 {
    says(&client.post(session, &call(90, "pid", json!({})))).parse().unwrap()
}

/// Each test as `name::io_uring` and `name::epoll`.
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn io_uring() {
                super::$name("io_uring");
            }

            #[test]
            fn epoll() {
                super::$name("epoll");
            }
        })*
    };
}

on_both_drivers![
    a_session_is_a_process_of_its_own,
    requests_of_the_server_go_out_on_the_stream_of_the_call,
    what_comes_between_calls_is_for_get_and_can_be_resumed,
    a_broken_stream_goes_on_where_the_client_says,
    a_cancelled_call_is_not_answered_and_the_server_hears_of_it,
    modern_clients_share_a_process_and_do_not_notice,
    subscriptions_keep_the_ids_of_their_clients,
    a_modern_client_that_leaves_cancels,
    a_process_that_dies_answers_and_ends_its_session,
    a_drain_ends_servers_in_order,
    killing_the_proxy_leaves_nobody,
];

fn a_session_is_a_process_of_its_own(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let mut client = forward.client();
    let (one, other) = (open(&mut client, LATEST, json!({})), open(&mut client, LATEST, json!({})));
    let pids = [pid_of(&mut client, &one), pid_of(&mut client, &other)];
    assert_ne!(pids[0], pids[1]);
    let told = client.post(&one, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    assert_eq!((told.status, told.body.len()), (202, 0));
    assert_eq!(client.delete(&one).status, 200);
    assert_eq!(client.post(&one, &request(1, "ping", json!({}))).status, 404);
    assert_eq!(client.delete(&one).status, 404);
    wait_until("the server to end", || is_gone(pids[0]));
    assert_eq!(pid_of(&mut client, &other), pids[1]);
    wait_until("the guard of that server to end", || forward.processes().len() == 2);
}

fn requests_of_the_server_go_out_on_the_stream_of_the_call(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut client, mut answering) = (forward.client(), forward.client());
    let session = open(&mut client, LATEST, json!({}));
    let head = client.post(&session, &call(7, "ask", json!({})));
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(client.event().unwrap().data, "", "a place to resume from");
    let asked = client.event().unwrap().json();
    assert_eq!((&asked["id"], &asked["method"]), (&json!("ask-7"), &json!("elicitation/create")));
    let said = json!({"jsonrpc": "2.0", "id": "ask-7", "result": {"action": "accept", "content": {"name": "Ada"}}});
    assert_eq!(answering.post(&session, &said).status, 202);
    let events = client.events();
    assert_eq!(events.len(), 1);
    assert_eq!(words(&events[0].json()), r#"{"action": "accept", "content": {"name": "Ada"}}"#);
}

fn what_comes_between_calls_is_for_get_and_can_be_resumed(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut client, mut listening) = (forward.client(), forward.client());
    let session = open(&mut client, LATEST, json!({}));
    assert_eq!(listening.get("/mcp", &session).status, 200);
    assert_eq!(listening.event().unwrap().data, "");
    assert_eq!(says(&client.post(&session, &call(1, "later", json!({"count": 3})))), "told");
    let heard: Vec<_> = (0..3).map(|_| listening.event().unwrap()).collect();
    assert_eq!(heard[2].json()["params"]["data"], 2);
    // The first one is all that this client remembers.
    let resumed = format!("{session}Last-Event-ID: {}\r\n", heard[0].id.as_deref().unwrap());
    let mut again = forward.client();
    assert_eq!(again.get("/mcp", &resumed).status, 200);
    assert_eq!(again.event().unwrap().data, "");
    for number in [1, 2] {
        assert_eq!(again.event().unwrap().json()["params"]["data"], number);
    }
    assert_eq!(client.get("/mcp", &format!("{session}Last-Event-ID: nonsense\r\n")).status, 400);
}

fn a_broken_stream_goes_on_where_the_client_says(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut client, mut other) = (forward.client(), forward.client());
    let session = open(&mut client, LATEST, json!({}));
    let asking = with_progress(call(3, "ask", json!({})), "t");
    assert_eq!(client.post(&session, &asking).status, 200);
    assert_eq!(client.event().unwrap().data, "");
    let asked = client.event().unwrap();
    drop(client);
    let said = json!({"jsonrpc": "2.0", "id": "ask-3", "result": {"action": "decline"}});
    assert_eq!(other.post(&session, &said).status, 202);
    let resumed = format!("{session}Last-Event-ID: {}\r\n", asked.id.as_deref().unwrap());
    assert_eq!(other.get("/mcp", &resumed).status, 200);
    let rest = other.events();
    assert_eq!(words(&rest.last().unwrap().json()), r#"{"action": "decline"}"#);
}

fn a_cancelled_call_is_not_answered_and_the_server_hears_of_it(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut client, mut cancelling) = (forward.client(), forward.client());
    let session = open(&mut client, LATEST, json!({}));
    let hanging = with_progress(call(5, "progress", json!({"steps": 1, "hang": true})), "t");
    assert_eq!(client.post(&session, &hanging).status, 200);
    assert_eq!(client.event().unwrap().data, "");
    assert_eq!(client.event().unwrap().json()["params"]["progressToken"], "t");
    // Twice the same id is no way to take the answer.
    let twice = cancelling.post(&session, &call(5, "pid", json!({})));
    assert_eq!((twice.status, &twice.json()["error"]["code"]), (400, &json!(-32600)));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}});
    assert_eq!(cancelling.post(&session, &cancel).status, 202);
    assert_eq!(client.events(), []);
    assert_eq!(says(&cancelling.post(&session, &call(6, "cancelled", json!({})))), "[5]");
}

fn modern_clients_share_a_process_and_do_not_notice(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut one, mut other) = (forward.client(), forward.client());
    let pids: Vec<String> =
        [&mut one, &mut other].map(|client| says(&modern(client, call(1, "pid", json!({}))))).to_vec();
    assert_eq!(pids[0], pids[1]);
    // The same id and token in both, at the same time; a string in the place of a number.
    let hanging = |id: &str| {
        let mut hanging = with_progress(call(0, "progress", json!({"steps": 1, "hang": true})), "token");
        hanging["id"] = id.into();
        hanging
    };
    for client in [&mut one, &mut other] {
        assert_eq!(modern(client, hanging("same")).status, 200);
        assert_eq!(client.event().unwrap().json()["params"]["progressToken"], "token");
    }
    let mut third = forward.client();
    let whole = modern(&mut third, with_progress(call(2, "progress", json!({"steps": 2})), "other"));
    assert_eq!(whole.status, 200);
    let told: Vec<Value> = third.events().iter().map(client::Event::json).collect();
    assert_eq!(told.len(), 3);
    assert!(told[..2].iter().all(|told| told["params"]["progressToken"] == "other"));
    assert_eq!((&told[2]["id"], words(&told[2])), (&json!(2), "done"));
    // Whose log message this is cannot be known while several could be meant, and then nobody gets it.
    let mut logging = call(4, "log", json!({"text": "for me"}));
    logging["params"]["_meta"] = json!({"io.modelcontextprotocol/logLevel": "info"});
    assert_eq!(modern(&mut third, logging).status, 200);
    assert_eq!(third.events()[0].json()["params"]["data"], "for me");
    assert_eq!(says(&modern(&mut third, call(4, "log", json!({"text": "for whom?"})))), "logged");
    forward.wait_for_words("for whom?");
    // What HTTP says of errors.
    assert_eq!(modern(&mut third, request(9, "no/such", json!({}))).status, 404);
    let mut old = call(9, "pid", json!({}));
    let fields = modern_fields(&mut old).replace(client::MODERN, "2099-01-01");
    old["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    let refused = third.post(&fields, &old);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!(-32022)));
    assert_eq!(refused.json()["error"]["data"]["supported"], json!([client::MODERN]));
}

fn subscriptions_keep_the_ids_of_their_clients(driver: &str) {
    const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
    let forward = Forward::scripted(driver, &[], &[]);
    let mut listening = [forward.client(), forward.client()];
    for client in &mut listening {
        let mut listen = request(0, "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
        listen["id"] = "mine".into();
        assert_eq!(modern(client, listen).status, 200);
        let told = client.event().unwrap().json();
        assert_eq!(told["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(told["params"]["_meta"][SUBSCRIPTION], "mine");
    }
    let mut client = forward.client();
    assert_eq!(says(&modern(&mut client, call(1, "touch", json!({})))), "2");
    for client in &mut listening {
        let told = client.event().unwrap().json();
        assert_eq!((&told["params"]["uri"], &told["params"]["_meta"][SUBSCRIPTION]), (&json!("a://b"), &json!("mine")));
    }
    let [left, _stays] = listening;
    drop(left);
    wait_until("the subscription to end", || says(&modern(&mut client, call(1, "touch", json!({})))) == "1");
}

fn a_modern_client_that_leaves_cancels(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut leaving, mut client) = (forward.client(), forward.client());
    assert_eq!(says(&modern(&mut client, call(1, "cancelled", json!({})))), "[]");
    let hanging = with_progress(call(2, "progress", json!({"steps": 1, "hang": true})), "t");
    assert_eq!(modern(&mut leaving, hanging).status, 200);
    assert!(leaving.event().is_some());
    drop(leaving);
    wait_until("the server to hear of it", || says(&modern(&mut client, call(3, "cancelled", json!({})))) != "[]");
    // Also where it got nothing yet.
    let mut leaving = forward.client();
    let mut silent = call(4, "hang", json!({}));
    let fields = modern_fields(&mut silent);
    leaving.send(client::post("/mcp", &fields, &silent.to_string()));
    let arrived = |client: &mut Client| says(&modern(client, call(5, "lines", json!({})))).contains("\"hang\"");
    wait_until("the call to arrive", || arrived(&mut client));
    drop(leaving);
    let count = |client: &mut Client| {
        let list = says(&modern(client, call(6, "cancelled", json!({}))));
        serde_json::from_str::<Vec<u64>>(&list).unwrap().len()
    };
    wait_until("the server to hear of both", || count(&mut client) == 2);
}

fn a_process_that_dies_answers_and_ends_its_session(driver: &str) {
    let forward = Forward::scripted(driver, &[], &[]);
    let (mut client, mut waiting) = (forward.client(), forward.client());
    let session = open(&mut client, LATEST, json!({}));
    assert_eq!(waiting.get("/mcp", &session).status, 200);
    let died = client.post(&session, &call(8, "die", json!({}))).json();
    assert_eq!((&died["id"], &died["error"]["code"]), (&json!(8), &json!(-32603)));
    assert_eq!(died["error"]["message"], "the server ended with exit code 3");
    assert_eq!(waiting.events().len(), 1, "the stream ends behind its first event");
    assert_eq!(client.post(&session, &request(9, "ping", json!({}))).status, 404);
    // The one of all clients is started anew.
    let first = says(&modern(&mut client, call(1, "pid", json!({}))));
    let died = modern(&mut client, call(2, "die", json!({}))).json();
    assert_eq!((&died["id"], &died["error"]["message"]), (&json!(2), &json!("the server ended with exit code 3")));
    let resting = modern(&mut client, call(3, "pid", json!({})));
    assert_eq!((resting.status, resting.field("retry-after")), (503, Some("1")), "{resting:?}");
    let second = wait_for("the server to be started anew", || {
        let answer = modern(&mut client, call(3, "pid", json!({})));
        (answer.status == 200).then(|| says(&answer))
    });
    assert_ne!(first, second);
}

fn a_drain_ends_servers_in_order(driver: &str) {
    let mut forward = Forward::scripted(driver, &["--grace", "200ms"], &["stubborn"]);
    let mut client = forward.client();
    let (_one, _other) = (open(&mut client, LATEST, json!({})), open(&mut client, LATEST, json!({})));
    says(&modern(&mut client, call(1, "pid", json!({}))));
    let processes = forward.processes();
    assert_eq!(processes.len(), 6);
    drop(client);
    forward.signal("TERM");
    assert_eq!(forward.wait_exit().code(), Some(0), "{}", forward.said());
    assert!(processes.iter().all(|&pid| is_gone(pid)), "{processes:?}");
    assert_eq!(forward.said().matches("] got SIGTERM").count(), 3, "{}", forward.said());
}

#[test]
fn a_second_signal_waits_for_no_server() {
    let mut forward = Forward::scripted("epoll", &["--grace", "10m"], &["stubborn"]);
    let mut client = forward.client();
    let _session = open(&mut client, LATEST, json!({}));
    let processes = forward.processes();
    drop(client);
    forward.signal("TERM");
    let refuses = || std::net::TcpStream::connect(forward.address).is_err();
    wait_until("the drain to be over", refuses);
    wait_until("the proxy to end", || {
        forward.signal("TERM");
        forward.child.try_wait().unwrap().is_some()
    });
    wait_until("everybody to be gone", || processes.iter().all(|&pid| is_gone(pid)));
}

fn killing_the_proxy_leaves_nobody(driver: &str) {
    let mut forward = Forward::scripted(driver, &["--grace", "10m"], &["stubborn"]);
    let mut client = forward.client();
    let _session = open(&mut client, LATEST, json!({}));
    says(&modern(&mut client, call(1, "pid", json!({}))));
    let processes = forward.processes();
    assert_eq!(processes.len(), 4);
    forward.signal("KILL");
    forward.wait_exit();
    wait_until("everybody to be gone", || processes.iter().all(|&pid| is_gone(pid)));
}

#[test]
fn a_session_has_its_own_early_words_and_batches() {
    let forward = Forward::scripted("epoll", &[], &[]);
    let mut client = forward.client();
    // A server may speak before it has answered.
    let params = json!({"protocolVersion": LATEST, "capabilities": {"early": true}, "clientInfo": {"name": "t", "version": "1"}});
    let head = client.post("", &request(0, "initialize", params));
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert!(head.field("mcp-session-id").is_some());
    let events = client.events();
    assert_eq!(events[1].json()["params"]["data"], "early");
    assert_eq!(events[2].json()["result"]["protocolVersion"], LATEST);

    let session = open(&mut client, "2025-03-26", json!({}));
    let batch = json!([call(1, "echo", json!({"text": "a"})), call(2, "echo", json!({"text": "b"}))]);
    assert_eq!(client.post(&session, &batch).status, 200);
    let texts: Vec<String> = client.events().iter().map(|event| words(&event.json()).to_owned()).collect();
    assert_eq!(texts, ["a", "b"]);
    let told = json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]);
    assert_eq!(client.post(&session, &told).status, 202);
    let session = open(&mut client, LATEST, json!({}));
    assert_eq!(client.post(&session, &batch).status, 400);
}

#[test]
fn a_message_is_one_line_whatever_its_form_was() {
    let forward = Forward::scripted("epoll", &[], &[]);
    let mut client = forward.client();
    let session = open(&mut client, LATEST, json!({}));
    let text = "a \"quoted\"\r\nline, ünïcode, \u{2028}";
    let pretty = serde_json::to_string_pretty(&call(1, "echo", json!({"text": text}))).unwrap().replace('\n', "\r\n");
    client.send(client::post("/mcp", &session, &pretty));
    assert_eq!(says(&client.answer()), text);
    let lines = says(&client.post(&session, &call(2, "lines", json!({}))));
    assert_eq!(lines.lines().count(), 3, "{lines}");
    // As long as a message may be, and longer.
    let long = says(&client.post(&session, &call(3, "long", json!({"bytes": 3_000_000}))));
    assert_eq!(long.len(), 3_000_000);
    assert_eq!(says(&client.post(&session, &call(4, "noise", json!({})))), "made");
    forward.wait_for_words("is no message, and is left out");
    let refused = client.post(&session, &call(5, "long", json!({"bytes": 17 << 20}))).json();
    assert_eq!(refused["error"]["message"], "the server sent a message of more than 16 MiB");
    assert_eq!(client.post(&session, &request(6, "ping", json!({}))).status, 404);
}

#[test]
fn servers_are_limited_and_a_refused_client_is_told_what_to_do() {
    let forward = Forward::scripted("epoll", &["--max-servers", "1"], &[]);
    let mut client = forward.client();
    let session = open(&mut client, LATEST, json!({}));
    let params = json!({"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let refused = client.post("", &request(4, "initialize", params));
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    let error = refused.json();
    assert_eq!(error["id"], 4);
    assert!(error["error"]["message"].as_str().unwrap().starts_with("all 1 servers are in use: end a session"));
    assert_eq!(modern(&mut client, call(1, "pid", json!({}))).status, 503);
    assert_eq!(client.delete(&session).status, 200);
    wait_until("the place to come free", || modern(&mut client, call(1, "pid", json!({}))).status == 200);
}

#[test]
fn a_session_that_nobody_uses_ends() {
    let forward = Forward::scripted("epoll", &["--set", "session.timeout=1s"], &[]);
    let (mut client, mut listening) = (forward.client(), forward.client());
    let (idle, listened) = (open(&mut client, LATEST, json!({})), open(&mut client, LATEST, json!({})));
    let (gone, stays) = (pid_of(&mut client, &idle), pid_of(&mut client, &listened));
    assert_eq!(listening.get("/mcp", &listened).status, 200);
    wait_until("the server to end", || is_gone(gone));
    assert!(!is_gone(stays));
    assert_eq!(client.post(&idle, &request(1, "ping", json!({}))).status, 404);
}

/// Clients of both eras ask in the modern one first, and take an error for the advice to begin in the other.
#[test]
fn a_server_of_the_legacy_era_sends_clients_there() {
    let forward = Forward::scripted("epoll", &[], &["legacy"]);
    let mut client = forward.client();
    for _ in 0..3 {
        let answer = modern(&mut client, request(1, "server/discover", json!({})));
        assert!(answer.status < 500 && answer.json()["error"]["code"].is_i64(), "{answer:?}");
    }
    let session = open(&mut client, LATEST, json!({}));
    assert_eq!(says(&client.post(&session, &call(2, "echo", json!({"text": "here"})))), "here");
}

#[test]
fn a_server_that_does_not_answer_at_all_sends_clients_there_as_well() {
    let forward = Forward::scripted("epoll", &[], &["silent"]);
    let mut client = forward.client();
    let answer = modern(&mut client, request(1, "server/discover", json!({})));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(-32601)));
    let session = open(&mut client, LATEST, json!({}));
    assert_eq!(says(&client.post(&session, &call(2, "echo", json!({"text": "here"})))), "here");
}

#[test]
fn what_servers_say_on_stderr_is_passed_on_with_their_names() {
    let forward = Forward::scripted("epoll", &[], &[]);
    let mut client = forward.client();
    for number in 1..=2 {
        let session = open(&mut client, LATEST, json!({}));
        client.post(&session, &call(1, "stderr", json!({"text": format!("words {number}")})));
        forward.wait_for_words(&format!("[server {number}] words {number}\n"));
    }
}

#[test]
fn nobody_goes_round_the_proxy() {
    let forward = Forward::scripted("epoll", &[], &[]);
    let behind = listeners(forward.child.id()).into_iter().find(|address| *address != forward.address);
    let mut client = Client::new(behind.expect("the bridge listens"));
    let params = json!({"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    for fields in ["", "X-Shadowcat-Bridge: guessed\r\n"] {
        let refused = client.post(fields, &request(0, "initialize", params.clone()));
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    assert_eq!(forward.processes(), [0; 0]);
    // And what a client says in that field is not passed on.
    let mut client = forward.client();
    assert_eq!(client.post("X-Shadowcat-Bridge: guessed\r\n", &request(0, "initialize", params)).status, 200);
    for (host, status) in [("evil.example.com", 403), ("localhost", 404)] {
        client.send(format!("GET /other HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n"));
        assert_eq!(client.answer().status, status, "{host}");
        client = forward.client();
    }
}

/// Loopback addresses that a process listens on.
fn listeners(pid: u32) -> Vec<SocketAddr> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
    let sockets: Vec<String> = entries
        .filter_map(|entry| {
            fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = columns[1].split_once(':')?;
        let is_ours = columns[3] == "0A" && sockets.iter().any(|socket| socket == columns[9]);
        is_ours.then(|| ([127, 0, 0, 1], u16::from_str_radix(port, 16).unwrap()).into())
    });
    listening.collect()
}

#[test]
fn an_http_server_is_reached_at_its_own_path() {
    let demo = shadowcat::demo::spawn(([127, 0, 0, 1], 0).into(), 1).unwrap().address;
    for driver in ["io_uring", "epoll"] {
        let forward = Forward::start(driver, &["--target", &format!("http://{demo}/mcp")]);
        let mut client = forward.client();
        let session = open(&mut client, LATEST, json!({}));
        assert_eq!(says(&client.post(&session, &call(1, "echo", json!({"text": "x"})))), "x");
        // `/` is the path of the target.
        let ping = client::post("/", &session, &request(2, "ping", json!({})).to_string());
        client.send(ping);
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn wrong_usage_and_what_cannot_be_started_is_told_at_once() {
    let told = |arguments: &[&str]| {
        let done = command(arguments).stderr(Stdio::piped()).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    for arguments in [
        &["--target", "http://127.0.0.1:1", "--", "cat"][..],
        &[],
        &["--listen", "8080", "--", "cat"],
        &["--max-servers", "0", "--", "cat"],
    ] {
        assert_eq!(told(arguments).0, Some(2), "{arguments:?}");
    }
    let (code, said) = told(&["--", "shadowcat-no-such-program"]);
    assert_eq!(code, Some(127));
    let why = "no such program in PATH; install it, or give the path to it";
    assert_eq!(said, format!("shadowcat: cannot start shadowcat-no-such-program: {why}\n"));
    let (code, said) = told(&["--set", "session.timeout=soon", "--", "cat"]);
    assert!(code == Some(78) && said.contains("session.timeout"), "{code:?} {said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = told(&["--listen", &address, "--", "cat"]);
    assert!(code == Some(69) && said.contains("in use"), "{code:?} {said}");
}
