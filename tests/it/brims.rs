//! Reads that fill their buffer to the last byte: what is ready then is not known by the length of the read.

use std::time::{Duration, Instant};

use crate::on_both_drivers;
use crate::support::mcp::modern_call;
use crate::support::*;

on_both_drivers!(
    a_head_to_the_brim_stops_nobody,
    a_body_to_the_brim_stops_nobody,
    a_client_that_is_silent_after_a_brim_is_left,
    a_head_that_ends_at_the_brim_has_its_time,
);

/// What a connection is read into at first, bytes.
const BRIM: usize = 16 * 1024;

fn padded(path: &str, end: &str) -> Vec<u8> {
    let start = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Pad: ");
    let padding = "p".repeat(BRIM - start.len() - end.len());
    (start + &padding + end).into_bytes()
}

/// Tells of a request, and answers it unless its path begins with `/slow`.
fn unless_slow() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            conversation.tell("asked");
            if request.head.target().starts_with("/slow") {
                conversation.wait_for_end();
                return;
            }
            conversation.respond(200, "", "quick");
        }
    })
}

/// Longer than the proxy waits before it looks whether a client left.
fn others_are_served(proxy: &Proxy) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(100) {
        assert_eq!(proxy.ask(&get("/quick", "")).status, 200);
    }
}

fn a_head_to_the_brim_stops_nobody(driver: Driver) {
    let upstream = unless_slow();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    client.send(&padded("/slow", "\r\n\r\n"));
    upstream.expect_event("asked");
    others_are_served(&proxy);
}

fn a_body_to_the_brim_stops_nobody(driver: Driver) {
    let upstream = unless_slow();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    // Room for a body that comes behind its head is made by its announced length.
    let asking = modern_call(1, "deploy", &format!(r#""arguments":{{"to":"{}"}}"#, "x".repeat(3000)));
    let asking = String::from_utf8(asking).unwrap().replacen("POST /mcp", "POST /slow", 1);
    let (head, body) = asking.split_once("\r\n\r\n").unwrap();
    client.send(format!("{head}\r\n\r\n").as_bytes());
    client.expect_quiet();
    client.send(body.as_bytes());
    upstream.expect_event("asked");
    others_are_served(&proxy);
}

fn a_client_that_is_silent_after_a_brim_is_left(driver: Driver) {
    let upstream = unless_slow();
    let proxy = Proxy::before(driver, &[&upstream]).set("performance.keep_alive_timeout", "500ms").start();
    let mut client = proxy.connect();
    assert_eq!(client.ask(&padded("/quick", "\r\n\r\n")).status, 200);
    assert_eq!(client.expect_end(), Ending::Orderly);
}

fn a_head_that_ends_at_the_brim_has_its_time(driver: Driver) {
    let upstream = unless_slow();
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.header", "500ms").start();
    let mut client = proxy.connect();
    client.send(&padded("/quick", ""));
    assert_eq!(client.response().status, 408);
    client.expect_end();
}
