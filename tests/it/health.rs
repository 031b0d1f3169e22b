//! Active health checks: who gets new work, what a check is on the wire, and what it leaves behind.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use rustix::process::Signal;

use crate::on_both_drivers;
use crate::support::mcp::modern_call;
use crate::support::upstream::{Refusing, Silent};
use crate::support::*;

on_both_drivers!(
    the_thresholds_are_exact,
    what_is_good_and_what_is_not,
    what_a_check_asks,
    who_accepts_and_says_nothing_is_unhealthy,
    who_refuses_comes_back_with_the_first_good_checks,
    a_check_over_tls_is_verified,
    readiness_and_requests_follow_the_marks,
    a_reload_changes_the_checks_and_ends_them,
    a_check_under_way_ends_with_the_checks,
    each_address_of_a_name_is_checked,
    who_lacks_a_credential_of_ours_is_not_judged,
    two_hundred_upstreams_are_not_asked_at_once,
);

pub const HEALTHY: &str = "shadowcat_upstream_healthy";
pub const CHECKS: &str = "shadowcat_health_checks_total";

/// `[[upstreams]]` of these names and URLs, and `[health_check]` with these lines.
pub fn config(upstreams: &[(&str, String)], checks: &str) -> String {
    let one = |(name, url): &(&str, String)| format!("[[upstreams]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    let tables: String = upstreams.iter().map(one).collect();
    format!("{tables}[health_check]\ninterval = \"50ms\"\n{checks}")
}

pub fn is_healthy(proxy: &Proxy, name: &str) -> bool {
    let metrics = proxy.metrics();
    let label = format!("upstream=\"{name}\"");
    metrics.sum(HEALTHY, &label) == 1.0
}

pub fn wait_for_health(proxy: &Proxy, name: &str, healthy: bool) {
    wait_until(&format!("{name} to be healthy: {healthy}"), || is_healthy(proxy, name) == healthy);
}

pub fn outcomes(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metrics().sum(CHECKS, &format!("outcome=\"{outcome}\""))
}

/// Answers checks with this status, everything else with its name.
fn with_status(name: &'static str, status: &Arc<AtomicU16>) -> FakeUpstream {
    let status = status.clone();
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/health" => conversation.respond(status.load(SeqCst), "", ""),
                _ => conversation.respond(200, "", name),
            }
        }
    })
}

/// Answers each check with what it is told next; until then the check waits.
fn told_what_to_say() -> (FakeUpstream, Sender<u16>) {
    let (tell, told) = channel();
    let told = Mutex::new(told);
    let upstream = FakeUpstream::new(move |conversation| {
        if conversation.request().is_some() {
            let Ok(status) = told.lock().expect("unbroken").recv() else { return };
            conversation.respond(status, "", "");
        }
    });
    (upstream, tell)
}

fn the_thresholds_are_exact(driver: Driver) {
    let (upstream, tell) = told_what_to_say();
    let checks = "timeout = \"60s\"\nunhealthy_threshold = 3\nhealthy_threshold = 2\n";
    let proxy = Proxy::builder(driver).config(&config(&[("a", upstream.url())], checks)).start();
    let (mut good, mut bad) = (0.0, 0.0);
    let mut say = |status: u16, healthy: bool| {
        tell.send(status).expect("somebody waits");
        *(if status == 200 { &mut good } else { &mut bad }) += 1.0;
        let label = if status == 200 { "good" } else { "status" };
        let expected = if status == 200 { good } else { bad };
        proxy.wait_for_metric(CHECKS, &format!("outcome=\"{label}\""), expected);
        assert_eq!(is_healthy(&proxy, "a"), healthy, "after {good} good and {bad} bad ones");
    };
    for round in [
        [(500, true), (500, true), (200, true)].as_slice(),
        &[(500, true), (500, true), (500, false), (500, false)],
        &[(200, false), (500, false), (200, false), (200, true), (500, true)],
    ] {
        round.iter().for_each(|&(status, healthy)| say(status, healthy));
    }
    for text in ["an upstream is unhealthy and gets no new work", "status 500", "checks=3"] {
        proxy.wait_for_log(text);
    }
    proxy.wait_for_log("an upstream is healthy again");
    proxy.wait_for_log("checks=2");
    wait_until("the next check", || upstream.connections() == 13);
    wait_until("one check at a time", || upstream.open_connections() == 1);
}

