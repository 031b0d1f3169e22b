//! The administrator's socket and the commands that use it, on servers that run and on stores of servers that do not.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::proxy::Builder;
use crate::support::*;

on_both_drivers!(
    tells_how_the_server_is,
    a_drained_upstream_keeps_its_sessions_and_gets_no_new_ones,
    a_weight_holds_until_the_next_reload,
    a_session_that_is_killed_ends_on_every_worker_with_its_streams,
    sessions_are_shown_without_what_opens_them,
    a_sealed_session_is_found_by_what_its_client_sends,
    what_is_logged_changes_at_once,
    a_reload_tells_what_came_of_it,
    a_drain_is_that_of_a_signal,
    a_socket_is_for_its_owner,
    many_connections_at_once_are_told_to_come_again,
    the_pages_move_to_an_address_of_their_own,
);

/// A server with its store, and so its socket, in a directory.
pub struct Served {
    pub directory: TempDir,
    pub replica: Replica,
}

impl Served {
    pub fn new() -> Served {
        Served { directory: TempDir::new().expect("a directory"), replica: Replica::new("a") }
    }

    pub fn proxy(&self, driver: Driver) -> Builder {
        Proxy::before(driver, &[&self.replica.upstream]).store(self.directory.path())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// As an operator of this server does it: found by the store, whether the server runs or not.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        admin(self.directory.path(), arguments)
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        // The output of a backup is its file.
        let flag = if arguments[0] == "backup-sessions" { "--format" } else { "--output" };
        json(&self.admin(&[arguments, &[flag, "json"]].concat()))
    }
}

pub fn admin(store: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    let place = format!("session.database_path={}", store.display());
    command.arg("admin").args(arguments).args(["--set", &place]).env_clear().current_dir(std::env::temp_dir());
    command.output().expect("the command runs")
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// An id as it is shown: no flag.
fn shown(id: &str, length: usize) -> String {
    id[..length].strip_prefix('-').map_or_else(|| id[..length].to_owned(), |rest| format!(".{rest}"))
}

/// What a command printed that must have succeeded.
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    let text = text(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub fn works(proxy: &Proxy, session: &str) -> u16 {
    proxy.ask(&in_session(session, &request(2, "ping"))).status
}

fn tells_how_the_server_is(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    let (_, id) = begin_session(&proxy);
    let status = served.json(&["status"]);
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["pid"], proxy.pid());
    assert_eq!(status["bind"], proxy.address.to_string());
    assert_eq!(status["sessions"]["active"], 1);
    assert_eq!(status["workers"][1]["driver"], driver.name());
    assert_eq!(status["upstreams"]["open"], 1);
    let table = text(&served.admin(&["status"]));
    assert!(table.contains(driver.name()) && table.contains("1 open of 1"), "{table}");
    assert!(!table.contains(&id));
    // A client that we did not write.
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--unix-socket"]).arg(served.socket()).args(arguments);
        text(&command.output().expect("curl runs"))
    };
    let metrics = curl(&["http://admin/metrics"]);
    assert!(metrics.contains("shadowcat_sessions_active{transport=\"http\"} 1"), "{metrics}");
    let refused = curl(&["-X", "PUT", "-d", "{\"filter\":1}", "http://admin/log-level"]);
    assert!(refused.starts_with("{\"error\":\"the body: invalid type"), "{refused}");
}

