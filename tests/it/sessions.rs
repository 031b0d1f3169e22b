//! Legacy sessions: whose they are, where they go, and that none that a client saw is ever lost.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    shows_ids_of_its_own,
    keeps_each_session_on_its_upstream,
    answers_404_for_what_is_no_session,
    ends_sessions_on_delete,
    refuses_new_sessions_when_full_before_upstream_is_asked,
    ends_sessions_that_are_not_used,
    keeps_sessions_with_an_open_stream,
    loses_no_session_to_kill_9,
    loses_no_session_in_twenty_rounds_of_kill_9,
    leads_two_hundred_sessions_to_two_replicas_also_across_kill_9,
    refuses_new_sessions_on_a_full_disk_and_loses_none,
    refuses_a_second_server_on_one_store,
    puts_a_damaged_store_aside,
    carries_2024_sessions_in_the_query,
);

fn shows_ids_of_its_own(driver: &str) {
    let server = session_server("secret");
    let proxy = Proxy::before(driver, &[&server]).start();
    let mut client = proxy.connect();
    let answer = client.exchange(&post("", INITIALIZE));
    let id = answer.field("mcp-session-id").unwrap();
    assert_eq!(id.len(), 32);
    assert!(!answer.head.contains("secret-1"));
    let answer = call(&mut client, &id);
    assert_eq!(answer.json()["result"], "secret-1 1");
    assert_eq!(answer.field("mcp-session-id"), Some(id.clone()));
    assert!(server.received().contains("Mcp-Session-Id: secret-1\r\n"));
    assert!(!server.received().contains(&id));
    // Upstream's own id is nobody's key.
    assert_eq!(call(&mut client, "secret-1").status, 404);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_sessions_active", "transport=\"http\""), 1.0);
    assert_eq!(metrics.sum("shadowcat_sessions_total", "transport=\"http\""), 1.0);
}

fn keeps_each_session_on_its_upstream(driver: &str) {
    let (a, b) = (session_server("a"), session_server("b"));
    let proxy = Proxy::before(driver, &[&a, &b]).start();
    let ids: Vec<String> = (0..20).map(|_| begin_session(&mut proxy.connect())).collect();
    let mut homes = Vec::new();
    for round in 1..=3 {
        for (i, id) in ids.iter().enumerate() {
            // Every time over another connection, so over any worker.
            let result = call(&mut proxy.connect(), id).json()["result"].as_str().unwrap().to_owned();
            let (home, count) = result.split_once(' ').unwrap();
            assert_eq!(count, round.to_string());
            if round == 1 {
                homes.push(home.to_owned());
            }
            assert_eq!(home, homes[i]);
        }
    }
    homes.sort();
    homes.dedup();
    assert_eq!(homes.len(), 20);
    assert_eq!(homes.iter().filter(|home| home.starts_with("a-")).count(), 10);
    let mut client = proxy.connect();
    client.send(&get("/mcp", &format!("Accept: text/event-stream\r\nLast-Event-ID: 9\r\n{}", session_field(&ids[0]))));
    client.head();
    let first = String::from_utf8(client.chunk().unwrap()).unwrap();
    assert!(first.ends_with(" after 9\n\n"), "{first}");
    // A client's answer to a server's request goes the same way.
    let answer = proxy.connect().exchange(&post(&session_field(&ids[1]), r#"{"jsonrpc":"2.0","id":9,"result":{}}"#));
    assert_eq!(answer.status, 200);
}

fn answers_404_for_what_is_no_session(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server]).start();
    for id in ["x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &"é".repeat(16), &"A".repeat(4000)] {
        let answer = call(&mut proxy.connect(), id);
        assert_eq!((answer.status, answer.json()["id"].as_i64()), (404, Some(2)), "{id}");
        let stream = proxy.connect().exchange(&get("/mcp", &session_field(id)));
        assert_eq!(stream.status, 404);
    }
    let twice = [session_field("a"), session_field("b")].concat();
    assert_eq!(proxy.connect().exchange(&post(&twice, "{}")).status, 400);
    assert_eq!(server.received(), "");
}

