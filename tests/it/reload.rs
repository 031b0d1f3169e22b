//! A configuration that changes while the server runs: taken whole, or refused whole.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::client::RawClient;
use crate::support::idp::Idp;
use crate::support::mcp::{Push, Replica, begin_session, in_session, listen, request};
use crate::support::*;

on_both_drivers!(
    a_signal_brings_the_new_upstreams,
    a_file_that_changes_is_enough,
    a_volume_of_kubernetes_is_followed,
    a_bad_file_is_refused_whole,
    what_holds_for_life_is_refused,
    connections_to_upstreams_that_stay_are_kept,
    sessions_and_streams_of_upstreams_that_stay_go_on,
    a_request_under_way_is_finished_where_it_is,
    a_token_is_judged_by_the_new_rules,
    a_hundred_reloads_under_load_fail_no_request,
);

/// A configuration file that is replaced as an editor does it.
struct File {
    folder: TempDir,
}

impl File {
    fn new(text: &str) -> File {
        let file = File { folder: tempfile::tempdir().expect("a folder") };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shadowcat.toml")
    }

    fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, self.path()).expect("renamed");
    }
}

fn start(driver: Driver, path: &Path) -> Proxy {
    Proxy::builder(driver).argument("--config").argument(path).start()
}

fn upstreams(of: &[(&str, &FakeUpstream)]) -> String {
    let one = |(name, upstream): &(&str, &FakeUpstream)| {
        format!("[[upstreams]]\nname = \"{name}\"\nurl = \"{}\"\n", upstream.url())
    };
    of.iter().map(one).collect()
}

const TAKEN: &str = "outcome=\"taken\"";
const REFUSED: &str = "outcome=\"refused\"";

fn reloads(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metrics().sum("shadowcat_config_reloads_total", outcome)
}

/// Tell the proxy, and wait for what it makes of it.
fn reload(proxy: &Proxy, outcome: &str) {
    let before = reloads(proxy, outcome);
    proxy.signal(Signal::HUP);
    wait_until("the reload", || reloads(proxy, outcome) > before);
}

fn a_signal_brings_the_new_upstreams(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("one"), FakeUpstream::answering("two"));
    let file = File::new(&upstreams(&[("a", &one)]));
    let proxy = start(driver, &file.path());
    let mut open = proxy.connect();
    assert_eq!(open.ask(&get("/", "")).text(), "one");
    file.write(&upstreams(&[("a", &two)]));
    reload(&proxy, TAKEN);
    assert_eq!(open.ask(&get("/", "")).text(), "two");
    assert_eq!(proxy.ask(&get("/", "")).text(), "two");
    assert_eq!(proxy.metrics().sum("shadowcat_config_last_reload_successful", ""), 1.0);
    // Its pooled connections are of no use any more.
    wait_until("the old connections to close", || one.open_connections() == 0);
}

fn a_file_that_changes_is_enough(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("one"), FakeUpstream::answering("two"));
    let file = File::new(&upstreams(&[("a", &one)]));
    let proxy = start(driver, &file.path());
    assert_eq!(proxy.ask(&get("/", "")).text(), "one");
    file.write(&upstreams(&[("a", &two)]));
    wait_until("the new upstream", || proxy.ask(&get("/", "")).text() == "two");
}

/// The file is a link to a file in `..data`, which is a link that is swapped.
fn a_volume_of_kubernetes_is_followed(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("one"), FakeUpstream::answering("two"));
    let volume = tempfile::tempdir().expect("a folder");
    let publish = |version: &str, text: &str| {
        let data = volume.path().join(version);
        std::fs::create_dir(&data).expect("created");
        std::fs::write(data.join("shadowcat.toml"), text).expect("written");
        let new = volume.path().join("..data_tmp");
        symlink(version, &new).expect("linked");
        std::fs::rename(new, volume.path().join("..data")).expect("swapped");
    };
    publish("..2026_1", &upstreams(&[("a", &one)]));
    let path = volume.path().join("shadowcat.toml");
    symlink("..data/shadowcat.toml", &path).expect("linked");
    let proxy = start(driver, &path);
    assert_eq!(proxy.ask(&get("/", "")).text(), "one");
    publish("..2026_2", &upstreams(&[("a", &two)]));
    wait_until("the new upstream", || proxy.ask(&get("/", "")).text() == "two");
}

fn a_bad_file_is_refused_whole(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("one"), FakeUpstream::answering("two"));
    let file = File::new(&upstreams(&[("a", &one)]));
    let proxy = start(driver, &file.path());
    file.write(&format!("{}[proxy]\nbnd = 1\n", upstreams(&[("a", &two)])));
    reload(&proxy, REFUSED);
    wait_until("the reason", || proxy.log().contains("did you mean `bind`?"));
    assert!(proxy.log().contains("the old one stays"), "{}", proxy.log());
    assert_eq!(proxy.ask(&get("/", "")).text(), "one");
    assert_eq!(proxy.metrics().sum("shadowcat_config_last_reload_successful", ""), 0.0);
    std::fs::remove_file(file.path()).expect("removed");
    reload(&proxy, REFUSED);
    assert_eq!(proxy.ask(&get("/", "")).text(), "one");
    file.write(&upstreams(&[("a", &two)]));
    reload(&proxy, TAKEN);
    assert_eq!(proxy.ask(&get("/", "")).text(), "two");
}

