//! How much one may ask: exact over all workers, refused with what a client needs to know.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{Quota, RateLimiter};

use crate::on_both_drivers;
use crate::support::client::Response;
use crate::support::mcp::{Replica, begin_session, call, in_session, modern_call, request};
use crate::support::proxy::Builder;
use crate::support::*;

on_both_drivers!(
    one_client_on_one_of_four_workers_has_the_whole_limit,
    grants_what_governor_grants_to_one_client_on_one_of_four_workers,
    clients_on_all_workers_share_one_limit,
    made_up_addresses_take_nothing_from_anybody,
    metrics_name_those_who_come_back,
    says_what_a_client_needs_to_know,
    counts_the_forwarded_address_behind_trusted_proxies_only,
    counts_by_session,
    counts_by_tool,
    no_tool_slips_by_uncounted,
    a_refused_request_is_counted_by_no_limit,
    probes_are_not_counted,
    both_spellings_hold,
);

fn granted(answers: impl Iterator<Item = Response>) -> usize {
    answers.filter(|answer| answer.status == 200).count()
}

fn one_client_on_one_of_four_workers_has_the_whole_limit(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    // So slow to fill up again that the test cannot see it.
    let proxy = Proxy::before(driver, &[&upstream])
        .workers(4)
        .set("rate_limit.per_address_limit", "200")
        .set("rate_limit.per_address_window", "100000")
        .start();
    let mut client = proxy.connect();
    assert_eq!(granted((0..300).map(|_| client.ask(&get("/", "")))), 200);
    assert_eq!(upstream.requests().len(), 200);
}

fn grants_what_governor_grants_to_one_client_on_one_of_four_workers(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .workers(4)
        .set("rate_limit.per_user_limit", "200")
        .set("rate_limit.per_user_window", "1")
        .set("rate_limit.burst_size", "20")
        .start();
    let quota = Quota::with_period(Duration::from_millis(5)).unwrap().allow_burst(NonZeroU32::new(20).unwrap());
    let oracle = RateLimiter::direct(quota);
    let mut client = proxy.connect();
    let (mut ours, mut theirs) = (0u32, 0u32);
    // As fast as it can, so that both refuse most of the time.
    while theirs < 500 {
        theirs += u32::from(oracle.check().is_ok());
        ours += u32::from(client.ask(&get("/", "")).status == 200);
    }
    assert!(ours.abs_diff(theirs) * 100 <= theirs, "{ours} against {theirs}");
}

fn made_up_addresses_take_nothing_from_anybody(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("proxy.trusted_proxies", "127.0.0.0/8")
        .set("rate_limit.per_address_limit", "3")
        .set("rate_limit.per_address_window", "100000")
        .start();
    let from = |address: &str| get("/", &format!("X-Forwarded-For: {address}\r\n"));
    let mut client = proxy.connect();
    let statuses = |client: &mut RawClient, count, address| {
        (0..count).map(|_| client.ask(&from(address)).status).collect::<Vec<_>>()
    };
    assert_eq!(statuses(&mut client, 2, "10.0.0.1"), [200, 200]);
    let before = proxy.memory();
    // A site with a /48 says that it is 3,000 others.
    for made_up in 0..3_000 {
        client.ask(&from(&format!("2001:db8:0:{made_up:x}::1")));
    }
    assert_eq!(statuses(&mut client, 2, "10.0.0.1"), [200, 429]);
    assert_eq!(statuses(&mut client, 4, "10.0.0.2"), [200, 200, 200, 429]);
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}

