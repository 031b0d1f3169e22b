//! What the session store promises: what a client was told survives `kill -9`, full disks and restarts; damage is an
//! error in words.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::proxy::Builder;
use crate::support::*;

on_both_drivers!(
    a_session_survives_kill_9_right_after_its_answer,
    sessions_survive_an_orderly_restart,
    an_ended_session_stays_ended_after_kill_9,
    no_acknowledged_session_is_lost_in_twenty_rounds_of_kill_9,
    two_hundred_sessions_stay_with_their_replicas_across_kill_9,
    a_full_disk_refuses_new_sessions_and_loses_none,
    a_second_server_on_one_store_is_refused,
    a_damaged_store_is_an_error_in_words_and_kept,
    a_truncated_store_never_crashes_the_server,
    a_directory_that_cannot_be_used_is_an_error_in_words,
    sqlite_loads_with_a_warning,
    the_default_path_is_of_the_bind_address,
    max_sessions_counts_those_of_before_the_restart,
);

fn durable(driver: Driver, upstreams: &[&FakeUpstream], directory: &Path) -> Builder {
    Proxy::before(driver, upstreams).store(directory)
}

fn a_session_survives_kill_9_right_after_its_answer(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    for _ in 0..5 {
        let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
        let mut client = proxy.connect();
        client.send(&post_json("/mcp", "", &initialize(1)));
        // The id is known as soon as the head is: kill before anything else.
        let id = client.head().one("mcp-session-id").expect("a session id").to_owned();
        proxy.kill();
        let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
        let answer = proxy.ask(&in_session(&id, &request(2, "tools/list")));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["result"]["replica"], "a");
    }
}

fn sessions_survive_an_orderly_restart(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let mut proxy = durable(driver, &[&replica.upstream], directory.path()).start();
    let ids: Vec<String> = (0..10).map(|_| begin_session(&proxy).1).collect();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    let proxy = durable(driver, &[&replica.upstream], directory.path()).workers(1).start();
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(2, "ping"))).status, 200);
    }
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 10.0);
}

fn an_ended_session_stays_ended_after_kill_9(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
    let ((_, ended), (_, kept)) = (begin_session(&proxy), begin_session(&proxy));
    assert_eq!(proxy.ask(&delete(&ended)).status, 200);
    proxy.kill();
    let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
    assert_eq!(proxy.ask(&in_session(&ended, &request(2, "ping"))).status, 404);
    assert_eq!(proxy.ask(&in_session(&kept, &request(2, "ping"))).status, 200);
}

/// Clients that begin sessions as fast as they can until the proxy is gone; every id that one of them saw.
struct Crowd {
    seen: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn start(proxy: &Proxy, clients: usize) -> Crowd {
        let (seen, stop): (Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) = Default::default();
        let address = proxy.address;
        let client = || {
            let (seen, stop) = (seen.clone(), stop.clone());
            thread::spawn(move || {
                let mut client = RawClient::connect(address);
                while !stop.load(SeqCst) {
                    client.send(&post_json("/mcp", "", &initialize(1)));
                    // A head that is whole is an answer that the client has seen.
                    let Ok(head) = client.wire.head() else { return };
                    if let Some(id) = head.one("mcp-session-id") {
                        seen.lock().expect("seen").push(id.to_owned());
                    }
                    let framing = head.response_framing("POST").expect("a framing");
                    if client.wire.body(framing, &mut Vec::new()).is_err() {
                        return;
                    }
                }
            })
        };
        let threads = (0..clients).map(|_| client()).collect();
        Crowd { seen, stop, threads }
    }

    fn count(&self) -> usize {
        self.seen.lock().expect("seen").len()
    }

    fn finish(self) -> Vec<String> {
        self.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        Arc::into_inner(self.seen).expect("all clients are gone").into_inner().expect("seen")
    }
}