fn a_drained_upstream_keeps_its_sessions_and_gets_no_new_ones(driver: Driver) {
    let directory = TempDir::new().expect("a directory");
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let config = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}\"\n[[upstreams]]\nname = \"b\"\nurl = \"{}\"\n",
        a.upstream.url(),
        b.upstream.url()
    );
    let proxy = Proxy::builder(driver).config(&config).store(directory.path()).start();
    let begin = || {
        let (answer, id) = begin_session(&proxy);
        (answer.json()["result"]["serverInfo"]["name"].as_str().expect("a name").to_owned(), id)
    };
    let begun: Vec<(String, String)> = (0..10).map(|_| begin()).collect();
    let of_a: Vec<&String> = begun.iter().filter(|(name, _)| name == "a").map(|(_, id)| id).collect();
    assert_eq!(of_a.len(), 5);
    assert!(text(&admin(directory.path(), &["upstreams", "drain", "a"])).contains("upstreams that are open: 1"));
    let list = json(&admin(directory.path(), &["upstreams", "list", "--output", "json"]));
    let first = &list["upstreams"][0];
    assert_eq!((first["name"].as_str(), first["state"].as_str()), (Some("a"), Some("drained")), "{list}");
    assert_eq!(first["sessions"], 5);
    assert!((0..10).all(|_| begin().0 == "b"), "no new session for who is drained");
    for id in &of_a {
        let answer = proxy.ask(&in_session(id, &request(2, "ping")));
        assert_eq!((answer.status, answer.json()["result"]["replica"].as_str()), (200, Some("a")));
    }
    text(&admin(directory.path(), &["upstreams", "drain", "b"]));
    assert_eq!(proxy.ask(&get("/ready", "")).status, 503);
    assert_eq!(proxy.ask(&post_json("/mcp", "", &initialize(1))).status, 503);
    assert!(text(&admin(directory.path(), &["upstreams", "enable", "a"])).contains("again"));
    assert_eq!(begin().0, "a");
    let unknown = admin(directory.path(), &["upstreams", "drain", "c"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("no upstream is named `c`; there are: a, b"), "{}", said(&unknown));
}

fn a_weight_holds_until_the_next_reload(driver: Driver) {
    let directory = TempDir::new().expect("a directory");
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let path = directory.path().join("shadowcat.toml");
    let upstream =
        |name: &str, of: &Replica| format!("[[upstreams]]\nname = \"{name}\"\nurl = \"{}\"\n", of.upstream.url());
    let text_of = format!("[proxy]\nslow_start = 0\n{}{}", upstream("a", &a), upstream("b", &b));
    std::fs::write(&path, text_of).expect("written");
    let proxy = Proxy::builder(driver).argument("--config").argument(&path).store(directory.path()).start();
    let of_a = || {
        let names = (0..20).map(|_| begin_session(&proxy).0.json()["result"]["serverInfo"]["name"] == "a");
        names.filter(|is_a| *is_a).count()
    };
    assert_eq!(of_a(), 10);
    let said_of = text(&admin(directory.path(), &["upstreams", "weight", "a", "3"]));
    assert_eq!(said_of, "a has weight 3, before 1, until the next reload\n");
    assert_eq!(of_a(), 15);
    assert_eq!(text(&admin(directory.path(), &["reload"])), "the configuration was taken\n");
    assert_eq!(of_a(), 10);
    assert_eq!(admin(directory.path(), &["upstreams", "weight", "a", "0"]).status.code(), Some(2));
    assert!(said(&admin(directory.path(), &["upstreams", "weight", "c", "1"])).contains("there are: a, b"));
}

fn a_session_that_is_killed_ends_on_every_worker_with_its_streams(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).workers(2).start();
    let ((_, killed), (_, kept)) = (begin_session(&proxy), begin_session(&proxy));
    let mut streams: Vec<_> = [&killed, &killed, &killed, &kept]
        .into_iter()
        .map(|id| {
            let mut client = proxy.connect();
            client.send(&listen(id, ""));
            client.stream_head();
            client.stream_until(b"\n\n");
            client
        })
        .collect();
    // Many connections, so that both workers know the session.
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&in_session(&killed, &request(2, "ping"))).status, 200);
    }
    let said_of = text(&served.admin(&["sessions", "kill", &shown(&killed, 8)]));
    assert!(said_of.starts_with(&format!("ended {}", shown(&killed, 12))), "{said_of}");
    for client in &mut clients {
        assert_eq!(client.ask(&in_session(&killed, &request(2, "ping"))).status, 404);
        assert_eq!(client.ask(&in_session(&kept, &request(2, "ping"))).status, 200);
    }
    let mut going_on = streams.pop().expect("a stream");
    for stream in &mut streams {
        stream.expect_end();
    }
    served.replica.push(&Push::Bytes(b"data: still\n\n".to_vec()));
    going_on.stream_until(b"data: still\n\n");
    proxy.wait_for_metric("shadowcat_streams_active", "", 1.0);
    assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", ""), 0.0, "that was no fault of the upstream");
    let again = served.admin(&["sessions", "kill", &shown(&killed, 32)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("no session begins with"), "{}", said(&again));
    assert!(!said(&again).contains(&killed), "not even a wrong id is repeated whole");
}

