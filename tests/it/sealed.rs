//! Several proxies with one `session.secret`: any of them serves any session, without anything that they share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::client::Response;
use crate::support::front::RoundRobin;
use crate::support::idp::Idp;
use crate::support::mcp::*;
use crate::support::proxy::Builder;
use crate::support::wire::Broken;
use crate::support::*;

on_both_drivers!(
    no_session_is_lost_when_one_of_three_proxies_is_killed,
    a_session_lives_its_whole_life_on_other_proxies,
    ids_hide_what_they_carry,
    ids_that_were_changed_are_404,
    a_session_is_served_to_nobody_else_at_any_proxy,
    secrets_rotate_without_losing_a_session,
    a_session_that_ended_here_is_404_here_and_upstreams_word_elsewhere,
    a_session_that_rested_here_goes_on_if_upstream_says_so,
    each_proxy_keeps_books_of_its_own,
    a_full_proxy_serves_the_sessions_of_others,
    sessions_of_before_the_secret_go_on,
    a_session_without_its_upstream_is_404,
    nothing_of_the_secret_is_logged,
);

const SECRET: &str = "kept-by-three-replicas-0123456789";
const NEWER: &str = "9876543210-sacilper-eerht-yb-tpek";

fn sealing(driver: Driver, upstreams: &[&FakeUpstream]) -> Builder {
    Proxy::before(driver, upstreams).variable("SHADOWCAT_SESSION_SECRET", SECRET)
}

/// Both replicas under names, so that every proxy calls them the same.
fn two(driver: Driver, a: &Replica, b: &Replica) -> Builder {
    sealing(driver, &[&a.upstream, &b.upstream])
}

fn ping(id: &str) -> Vec<u8> {
    in_session(id, &request(1, "ping"))
}