fn no_acknowledged_session_is_lost_in_twenty_rounds_of_kill_9(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let mut all = Vec::new();
    for round in 0..20 {
        let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
        let crowd = Crowd::start(&proxy, 8);
        // Another moment each round: right at the first answers, and deep in the crowd.
        wait_until("some sessions", || crowd.count() > round * 7);
        proxy.kill();
        all.extend(crowd.finish());
    }
    let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
    let mut client = proxy.connect();
    let lost = all.iter().filter(|id| client.ask(&in_session(id, &request(2, "ping"))).status != 200).count();
    assert_eq!(lost, 0, "of {}", all.len());
    assert!(all.len() > 20 * 19 / 2 * 7, "{}", all.len());
}

fn two_hundred_sessions_stay_with_their_replicas_across_kill_9(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let directory = TempDir::new().expect("a directory");
    let start = || durable(driver, &[&a.upstream, &b.upstream], directory.path()).start();
    let proxy = start();
    let mut client = proxy.connect();
    let sessions: Vec<(String, String)> = (0..200)
        .map(|_| {
            let answer = client.ask(&post_json("/mcp", "", &initialize(1)));
            let name = answer.json()["result"]["serverInfo"]["name"].as_str().expect("a name").to_owned();
            (answer.one("mcp-session-id").expect("an id").to_owned(), name)
        })
        .collect();
    let check = |proxy: &Proxy| {
        let mut clients: Vec<RawClient> = (0..8).map(|_| proxy.connect()).collect();
        for (n, (id, name)) in sessions.iter().enumerate() {
            let answer = clients[n % 8].ask(&in_session(id, &request(3, "ping")));
            assert_eq!((answer.status, answer.json()["result"]["replica"].as_str()), (200, Some(name.as_str())));
        }
    };
    check(&proxy);
    proxy.kill();
    check(&start());
}

/// A file system of a few pages that only those see who enter it; gone with the value.
pub struct SmallDisk {
    holder: Child,
}

impl SmallDisk {
    pub fn mounted_at(directory: &Path, size: &str) -> SmallDisk {
        let script =
            format!("mount -t tmpfs -o size={size} none '{}' && echo mounted && exec cat", directory.display());
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, for a mount that nobody else sees");
        let mut line = String::new();
        let stdout = holder.stdout.as_mut().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "mounted", "mounting needs root");
        SmallDisk { holder }
    }

    /// What to run a program with that is to see it.
    pub fn enter(&self) -> Vec<String> {
        ["nsenter", "-m", "-t", &self.holder.id().to_string()].map(str::to_owned).into()
    }

    /// A path in it, for who does not enter.
    pub fn sees(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(path.strip_prefix("/").expect("an absolute path"))
    }

    fn proxy(&self, driver: Driver, upstream: &FakeUpstream, directory: &Path) -> Proxy {
        let pid = self.holder.id().to_string();
        durable(driver, &[upstream], directory).under(&["nsenter", "-m", "-t", &pid]).start()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn a_full_disk_refuses_new_sessions_and_loses_none(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let disk = SmallDisk::mounted_at(directory.path(), "192k");
    let proxy = disk.proxy(driver, &replica.upstream, directory.path());
    let mut client = proxy.connect();
    let mut ids = Vec::new();
    let refused = loop {
        let answer = client.ask(&post_json("/mcp", "", &initialize(11)));
        match answer.one("mcp-session-id") {
            Some(id) => ids.push(id.to_owned()),
            None => break answer,
        }
        assert!(ids.len() < 20_000, "the disk does not fill");
    };
    assert!(ids.len() > 10, "{}", ids.len());
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(11)), "{refused:?}");
    assert!(refused.head.has("retry-after"));
    // The upstream is told that its session is for nobody.
    assert!(replica.upstream.event().starts_with("ended a-secret-"));
    // A little room may be left for one that needs fewer pages: what is granted holds, all others are refused in words.
    for _ in 0..50 {
        let answer = proxy.ask(&post_json("/mcp", "", &initialize(12)));
        match answer.one("mcp-session-id") {
            Some(id) => ids.push(id.to_owned()),
            None => assert_eq!((answer.status, answer.json()["id"].as_u64()), (503, Some(12))),
        }
    }
    for id in &ids {
        let answer = proxy.ask(&in_session(id, &request(2, "ping")));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    wait_until("the refused sessions to end at the upstream", || replica.sessions().len() == ids.len());
    let metrics = proxy.metrics();
    assert!(metrics.sum("shadowcat_store_commit_failures_total", "") >= 1.0, "{}", metrics.0);
    assert_eq!(metrics.sum("shadowcat_sessions_active", ""), ids.len() as f64);
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    // Nor does a restart on the full disk lose any.
    proxy.kill();
    let proxy = disk.proxy(driver, &replica.upstream, directory.path());
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(2, "ping"))).status, 200);
    }
}