fn what_is_good_and_what_is_not(driver: Driver) {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{}", "x".repeat(100_000));
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("HTTP/1.1 204 No Content\r\n\r\n", "good"),
        ("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "good"),
        ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "good"),
        (stream, "good"),
        (&long, "good"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "answer"),
        ("SSH-2.0-OpenSSH_9.9\r\n", "answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "closed"),
        ("", "closed"),
    ];
    for (answer, expected) in cases {
        let answer = answer.to_owned();
        let ends = expected == "closed";
        let upstream = FakeUpstream::new(move |conversation| {
            if conversation.request().is_some() {
                conversation.send(answer.as_bytes());
                if !ends {
                    conversation.wait_for_end();
                }
            }
        });
        let checks = "timeout = \"20s\"\nunhealthy_threshold = 1\n";
        let proxy = Proxy::builder(driver).config(&config(&[("a", upstream.url())], checks)).start();
        wait_until(&format!("two checks that are {expected}"), || outcomes(&proxy, expected) >= 2.0);
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum(CHECKS, ""), metrics.sum(CHECKS, &format!("outcome=\"{expected}\"")), "{}", metrics.0);
        assert_eq!(is_healthy(&proxy, "a"), expected == "good", "{expected}");
    }
}

fn what_a_check_asks(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let text = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}/mcp\"\nbearer_token = \"upstreams-own\"\n\
         [health_check]\npath = \"/status\"\ninterval = \"20s\"\n",
        upstream.url()
    );
    let proxy = Proxy::builder(driver).config(&text).start();
    wait_until("the first check, at once", || outcomes(&proxy, "good") == 1.0);
    let head = upstream.last_request().head;
    assert_eq!((head.method(), head.target()), ("GET", "/status"));
    assert_eq!(head.one("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(head.one("authorization"), Some("Bearer upstreams-own"));
    let agent = head.one("user-agent").expect("a name");
    assert!(agent.starts_with("shadowcat/") && agent.contains("health check"), "{agent}");
    wait_until("the connection to close", || upstream.open_connections() == 0);
    assert!(!proxy.log().contains("upstreams-own"));
}

fn who_accepts_and_says_nothing_is_unhealthy(driver: Driver) {
    let hung = FakeUpstream::new(|conversation| _ = conversation.wait_for_end());
    let full = Silent::new();
    let (dripping, works) = (
        FakeUpstream::new(|conversation| {
            if conversation.request().is_some() {
                conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
                conversation.wait_for_end();
            }
        }),
        FakeUpstream::answering("works"),
    );
    let upstreams = [("hung", hung.url()), ("full", full.url()), ("drip", dripping.url()), ("works", works.url())];
    let checks = "timeout = \"500ms\"\nunhealthy_threshold = 3\n";
    let proxy = Proxy::builder(driver).config(&config(&upstreams, checks)).start();
    for name in ["hung", "full", "drip"] {
        wait_for_health(&proxy, name, false);
    }
    assert!(outcomes(&proxy, "timeout") >= 9.0);
    proxy.wait_for_log("no answer in time");
    for _ in 0..12 {
        assert_eq!(proxy.ask(&get("/", "")).text(), "works");
    }
    assert!(is_healthy(&proxy, "works"));
}

fn who_refuses_comes_back_with_the_first_good_checks(driver: Driver) {
    let refusing = Refusing::new();
    let checks = "unhealthy_threshold = 2\nhealthy_threshold = 2\n";
    let proxy = Proxy::builder(driver).config(&config(&[("a", refusing.url())], checks)).start();
    wait_for_health(&proxy, "a", false);
    assert!(outcomes(&proxy, "connect") >= 2.0);
    assert_eq!(proxy.ask(&get("/", "")).status, 503);
    let address = refusing.address.to_string();
    drop(refusing);
    let back = FakeUpstream::at(&address, |conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "back");
        }
    });
    wait_for_health(&proxy, "a", true);
    assert_eq!(proxy.ask(&get("/", "")).text(), "back");
    back.stop();
}