/// As a client of an SDK does: once more when the connection ends without an answer.
fn ask_until_answered(front: &RoundRobin, bytes: &[u8], lost: &AtomicUsize) -> Response {
    for _ in 0..10 {
        let mut client = front.connect();
        client.send(bytes);
        match client.outcome_of("POST") {
            Outcome::Whole(answer) => return answer,
            Outcome::Nothing(Broken::Ended(_)) | Outcome::Cut { why: Broken::Ended(_), .. } => {
                lost.fetch_add(1, SeqCst);
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("ten connections ended without an answer");
}

/// The upstream's own id, as upstream tells it in the answer.
fn served_as(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["result"]["session"].as_str().expect("a session").to_owned()
}

fn no_session_is_lost_when_one_of_three_proxies_is_killed(driver: Driver) {
    const SESSIONS: usize = 60;
    const CLIENTS: usize = 6;
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let [one, doomed, three] = [0; 3].map(|_| two(driver, &a, &b).start());
    let front = RoundRobin::before(vec![one.address, doomed.address, three.address]);
    let lost = AtomicUsize::new(0);
    let mut sessions = HashMap::new();
    for _ in 0..SESSIONS {
        let begun = ask_until_answered(&front, &post_json("/mcp", "", &initialize(1)), &lost);
        let id = begun.one("mcp-session-id").expect("a session id").to_owned();
        let own = served_as(&ask_until_answered(&front, &ping(&id), &lost));
        assert!(sessions.insert(id, own).is_none());
    }
    assert_eq!(lost.load(SeqCst), 0);
    assert_eq!(a.sessions().len() + b.sessions().len(), SESSIONS);
    assert!(!a.sessions().is_empty() && !b.sessions().is_empty());

    let sessions: Vec<(String, String)> = sessions.into_iter().collect();
    let (asked, killed) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for part in sessions.chunks(SESSIONS / CLIENTS) {
            let (front, lost, asked, killed) = (&front, &lost, &asked, &killed);
            scope.spawn(move || {
                let (mut rounds_after, mut round) = (0, 0);
                while rounds_after < 4 {
                    rounds_after += usize::from(killed.load(SeqCst));
                    for (id, own) in part {
                        let answer = ask_until_answered(front, &ping(id), lost);
                        assert_eq!(served_as(&answer), *own, "round {round}");
                        asked.fetch_add(1, SeqCst);
                    }
                    round += 1;
                }
            });
        }
        wait_until("traffic", || asked.load(SeqCst) > 2 * SESSIONS);
        doomed.kill();
        killed.store(true, SeqCst);
    });
    let counts = front.counts();
    assert!(counts.iter().all(|&count| count > SESSIONS / 2), "{counts:?}");
    assert_eq!(a.sessions().len() + b.sessions().len(), SESSIONS, "none began anew");
    for proxy in [&one, &three] {
        assert_eq!(proxy.metrics().sum("shadowcat_refusals_total", "session_unknown"), 0.0);
    }
    println!("{} requests in {SESSIONS} sessions, {} asked again", asked.load(SeqCst), lost.load(SeqCst));
}

fn a_session_lives_its_whole_life_on_other_proxies(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let proxies = [0; 3].map(|_| two(driver, &a, &b).start());
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (answer, id) = begin_session(&proxies[0]);
        let name = answer.json()["result"]["serverInfo"]["name"].as_str().expect("a name").to_owned();
        let replica = if name == "a" { &a } else { &b };
        let own = served_as(&proxies[1].ask(&ping(&id)));
        assert!(replica.sessions().contains(&own));
        // Notifications, answers to what the server asked, and a stream that is taken up again, each elsewhere.
        let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(proxies[1].ask(&in_session(&id, notification)).status, 202);
        assert!(replica.upstream.event().contains("notifications/initialized"));
        let reply = r#"{"jsonrpc":"2.0","id":"from-server-1","result":{"action":"accept"}}"#;
        assert_eq!(proxies[2].ask(&in_session(&id, reply)).status, 202);
        assert!(replica.upstream.event().contains("from-server-1"));
        let mut stream = proxies[2].connect();
        stream.send(&listen(&id, "Last-Event-ID: 41\r\n"));
        stream.stream_head();
        let event = String::from_utf8(stream.stream_until(b"\n\n")).expect("UTF-8");
        assert_eq!(event, format!("id: {name}-1\ndata: {own} after 41\n\n"));
        assert_eq!(proxies[1].ask(&delete(&id)).status, 200);
        assert_eq!(replica.upstream.event(), format!("ended {own}"));
        ids.push(id);
    }
    assert!(a.sessions().is_empty() && b.sessions().is_empty());
    let received = a.upstream.received_text() + &b.upstream.received_text();
    assert!(ids.iter().all(|id| !received.contains(id)), "a sealed id reached upstream");
}

fn ids_hide_what_they_carry(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = sealing(driver, &[&replica.upstream]).start();
    let mut client = proxy.connect();
    let ids: Vec<String> = (0..50).map(|_| begin_session_on(&mut client)).collect();
    for id in &ids {
        assert!((60..=256).contains(&id.len()), "{id}");
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')), "{id}");
    }
    // Behind version and key nothing is in common, though their contents nearly are.
    let columns = (4..80).filter(|&at| {
        let digits: std::collections::HashSet<u8> = ids.iter().map(|id| id.as_bytes()[at]).collect();
        digits.len() > 10
    });
    assert_eq!(columns.count(), 76);
    let theirs = replica.sessions().into_iter().next().expect("a session");
    assert_eq!(proxy.ask(&ping(&theirs)).status, 404);
}