fn metrics_name_those_who_come_back(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    // One worker, which told of the name once before.
    let proxy = Proxy::before(driver, &[&upstream])
        .workers(1)
        .set("rate_limit.per_tool_limit", "2")
        .set("rate_limit.per_tool_window", "2")
        .start();
    // One of two is left to those who asked, and is all that is shown.
    let is_named = || proxy.metrics().sum("shadowcat_rate_limit_remaining", r#"key="tool:add""#) == 1.0;
    for _ in 0..2 {
        wait_until("the tool to be named", || {
            proxy.ask(&post_json("/mcp", "", &call(1, "add")));
            is_named()
        });
        wait_until("the tool to be forgotten", || !is_named());
    }
}

fn clients_on_all_workers_share_one_limit(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .workers(4)
        .set("rate_limit.global_limit", "100")
        .set("rate_limit.global_window", "100000")
        .start();
    let mut clients: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
    let answers = (0..10).flat_map(|_| clients.iter_mut().map(|client| client.ask(&get("/", ""))).collect::<Vec<_>>());
    assert_eq!(granted(answers), 100);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_rate_limit_exceeded_total", r#"key="global""#), 60.0);
    assert_eq!(metrics.sum("shadowcat_rate_limit_remaining", r#"key="global""#), 0.0);
    assert_eq!(metrics.sum("shadowcat_refusals_total", r#"reason="rate_limit""#), 60.0);
}

fn says_what_a_client_needs_to_know(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("rate_limit.per_user_limit", "6")
        .set("rate_limit.per_user_window", "600")
        .set("rate_limit.burst_size", "1")
        .start();
    let mut client = proxy.connect();
    assert_eq!(client.ask(&post_json("/mcp", "", &request(7, "ping"))).status, 200);
    let refused = client.ask(&post_json("/mcp", "", &request(8, "ping")));
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.one("retry-after").unwrap().parse().unwrap();
    assert!((98..=100).contains(&seconds), "{seconds}");
    assert_eq!(refused.one("ratelimit-policy"), Some(r#""user";q=6;w=600"#));
    assert_eq!(refused.one("ratelimit"), Some(format!(r#""user";r=0;t={seconds}"#).as_str()));
    let error = refused.json();
    assert_eq!((&error["id"], &error["error"]["code"]), (&8.into(), &(-32000).into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("rate limit"), "{error}");
    // The connection goes on, and the body was read to its end.
    assert_eq!(client.ask(&post_json("/mcp", "", &request(9, "ping"))).status, 429);
    assert_eq!(upstream.requests().len(), 1);
}

fn counts_the_forwarded_address_behind_trusted_proxies_only(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let limited = |builder: Builder| {
        builder.set("rate_limit.per_address_limit", "1").set("rate_limit.per_address_window", "100000").start()
    };
    let from = |address: &str| get("/", &format!("X-Forwarded-For: {address}\r\n"));
    let trusting = limited(Proxy::before(driver, &[&upstream]).set("proxy.trusted_proxies", "127.0.0.0/8"));
    assert_eq!(trusting.ask(&from("10.0.0.1")).status, 200);
    assert_eq!(trusting.ask(&from("10.0.0.2")).status, 200);
    // What a client wrote before its proxy did says nothing.
    assert_eq!(trusting.ask(&from("10.0.0.9, 10.0.0.2")).status, 429);
    assert_eq!(trusting.ask(&from("10.0.0.2, 127.0.0.5")).status, 429);
    assert_eq!(trusting.ask(&from("2001:db8::1")).status, 200);
    assert_eq!(trusting.ask(&from("2001:db8::2:1")).status, 429);
    assert_eq!(trusting.ask(&from("2001:db8:0:1::1")).status, 200);
    let wary = limited(Proxy::before(driver, &[&upstream]));
    assert_eq!(wary.ask(&from("10.0.0.1")).status, 200);
    assert_eq!(wary.ask(&from("10.0.0.2")).status, 429);
}

fn counts_by_session(driver: Driver) {
    let replica = Replica::new("one");
    let proxy = Proxy::before(driver, &[&replica.upstream])
        .set("rate_limit.per_session_limit", "2")
        .set("rate_limit.per_session_window", "100000")
        .start();
    for session in [begin_session(&proxy).1, begin_session(&proxy).1] {
        let statuses = [2, 3, 4].map(|id| proxy.ask(&in_session(&session, &request(id, "ping"))).status);
        assert_eq!(statuses, [200, 200, 429]);
    }
    // A made-up session is unknown, not limited.
    assert_eq!(proxy.ask(&in_session(&"A".repeat(32), &request(1, "ping"))).status, 404);
}

fn counts_by_tool(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("rate_limit.per_tool_limit", "2")
        .set("rate_limit.per_tool_window", "100000")
        .start();
    let statuses = |tool: &str| [1, 2, 3].map(|id| proxy.ask(&post_json("/mcp", "", &call(id, tool))).status);
    assert_eq!(statuses("add"), [200, 200, 429]);
    assert_eq!(statuses("echo"), [200, 200, 429]);
    assert_eq!(proxy.ask(&modern_call(4, "add", r#""arguments":{}"#)).status, 429);
    assert_eq!(proxy.ask(&post_json("/mcp", "", &request(5, "tools/list"))).status, 200);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_rate_limit_exceeded_total", r#"key="tool:add""#), 2.0);
    assert_eq!(metrics.sum("shadowcat_rate_limit_remaining", r#"key="tool:echo""#), 0.0);
}

fn no_tool_slips_by_uncounted(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("rate_limit.per_tool_limit", "1")
        .set("limits.peek_bytes", "4096")
        .start();
    let plain = |body: &str| post_with("POST", "/mcp", "Content-Type: text/plain\r\n", body.as_bytes());
    let long = format!(r#"{{"pad":"{}",{}"#, "x".repeat(200_000), &call(1, "add")[1..]);
    for (request, status) in [
        (post_json("/mcp", "", &format!("[{0},{0}]", call(1, "add"))), 400),
        (post_json("/mcp", "", &long), 413),
        (plain(&call(1, "add")), 415),
        (plain(&long), 415),
    ] {
        let mut client = proxy.connect();
        assert_eq!(client.send(&request).outcome().status(), status);
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.ask(&post_json("/mcp", "", &call(1, "add"))).status, 200);
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
}

fn a_refused_request_is_counted_by_no_limit(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("rate_limit.per_tool_limit", "3")
        .set("rate_limit.per_tool_window", "100000")
        .set("rate_limit.global_limit", "2")
        .set("rate_limit.global_window", "100000")
        .start();
    let ask = |id| proxy.ask(&post_json("/mcp", "", &call(id, "add"))).status;
    assert_eq!([1, 2, 3, 4, 5].map(ask), [200, 200, 429, 429, 429]);
    assert_eq!(proxy.metrics().sum("shadowcat_rate_limit_remaining", r#"key="tool:add""#), 1.0);
}

fn probes_are_not_counted(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream]).set("rate_limit.global", "1").start();
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
    assert_eq!(proxy.ask(&get("/", "")).status, 429);
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(proxy.ask(&get(path, "")).status, 200, "{path}");
    }
}

fn both_spellings_hold(driver: Driver) {
    let upstream = FakeUpstream::answering("ok");
    let short = "[rate_limit]\nglobal = 10000\nper_user = 3\n";
    let long = "[rate_limit]\nenabled = true\nglobal_limit = 10000\nglobal_window = 60\nper_user_limit = 100\n\
                per_user_window = 6000\nburst_size = 3\n";
    for config in [short, long] {
        let proxy = Proxy::before(driver, &[&upstream]).config(config).start();
        let mut client = proxy.connect();
        assert_eq!(granted((0..5).map(|_| client.ask(&get("/", "")))), 3, "{config}");
    }
    let off = Proxy::before(driver, &[&upstream]).config("[rate_limit]\nenabled = false\nper_user = 1\n").start();
    assert_eq!(granted((0..5).map(|_| off.ask(&get("/", "")))), 5);
}