fn a_check_over_tls_is_verified(driver: Driver) {
    let answering = |server| {
        tls::upstream(server, |conversation| {
            while conversation.request().is_some() {
                conversation.respond(200, "", "ok");
            }
        })
    };
    let (authority, server) = tls::authority_and_server("localhost");
    let (_, of_another) = tls::authority_and_server("localhost");
    let (known, unknown) = (answering(server), answering(of_another));
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, authority).expect("written");
    let one = |name: &str, upstream: &FakeUpstream| {
        let (port, roots) = (upstream.address.port(), roots.display());
        format!(
            "[[upstreams]]\nname = \"{name}\"\nurl = \"https://127.0.0.1:{port}\"\nserver_name = \"localhost\"\nca_path = \"{roots}\"\n"
        )
    };
    let tables = one("known", &known) + &one("unknown", &unknown);
    let proxy = Proxy::builder(driver).config(&(tables + &config(&[], "unhealthy_threshold = 2\n"))).start();
    wait_for_health(&proxy, "unknown", false);
    wait_until("good checks", || proxy.metrics().sum(CHECKS, "upstream=\"known\"") >= 3.0);
    assert!(is_healthy(&proxy, "known"));
    assert!(outcomes(&proxy, "good") >= 3.0 && outcomes(&proxy, "connect") >= 2.0);
    assert_eq!(known.last_request().head.target(), "/health");
}

fn readiness_and_requests_follow_the_marks(driver: Driver) {
    let (one_says, two_says) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let (one, two) = (with_status("one", &one_says), with_status("two", &two_says));
    let upstreams = [("one", one.url()), ("two", two.url())];
    let proxy = Proxy::builder(driver).config(&config(&upstreams, "unhealthy_threshold = 2\n")).start();
    let answers = || (0..8).map(|_| proxy.ask(&get("/", "")).text()).collect::<HashSet<_>>();
    assert_eq!(answers().len(), 2);
    one_says.store(500, SeqCst);
    wait_for_health(&proxy, "one", false);
    assert_eq!(answers(), HashSet::from(["two".to_owned()]));
    assert_eq!(proxy.ask(&get("/ready", "")).status, 200);
    two_says.store(503, SeqCst);
    wait_for_health(&proxy, "two", false);
    assert_eq!(proxy.ask(&get("/ready", "")).status, 503);
    assert_eq!(proxy.ask(&get("/health", "")).status, 200, "this is about ourselves");
    let seen = one.requests().iter().chain(&two.requests()).filter(|request| request.head.target() == "/").count();
    let refused = proxy.ask(&modern_call(1, "x", ""));
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(1)));
    assert!(refused.one("retry-after").is_some());
    assert_eq!(proxy.metrics().sum("shadowcat_refusals_total", "reason=\"upstream_unhealthy\""), 1.0);
    let still = one.requests().iter().chain(&two.requests()).filter(|request| request.head.target() == "/").count();
    assert_eq!(seen, still, "nobody was asked");
    one_says.store(200, SeqCst);
    wait_for_health(&proxy, "one", true);
    assert_eq!(proxy.ask(&get("/ready", "")).status, 200);
    assert_eq!(answers(), HashSet::from(["one".to_owned()]));
}

