//! What an administrator does with the session store as a whole: clean-up, backup, restore, compaction.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::admin::{Served, admin, said, text, works};
use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    old_sessions_are_ended_and_counted,
    a_backup_of_a_busy_server_goes_on_elsewhere,
    a_server_that_runs_goes_on_with_a_backup,
    what_is_no_backup_changes_nothing,
    a_damaged_store_is_replaced_by_its_backup,
    compacting_gives_room_back_and_loses_no_session,
    compacting_a_busy_server_loses_no_session,
);

fn old_sessions_are_ended_and_counted(driver: Driver) {
    let served = Served::new();
    let mut proxy = served.proxy(driver).set("session.timeout", "30d").start();
    let ids: Vec<String> = (0..3).map(|_| begin_session(&proxy).1).collect();
    assert_eq!(
        text(&served.admin(&["cleanup-sessions", "--older-than", "7d", "--dry-run"])),
        "0 sessions would end, of 3\n"
    );
    assert_eq!(text(&served.admin(&["cleanup-sessions", "--older-than", "7d"])), "0 sessions ended, 3 are left\n");
    assert_eq!(served.admin(&["cleanup-sessions"]).status.code(), Some(2), "an age is required");
    proxy.signal(Signal::TERM);
    proxy.wait_exit();
    // Eight days later.
    let later = |arguments: &[&str]| {
        let mut command = Command::new("faketime");
        command.args(["-f", "+8d"]).arg(env!("CARGO_BIN_EXE_shadowcat")).arg("admin").args(arguments);
        let place = format!("session.database_path={}", served.directory.path().display());
        command.args(["--set", &place, "--set", "session.timeout=30d"]).output().expect("faketime runs")
    };
    assert_eq!(text(&later(&["cleanup-sessions", "--older-than", "7d", "--dry-run"])), "3 sessions would end, of 3\n");
    assert_eq!(text(&later(&["cleanup-sessions", "--older-than", "7d"])), "3 sessions ended, 0 are left\n");
    let proxy = served.proxy(driver).set("session.timeout", "30d").start();
    assert!(ids.iter().all(|id| works(&proxy, id) == 404));
}

fn a_backup_of_a_busy_server_goes_on_elsewhere(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).set("session.max_sessions", "1000000").start();
    let ids: Vec<String> = (0..50).map(|_| begin_session(&proxy).1).collect();
    let home = TempDir::new().expect("a directory");
    let backup = home.path().join("sessions.db");
    // While new sessions begin all the time.
    let done = AtomicBool::new(false);
    let mut client = proxy.connect();
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Relaxed) || count < 50 {
                begin_session_on(&mut client);
                count += 1;
            }
        });
        for _ in 0..3 {
            let told = served.json(&["backup-sessions", "--output", backup.to_str().expect("UTF-8")]);
            assert!(told["bytes"].as_u64().is_some_and(|bytes| bytes >= 8192), "{told}");
        }
        done.store(true, Relaxed);
        busy.join().expect("sessions begin");
    });
    assert_eq!(std::fs::metadata(&backup).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 1, "nothing else is left there");
    drop(proxy);
    // On another machine, of which no server ever ran.
    let store = home.path().join("new");
    let restored = admin(&store, &["restore-sessions", "--input", backup.to_str().expect("UTF-8")]);
    assert!(text(&restored).contains("sessions restored"), "{}", said(&restored));
    let proxy = Proxy::before(driver, &[&served.replica.upstream]).store(&store).start();
    assert!(ids.iter().all(|id| works(&proxy, id) == 200));
    // The same while no server runs.
    drop(proxy);
    let again = home.path().join("again.db");
    text(&admin(&store, &["backup-sessions", "--output", again.to_str().expect("UTF-8")]));
    assert!(again.is_file());
}

fn a_server_that_runs_goes_on_with_a_backup(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    let before: Vec<String> = (0..5).map(|_| begin_session(&proxy).1).collect();
    let backup = served.directory.path().join("backup.db");
    let backup = backup.to_str().expect("UTF-8");
    text(&served.admin(&["backup-sessions", "--output", backup]));
    let (_, after) = begin_session(&proxy);
    assert_eq!(proxy.ask(&delete(&before[0])).status, 200);
    let restored = served.json(&["restore-sessions", "--input", backup]);
    assert_eq!(restored["sessions"], 5);
    assert!(Path::new(restored["kept"].as_str().expect("a path")).is_file());
    // Upstream knows nothing of the one that was ended in between.
    assert_eq!(works(&proxy, &before[0]), 404);
    assert!(before[1..].iter().all(|id| works(&proxy, id) == 200));
    assert_eq!(works(&proxy, &after), 404);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 4.0);
    let (_, new) = begin_session(&proxy);
    proxy.kill();
    let proxy = served.proxy(driver).start();
    assert_eq!(works(&proxy, &new), 200, "what began afterwards is kept like any other");
}

