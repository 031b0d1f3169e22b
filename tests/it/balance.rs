//! Which upstream a request goes to, and where it goes when that one fails.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::on_both_drivers;
use crate::support::client::RawClient;
use crate::support::mcp::{Replica, begin_session, call, in_session, initialize, request};
use crate::support::upstream::Refusing;
use crate::support::*;

on_both_drivers!(
    weights_are_exact_over_all_workers,
    the_least_loaded_gets_what_comes,
    those_who_wait_are_served_when_a_place_comes_free,
    the_line_is_bounded_in_length_and_time,
    who_leaves_the_line_takes_no_place,
    who_waits_goes_to_an_upstream_that_is_back,
    a_session_waits_for_its_own_upstream,
    a_read_moves_on_from_an_upstream_that_closes,
    a_read_moves_on_from_an_upstream_that_hangs,
    a_read_moves_on_to_an_upstream_that_is_back,
    a_call_is_never_sent_twice,
    a_session_moves_nowhere,
    the_budget_stops_a_storm_of_retries,
    a_breaker_opens_and_one_probe_closes_it,
    answers_of_5xx_open_no_breaker,
    an_open_breaker_sends_new_work_elsewhere,
    every_address_of_a_name_is_an_upstream,
);

/// An upstream that says `asked` and answers when it is told to.
struct Held {
    upstream: FakeUpstream,
    release: Sender<()>,
    /// The most requests that it had at once.
    most: Arc<AtomicUsize>,
}

impl Held {
    fn new(body: &'static str) -> Held {
        let (release, released) = channel();
        let released = Mutex::new(released);
        let (most, now) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let seen = most.clone();
        let upstream = FakeUpstream::new(move |conversation| {
            while conversation.request().is_some() {
                seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                conversation.tell("asked");
                let _ = released.lock().expect("unbroken").recv();
                now.fetch_sub(1, SeqCst);
                conversation.respond(200, "", body);
            }
        });
        Held { upstream, release, most }
    }

    fn answer(&self) {
        self.release.send(()).expect("somebody waits");
    }
}

/// An upstream that reads a request and closes without a word.
fn closing() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        conversation.request();
    })
}

fn named(of: &[(&str, &str, &str)]) -> String {
    of.iter().map(|(name, url, more)| format!("[[upstreams]]\nname = \"{name}\"\nurl = \"{url}\"\n{more}\n")).collect()
}

fn ping() -> Vec<u8> {
    post_json("/mcp", "", &request(1, "ping"))
}

fn weights_are_exact_over_all_workers(driver: Driver) {
    let (primary, secondary) = (FakeUpstream::answering("primary"), FakeUpstream::answering("secondary"));
    let config = named(&[("primary", &primary.url(), "weight = 10"), ("secondary", &secondary.url(), "weight = 5")]);
    let proxy = Proxy::builder(driver).workers(4).config(&config).start();
    let address = proxy.address;
    let ask = move || {
        let of_one = |_| {
            let mut client = RawClient::connect(address);
            (0..30).filter(|_| client.ask(&get("/", "")).text() == "primary").count()
        };
        (0..25).map(of_one).sum::<usize>()
    };
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(ask)).collect();
    let of_primary: usize = threads.into_iter().map(|thread| thread.join().expect("answers")).sum();
    // 3,000 requests, 10:5.
    assert_eq!(of_primary, 2_000);
}

fn the_least_loaded_gets_what_comes(driver: Driver) {
    let (slow, quick) = (Held::new("slow"), FakeUpstream::answering("quick"));
    let config = named(&[("slow", &slow.upstream.url(), ""), ("quick", &quick.url(), "")]);
    let builder = Proxy::builder(driver).config(&config).set("proxy.balance", "least_in_flight");
    let proxy = builder.start();
    // Until one hangs at the slow one.
    let mut waiting = proxy.connect();
    let mut sent = 0;
    while slow.upstream.requests().is_empty() {
        waiting = proxy.connect();
        waiting.send(&get("/", ""));
        sent += 1;
        wait_until("the request somewhere", || slow.upstream.requests().len() + quick.requests().len() == sent);
    }
    assert!((0..20).all(|_| proxy.ask(&get("/", "")).text() == "quick"));
    slow.answer();
    assert_eq!(waiting.response().text(), "slow");
}