fn sessions_are_shown_without_what_opens_them(driver: Driver) {
    let served = Served::new();
    let mut proxy = served.proxy(driver).start();
    let mut ids: Vec<String> = (0..5).map(|_| begin_session(&proxy).1).collect();
    ids.sort();
    for runs in [true, false] {
        if !runs {
            proxy.signal(Signal::TERM);
            proxy.wait_exit();
        }
        let list = served.json(&["sessions", "list"]);
        let found: Vec<&str> =
            list["sessions"].as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("an id")).collect();
        assert_eq!(found, ids.iter().map(|id| shown(id, 12)).collect::<Vec<_>>(), "{list}");
        let page = served.json(&["sessions", "list", "--limit", "2", "--after", found[1]]);
        assert_eq!(page["sessions"][0]["id"], found[2]);
        assert_eq!(page["more"], true);
        assert!(text(&served.admin(&["sessions", "list", "--limit", "4"])).contains(&format!("--after {}", found[3])));
        assert_eq!(served.json(&["sessions", "list", "--upstream", "other"])["sessions"], serde_json::json!([]));
        let one = served.json(&["sessions", "show", &shown(&ids[2], 32)]);
        assert_eq!((&one["id"], &one["transport"]), (&list["sessions"][2]["id"], &"http".into()));
        let everything = list.to_string() + &one.to_string();
        assert!(!everything.contains("secret") && ids.iter().all(|id| !everything.contains(id)), "{everything}");
    }
    // Of a server that does not run, and with the next one it stays so.
    text(&served.admin(&["sessions", "kill", &shown(&ids[0], 12), &shown(&ids[1], 12)]));
    let proxy = served.proxy(driver).start();
    assert_eq!(ids.iter().map(|id| works(&proxy, id)).collect::<Vec<_>>(), [404, 404, 200, 200, 200]);
}