fn what_is_no_backup_changes_nothing(driver: Driver) {
    let served = Served::new();
    let mut proxy = served.proxy(driver).start();
    let (_, id) = begin_session(&proxy);
    let home = TempDir::new().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let whole = home.path().join("whole.db");
    text(&served.admin(&["backup-sessions", "--output", whole.to_str().expect("UTF-8")]));
    let good = std::fs::read(&whole).expect("a backup");
    let bad = [
        file("empty", b""),
        file("text", b"these are no sessions"),
        file("cut", &good[..good.len() / 2]),
        file("zeros", &vec![0; 65536]),
    ];
    for runs in [true, false] {
        if !runs {
            proxy.signal(Signal::TERM);
            proxy.wait_exit();
        }
        for file in &bad {
            let refused = served.admin(&["restore-sessions", "--input", file]);
            assert_eq!(refused.status.code(), Some(1), "{file}");
            assert!(said(&refused).contains("cannot be restored"), "{file}: {}", said(&refused));
        }
        let missing = said(&served.admin(&["restore-sessions", "--input", "/nowhere"]));
        assert!(missing.contains("/nowhere: No such file"), "{missing}");
    }
    let kept = std::fs::read_dir(served.directory.path()).expect("the store");
    let names: Vec<String> =
        kept.map(|entry| entry.expect("a name").file_name().into_string().expect("UTF-8")).collect();
    assert!(names.iter().all(|name| ["data.mdb", "lock.mdb", "server.lock"].contains(&name.as_str())), "{names:?}");
    let proxy = served.proxy(driver).start();
    assert_eq!(works(&proxy, &id), 200);
}

fn a_damaged_store_is_replaced_by_its_backup(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    let (_, id) = begin_session(&proxy);
    let home = TempDir::new().expect("a directory");
    let backup = home.path().join("sessions.db").display().to_string();
    text(&served.admin(&["backup-sessions", "--output", &backup]));
    drop(proxy);
    let data = served.directory.path().join("data.mdb");
    let whole = std::fs::read(&data).expect("a store");
    std::fs::write(&data, &whole[..whole.len() / 2]).expect("written");
    let restored = served.admin(&["restore-sessions", "--input", &backup]);
    assert!(said(&restored).contains("is damaged"), "{}", said(&restored));
    assert!(text(&restored).starts_with("1 sessions restored"));
    let proxy = served.proxy(driver).start();
    assert_eq!(works(&proxy, &id), 200);
}

fn compacting_gives_room_back_and_loses_no_session(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    let mut client = proxy.connect();
    let many: Vec<String> = (0..600).map(|_| begin_session_on(&mut client)).collect();
    for id in &many[10..] {
        assert_eq!(client.ask(&delete(id)).status, 200);
    }
    let done = served.json(&["compact-sessions"]);
    assert_eq!(done["sessions"], 10);
    let (before, after) = (done["bytes_before"].as_u64().expect("bytes"), done["bytes_after"].as_u64().expect("bytes"));
    assert!(after * 2 < before, "{done}");
    assert!(many[..10].iter().all(|id| works(&proxy, id) == 200));
    let (_, new) = begin_session(&proxy);
    proxy.kill();
    assert!(text(&served.admin(&["compact-sessions"])).starts_with("11 sessions: "));
    let proxy = served.proxy(driver).start();
    assert!(many[..10].iter().chain([&new]).all(|id| works(&proxy, id) == 200));
    drop(proxy);
    let memory = Proxy::before(driver, &[&served.replica.upstream]);
    let socket = served.directory.path().join("memory.sock");
    let _memory = memory.set("admin.socket", socket.to_str().expect("UTF-8")).start();
    let refused = admin(Path::new("/unused"), &["compact-sessions", "--socket", socket.to_str().expect("UTF-8")]);
    assert!(said(&refused).contains("sessions are in memory"), "{}", said(&refused));
}

fn compacting_a_busy_server_loses_no_session(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).set("session.max_sessions", "1000000").start();
    let done = AtomicBool::new(false);
    let mut clients: Vec<RawClient> = (0..4).map(|_| proxy.connect()).collect();
    let begin = |client: &mut RawClient| {
        let mut ids = Vec::new();
        while !done.load(Relaxed) || ids.len() < 20 {
            ids.push(begin_session_on(client));
        }
        ids
    };
    let begun: Vec<String> = thread::scope(|scope| {
        let busy: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| begin(client))).collect();
        for _ in 0..10 {
            text(&served.admin(&["compact-sessions"]));
        }
        done.store(true, Relaxed);
        busy.into_iter().flat_map(|busy| busy.join().expect("sessions begin")).collect()
    });
    let mut client = proxy.connect();
    for id in &begun {
        assert_eq!(client.ask(&in_session(id, &request(2, "ping"))).status, 200);
    }
    proxy.kill();
    let proxy = served.proxy(driver).set("session.max_sessions", "1000000").start();
    let mut client = proxy.connect();
    for id in &begun {
        assert_eq!(client.ask(&in_session(id, &request(2, "ping"))).status, 200, "also after kill -9");
    }
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), begun.len() as f64);
}