fn a_second_server_on_one_store_is_refused(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let first = durable(driver, &[&replica.upstream], directory.path()).start();
    let (_, id) = begin_session(&first);
    let (code, said) = durable(driver, &[&replica.upstream], directory.path()).run_to_end();
    assert!(matches!(code, Some(1 | 69)), "{code:?}: {said}");
    assert!(said.contains(&directory.path().display().to_string()), "{said}");
    assert!(said.contains("in use") && said.contains(&first.pid().to_string()), "{said}");
    // The first one does not care.
    assert_eq!(first.ask(&in_session(&id, &request(2, "ping"))).status, 200);
    first.kill();
    // A lock does not outlive its owner.
    let next = durable(driver, &[&replica.upstream], directory.path()).start();
    assert_eq!(next.ask(&in_session(&id, &request(2, "ping"))).status, 200);
}

/// A store with this many sessions, at rest.
fn filled(driver: Driver, replica: &Replica, directory: &Path, sessions: usize) -> Vec<String> {
    let mut proxy = durable(driver, &[&replica.upstream], directory).start();
    let mut client = proxy.connect();
    let ids = (0..sessions).map(|_| begin_session_on(&mut client)).collect();
    drop(client);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    ids
}

fn a_damaged_store_is_an_error_in_words_and_kept(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().join("data.mdb");
    filled(driver, &replica, directory.path(), 300);
    let sound = fs::read(&data).expect("the data file");
    let pages = sound.len() / 4096;
    let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let with_pages = |damage: &dyn Fn(usize) -> bool, by: &[u8]| {
        let mut bytes = sound.clone();
        for page in (0..pages).filter(|&page| damage(page)) {
            bytes[page * 4096..(page + 1) * 4096].copy_from_slice(by);
        }
        bytes
    };
    for (name, bytes) in [
        ("half of the file", sound[..sound.len() / 2].to_vec()),
        ("noise everywhere", with_pages(&|_| true, &noise)),
        ("noise behind the first pages", with_pages(&|page| page >= 2, &noise)),
        ("zeros behind the first pages", with_pages(&|page| page >= 2, &[0; 4096])),
        ("a text file", b"this is no database\n".repeat(1000)),
    ] {
        for file in fs::read_dir(directory.path()).expect("files") {
            fs::remove_file(file.expect("a file").path()).expect("removed");
        }
        fs::write(&data, &bytes).expect("damage");
        let (code, said) = durable(driver, &[&replica.upstream], directory.path()).run_to_end();
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.contains("damaged") && said.contains(&directory.path().display().to_string()), "{name}: {said}");
        let kept = fs::read_dir(directory.path())
            .expect("files")
            .map(|file| file.expect("a file").path())
            .find(|path| path.display().to_string().contains("damaged"))
            .unwrap_or_else(|| panic!("{name}: nothing is kept"));
        assert!(fs::read(&kept).expect("what is kept") == bytes, "{name}: not as it was");
        assert!(said.contains(&kept.display().to_string()), "{name}: {said}");
        // Starting again begins with an empty store.
        let proxy = durable(driver, &[&replica.upstream], directory.path()).start();
        begin_session(&proxy);
        proxy.kill();
    }
}