fn ids_that_were_changed_are_404(driver: Driver) {
    let replica = Replica::new("a");
    let (one, other) = (sealing(driver, &[&replica.upstream]).start(), sealing(driver, &[&replica.upstream]).start());
    let (_, id) = begin_session(&one);
    let asked = replica.upstream.requests().len();
    let mut clients = [one.connect(), other.connect()];
    for at in 0..id.len() {
        let mut changed = id.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        for client in &mut clients {
            let answer = client.ask(&ping(&changed));
            assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (404, Some(-32001)), "byte {at}");
        }
    }
    let long = "A".repeat(5000);
    for bad in [&id[1..], &id[..id.len() - 1], &format!("{id}A"), &format!("{id}="), &id.repeat(2), &long] {
        assert_eq!(other.ask(&ping(bad)).status, 404, "{bad}");
        assert_eq!(other.ask(&listen(bad, "")).status, 404, "{bad}");
        assert_eq!(other.ask(&delete(bad)).status, 404, "{bad}");
    }
    assert_eq!(replica.upstream.requests().len(), asked);
    assert_eq!(other.ask(&ping(&id)).status, 200);
}

fn with(field: &str, bytes: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).expect("text");
    let (line, rest) = text.split_once("\r\n").expect("a request line");
    format!("{line}\r\n{field}{rest}").into_bytes()
}

fn a_session_is_served_to_nobody_else_at_any_proxy(driver: Driver) {
    let (idp, replica) = (Idp::start(), Replica::new("a"));
    let auth = format!("[auth]\nissuer = \"{}\"\naudience = [\"https://mcp.example.com\"]\n", idp.issuer());
    let guarded = || sealing(driver, &[&replica.upstream]).config(&auth).start();
    let (one, other) = (guarded(), guarded());
    let [alice, mallory] = ["alice", "mallory"].map(|name| format!("Authorization: Bearer {}\r\n", idp.token(name)));
    for proxy in [&one, &other] {
        wait_until("the keys to be there", || proxy.ask(&with(&alice, &listen("x", ""))).status != 503);
    }
    let begun = one.ask(&post_json("/mcp", &alice, &initialize(1)));
    let id = begun.one("mcp-session-id").expect("a session id").to_owned();
    let asked = replica.upstream.requests().len();
    let refuses_mallory = || {
        let unknown = other.ask(&with(&mallory, &ping(&"A".repeat(id.len()))));
        for request in [ping(&id), listen(&id, ""), delete(&id)] {
            for _ in 0..3 {
                let stolen = other.ask(&with(&mallory, &request));
                assert_eq!((stolen.status, &stolen.json()["error"]), (404, &unknown.json()["error"]));
            }
        }
        assert_eq!(other.ask(&ping(&id)).status, 401);
    };
    refuses_mallory();
    assert_eq!(replica.upstream.requests().len(), asked);
    assert_eq!(other.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    // Nor once the other proxy knows it from its owner.
    assert_eq!(other.ask(&with(&alice, &ping(&id))).status, 200);
    refuses_mallory();
    assert_eq!(replica.upstream.requests().len(), asked + 1);
    // Where nobody is asked, an owned session is nobody's.
    let open = sealing(driver, &[&replica.upstream]).start();
    assert_eq!(open.ask(&ping(&id)).status, 404);
    let (_, anonymous) = begin_session(&open);
    assert_eq!(other.ask(&with(&alice, &ping(&anonymous))).status, 404);
}

fn secrets_rotate_without_losing_a_session(driver: Driver) {
    let replica = Replica::new("a");
    let upstream = &replica.upstream;
    let before = sealing(driver, &[upstream]).start();
    let (_, id) = begin_session(&before);
    let both = Proxy::before(driver, &[upstream])
        .variable("SHADOWCAT_SESSION_SECRET", NEWER)
        .variable("SHADOWCAT_SESSION_PREVIOUS_SECRET", SECRET)
        .start();
    let after = Proxy::before(driver, &[upstream]).variable("SHADOWCAT_SESSION_SECRET", NEWER).start();
    let (none, stranger) = (
        Proxy::before(driver, &[upstream]).start(),
        Proxy::before(driver, &[upstream]).variable("SHADOWCAT_SESSION_SECRET", &NEWER.repeat(2)[5..60]).start(),
    );
    let own = served_as(&both.ask(&ping(&id)));
    assert_eq!(served_as(&both.ask(&ping(&id))), own);
    let (_, newer) = begin_session(&both);
    let newer_own = served_as(&after.ask(&ping(&newer)));
    assert_ne!(newer_own, own);
    assert_eq!(served_as(&both.ask(&ping(&newer))), newer_own);
    for proxy in [&after, &none, &stranger] {
        assert_eq!(proxy.ask(&ping(&id)).status, 404);
    }
    for proxy in [&before, &none, &stranger] {
        assert_eq!(proxy.ask(&ping(&newer)).status, 404);
    }
}

fn a_session_that_ended_here_is_404_here_and_upstreams_word_elsewhere(driver: Driver) {
    let replica = Replica::new("a");
    let (one, other) = (sealing(driver, &[&replica.upstream]).start(), sealing(driver, &[&replica.upstream]).start());
    let (_, id) = begin_session(&one);
    assert_eq!(other.ask(&ping(&id)).status, 200);
    assert_eq!(other.ask(&delete(&id)).status, 200);
    let asked = replica.upstream.requests().len();
    for _ in 0..8 {
        for request in [ping(&id), listen(&id, ""), delete(&id)] {
            assert_eq!(other.ask(&request).status, 404);
        }
    }
    assert_eq!(replica.upstream.requests().len(), asked);
    let answer = one.ask(&ping(&id));
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("upstream: Session not found"), "{answer:?}");
    // From now on it is known here too.
    for _ in 0..4 {
        assert_eq!(one.ask(&ping(&id)).status, 404);
    }
    assert_eq!(replica.upstream.requests().len(), asked + 1);
    for proxy in [&one, &other] {
        assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    }
}