fn those_who_wait_are_served_when_a_place_comes_free(driver: Driver) {
    let held = Held::new("ok");
    let config = named(&[("one", &held.upstream.url(), "max_connections = 2")]);
    let proxy = Proxy::builder(driver).workers(4).config(&config).start();
    let mut clients: Vec<RawClient> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&get("/", ""));
    }
    held.upstream.expect_event("asked");
    held.upstream.expect_event("asked");
    proxy.wait_for_metric("shadowcat_upstream_queue", "", 6.0);
    assert_eq!(held.upstream.open_connections(), 2);
    (0..8).for_each(|_| held.answer());
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(held.most.load(SeqCst), 2);
    assert_eq!(proxy.metrics().sum("shadowcat_upstream_queue", ""), 0.0);
}

fn the_line_is_bounded_in_length_and_time(driver: Driver) {
    let held = Held::new("ok");
    let config = named(&[("one", &held.upstream.url(), "max_connections = 1")]);
    let builder = Proxy::builder(driver).config(&config).set("pool.queue_size", "2");
    let proxy = builder.set("pool.queue_timeout", "1").start();
    let mut clients: Vec<RawClient> = (0..3).map(|_| proxy.connect()).collect();
    clients[0].send(&get("/", ""));
    held.upstream.expect_event("asked");
    clients[1].send(&get("/", ""));
    clients[2].send(&get("/", ""));
    proxy.wait_for_metric("shadowcat_upstream_queue", "", 2.0);
    let begun = Instant::now();
    let refused = proxy.ask(&get("/", ""));
    assert_eq!((refused.status, refused.one("retry-after")), (503, Some("1")));
    assert!(begun.elapsed() < Duration::from_millis(900), "it waited");
    for client in &mut clients[1..] {
        assert_eq!(client.response().status, 503);
    }
    held.answer();
    assert_eq!(clients[0].response().text(), "ok");
    proxy.wait_for_metric("shadowcat_refusals_total", "upstream_busy", 3.0);
}

fn who_leaves_the_line_takes_no_place(driver: Driver) {
    let held = Held::new("ok");
    let config = named(&[("one", &held.upstream.url(), "max_connections = 1")]);
    let proxy = Proxy::builder(driver).config(&config).set("pool.queue_timeout", "300ms").start();
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    first.send(&get("/", ""));
    held.upstream.expect_event("asked");
    second.send(&get("/", ""));
    assert_eq!(second.response().status, 503);
    let mut third = proxy.connect();
    third.send(&get("/", ""));
    proxy.wait_for_metric("shadowcat_upstream_queue", "", 1.0);
    held.answer();
    assert_eq!(first.response().text(), "ok");
    held.upstream.expect_event("asked");
    held.answer();
    assert_eq!(third.response().text(), "ok");
}

fn who_waits_goes_to_an_upstream_that_is_back(driver: Driver) {
    let (held, gone) = (Held::new("held"), Refusing::new());
    let address = gone.address.to_string();
    let config =
        named(&[("held", &held.upstream.url(), "max_connections = 1"), ("gone", &gone.url(), "max_connections = 1")]);
    let proxy = Proxy::builder(driver).workers(1).config(&config).set("pool.queue_timeout", "15").start();
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    first.send(&get("/", ""));
    held.upstream.expect_event("asked");
    second.send(&get("/", ""));
    proxy.wait_for_metric("shadowcat_upstream_queue", "", 1.0);
    // Nobody releases a place, and nobody else comes by.
    drop(gone);
    let _back = FakeUpstream::at(&address, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "back");
        }
    });
    assert_eq!(second.response().text(), "back");
    held.answer();
    assert_eq!(first.response().text(), "held");
}

fn a_session_waits_for_its_own_upstream(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let more = "max_connections = 1";
    let config = named(&[("one", &one.upstream.url(), more), ("two", &two.upstream.url(), more)]);
    let proxy = Proxy::builder(driver).config(&config).start();
    let sessions: Vec<String> = (0..4).map(|_| begin_session(&proxy).1).collect();
    let address = proxy.address;
    let ask = |session: String| {
        thread::spawn(move || {
            let mut client = RawClient::connect(address);
            (0..30).all(|n| client.ask(&in_session(&session, &request(n, "ping"))).status == 200)
        })
    };
    let threads: Vec<_> = sessions.into_iter().map(ask).collect();
    assert!(threads.into_iter().all(|thread| thread.join().expect("answers")));
    // One in use at a time; each worker may keep one for later.
    assert!(one.upstream.connections() <= 2 && two.upstream.connections() <= 2);
}