fn ends_sessions_on_delete(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server]).start();
    let id = begin_session(&mut proxy.connect());
    let other = begin_session(&mut proxy.connect());
    // Known to several connections, so to both workers.
    for _ in 0..8 {
        assert_eq!(call(&mut proxy.connect(), &id).status, 200);
    }
    let delete = format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\n{}\r\n", session_field(&id));
    assert_eq!(proxy.connect().exchange(delete.as_bytes()).status, 200);
    assert_eq!(server.event(), "deleted a-1");
    for _ in 0..8 {
        assert_eq!(call(&mut proxy.connect(), &id).status, 404);
    }
    assert_eq!(call(&mut proxy.connect(), &other).status, 200);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 1.0);
}

fn refuses_new_sessions_when_full_before_upstream_is_asked(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server]).set("session.max_sessions", "2").start();
    let id = begin_session(&mut proxy.connect());
    begin_session(&mut proxy.connect());
    let asked = server.received().matches("initialize").count();
    let answer = proxy.connect().exchange(&post("", INITIALIZE));
    assert_eq!((answer.status, answer.json()["id"].as_i64()), (503, Some(1)));
    assert!(answer.field("retry-after").is_some());
    assert_eq!(server.received().matches("initialize").count(), asked);
    let delete = format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\n{}\r\n", session_field(&id));
    assert_eq!(proxy.connect().exchange(delete.as_bytes()).status, 200);
    begin_session(&mut proxy.connect());
}

fn ends_sessions_that_are_not_used(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server])
        .set("session.timeout", "400ms")
        .set("session.cleanup_interval", "100ms")
        .start();
    let (used, idle) = (begin_session(&mut proxy.connect()), begin_session(&mut proxy.connect()));
    wait_for("the idle session to end", || {
        assert_eq!(call(&mut proxy.connect(), &used).status, 200);
        (proxy.metrics().sum("shadowcat_sessions_expired_total", "") == 1.0).then_some(())
    });
    assert_eq!(call(&mut proxy.connect(), &idle).status, 404);
    assert_eq!(call(&mut proxy.connect(), &used).status, 200);
}

fn keeps_sessions_with_an_open_stream(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server])
        .set("session.timeout", "400ms")
        .set("session.cleanup_interval", "100ms")
        .start();
    let (streaming, idle) = (begin_session(&mut proxy.connect()), begin_session(&mut proxy.connect()));
    let mut stream = proxy.connect();
    stream.send(&get("/mcp", &format!("Accept: text/event-stream\r\n{}", session_field(&streaming))));
    stream.head();
    stream.chunk();
    wait_for("the idle session to end", || {
        (proxy.metrics().sum("shadowcat_sessions_expired_total", "") >= 1.0).then_some(())
    });
    // And as long again.
    std::thread::park_timeout(Duration::from_millis(900));
    assert_eq!(call(&mut proxy.connect(), &idle).status, 404);
    assert_eq!(call(&mut proxy.connect(), &streaming).status, 200);
    drop(stream);
    assert_eq!(server.event(), "stream of a-1 closed");
}

fn persistent(driver: &str, server: &Upstream, directory: &std::path::Path) -> Builder {
    let url = format!("http://{}", server.address);
    Proxy::builder(driver).upstream(&url).set("session.database_path", directory.to_str().unwrap())
}

fn loses_no_session_to_kill_9(driver: &str) {
    let server = session_server("a");
    let directory = tempfile::tempdir().unwrap();
    let mut proxy = persistent(driver, &server, directory.path()).start();
    let ids: Vec<String> = (0..10).map(|_| begin_session(&mut proxy.connect())).collect();
    let last = begin_session(&mut proxy.connect());
    proxy.signal("KILL");
    proxy.wait();
    let proxy = persistent(driver, &server, directory.path()).start();
    for id in ids.iter().chain([&last]) {
        assert_eq!(call(&mut proxy.connect(), id).status, 200);
    }
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 11.0);
}