fn a_sealed_session_is_found_by_what_its_client_sends(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).set("session.secret", "0123456789abcdefghijklmnopqrstuv").start();
    let ((_, killed), (_, kept)) = (begin_session(&proxy), begin_session(&proxy));
    let list = served.json(&["sessions", "list"]);
    let names: Vec<&str> =
        list["sessions"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert!(names.len() == 2 && names.iter().all(|name| name.starts_with('~')), "{list}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(["admin", "sessions", "kill", "--socket"]).arg(served.socket()).args(["--", &killed]);
    text(&command.output().expect("the command runs"));
    assert_eq!((works(&proxy, &killed), works(&proxy, &kept)), (404, 200));
    let left = served.json(&["sessions", "list"])["sessions"][0]["id"].as_str().expect("an id").to_owned();
    text(&served.admin(&["sessions", "kill", &left]));
    assert_eq!(works(&proxy, &kept), 404, "what is sealed opens nothing any more");
}

fn what_is_logged_changes_at_once(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    assert_eq!(text(&served.admin(&["log-level"])), "info\n");
    assert_eq!(text(&served.admin(&["log-level", "off"])), "logged is off, before info, until the server ends\n");
    let lines = proxy.log().lines().count();
    text(&served.admin(&["reload"]));
    assert_eq!(proxy.log().lines().count(), lines, "{}", proxy.log());
    text(&served.admin(&["log-level", "shadowcat=debug"]));
    text(&served.admin(&["reload"]));
    wait_until("a line", || proxy.log().lines().skip(lines).any(|line| line.contains("loaded anew")));
    let refused = said(&served.admin(&["log-level", "loud"]));
    assert!(refused.contains("`loud` is no level"), "{refused}");
    assert_eq!(text(&served.admin(&["log-level"])), "shadowcat=debug\n");
}

fn a_reload_tells_what_came_of_it(driver: Driver) {
    let served = Served::new();
    let path = served.directory.path().join("shadowcat.toml");
    std::fs::write(&path, "[timeouts]\nheader = 5\n").expect("written");
    let _proxy = served.proxy(driver).argument("--config").argument(&path).start();
    assert_eq!(text(&served.admin(&["reload"])), "the configuration was taken\n");
    std::fs::write(&path, "[timeouts]\nheadr = 5\n").expect("written");
    // Also where the command reads the same broken file to find the server.
    for more in [&[][..], &["--config", path.to_str().expect("UTF-8")]] {
        let refused = served.admin(&[&["reload"], more].concat());
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("did you mean `header`?"), "{}", said(&refused));
    }
    std::fs::write(&path, "[session]\nmax_sessions = 5\n").expect("written");
    let refused = said(&served.admin(&["reload"]));
    assert!(refused.contains("session.max_sessions cannot change without a restart"), "{refused}");
    let status = served.json(&["status"]);
    assert_eq!(status["reloads"]["last_was_taken"], false, "{status}");
    assert!(status["reloads"]["refused"].as_u64().is_some_and(|count| count >= 2), "{status}");
}

fn a_drain_is_that_of_a_signal(driver: Driver) {
    let served = Served::new();
    let mut proxy = served.proxy(driver).start();
    let (_, id) = begin_session(&proxy);
    // A request that is under way is finished, however often one asks.
    let mut client = proxy.connect();
    let body = request(2, "ping");
    let whole = in_session(&id, &body);
    client.send(&whole[..whole.len() - 1]);
    proxy.wait_for_metric("shadowcat_connections_active", "", 2.0);
    assert_eq!(text(&served.admin(&["drain"])), "draining: it ends within 30s\n");
    wait_until("the drain", || said(&served.admin(&["status"])).contains("draining: shutting down"));
    assert!(said(&served.admin(&["drain"])).contains("it drains already"));
    client.send(&whole[whole.len() - 1..]);
    assert_eq!(client.response().status, 200);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(!served.socket().exists(), "the socket goes with its server");
    let broken = served.directory.path().join("broken.toml");
    std::fs::write(&broken, "[timeouts]\nheadr = 5\n").expect("written");
    let broken = served.admin(&["status", "--config", broken.to_str().expect("UTF-8")]);
    assert_eq!(broken.status.code(), Some(78), "{}", said(&broken));
    let nobody = served.admin(&["status"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("no server answers at"), "{}", said(&nobody));
    let proxy = served.proxy(driver).start();
    assert_eq!(works(&proxy, &id), 200);
}

fn a_socket_is_for_its_owner(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&served.socket()), 0o600);
    // Somebody opened it to all: the server still asks who comes.
    let change = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    change(served.directory.path(), 0o777);
    change(&served.socket(), 0o666);
    let mut curl = Command::new("setpriv");
    curl.args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS", "--unix-socket"])
        .arg(served.socket());
    let refused = text(&curl.arg("http://admin/status").output().expect("setpriv runs"));
    assert!(refused.contains("for the server's own user, and root"), "{refused}");
    // Where others may write, a server makes no socket by itself.
    drop(proxy);
    let proxy = served.proxy(driver).start();
    assert!(proxy.log().contains("others may write to"), "{}", proxy.log());
    change(served.directory.path(), 0o700);
    drop(proxy);
    // Nor does a command look where another user may have put one.
    let shared = TempDir::new().expect("a directory");
    let theirs = shared.path().join("shadowcat");
    std::fs::create_dir(&theirs).expect("a directory");
    std::os::unix::fs::chown(&theirs, Some(65534), None).expect("given away");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(["admin", "status", "--set", "session.store=memory"]).env_clear();
    let refused = command.env("XDG_RUNTIME_DIR", shared.path()).output().expect("the command runs");
    assert!(said(&refused).contains("is of another user"), "{}", said(&refused));
    let proxy = served.proxy(driver).start();
    // A socket that a dead server left is replaced; one of a server that lives is not.
    proxy.kill();
    assert!(served.socket().exists());
    let proxy = served.proxy(driver).start();
    assert_eq!(served.json(&["status"])["pid"], proxy.pid());
    let socket = served.socket().display().to_string();
    let (code, said_of) = Proxy::builder(driver).set("admin.socket", &socket).run_to_end();
    assert_eq!(code, Some(1));
    assert!(said_of.contains("another server answers there"), "{said_of}");
    assert_eq!(served.json(&["status"])["pid"], proxy.pid());
    // Without its socket, the store is not touched behind the back of the server.
    std::fs::remove_file(served.socket()).expect("removed");
    let refused = served.admin(&["cleanup-sessions", "--older-than", "1d"]);
    assert_eq!(refused.status.code(), Some(69));
    assert!(said(&refused).contains(&format!("process {} has the session store", proxy.pid())), "{}", said(&refused));
    // Nor is a file of that name.
    let other = served.directory.path().join("other");
    std::fs::write(&other, "mine").expect("written");
    let (code, said_of) = Proxy::builder(driver).set("admin.socket", &other.display().to_string()).run_to_end();
    assert_eq!(code, Some(1), "{said_of}");
    drop(UnixListener::bind(served.directory.path().join("unused")).expect("a socket"));
    assert_eq!(std::fs::read_to_string(other).expect("a file"), "mine");
}