fn a_reload_changes_the_checks_and_ends_them(driver: Driver) {
    let (one_says, two_says) = (Arc::new(AtomicU16::new(500)), Arc::new(AtomicU16::new(200)));
    let (one, two) = (with_status("one", &one_says), with_status("two", &two_says));
    let both = [("one", one.url()), ("two", two.url())];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shadowcat.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    write(&config(&both, "unhealthy_threshold = 2\n"));
    let proxy = Proxy::builder(driver).argument("--config").argument(&path).set("proxy.slow_start", "0").start();
    let reload = |text: &str| {
        let before = proxy.metrics().sum("shadowcat_config_reloads_total", "outcome=\"taken\"");
        write(text);
        proxy.signal(Signal::HUP);
        let taken = || proxy.metrics().sum("shadowcat_config_reloads_total", "outcome=\"taken\"");
        wait_until("the reload", || taken() > before);
    };
    wait_for_health(&proxy, "one", false);
    // What has nothing to do with the checks leaves the marks alone.
    reload(&(config(&both, "unhealthy_threshold = 2\n") + "[pool]\nmax_size = 7\n"));
    assert!(!is_healthy(&proxy, "one"));
    // Long waits that are under way end when the checks change: another path, which is good.
    reload(&config(&both, "unhealthy_threshold = 2\n").replace("50ms", "1h"));
    reload(&config(&both, "path = \"/other\"\n"));
    wait_for_health(&proxy, "one", true);
    reload(&config(&both, "unhealthy_threshold = 2\n"));
    wait_for_health(&proxy, "one", false);
    // One that is gone is asked no more.
    reload(&config(&both[1..], "unhealthy_threshold = 2\n"));
    wait_until("its series to end", || !series_of(&proxy, "one") && is_healthy(&proxy, "two"));
    wait_until("its last check to end", || one.open_connections() == 0);
    let asked = one.requests().len();
    let checks = outcomes(&proxy, "good");
    wait_until("further checks of the other", || outcomes(&proxy, "good") >= checks + 3.0);
    assert_eq!(one.requests().len(), asked);
    // It begins as healthy when it comes back, and is found out again.
    reload(&config(&both, "unhealthy_threshold = 2\n"));
    wait_for_health(&proxy, "one", false);
    // Off: nothing is held against anybody.
    reload(&config(&both, "enabled = false\n"));
    wait_until("no series", || !series_of(&proxy, "one") && !series_of(&proxy, "two"));
    let answers: HashSet<String> = (0..8).map(|_| proxy.ask(&get("/", "")).text()).collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
}