fn loses_no_session_in_twenty_rounds_of_kill_9(driver: &str) {
    let server = session_server("a");
    let directory = tempfile::tempdir().unwrap();
    let mut seen: Vec<String> = Vec::new();
    for round in 0..20 {
        let mut proxy = persistent(driver, &server, directory.path()).start();
        for id in &seen {
            assert_eq!(call(&mut proxy.connect(), id).status, 200, "round {round}");
        }
        // Several clients begin sessions at once; the proxy dies under them.
        let address = proxy.address;
        let (tell, told) = std::sync::mpsc::channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let tell = tell.clone();
                std::thread::spawn(move || begin_until_it_dies(address, &tell))
            })
            .collect();
        for _ in 0..=round % 5 {
            seen.push(told.recv_timeout(PATIENCE).unwrap());
        }
        proxy.signal("KILL");
        proxy.wait();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(tell);
        seen.extend(told.iter());
    }
    assert!(seen.len() >= 20);
}

fn leads_two_hundred_sessions_to_two_replicas_also_across_kill_9(driver: &str) {
    let (a, b) = (session_server("a"), session_server("b"));
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let second = format!("http://{}", b.address);
        persistent(driver, &a, directory.path()).upstream(&second).start()
    };
    let result = |proxy: &Proxy, id: &str| {
        let answer = call(&mut proxy.connect(), id);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["result"].as_str().unwrap().to_owned()
    };
    let mut proxy = start();
    let ids: Vec<String> = (0..200).map(|_| begin_session(&mut proxy.connect())).collect();
    let first: Vec<String> = ids.iter().map(|id| result(&proxy, id)).collect();
    proxy.signal("KILL");
    proxy.wait();
    let proxy = start();
    let mut homes = std::collections::BTreeSet::new();
    for (id, first) in ids.iter().zip(&first) {
        let (home, count) = first.split_once(' ').unwrap();
        assert_eq!(count, "1");
        // The same replica, the same session of it, one call later.
        assert_eq!(result(&proxy, id), format!("{home} 2"));
        assert!(homes.insert(home.to_owned()), "two sessions share {home}");
    }
    assert_eq!(homes.iter().filter(|home| home.starts_with("b-")).count(), 100);
}

fn begin_until_it_dies(address: std::net::SocketAddr, tell: &std::sync::mpsc::Sender<String>) {
    use std::io::Read;
    loop {
        let Ok(mut stream) = std::net::TcpStream::connect(address) else { return };
        if stream.write_all(&post("Connection: close\r\n", INITIALIZE)).is_err() {
            return;
        }
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let id = answer.lines().find_map(|line| line.strip_prefix("Mcp-Session-Id: "));
        match id.filter(|id| id.len() == 32 && answer.contains("\r\n\r\n")) {
            Some(id) => tell.send(id.to_owned()).unwrap_or(()),
            None => return,
        }
    }
}

