//! Recording: what is on the tapes, what never is, and what becomes of requests when a tape cannot be written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::on_both_drivers;
use crate::store::SmallDisk;
use crate::support::mcp::*;
use crate::support::proxy::Builder;
use crate::support::wait::wait_for;
use crate::support::*;
use tape::{Tape, tapes};

#[path = "../support/tape.rs"]
mod tape;

on_both_drivers!(
    a_session_is_a_tape_of_what_both_sides_said,
    no_secret_is_ever_on_the_disk,
    events_are_recorded_as_they_come,
    requests_without_a_session_share_a_tape,
    what_the_proxy_says_itself_is_recorded_as_its_own,
    long_bodies_are_cut_and_encoded_ones_left_out,
    what_finds_no_room_is_a_gap_on_the_tape,
    a_tape_that_grows_goes_on_in_another_file_and_the_oldest_are_deleted,
    a_full_disk_stops_the_recording_and_no_request,
    a_tape_is_whole_after_kill_9,
);

struct Recorded {
    proxy: Proxy,
    directory: TempDir,
}

impl Recorded {
    fn start(builder: Builder) -> Recorded {
        let directory = tempdir().expect("a directory");
        let proxy = builder.set("record.output", &directory.path().display().to_string()).start();
        Recorded { proxy, directory }
    }

    /// Wait for a tape that is as it should be.
    fn tape(&self, what: &str, is: impl Fn(&Tape) -> bool) -> Tape {
        let tape = wait_for(what, || tapes(self.directory.path()).into_iter().find(&is));
        tape.check();
        tape
    }