fn a_session_that_rested_here_goes_on_if_upstream_says_so(driver: Driver) {
    let replica = Replica::new("a");
    let short = || {
        let builder = sealing(driver, &[&replica.upstream]);
        builder.set("session.timeout", "1s").set("session.cleanup_interval", "100ms").start()
    };
    let (one, other) = (short(), short());
    let (_, id) = begin_session(&one);
    let begun = std::time::Instant::now();
    // A balancer that keeps a client at one proxy must not lose it at another.
    wait_until("the first proxy to forget it", || {
        assert_eq!(other.ask(&ping(&id)).status, 200, "after {:?}", begun.elapsed());
        one.metrics().sum("shadowcat_sessions_expired_total", "") == 1.0
    });
    assert_eq!(one.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    assert_eq!(other.metrics().sum("shadowcat_sessions_active", ""), 1.0);
    for _ in 0..4 {
        assert_eq!(one.ask(&ping(&id)).status, 200);
    }
    one.wait_for_metric("shadowcat_sessions_active", "", 1.0);
    replica.forget_sessions();
    assert_eq!(one.ask(&ping(&id)).status, 404);
}

fn each_proxy_keeps_books_of_its_own(driver: Driver) {
    let replica = Replica::new("a");
    let (one, other) = (sealing(driver, &[&replica.upstream]).start(), sealing(driver, &[&replica.upstream]).start());
    let ids: Vec<String> = (0..5).map(|_| begin_session(&one).1).collect();
    // Both workers of the other see each several times, at the same time.
    let address = other.address;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for id in &ids {
                    assert_eq!(RawClient::connect(address).ask(&ping(id)).status, 200);
                }
            });
        }
    });
    other.wait_for_metric("shadowcat_sessions_active", "", 5.0);
    let (here, there) = (one.metrics(), other.metrics());
    for (metrics, total, adopted) in [(here, 5.0, 0.0), (there, 0.0, 5.0)] {
        assert_eq!(metrics.sum("shadowcat_sessions_total", ""), total);
        assert_eq!(metrics.sum("shadowcat_sessions_adopted_total", ""), adopted);
    }
    for id in &ids {
        assert_eq!(other.ask(&delete(id)).status, 200);
    }
    assert_eq!(other.metrics().sum("shadowcat_sessions_active", ""), 0.0);
}

