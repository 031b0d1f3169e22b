//! The program's own log: where its lines go, and that nobody waits for them.

use std::fs;
use std::io::{BufRead, BufReader, Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use serde_json::Value;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(a_log_that_nobody_reads_holds_up_no_request, a_full_disk_loses_lines_and_nothing_else);

#[test]
fn what_is_said_at_the_start_comes_in_whole_lines() {
    // Each write is a packet of its own, and each read takes one.
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(["reverse", "--bind", "127.0.0.1:0", "--workers", "1", "--set", "session.store=memory"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    drop(command);
    let mut packets = Vec::new();
    let mut reader = fs::File::from(reader);
    while !packets.iter().any(|packet: &String| packet.contains("listening on")) {
        let mut space = [0; 4096];
        let came = reader.read(&mut space).unwrap();
        assert_ne!(came, 0, "it ended: {packets:?}");
        packets.push(String::from_utf8(space[..came].to_vec()).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(packets.iter().all(|packet| packet.ends_with('\n')), "{packets:?}");
    assert!(packets.last().unwrap().contains("no upstream yet"), "{packets:?}");
}

/// A request that is refused, and a line about it.
fn refused(client: &mut RawClient) {
    assert_eq!(client.ask(&in_session("nobody", &request(1, "ping"))).status, 404);
}

fn a_log_that_nobody_reads_holds_up_no_request(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let (reader, writer) = pipe().unwrap();
    let builder = Proxy::before(driver, &[&upstream]).set("logging.output", "stdout").variable("RUST_LOG", "debug");
    let proxy = builder.stdout(writer).start();
    let mut client = proxy.connect();
    // Far more than a pipe and the queue in front of it hold.
    (0..6000).for_each(|_| refused(&mut client));
    let metrics = proxy.metrics();
    for log in ["events", "access"] {
        let labels = format!("log=\"{log}\",reason=\"no_room\"");
        assert!(metrics.sum("shadowcat_log_lines_lost_total", &labels) > 0.0, "{}", metrics.0);
    }
    // It ends although its last lines are never taken.
    let mut proxy = proxy;
    proxy.signal(Signal::TERM);
    assert!(proxy.wait_exit().success());
    drop(reader);
}

fn a_full_disk_loses_lines_and_nothing_else(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let builder = Proxy::before(driver, &[&upstream]).set("logging.output", "/dev/full").variable("RUST_LOG", "debug");
    let proxy = builder.start();
    let mut client = proxy.connect();
    (0..10).for_each(|_| refused(&mut client));
    wait_until("the losses to be counted", || {
        let lost = |log: &str| {
            let labels = format!("log=\"{log}\",reason=\"unwritten\"");
            proxy.metrics().sum("shadowcat_log_lines_lost_total", &labels)
        };
        lost("events") >= 10.0 && lost("access") == 10.0
    });
    assert_eq!(client.ask(&get("/", "")).status, 200);
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_rotated_file_is_opened_anew_and_nothing_is_lost() {
    let upstream = FakeUpstream::answering("");
    let directory = tempfile::tempdir().unwrap();
    let (file, rotated) = (directory.path().join("proxy.log"), directory.path().join("proxy.log.1"));
    let proxy = Proxy::before(Driver::Epoll, &[&upstream]).set("logging.output", &file.display().to_string()).start();
    let mut client = proxy.connect();
    let refusals = |path: &Path| lines(path).iter().filter(|line| line.contains("session_unknown")).count();
    refused(&mut client);
    wait_until("the first line", || refusals(&file) == 1);
    fs::rename(&file, &rotated).unwrap();
    refused(&mut client);
    // Until it is told, it goes on in the file that it has.
    wait_until("the second line", || refusals(&rotated) == 2);
    proxy.signal(Signal::HUP);
    wait_until("a new file", || file.exists());
    refused(&mut client);
    wait_until("the third line", || refusals(&file) == 1);
    assert_eq!(refusals(&rotated), 2);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

#[test]
fn what_is_said_at_the_end_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.log");
    let mut proxy = Proxy::builder(Driver::Epoll).set("logging.output", &file.display().to_string()).start();
    proxy.signal(Signal::TERM);
    assert!(proxy.wait_exit().success());
    assert!(lines(&file).last().is_some_and(|line| line.contains("draining")), "{:?}", lines(&file));
}

#[test]
fn a_line_of_json_is_an_object() {
    let upstream = FakeUpstream::answering("");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.log");
    let proxy = Proxy::before(Driver::Epoll, &[&upstream])
        .set("logging.output", &file.display().to_string())
        .set("logging.format", "json")
        .start();
    refused(&mut proxy.connect());
    wait_until("a line", || lines(&file).iter().any(|line| line.contains("session_unknown")));
    for line in lines(&file) {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}

/// Standard output is what `$JOURNAL_STREAM` names: priorities in place of times, which the journal keeps itself.
#[test]
fn the_journal_gets_priorities() {
    let upstream = FakeUpstream::answering("");
    let said = |stream: &dyn Fn(&rustix::fs::Stat) -> String, format: &str, what: &str| {
        let (reader, writer) = pipe().unwrap();
        let found = rustix::fs::fstat(writer.as_fd()).unwrap();
        let proxy = Proxy::before(Driver::Epoll, &[&upstream])
            .set("logging.output", "stdout")
            .set("logging.format", format)
            .variable("RUST_LOG", "debug")
            .variable("JOURNAL_STREAM", &stream(&found))
            .stdout(OwnedFd::from(writer))
            .start();
        refused(&mut proxy.connect());
        BufReader::new(reader).lines().map_while(Result::ok).find(|line| line.contains(what)).unwrap()
    };
    let own = |found: &rustix::fs::Stat| format!("{}:{}", found.st_dev, found.st_ino);
    let line = said(&own, "human", "refused a request");
    assert!(line.starts_with("<7>") && line[3..].trim_start().starts_with("DEBUG"), "{line}");
    let line = said(&own, "human", "access:");
    assert!(line.starts_with("<6> INFO access: client="), "{line}");
    assert!(said(&own, "json", "session_unknown").starts_with('{'));
    let other = said(&|found| format!("{}:{}", found.st_dev, found.st_ino + 1), "human", "access:");
    assert!(other.starts_with("20"), "{other}");
}

/// Also a panic is a line, and no write of its own.
#[test]
fn a_panic_is_a_line() {
    let builder = Proxy::builder(Driver::Epoll).workers(1).variable("SHADOWCAT_FAULTS", "1");
    let proxy = builder.set("logging.format", "json").start();
    proxy.connect().send(&get("/__fault/panic-connection", "")).expect_end();
    proxy.wait_for_log("asked to panic by a fault test");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("asked to panic")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["fields"]["thread"], "worker-0", "{line}");
}

#[test]
fn a_log_that_cannot_be_opened_is_a_clear_error() {
    let (code, said) = Proxy::builder(Driver::Epoll).set("logging.output", "/nowhere/proxy.log").run_to_end();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("logging.output /nowhere/proxy.log: No such file or directory"), "{said}");
}