fn refuses_new_sessions_on_a_full_disk_and_loses_none(driver: &str) {
    let server = session_server("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    // A disk of its own, small, in a mount namespace of its own.
    let script = format!("mount -t tmpfs -o size=96k,mode=700 tmpfs {path} && exec \"$@\"");
    let mut proxy =
        persistent(driver, &server, directory.path()).under(&["unshare", "-m", "sh", "-c", &script, "sh"]).start();
    let mut ids = Vec::new();
    let refused = wait_for("the disk to be full", || {
        let answer = proxy.connect().exchange(&post("", INITIALIZE));
        match answer.field("mcp-session-id") {
            Some(id) => {
                ids.push(id);
                None
            }
            None => Some(answer),
        }
    });
    assert_eq!((refused.status, refused.json()["id"].as_i64()), (503, Some(1)));
    assert!(ids.len() > 20, "only {}", ids.len());
    // Upstream is told that nobody will use the session it began.
    assert_eq!(server.event(), format!("deleted a-{}", ids.len() + 1));
    for id in &ids {
        assert_eq!(call(&mut proxy.connect(), id).status, 200);
    }
    assert!(proxy.metrics().sum("shadowcat_store_commit_failures_total", "") >= 1.0);
    proxy.signal("TERM");
    assert!(proxy.wait().success());
}

fn refuses_a_second_server_on_one_store(driver: &str) {
    let server = session_server("a");
    let directory = tempfile::tempdir().unwrap();
    let proxy = persistent(driver, &server, directory.path()).start();
    let (code, said) = persistent(driver, &server, directory.path()).fail();
    assert_eq!(code, Some(69));
    assert!(said.contains("in use by another server") && said.contains(&proxy.child.id().to_string()), "{said}");
}

fn puts_a_damaged_store_aside(driver: &str) {
    let server = session_server("a");
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data.mdb");
    let mut proxy = persistent(driver, &server, directory.path()).start();
    (0..50).for_each(|_| drop(begin_session(&mut proxy.connect())));
    proxy.signal("TERM");
    proxy.wait();
    let good = std::fs::read(&data).unwrap();
    let mut damaged = 0;
    let cuts = [1, 100, 4096, 8192, good.len() / 2, good.len() - 4096].map(|length| good[..length].to_vec());
    let flips = (0..good.len() / 4096).map(|page| {
        let mut bytes = good.clone();
        bytes[page * 4096 + 10..page * 4096 + 300].fill(0x5a);
        bytes
    });
    for bytes in cuts.into_iter().chain(flips) {
        std::fs::write(&data, &bytes).unwrap();
        let _ = std::fs::remove_file(directory.path().join("lock.mdb"));
        let check =
            Command::new(env!("CARGO_BIN_EXE_shadowcat")).arg("store-check").arg(directory.path()).output().unwrap();
        if check.status.success() {
            // The damage lies in a page that nothing refers to.
            continue;
        }
        damaged += 1;
        if damaged > 4 {
            continue;
        }
        let (code, said) = persistent(driver, &server, directory.path()).fail();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is damaged") && said.contains("kept as"), "{said}");
        let kept = std::fs::read_dir(directory.path()).unwrap().filter_map(Result::ok);
        let kept: Vec<_> = kept.filter(|entry| entry.file_name().to_string_lossy().contains("damaged-")).collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(std::fs::read(kept[0].path()).unwrap(), bytes);
        std::fs::remove_file(kept[0].path()).unwrap();
    }
    assert!(damaged >= 6, "only {damaged}");
    let _ = std::fs::remove_file(&data);
    let proxy = persistent(driver, &server, directory.path()).start();
    begin_session(&mut proxy.connect());
}

/// A 2024-11-05 server: GET /sse opens a stream whose first event names where to post.
fn server_of_2024(name: &'static str) -> Upstream {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Upstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            if request.method() == "GET" {
                let id = format!("{name}-{}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1);
                conversation.begin_events("");
                conversation.chunked("event: endpoint\r\nda");
                conversation.chunked(&format!("ta: /messages?sessionId={id}\r\n\r\n"));
                conversation.chunked(": hello\n\n");
                conversation.wait_for_close();
                return;
            }
            conversation.tell(request.path());
            conversation.answer(202, "", "");
        }
    })
}

fn carries_2024_sessions_in_the_query(driver: &str) {
    let (a, b) = (server_of_2024("a"), server_of_2024("b"));
    let proxy = Proxy::before(driver, &[&a, &b]).start();
    let mut streams = Vec::new();
    for upstream in [&a, &b, &a, &b] {
        let mut stream = proxy.connect();
        stream.send(&get("/sse", "Accept: text/event-stream\r\n"));
        assert!(stream.head().contains("text/event-stream"));
        let mut events = String::new();
        while !events.ends_with(": hello\n\n") {
            events += std::str::from_utf8(&stream.chunk().unwrap()).unwrap();
        }
        let id = events.strip_prefix("event: endpoint\r\ndata: /messages?sessionId=").unwrap();
        let id = id.strip_suffix("\r\n\r\n: hello\n\n").unwrap().to_owned();
        assert_eq!(id.len(), 32, "{events}");
        streams.push((stream, id, upstream));
    }
    for (i, (_, id, upstream)) in streams.iter().enumerate() {
        let path = format!("/messages?sessionId={id}");
        let answer = proxy.connect().exchange(&post_to(&path, "", r#"{"jsonrpc":"2.0","method":"ping","id":1}"#));
        assert_eq!(answer.status, 202);
        let name = if i % 2 == 0 { "a" } else { "b" };
        assert_eq!(upstream.event(), format!("/messages?sessionId={name}-{}", i / 2 + 1));
    }
    // The session ends with its stream.
    let (stream, id, _) = streams.remove(0);
    drop(stream);
    wait_for("the session to end", || {
        let path = format!("/messages?sessionId={id}");
        let answer = proxy.connect().exchange(&post_to(&path, "", r#"{"jsonrpc":"2.0","method":"ping","id":1}"#));
        (answer.status == 404).then_some(())
    });
}