fn a_read_moves_on_from_an_upstream_that_closes(driver: Driver) {
    let (bad, good) = (closing(), FakeUpstream::answering("good"));
    let config = named(&[("bad", &bad.url(), ""), ("good", &good.url(), "")]);
    let proxy = Proxy::builder(driver).config(&config).start();
    for method in ["ping", "tools/list", "resources/read", "prompts/get", "server/discover"] {
        for _ in 0..2 {
            let answer = proxy.ask(&post_json("/mcp", "", &request(1, method)));
            assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{method}");
        }
    }
    let failed = bad.requests().len() as f64;
    assert!((5.0..=10.0).contains(&failed), "{failed}");
    assert_eq!(proxy.metrics().sum("shadowcat_upstream_retries_total", "bad"), failed);
    assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", "error=\"closed\""), failed);
}

fn a_read_moves_on_from_an_upstream_that_hangs(driver: Driver) {
    let (hung, good) = (Held::new("late"), FakeUpstream::answering("good"));
    let config = named(&[("hung", &hung.upstream.url(), "timeout = \"300ms\""), ("good", &good.url(), "")]);
    let proxy = Proxy::builder(driver).config(&config).start();
    for _ in 0..2 {
        assert_eq!(proxy.ask(&ping()).text(), "good");
    }
    assert!(!hung.upstream.requests().is_empty());
    let statuses: Vec<u16> = (0..2).map(|_| proxy.ask(&post_json("/mcp", "", &call(1, "deploy"))).status).collect();
    assert!(statuses.contains(&504) && statuses.contains(&200), "{statuses:?}");
}

/// What lately refused connections is left alone for a while, but is better than a failure.
fn a_read_moves_on_to_an_upstream_that_is_back(driver: Driver) {
    let (bad, gone) = (closing(), Refusing::new());
    let config = named(&[("bad", &bad.url(), ""), ("gone", &gone.url(), "")]);
    let proxy = Proxy::builder(driver).config(&config).start();
    wait_until("the refusals to be noticed", || {
        assert_eq!(proxy.ask(&ping()).status, 502);
        proxy.metrics().sum("shadowcat_proxy_errors_total", "upstream=\"gone\"") >= 1.0
    });
    let address = gone.address.to_string();
    drop(gone);
    let _back = FakeUpstream::at(&address, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "back");
        }
    });
    assert_eq!(proxy.ask(&ping()).text(), "back");
}

fn a_call_is_never_sent_twice(driver: Driver) {
    let (bad, good) = (closing(), FakeUpstream::answering("good"));
    let config = named(&[("bad", &bad.url(), ""), ("good", &good.url(), "")]);
    let proxy = Proxy::builder(driver).config(&config).start();
    for body in [call(1, "deploy"), initialize(1), request(1, "logging/setLevel")] {
        let mut statuses: Vec<u16> = (0..2).map(|_| proxy.ask(&post_json("/mcp", "", &body)).status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502], "{body}");
    }
    assert_eq!((bad.requests().len(), good.requests().len()), (3, 3));
}

fn a_session_moves_nowhere(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let config = named(&[("one", &one.upstream.url(), ""), ("two", &two.upstream.url(), "")]);
    let proxy = Proxy::builder(driver).config(&config).start();
    let (_, session) = begin_session(&proxy);
    let (stopped, other) = if one.sessions().is_empty() { (two, one) } else { (one, two) };
    stopped.upstream.stop();
    let before = other.upstream.requests().len();
    let answer = proxy.ask(&in_session(&session, &request(2, "tools/list")));
    assert!(matches!(answer.status, 502 | 404), "{answer:?}");
    assert_eq!(other.upstream.requests().len(), before);
}

fn the_budget_stops_a_storm_of_retries(driver: Driver) {
    let (one, two) = (closing(), closing());
    let config = named(&[("one", &one.url(), ""), ("two", &two.url(), "")]);
    let proxy = Proxy::builder(driver).workers(1).config(&config).set("proxy.retry_budget", "0.1").start();
    for _ in 0..100 {
        assert_eq!(proxy.ask(&ping()).status, 502);
    }
    // Ten at the start, and a tenth of the requests.
    let sent = one.requests().len() + two.requests().len();
    assert!((115..=121).contains(&sent), "{sent} requests for 100");
    let denied = proxy.metrics().sum("shadowcat_upstream_retries_denied_total", "");
    assert_eq!(denied, 200.0 - sent as f64);
}

const BREAKER: &str = "[circuit_breaker]\nfailure_threshold = 3\nfailure_ratio = 0.5\nrecovery_timeout = \"1s\"\n";