fn a_truncated_store_never_crashes_the_server(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().join("data.mdb");
    let ids = filled(driver, &replica, directory.path(), 60);
    let sound = fs::read(&data).expect("the data file");
    // Torn in steps of a sector at both ends and by noise in single pages: either it starts with all it ever said, or it
    // says in words that it cannot.
    let torn = (0..sound.len()).step_by(sound.len() / 12).map(|length| sound[..length].to_vec());
    let noisy = (0..sound.len() / 4096).map(|page| {
        let mut bytes = sound.clone();
        bytes[page * 4096 + 16..page * 4096 + 528].fill(0xa5);
        bytes
    });
    for (n, bytes) in torn.chain(noisy).enumerate() {
        for file in fs::read_dir(directory.path()).expect("files") {
            fs::remove_file(file.expect("a file").path()).expect("removed");
        }
        fs::write(&data, &bytes).expect("damage");
        let mut child = durable(driver, &[&replica.upstream], directory.path());
        child = child.set("logging.level", "info");
        match child.try_start() {
            Ok(proxy) => {
                let mut client = proxy.connect();
                for id in &ids {
                    let status = client.ask(&in_session(id, &request(2, "ping"))).status;
                    assert_eq!(status, 200, "case {n}");
                }
            }
            Err((code, said)) => {
                assert_eq!(code, Some(1), "case {n}: {said}");
                assert!(said.contains("damaged"), "case {n}: {said}");
            }
        }
    }
}

fn a_directory_that_cannot_be_used_is_an_error_in_words(driver: Driver) {
    let (code, said) = Proxy::builder(driver).store(Path::new("/dev/null/sessions.db")).run_to_end();
    assert!(matches!(code, Some(1 | 78)), "{code:?}: {said}");
    assert!(said.contains("/dev/null/sessions.db"), "{said}");
}

fn sqlite_loads_with_a_warning(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("sessions.db");
    let config = format!("[session]\nstore = \"sqlite\"\ndatabase_path = \"{}\"\n", path.display());
    let builder = || Proxy::before(driver, &[&replica.upstream]).store_of_the_config().config(&config);
    let proxy = builder().start();
    let log = proxy.log();
    assert!(log.contains("LMDB") && log.contains("sqlite"), "{log}");
    let (_, id) = begin_session(&proxy);
    assert!(path.is_dir());
    proxy.kill();
    let proxy = builder().start();
    assert_eq!(proxy.ask(&in_session(&id, &request(2, "ping"))).status, 200);
}

fn the_default_path_is_of_the_bind_address(driver: Driver) {
    let replica = Replica::new("a");
    let state = TempDir::new().expect("a directory");
    let home = state.path().display().to_string();
    let start = |address: &str| {
        let builder = Proxy::before(driver, &[&replica.upstream]).store_of_the_config();
        builder.bind(address).variable("XDG_STATE_HOME", &home).start()
    };
    // Two free ports, so that the addresses are known before the servers run.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let (one, two) = (free().to_string(), free().to_string());
    let (first, second) = (start(&one), start(&two));
    let (_, id) = begin_session(&first);
    assert_eq!(second.ask(&in_session(&id, &request(1, "ping"))).status, 404);
    let directories = fs::read_dir(state.path().join("shadowcat")).expect("state").count();
    assert_eq!(directories, 2);
    first.kill();
    assert_eq!(start(&one).ask(&in_session(&id, &request(1, "ping"))).status, 200);
}

fn max_sessions_counts_those_of_before_the_restart(driver: Driver) {
    let replica = Replica::new("a");
    let directory = TempDir::new().expect("a directory");
    let start = || durable(driver, &[&replica.upstream], directory.path()).set("session.max_sessions", "3").start();
    let proxy = start();
    begin_session(&proxy);
    begin_session(&proxy);
    proxy.kill();
    let proxy = start();
    begin_session(&proxy);
    assert_eq!(proxy.ask(&post_json("/mcp", "", &initialize(1))).status, 503);
}