fn a_full_proxy_serves_the_sessions_of_others(driver: Driver) {
    let replica = Replica::new("a");
    let one = sealing(driver, &[&replica.upstream]).start();
    let full = sealing(driver, &[&replica.upstream]).set("session.max_sessions", "2").start();
    let ids: Vec<String> = (0..6).map(|_| begin_session(&one).1).collect();
    for _ in 0..3 {
        for id in &ids {
            assert_eq!(full.ask(&ping(id)).status, 200);
        }
    }
    full.wait_for_metric("shadowcat_sessions_active", "", 2.0);
    assert_eq!(full.ask(&post_json("/mcp", "", &initialize(1))).status, 503);
    for id in &ids {
        assert_eq!(full.ask(&delete(id)).status, 200);
        assert_eq!(full.ask(&ping(id)).status, 404);
    }
    assert_eq!(full.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    begin_session(&full);
}

fn sessions_of_before_the_secret_go_on(driver: Driver) {
    let (replica, directory) = (Replica::new("a"), TempDir::new().expect("a directory"));
    let plain = Proxy::before(driver, &[&replica.upstream]).store(directory.path()).start();
    let (_, id) = begin_session(&plain);
    plain.kill();
    let proxy = sealing(driver, &[&replica.upstream]).store(directory.path()).start();
    let own = served_as(&proxy.ask(&ping(&id)));
    let (_, sealed) = begin_session(&proxy);
    assert_ne!(served_as(&proxy.ask(&ping(&sealed))), own);
    let (_, ended) = begin_session(&proxy);
    assert_eq!(proxy.ask(&delete(&ended)).status, 200);
    proxy.kill();
    // What ended stays ended, and all counts go on over a restart that reads the store whole.
    let proxy = sealing(driver, &[&replica.upstream]).store(directory.path()).start();
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 2.0);
    let asked = replica.upstream.requests().len();
    assert_eq!(proxy.ask(&ping(&ended)).status, 404);
    assert_eq!(replica.upstream.requests().len(), asked);
    assert_eq!(served_as(&proxy.ask(&ping(&id))), own);
    assert_ne!(served_as(&proxy.ask(&ping(&sealed))), own);
}

fn a_session_without_its_upstream_is_404(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let one = sealing(driver, &[&a.upstream]).start();
    let other = sealing(driver, &[&b.upstream]).start();
    let (_, id) = begin_session(&one);
    assert_eq!(other.ask(&ping(&id)).status, 404);
    assert_eq!(b.upstream.requests().len(), 0);
    assert_eq!(other.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    assert_eq!(one.ask(&ping(&id)).status, 200);
}

fn nothing_of_the_secret_is_logged(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = sealing(driver, &[&replica.upstream])
        .variable("SHADOWCAT_SESSION_PREVIOUS_SECRET", NEWER)
        .variable("RUST_LOG", "trace")
        .start();
    let (_, id) = begin_session(&proxy);
    assert_eq!(proxy.ask(&ping(&id)).status, 200);
    assert_eq!(proxy.ask(&ping(&id[1..])).status, 404);
    assert_eq!(proxy.ask(&delete(&id)).status, 200);
    proxy.wait_for_log("session_unknown");
    let log = proxy.log();
    for secret in [SECRET, NEWER, &id, &id[20..40]] {
        assert!(!log.contains(secret), "{log}");
    }
    let refused = Proxy::before(driver, &[&replica.upstream])
        .variable("SHADOWCAT_SESSION_SECRET", "hunter2hunter2")
        .try_start()
        .err()
        .expect("a refusal");
    assert_eq!(refused.0, Some(78), "{}", refused.1);
    assert!(refused.1.contains("at least 32 characters") && !refused.1.contains("hunter2"), "{}", refused.1);
}