fn a_breaker_opens_and_one_probe_closes_it(driver: Driver) {
    let (release, released) = channel();
    let released = Mutex::new(released);
    let upstream = FakeUpstream::new(move |conversation| {
        while conversation.request().is_some_and(|request| request.head.target() != "/close") {
            conversation.tell("asked");
            let _ = released.lock().expect("unbroken").recv();
            conversation.respond(200, "", "well");
        }
    });
    let config = named(&[("one", &upstream.url(), "")]) + BREAKER;
    let proxy = Proxy::builder(driver).workers(2).config(&config).start();
    let close = post_json("/close", "", &call(1, "deploy"));
    for _ in 0..3 {
        assert_eq!(proxy.ask(&close).status, 502);
    }
    let refused = proxy.ask(&ping());
    assert_eq!((refused.status, refused.one("retry-after")), (503, Some("1")));
    assert_eq!(upstream.requests().len(), 3);
    wait_until("the breaker to open", || proxy.log().contains("the breaker opens"));
    // One probe, and while it is out nobody else.
    let mut probe = proxy.connect();
    wait_until("the probe", || {
        probe = proxy.connect();
        probe.send(&post_json("/well", "", &call(1, "deploy")));
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until && upstream.requests().len() == 3 {
            thread::yield_now();
        }
        upstream.requests().len() == 4
    });
    assert_eq!(proxy.ask(&ping()).status, 503);
    assert_eq!(upstream.requests().len(), 4);
    release.send(()).expect("it waits");
    assert_eq!(probe.response().text(), "well");
    release.send(()).expect("it waits");
    assert_eq!(proxy.ask(&ping()).text(), "well");
    proxy.wait_for_log("the breaker closes");
}

fn answers_of_5xx_open_no_breaker(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond(500, "", "an answer all the same");
        }
    });
    let config = named(&[("one", &upstream.url(), "")]) + BREAKER;
    let proxy = Proxy::builder(driver).config(&config).start();
    assert!((0..20).all(|_| proxy.ask(&ping()).text() == "an answer all the same"));
}

fn an_open_breaker_sends_new_work_elsewhere(driver: Driver) {
    let (bad, good, gone) = (closing(), FakeUpstream::answering("good"), Refusing::new());
    let config = named(&[("bad", &bad.url(), ""), ("good", &good.url(), ""), ("gone", &gone.url(), "")]) + BREAKER;
    let proxy = Proxy::builder(driver).config(&config).set("circuit_breaker.recovery_timeout", "60").start();
    let statuses: Vec<u16> = (0..60).map(|_| proxy.ask(&post_json("/mcp", "", &call(1, "deploy"))).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 3, "{statuses:?}");
    assert_eq!(bad.requests().len(), 3);
    assert!(statuses[20..].iter().all(|status| *status == 200), "{statuses:?}");
}

/// The name resolves by a file of hosts in a mount namespace of the proxy's own.
fn every_address_of_a_name_is_an_upstream(driver: Driver) {
    let one = Replica::new("one");
    let port = one.upstream.address.port();
    let (two, three) =
        (Replica::at(&format!("127.0.0.2:{port}"), "two"), Replica::at(&format!("127.0.0.3:{port}"), "three"));
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    let write = |addresses: &[&str]| {
        let text: String = addresses.iter().map(|address| format!("{address} mcp.test\n")).collect();
        std::fs::write(&hosts, text).expect("written");
    };
    write(&["127.0.0.1", "127.0.0.2"]);
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let config = named(&[("mcp", &format!("http://mcp.test:{port}"), "")]);
    let proxy = Proxy::builder(driver)
        .config(&config)
        .under(&["unshare", "--mount", "sh", "-c", &script, "sh"])
        .set("proxy.allowed_hosts", "127.0.0.1")
        .start();
    let sessions: Vec<String> = (0..10).map(|_| begin_session(&proxy).1).collect();
    assert_eq!((one.sessions().len(), two.sessions().len(), three.sessions().len()), (5, 5, 0));
    let status = |session: &String| proxy.ask(&in_session(session, &request(2, "ping"))).status;
    assert!(sessions.iter().all(|session| status(session) == 200));
    write(&["127.0.0.2", "127.0.0.3"]);
    wait_until("the new address", || {
        begin_session(&proxy);
        !three.sessions().is_empty()
    });
    // Those of the address that is gone start anew, the others go on.
    let statuses: Vec<u16> = sessions.iter().map(status).collect();
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(200), count(404)), (5, 5), "{statuses:?}");
}