    /// The bytes of all files.
    fn bytes(&self) -> Vec<u8> {
        let entries = fs::read_dir(self.directory.path()).expect("a directory");
        entries.flat_map(|entry| fs::read(entry.expect("an entry").path()).expect("a file")).collect()
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

fn has_frames(count: usize) -> impl Fn(&Tape) -> bool {
    move |tape| tape.frames().len() >= count
}

fn a_session_is_a_tape_of_what_both_sides_said(driver: Driver) {
    let replica = Replica::new("a");
    let recorded = Recorded::start(Proxy::before(driver, &[&replica.upstream]));
    let (_, session) = begin_session(&recorded.proxy);
    let body = call(7, "echo");
    assert_eq!(recorded.proxy.ask(&in_session(&session, &body)).status, 200);
    let (_, other) = begin_session(&recorded.proxy);
    assert_eq!(recorded.proxy.ask(&delete(&session)).status, 200);
    let tape = recorded.tape("the tape of the session that ended", |tape| tape.end().is_some());
    assert_eq!((tape.end(), tape.head()["transport"].as_str()), (Some("finished"), Some("http")));
    assert_eq!(tape.head()["server"]["upstream"].as_str(), Some(format!("{}/", replica.upstream.url()).as_str()));
    let hash = tape.head()["session"].as_str().expect("a hash").to_owned();
    assert_eq!(hash.len(), 16);
    let (requests, responses) = (tape.of_kind("request"), tape.of_kind("response"));
    assert_eq!((requests.len(), responses.len()), (3, 3), "{}", tape.text);
    assert_eq!((&requests[0]["rpc"]["method"], &requests[0]["rpc"]["id"]), (&"initialize".into(), &1.into()));
    assert_eq!(requests[1]["message"], serde_json::from_str::<Value>(&body).expect("JSON"));
    assert_eq!((&requests[1]["rpc"]["name"], &requests[1]["from"]), (&"echo".into(), &"client".into()));
    assert!(tape.text.contains(&format!("\"message\":{body}")), "to the byte");
    let fields = |frame: &Value| frame["http"]["headers"].as_array().expect("fields").clone();
    assert!(fields(requests[1]).contains(&serde_json::json!(["Mcp-Session-Id", format!("sha256:{hash}")])));
    assert!(fields(responses[0]).contains(&serde_json::json!(["Mcp-Session-Id", format!("sha256:{hash}")])));
    for (request, response) in requests.iter().zip(&responses) {
        assert_eq!((&response["answers"], &response["http"]["status"]), (&request["seq"], &200.into()));
        assert_eq!(response["exchange"], request["exchange"]);
        assert!(response["upstream"].is_string() && response["from"] == "server", "{response}");
    }
    // The other session has a tape of its own, and no id stands anywhere.
    recorded.tape("the other session", |tape| tape.end().is_none() && has_frames(2)(tape));
    assert_eq!(tapes(recorded.directory.path()).len(), 2);
    let bytes = recorded.bytes();
    assert!(!contains(&bytes, &session) && !contains(&bytes, &other));
    assert!(recorded.proxy.metrics().sum("shadowcat_tape_frames_total", "") >= 8.0);
}

fn no_secret_is_ever_on_the_disk(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            let inner = r#"{\"DB_PASSWORD\":\"s3cret-6\",\"PATH\":\"/bin\"}"#;
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{inner}"}}],"card":"4111-1111","who":{{"ssn":"s3cret-7"}}}}}}"#
            );
            conversation.respond_json(200, "Set-Cookie: id=s3cret-8\r\nX-Tenant: s3cret-9\r\n", &body);
        }
    });
    let builder = Proxy::before(driver, &[&upstream])
        .set("record.redact_patterns", r#"["\\d{4}-\\d{4}"]"#)
        .set("record.redact_paths", r#"["$..who"]"#)
        .set("record.redact_headers", "x-tenant")
        .set("record.redact_names", "pin");
    let recorded = Recorded::start(builder);
    let fields = "Authorization: Bearer s3cret-1\r\nCookie: a=s3cret-2\r\nX-API-Key: s3cret-3\r\n";
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"password":"s3cret-4","pin":"s3cret-5","note":"use Bearer s3cret-0s3cret-0","kept":"visible"}}}"#;
    assert_eq!(recorded.proxy.ask(&post_json("/mcp?api_key=s3cret-a&page=2", fields, body)).status, 200);
    // What is refused, and what is no JSON.
    let refused = post_json("/mcp", "Mcp-Session-Id: s3cret-b\r\nAuthorization: Bearer s3cret-c\r\n", body);
    assert_eq!(recorded.proxy.ask(&refused).status, 404);
    let form = post("/token", "Content-Type: application/x-www-form-urlencoded\r\n", b"grant=x&client_secret=s3cret-d");
    assert_eq!(recorded.proxy.ask(&form).status, 200);
    let tape = recorded.tape("all of it", |tape| tape.of_kind("response").len() == 3);
    for kept in ["visible", "page=2", "PATH", "grant=x", "[redacted]"] {
        assert!(tape.text.contains(kept), "{kept} in {}", tape.text);
    }
    let bytes = recorded.bytes();
    for secret in ["s3cret", "4111-1111"] {
        assert!(!contains(&bytes, secret), "{secret} in {}", tape.text);
    }
    assert!(tape.frames().iter().filter(|frame| frame["redacted"] == true).count() >= 5, "{}", tape.text);
    // Upstream got everything as it was.
    assert!(upstream.received_text().contains("s3cret-4") && upstream.received_text().contains("s3cret-d"));
}