fn a_check_under_way_ends_with_the_checks(driver: Driver) {
    let hung = FakeUpstream::new(|conversation| {
        if conversation.request().is_some() {
            conversation.tell("asked");
            conversation.wait_for_end();
            conversation.tell("left");
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shadowcat.toml");
    let on = config(&[("a", hung.url())], "timeout = \"1h\"\nunhealthy_threshold = 1\n");
    std::fs::write(&path, &on).expect("written");
    let proxy = Proxy::builder(driver).argument("--config").argument(&path).start();
    hung.expect_event("asked");
    // Other checks: the one under way is of no use any more.
    std::fs::write(&path, on.replace("1h", "2h")).expect("written");
    proxy.signal(Signal::HUP);
    let both = HashSet::from([hung.event(), hung.event()]);
    assert_eq!(both, HashSet::from(["left".to_owned(), "asked".to_owned()]));
    std::fs::write(&path, on + "enabled = false\n").expect("written");
    proxy.signal(Signal::HUP);
    hung.expect_event("left");
    assert_eq!(proxy.metrics().sum(CHECKS, ""), 0.0);
}

fn who_lacks_a_credential_of_ours_is_not_judged(driver: Driver) {
    let (upstream, refusing) = (FakeUpstream::answering(""), Refusing::new());
    let table = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}\"\ntoken_url = \"{}/token\"\nclient_id = \"x\"\nclient_secret = \"y\"\n",
        upstream.url(),
        refusing.url()
    );
    let proxy = Proxy::builder(driver).config(&(table + &config(&[], "unhealthy_threshold = 1\n"))).start();
    wait_until("some checks", || outcomes(&proxy, "skipped") >= 3.0);
    assert!(is_healthy(&proxy, "a"));
    assert_eq!(upstream.requests().len(), 0);
}

fn series_of(proxy: &Proxy, name: &str) -> bool {
    let metrics = proxy.metrics();
    metrics.0.lines().any(|line| line.starts_with(HEALTHY) && line.contains(&format!("upstream=\"{name}\"")))
}

/// The name resolves by a file of hosts in a mount namespace of the proxy's own.
fn each_address_of_a_name_is_checked(driver: Driver) {
    let status = |status| Arc::new(AtomicU16::new(status));
    let one = with_status("one", &status(200));
    let port = one.address.port();
    let at = |address: &str, status: u16| {
        FakeUpstream::at(&format!("{address}:{port}"), move |conversation| {
            while conversation.request().is_some() {
                conversation.respond(status, "", "another");
            }
        })
    };
    let (two, three) = (at("127.0.0.2", 500), at("127.0.0.3", 500));
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    let write = |addresses: &[&str]| {
        let text: String = addresses.iter().map(|address| format!("{address} mcp.test\n")).collect();
        std::fs::write(&hosts, text).expect("written");
    };
    write(&["127.0.0.1", "127.0.0.2"]);
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let proxy = Proxy::builder(driver)
        .config(&config(&[("mcp", format!("http://mcp.test:{port}"))], "unhealthy_threshold = 2\n"))
        .under(&["unshare", "--mount", "sh", "-c", &script, "sh"])
        .set("proxy.allowed_hosts", "127.0.0.1")
        .start();
    let marks = || {
        let metrics = proxy.metrics();
        let of = |address: &str| {
            let label = format!("endpoint=\"{address}:{port}\"");
            metrics.0.contains(&label).then(|| metrics.sum(HEALTHY, &label) == 1.0)
        };
        ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(of)
    };
    wait_until("the bad address", || marks() == [Some(true), Some(false), None]);
    let answers = || (0..6).map(|_| proxy.ask(&get("/", "")).text()).collect::<HashSet<_>>();
    assert_eq!(answers(), HashSet::from(["one".to_owned()]));
    write(&["127.0.0.1", "127.0.0.3"]);
    wait_until("another bad address", || marks() == [Some(true), None, Some(false)]);
    assert_eq!(answers(), HashSet::from(["one".to_owned()]));
    wait_until("the last check of who is gone", || two.open_connections() == 0);
    assert!(!three.requests().is_empty());
}

/// Holds every check until all that may come are there.
fn two_hundred_upstreams_are_not_asked_at_once(driver: Driver) {
    const AT_ONCE: usize = 64;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = gate.clone();
    let upstream = FakeUpstream::new(move |conversation| {
        if conversation.request().is_some() {
            let (open, opened) = &*held;
            drop(opened.wait_while(open.lock().expect("unbroken"), |open| !*open).expect("unbroken"));
            conversation.respond(200, "", "");
        }
    });
    let names: Vec<String> = (0..200).map(|n| format!("u{n}")).collect();
    let upstreams: Vec<(&str, String)> = names.iter().map(|name| (name.as_str(), upstream.url())).collect();
    let text = config(&upstreams, "timeout = \"60s\"\n").replace("50ms", "60s");
    let proxy = Proxy::builder(driver).config(&text).start();
    wait_until("as many checks as may be", || upstream.requests().len() == AT_ONCE);
    // Those that wait are due, and come only when others end.
    proxy.metrics();
    assert_eq!(upstream.connections(), AT_ONCE);
    *gate.0.lock().expect("unbroken") = true;
    gate.1.notify_all();
    wait_until("all checks", || outcomes(&proxy, "good") == 200.0);
    assert_eq!(upstream.connections(), 200);
}