fn what_holds_for_life_is_refused(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("one"), FakeUpstream::answering("two"));
    let file = File::new(&upstreams(&[("a", &one)]));
    let proxy = start(driver, &file.path());
    file.write(&format!("[session]\nmax_sessions = 7\n{}", upstreams(&[("a", &two)])));
    reload(&proxy, REFUSED);
    wait_until("the reason", || proxy.log().contains("session.max_sessions cannot change without a restart"));
    assert_eq!(proxy.ask(&get("/", "")).text(), "one");
}

fn connections_to_upstreams_that_stay_are_kept(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("one"), FakeUpstream::answering("two"));
    let file = File::new(&upstreams(&[("a", &one)]));
    let proxy = Proxy::builder(driver).workers(1).argument("--config").argument(file.path()).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "one");
    file.write(&upstreams(&[("b", &two), ("a", &one)]).replace("name = \"a\"", "name = \"a\"\nweight = 3"));
    reload(&proxy, TAKEN);
    let answers: Vec<String> = (0..8).map(|_| proxy.ask(&get("/", "")).text()).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "one").count(), 6, "{answers:?}");
    assert_eq!((one.connections(), two.connections()), (1, 1));
}

fn sessions_and_streams_of_upstreams_that_stay_go_on(driver: Driver) {
    let (stays, goes) = (Replica::new("stays"), Replica::new("goes"));
    let file = File::new(&upstreams(&[("stays", &stays.upstream)]));
    let proxy = start(driver, &file.path());
    let (_, session) = begin_session(&proxy);
    let mut stream = proxy.connect();
    stream.send(&listen(&session, ""));
    assert_eq!(stream.stream_head().status(), Ok(200));
    file.write(&upstreams(&[("goes", &goes.upstream), ("stays", &stays.upstream)]));
    reload(&proxy, TAKEN);
    stays.push(&Push::Bytes("data: still here\n\n".into()));
    stream.stream_until(b"data: still here\n\n");
    assert_eq!(proxy.ask(&in_session(&session, &request(2, "ping"))).status, 200);
    // Whose upstream is gone starts anew.
    file.write(&upstreams(&[("goes", &goes.upstream)]));
    reload(&proxy, TAKEN);
    assert_eq!(proxy.ask(&in_session(&session, &request(3, "ping"))).status, 404);
    stays.push(&Push::Bytes("data: to its end\n\n".into()));
    stream.stream_until(b"data: to its end\n\n");
}

fn a_request_under_way_is_finished_where_it_is(driver: Driver) {
    let (release, released) = channel();
    let released = Mutex::new(released);
    let slow = FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() {
            conversation.tell("asked");
            let _ = released.lock().expect("unbroken").recv();
            conversation.respond(200, "", "slow");
        }
    });
    let other = FakeUpstream::answering("other");
    let file = File::new(&upstreams(&[("a", &slow)]));
    let proxy = start(driver, &file.path());
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    slow.expect_event("asked");
    file.write(&upstreams(&[("a", &other)]));
    reload(&proxy, TAKEN);
    assert_eq!(proxy.ask(&get("/", "")).text(), "other");
    release.send(()).expect("somebody waits");
    assert_eq!(client.response().text(), "slow");
    assert_eq!(client.ask(&get("/", "")).text(), "other");
}

fn a_token_is_judged_by_the_new_rules(driver: Driver) {
    let (idp, upstream) = (Idp::start(), FakeUpstream::answering("ok"));
    let config = |audience: &str, scopes: &str| {
        let auth = format!("[auth]\nissuer = \"{}\"\naudience = [\"{audience}\"]\n{scopes}", idp.issuer());
        upstreams(&[("a", &upstream)]) + &auth
    };
    let file = File::new(&config("https://mcp.example.com", ""));
    let proxy = start(driver, &file.path());
    let asking = get("/", &format!("Authorization: Bearer {}\r\n", idp.token("alice")));
    let mut client = proxy.connect();
    wait_until("the keys to be there", || client.ask(&asking).status == 200);
    file.write(&config("https://mcp.example.com", "scopes = [\"admin\"]\n"));
    reload(&proxy, TAKEN);
    assert_eq!(client.ask(&asking).status, 403);
    file.write(&config("https://other.example.com", ""));
    reload(&proxy, TAKEN);
    wait_until("the refusal", || client.ask(&asking).status == 401);
    file.write(&config("https://mcp.example.com", ""));
    reload(&proxy, TAKEN);
    wait_until("the keys to be there again", || client.ask(&asking).status == 200);
}

fn a_hundred_reloads_under_load_fail_no_request(driver: Driver) {
    let (one, two) = (FakeUpstream::answering("ok"), FakeUpstream::answering("ok"));
    let both = upstreams(&[("a", &one), ("b", &two)]);
    let configs = [
        both.clone(),
        upstreams(&[("b", &two)]),
        format!("{both}[rate_limit]\nper_address = 1000000\n"),
        both.replace("name = \"a\"", "name = \"c\""),
        both.replace("name = \"b\"", "name = \"b\"\nweight = 9"),
    ];
    let file = File::new(&configs[0]);
    let proxy = start(driver, &file.path());
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for keep in [true, true, false] {
            let (stop, served, address) = (&stop, &served, proxy.address);
            scope.spawn(move || {
                let mut client = RawClient::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    if !keep {
                        client = RawClient::connect(address);
                    }
                    let answer = client.ask(&post_json("/mcp", "", &request(1, "tools/list")));
                    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 1..=100 {
            file.write(&configs[n % configs.len()]);
            reload(&proxy, TAKEN);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) >= 300, "{served:?}");
    assert_eq!(reloads(&proxy, REFUSED), 0.0);
    assert_eq!(proxy.metrics().sum("shadowcat_refusals_total", ""), 0.0);
}