fn events_are_recorded_as_they_come(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        let Some(request) = conversation.request() else { return };
        assert_eq!(request.json()["method"], "tools/call");
        conversation.begin_events("");
        conversation.send_chunk(
            b": hello\n\nid: 1\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"par",
        );
        conversation.send_chunk(b"ams\":{\"progressToken\":7,\"progress\":1}}\n\n");
        conversation.send_chunk(
            b"id: 2\nretry: 10\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"s1\",\"method\":\"sampling/createMessage\"}\n\n",
        );
        conversation.wait_for_end();
    });
    let recorded = Recorded::start(Proxy::before(driver, &[&upstream]));
    let mut client = recorded.proxy.connect();
    client.send(&modern_call(5, "slow", r#""arguments":{}"#));
    let before = recorded.tape("the events, while the stream is open", |tape| tape.of_kind("event").len() == 2);
    assert!(before.of_kind("end").is_empty(), "{}", before.text);
    drop(client);
    let tape = recorded.tape("the end", |tape| !tape.of_kind("end").is_empty());
    let events = tape.of_kind("event");
    assert_eq!((&events[0]["http"]["id"], &events[0]["http"]["event"]), (&"1".into(), &"message".into()));
    assert_eq!(events[0]["message"]["params"]["progressToken"], 7);
    assert_eq!((&events[1]["http"]["retry"], &events[1]["rpc"]["id"]), (&10.into(), &"s1".into()));
    assert_eq!(tape.of_kind("comment")[0]["text"], " hello");
    assert_eq!(tape.of_kind("end")[0]["http"]["how"], "cut: client_gone");
    let kinds: Vec<&str> = tape.frames().iter().filter_map(|frame| frame["http"]["kind"].as_str()).collect();
    assert_eq!(kinds, ["request", "response", "comment", "event", "event", "end"]);
}

fn requests_without_a_session_share_a_tape(driver: Driver) {
    let upstream = FakeUpstream::answering(r#"{"jsonrpc":"2.0","id":3,"result":{"isError":true}}"#);
    let recorded = Recorded::start(Proxy::before(driver, &[&upstream]));
    for _ in 0..3 {
        assert_eq!(recorded.proxy.ask(&modern_call(3, "t", r#""arguments":{}"#)).status, 200);
    }
    let tape = recorded.tape("three answers", |tape| tape.of_kind("response").len() == 3);
    assert_eq!((tape.head()["session"].is_null(), tapes(recorded.directory.path()).len()), (true, 1));
    let exchanges: BTreeSet<u64> = tape.frames().iter().filter_map(|frame| frame["exchange"].as_u64()).collect();
    assert_eq!(exchanges, BTreeSet::from([1, 2, 3]));
    for response in tape.of_kind("response") {
        let asked = tape.frames()[response["answers"].as_u64().expect("a number") as usize - 1];
        assert_eq!((&asked["exchange"], &response["error"]), (&response["exchange"], &true.into()));
    }
}

fn what_the_proxy_says_itself_is_recorded_as_its_own(driver: Driver) {
    let recorded = Recorded::start(Proxy::builder(driver));
    assert_eq!(recorded.proxy.ask(&post_json("/mcp", "", &call(9, "t"))).status, 503);
    assert_eq!(recorded.proxy.ask(&get("/health", "")).status, 200);
    let tape = recorded.tape("a refusal", |tape| !tape.of_kind("end").is_empty());
    let response = tape.of_kind("response")[0];
    assert_eq!((&response["from"], &response["http"]["status"]), (&"proxy".into(), &503.into()));
    assert_eq!((&response["message"]["id"], &response["error"]), (&9.into(), &true.into()));
    assert_eq!(tape.of_kind("end")[0]["http"]["how"], "refused: no_upstream");
    assert_eq!(tape.of_kind("request")[0]["rpc"]["name"], "t");
    assert!(!tape.text.contains("/health"));
}

fn long_bodies_are_cut_and_encoded_ones_left_out(driver: Driver) {
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"text":"{}"}}}}"#, "y".repeat(200_000));
    let upstream = FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            let encoded = if request.text().contains("zip") { "Content-Encoding: gzip\r\n" } else { "" };
            conversation.respond_json(200, encoded, &long);
        }
    });
    let builder = Proxy::before(driver, &[&upstream]).set("limits.peek_bytes", "4KiB");
    let recorded = Recorded::start(builder.set("record.body_bytes", "10000"));
    let asked = call(1, "t").replace("{}", &format!(r#"{{"x":"{}"}}"#, "x".repeat(100_000)));
    assert_eq!(recorded.proxy.ask(&post_json("/", "", &asked)).status, 200);
    assert_eq!(recorded.proxy.ask(&post_json("/", "", &call(2, "zip"))).status, 200);
    let tape = recorded.tape("both", |tape| {
        let is_cut = |frame: &&&Value| frame["cut"].is_u64();
        tape.frames().iter().filter(is_cut).count() == 3
    });
    // With its head or behind it, as it came; what is kept of it is its beginning.
    let of_client = |frame: &&Value| frame["from"] == "client" && frame["cut"].is_u64();
    let body = tape.frames().into_iter().find(of_client).expect("a body that is cut");
    let kept = body["text"].as_str().expect("a text");
    assert_eq!((kept.len(), body["cut"].as_u64()), (10_000, Some(asked.len() as u64 - 10_000)), "{body}");
    assert!(asked.starts_with(kept));
    let answers: Vec<&Value> = tape.frames().into_iter().filter(|frame| frame["from"] == "server").collect();
    let cut: Vec<u64> = answers.iter().filter_map(|frame| frame["cut"].as_u64()).collect();
    let whole = 200_000;
    assert!(cut.iter().any(|cut| *cut >= whole), "nothing of what is encoded: {cut:?}");
    assert!(cut.iter().any(|cut| *cut < whole), "{cut:?}");
}

fn what_finds_no_room_is_a_gap_on_the_tape(driver: Driver) {
    let upstream = FakeUpstream::answering("{}");
    let builder = Proxy::before(driver, &[&upstream]).set("record.queue_bytes", "256KiB");
    let recorded = Recorded::start(builder);
    let long = call(1, "t").replace("{}", &format!(r#"{{"x":"{}"}}"#, "x".repeat(400_000)));
    assert_eq!(recorded.proxy.ask(&post_json("/", "", &long)).status, 200);
    assert_eq!(recorded.proxy.ask(&post_json("/", "", &call(2, "t"))).status, 200);
    let tape = recorded.tape("what fits", |tape| !tape.of_kind("response").is_empty() && !tape.gaps().is_empty());
    assert_eq!(tape.of_kind("request").len(), 1, "{}", tape.text);
    let gap = tape.gaps()[0];
    assert!(gap["frames"].as_u64() >= Some(2) && gap["bytes"].as_u64() > Some(400_000), "{gap}");
    assert!(recorded.proxy.metrics().sum("shadowcat_tape_frames_lost_total", "reason=\"no_room\"") >= 1.0);
}

fn a_tape_that_grows_goes_on_in_another_file_and_the_oldest_are_deleted(driver: Driver) {
    let upstream = FakeUpstream::answering("{}");
    let builder = Proxy::before(driver, &[&upstream]).set("record.file_bytes", "64KiB");
    let recorded = Recorded::start(builder.set("record.total_bytes", "256KiB"));
    let body = call(1, "t").replace("{}", &format!(r#"{{"x":"{}"}}"#, "x".repeat(1000)));
    let mut client = recorded.proxy.connect();
    for _ in 0..600 {
        assert_eq!(client.ask(&post_json("/", "", &body)).status, 200);
    }
    wait_until("the oldest to be deleted", || recorded.proxy.metrics().sum("shadowcat_tapes_deleted_total", "") >= 3.0);
    let deleted = |tapes: &[Tape]| tapes.iter().map(|tape| tape.text.len()).sum::<usize>() <= 256 * 1024;
    let found = wait_for("what is left", || Some(tapes(recorded.directory.path())).filter(|tapes| deleted(tapes)));
    assert!(found.len() >= 2);
    let mut parts = BTreeSet::new();
    for tape in &found {
        tape.check();
        assert_eq!(tape.head()["id"], found[0].head()["id"]);
        assert!(parts.insert(tape.head()["part"].as_u64().expect("a number")));
        assert!(tape.text.len() < 80 * 1024, "{}", tape.text.len());
        assert!(tape.end().is_none_or(|why| why == "rotated"));
    }
    assert!(!parts.contains(&1), "{parts:?}");
}

fn a_full_disk_stops_the_recording_and_no_request(driver: Driver) {
    let upstream = FakeUpstream::answering("{}");
    let directory = tempdir().expect("a directory");
    let disk = SmallDisk::mounted_at(directory.path(), "128k");
    let seen = disk.sees(directory.path());
    let (enter, output) = (disk.enter(), directory.path().join("tapes"));
    let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
    let builder = Proxy::before(driver, &[&upstream]).set("record.output", &output.display().to_string());
    let proxy = builder.set("record.min_free", "none").under(&enter).start();
    fs::write(seen.join("filler"), vec![0; 60_000]).expect("a file");
    let body = call(1, "t").replace("{}", &format!(r#"{{"x":"{}"}}"#, "x".repeat(2000)));
    let mut client = proxy.connect();
    let mut ask = || assert_eq!(client.ask(&post_json("/", "", &body)).status, 200);
    wait_until("the disk to be full", || {
        ask();
        proxy.metrics().sum("shadowcat_tape_stopped", "") == 1.0
    });
    proxy.wait_for_log("stopped: No space left on device");
    let whole = || {
        let found = tapes(&seen.join("tapes"));
        assert_eq!(found.len(), 1);
        found[0].check();
        found.into_iter().next().expect("a tape")
    };
    let frames = whole().frames().len();
    assert!(frames > 4, "{frames}");
    for _ in 0..20 {
        ask();
    }
    // Room again: it goes on by itself, and the tape says what is missing.
    fs::remove_file(seen.join("filler")).expect("removed");
    wait_until("recording to go on", || {
        ask();
        proxy.metrics().sum("shadowcat_tape_stopped", "") == 0.0
    });
    proxy.wait_for_log("goes on");
    let tape = whole();
    assert!(tape.gaps().iter().any(|gap| gap["frames"].as_u64() > Some(0)) && tape.frames().len() > frames);
    assert!(proxy.metrics().sum("shadowcat_tape_frames_lost_total", "reason=\"unwritten\"") > 0.0);
}

fn a_tape_is_whole_after_kill_9(driver: Driver) {
    let upstream = FakeUpstream::answering("{}");
    let recorded = Recorded::start(Proxy::before(driver, &[&upstream]));
    let mut client = recorded.proxy.connect();
    wait_until("much on the tape", || {
        assert_eq!(client.ask(&post_json("/", "", &call(1, "t"))).status, 200);
        tapes(recorded.directory.path()).iter().any(has_frames(50))
    });
    let Recorded { proxy, directory } = recorded;
    proxy.kill();
    let found = tapes(directory.path());
    let whole = found[0].text.rfind('\n').expect("a line");
    let tape = Tape { text: found[0].text[..=whole].to_owned(), ..Tape::read(&found[0].path) };
    tape.check();
    assert!(tape.end().is_none() && tape.frames().len() >= 50);
}

#[test]
fn a_disk_without_the_room_that_must_stay_is_not_written() {
    let upstream = FakeUpstream::answering("{}");
    let recorded = Recorded::start(Proxy::before(Driver::Epoll, &[&upstream]).set("record.min_free", "1000TiB"));
    recorded.proxy.wait_for_log("the disk has less room than record.min_free");
    assert_eq!(recorded.proxy.ask(&post_json("/", "", &call(1, "t"))).status, 200);
    recorded.proxy.wait_for_metric("shadowcat_tape_frames_lost_total", "reason=\"unwritten\"", 2.0);
    assert!(tapes(recorded.directory.path()).is_empty());
}

#[test]
fn a_place_that_cannot_be_written_is_told_at_the_start() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let say =
        |output: &Path| Proxy::builder(Driver::Epoll).set("record.output", &output.display().to_string()).run_to_end();
    let (code, said) = say(file.path());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("record.output") && said.contains("needs a directory"), "{said}");
    let (code, said) = say(&file.path().join("tapes"));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("cannot be made: Not a directory"), "{said}");
}