fn many_connections_at_once_are_told_to_come_again(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).start();
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(served.socket()).expect("a connection")).collect();
    let refused = || said(&served.admin(&["status"]));
    wait_until("a refusal", || refused().contains("too many connections at once"));
    // They hold up nobody else.
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    drop(silent);
    wait_until("an answer", || served.admin(&["status"]).status.success());
    // None at all, where none is wanted.
    drop(proxy);
    let _proxy = served.proxy(driver).set("admin.enabled", "false").start();
    assert!(said(&served.admin(&["status"])).contains("no server answers"));
}

fn the_pages_move_to_an_address_of_their_own(driver: Driver) {
    let served = Served::new();
    let proxy = served.proxy(driver).set("admin.bind", "127.0.0.1:0").start();
    let pages = proxy.pages.expect("their address");
    assert_eq!(proxy.ask(&get("/metrics", "")).status, 404);
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    let ask = |path: &str, fields: &str| RawClient::connect(pages).ask(&get(path, fields));
    assert!(ask("/metrics", "").text().contains("shadowcat_driver_info"));
    assert_eq!(ask("/ready", "").status, 200);
    assert_eq!(ask("/status", "").json()["state"], "ready");
    let upstream = ask("/upstreams", "").json()["upstreams"][0].clone();
    assert_eq!((&upstream["state"], &upstream["sessions"]), (&"open".into(), &Value::Null));
    // Only to read, and nothing of anybody's session.
    assert_eq!(ask("/sessions", "").status, 404);
    assert_eq!(RawClient::connect(pages).ask(&post_json("/drain", "", "{}")).status, 404);
    // DNS rebinding, and pages of the web.
    assert_eq!(ask("/status", "Origin: http://evil.example\r\n").status, 403);
    let foreign = b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(RawClient::connect(pages).ask(foreign).status, 403);
    let address = pages.to_string();
    let (code, said_of) = Proxy::builder(driver).set("admin.bind", &address).run_to_end();
    assert_eq!(code, Some(69));
    assert!(said_of.contains(&format!("admin.bind {address} is in use")), "{said_of}");
}
