//! `session.failover = "reinitialize"`: a session whose upstream is gone goes on at another one.

use std::thread;

use rustix::process::Signal;

use crate::on_both_drivers;
use crate::support::client::RawClient;
use crate::support::mcp::{Replica, begin_session, call, delete, in_session, request};
use crate::support::*;

on_both_drivers!(
    a_session_goes_on_where_its_upstream_is_not,
    it_stays_where_it_went,
    requests_at_once_move_it_once,
    it_moves_when_its_upstream_is_taken_out,
    without_it_the_client_begins_anew,
    what_was_ended_is_not_begun_again,
    it_survives_kill_9,
);

fn both(one: &Replica, two: &Replica) -> String {
    format!(
        "[[upstreams]]\nname = \"one\"\nurl = \"{}\"\n[[upstreams]]\nname = \"two\"\nurl = \"{}\"\n[session]\nfailover = \"reinitialize\"\n",
        one.upstream.url(),
        two.upstream.url()
    )
}

/// Of the two the one that has the session is stopped; the other.
fn stop_the_one_with_it(one: Replica, two: Replica) -> Replica {
    let (stopped, other) = if one.sessions().is_empty() { (two, one) } else { (one, two) };
    stopped.upstream.stop();
    other
}

fn methods(of: &Replica) -> Vec<String> {
    let method = |request: &upstream::Request| request.json()["method"].as_str().unwrap_or_default().to_owned();
    of.upstream.requests().iter().map(method).collect()
}

fn a_session_goes_on_where_its_upstream_is_not(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let proxy = Proxy::builder(driver).config(&both(&one, &two)).start();
    let (_, session) = begin_session(&proxy);
    let other = stop_the_one_with_it(one, two);
    let answer = proxy.ask(&in_session(&session, &call(7, "deploy")));
    assert_eq!((answer.status, answer.json()["id"].as_u64()), (200, Some(7)), "{answer:?}");
    assert_eq!(methods(&other), ["initialize", "notifications/initialized", "tools/call"]);
    let seen = other.upstream.requests();
    let begun = seen[0].head.clone();
    assert_eq!(begun.one("mcp-session-id"), None);
    assert_eq!(seen[0].json()["params"]["clientInfo"]["name"], "t");
    assert!(other.sessions().contains(seen[2].head.one("mcp-session-id").expect("an id")));
    // The client never sees upstream's id, and goes on with its own.
    assert!(answer.one("mcp-session-id").is_none_or(|shown| shown == session));
    assert_eq!(proxy.ask(&in_session(&session, &request(8, "ping"))).status, 200);
    assert_eq!(other.sessions().len(), 1);
}

fn it_stays_where_it_went(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let proxy = Proxy::builder(driver).workers(4).config(&both(&one, &two)).start();
    let (_, session) = begin_session(&proxy);
    // Every worker knows it.
    for n in 0..20 {
        assert_eq!(proxy.ask(&in_session(&session, &request(n, "ping"))).status, 200);
    }
    let other = stop_the_one_with_it(one, two);
    for n in 0..20 {
        assert_eq!(proxy.ask(&in_session(&session, &request(n, "ping"))).status, 200);
    }
    assert_eq!(methods(&other).iter().filter(|method| *method == "initialize").count(), 1);
}

fn requests_at_once_move_it_once(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let proxy = Proxy::builder(driver).workers(4).config(&both(&one, &two)).start();
    let (_, session) = begin_session(&proxy);
    let mut clients: Vec<RawClient> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&in_session(&session, &request(1, "ping"))).status, 200);
    }
    let other = stop_the_one_with_it(one, two);
    let ask = |(n, mut client): (usize, RawClient)| {
        let asking = in_session(&session, &request(n as u64, "tools/list"));
        thread::spawn(move || client.ask(&asking).status)
    };
    let threads: Vec<_> = clients.into_iter().enumerate().map(ask).collect();
    assert!(threads.into_iter().all(|thread| thread.join().expect("an answer") == 200));
    // Several may have begun; all went on in one.
    let used: std::collections::HashSet<String> = other
        .upstream
        .requests()
        .iter()
        .filter(|request| request.json()["method"] == "tools/list")
        .map(|request| request.head.one("mcp-session-id").expect("an id").to_owned())
        .collect();
    assert_eq!(used.len(), 1, "{used:?}");
}

fn it_moves_when_its_upstream_is_taken_out(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shadowcat.toml");
    let config = both(&one, &two);
    std::fs::write(&path, &config).expect("written");
    let proxy = Proxy::builder(driver).argument("--config").argument(&path).start();
    let (_, session) = begin_session(&proxy);
    let (name, other) = if one.sessions().is_empty() { ("two", &one) } else { ("one", &two) };
    let kept: String = config
        .split("[[upstreams]]\n")
        .filter(|part| !part.contains(&format!("name = \"{name}\"")))
        .fold(String::new(), |text, part| {
            if part.starts_with("name") { format!("{text}[[upstreams]]\n{part}") } else { text + part }
        });
    let kept = if kept.contains("failover") { kept } else { format!("{kept}[session]\nfailover = \"reinitialize\"\n") };
    std::fs::write(&path, kept).expect("written");
    proxy.signal(Signal::HUP);
    wait_until("the reload", || proxy.metrics().sum("shadowcat_config_reloads_total", "taken") > 0.0);
    assert_eq!(proxy.ask(&in_session(&session, &request(2, "ping"))).status, 200);
    assert_eq!(other.sessions().len(), 1);
}

fn without_it_the_client_begins_anew(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let config = both(&one, &two).replace("reinitialize", "none");
    let proxy = Proxy::builder(driver).config(&config).start();
    let (_, session) = begin_session(&proxy);
    let other = stop_the_one_with_it(one, two);
    wait_until("the session to end", || proxy.ask(&in_session(&session, &request(2, "ping"))).status == 404);
    assert!(methods(&other).is_empty());
}

fn what_was_ended_is_not_begun_again(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let proxy = Proxy::builder(driver).config(&both(&one, &two)).start();
    let (_, session) = begin_session(&proxy);
    let other = stop_the_one_with_it(one, two);
    assert!(matches!(proxy.ask(&delete(&session)).status, 404 | 502));
    assert!(methods(&other).is_empty());
    let (_, ended) = begin_session(&proxy);
    assert_eq!(proxy.ask(&delete(&ended)).status, 200);
    assert_eq!(proxy.ask(&in_session(&ended, &request(2, "ping"))).status, 404);
}

fn it_survives_kill_9(driver: Driver) {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let folder = tempfile::tempdir().expect("a folder");
    let start = || Proxy::builder(driver).store(folder.path()).config(&both(&one, &two)).start();
    let proxy = start();
    let (_, session) = begin_session(&proxy);
    proxy.kill();
    let proxy = start();
    let other = stop_the_one_with_it(one, two);
    assert_eq!(proxy.ask(&in_session(&session, &request(2, "ping"))).status, 200);
    assert_eq!(other.sessions().len(), 1);
}
