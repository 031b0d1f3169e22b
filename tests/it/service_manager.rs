//! A service manager: what it is told over its socket, and sockets that it passes.

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::client::RawClient;
use crate::support::proxy::Builder;
use crate::support::*;

on_both_drivers!(
    tells_that_it_is_ready_and_that_it_reads_its_configuration,
    a_long_drain_asks_for_more_time,
    a_worker_that_hangs_silences_the_watchdog,
    a_manager_that_is_not_there_is_only_warned_of,
    serves_a_passed_socket_with_all_workers,
    nobody_is_refused_over_a_restart_on_a_passed_socket,
    a_socket_that_does_not_fit_is_refused,
    sockets_that_are_not_for_us_are_left_alone,
);

/// The socket of a manager.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Manager { socket, folder }
    }

    fn starts(&self, builder: Builder) -> Builder {
        builder.variable("NOTIFY_SOCKET", &self.folder.path().join("notify").display().to_string())
    }

    /// The next message; `None` if there is none for so long.
    fn next_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).expect("a timeout");
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).expect("text"))
    }

    /// The next message that has this line.
    fn wait_for(&self, line: &str) -> String {
        loop {
            let message = self.next_within(PATIENCE).unwrap_or_else(|| panic!("nobody says {line}"));
            if message.lines().any(|found| found == line) {
                return message;
            }
        }
    }
}

/// Microseconds since the boot, to the hundredth of a second.
fn uptime() -> i128 {
    let text = fs::read_to_string("/proc/uptime").expect("uptime");
    let seconds: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    (seconds * 1e6) as i128
}

fn number(message: &str, name: &str) -> i128 {
    let value = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name}: {message}"))
}

fn tells_that_it_is_ready_and_that_it_reads_its_configuration(driver: Driver) {
    let (manager, upstream) = (Manager::new(), FakeUpstream::answering("served"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shadowcat.toml");
    let write = |text: &str| fs::write(&path, text).expect("written");
    let good = format!("[[upstreams]]\nname = \"a\"\nurl = \"{}\"\n", upstream.url());
    write(&good);
    let mut proxy = manager.starts(Proxy::builder(driver).argument("--config").argument(&path)).start();
    let first = manager.next_within(PATIENCE).expect("a message");
    assert!(first.starts_with("STATUS=opening the session store\nEXTEND_TIMEOUT_USEC="), "{first}");
    let status = format!("STATUS=listening on {}; workers: 2 ({})", proxy.address, driver.name());
    assert_eq!(manager.next_within(PATIENCE).expect("a message"), format!("READY=1\n{status}\n"));

    for (text, outcome) in [
        (good.as_str(), "loaded anew"),
        ("[proxy]\nbnd = 1\n", "is refused, the old one stays: the configuration has 1 error"),
    ] {
        write(text);
        let before = uptime();
        proxy.signal(Signal::HUP);
        let reloading = manager.wait_for("RELOADING=1");
        let told = number(&reloading, "MONOTONIC_USEC");
        assert!((before - 10_000..=uptime() + 10_000).contains(&told), "{before} {reloading}");
        let ready = manager.next_within(PATIENCE).expect("a message");
        assert!(ready.starts_with("READY=1\nSTATUS=") && ready.contains(outcome), "{ready}");
        assert_eq!(ready.lines().count(), 2, "{ready}");
    }

    assert_eq!(proxy.ask(&get("/", "Connection: close\r\n")).text(), "served");
    proxy.signal(Signal::TERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_long_drain_asks_for_more_time(driver: Driver) {
    let (answer, awaited) = channel();
    let awaited = Mutex::new(awaited);
    let upstream = FakeUpstream::new(move |conversation| {
        conversation.request();
        conversation.tell("asked");
        let _ = awaited.lock().expect("one at a time").recv_timeout(PATIENCE);
        conversation.respond(200, "", "late");
    });
    let manager = Manager::new();
    // A look every second.
    let builder = manager.starts(Proxy::before(driver, &[&upstream]).variable("WATCHDOG_USEC", "4000000"));
    let mut proxy = builder.start();
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    upstream.expect_event("asked");
    proxy.signal(Signal::TERM);
    for _ in 0..3 {
        let message = manager.wait_for("STOPPING=1");
        assert_eq!(number(&message, "EXTEND_TIMEOUT_USEC"), 20_000_000, "{message}");
        assert!(message.contains("STATUS=draining; connections: 1\n"), "{message}");
        // The end of a drain is bounded by its own time, not by the watchdog.
        manager.wait_for("WATCHDOG=1");
    }
    answer.send(()).expect("somebody waits");
    assert_eq!(client.response().text(), "late");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn a_worker_that_hangs_silences_the_watchdog(driver: Driver) {
    let (manager, upstream) = (Manager::new(), FakeUpstream::answering("served"));
    let builder = Proxy::before(driver, &[&upstream]).variable("SHADOWCAT_FAULTS", "1");
    let builder = builder.variable("WATCHDOG_USEC", "2000000");
    let proxy = manager.starts(builder).start();
    for _ in 0..6 {
        manager.wait_for("WATCHDOG=1");
    }
    // One of two workers.
    proxy.connect().send(&get("/__fault/hang-worker", ""));
    // It comes twice a second as long as all is well, and was only just told when it hung.
    let mut later = 0;
    while manager.next_within(Duration::from_secs(2)).is_some() {
        later += 1;
        assert!(later < 20, "it is said to be alive");
    }
}

fn a_manager_that_is_not_there_is_only_warned_of(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).variable("NOTIFY_SOCKET", "/nowhere/notify").start();
    assert!(proxy.log().contains("warning: NOTIFY_SOCKET /nowhere/notify"), "{}", proxy.log());
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
}

/// Start with these as descriptors 3, 4 and so on, as a manager passes them.
fn passing(builder: Builder, sockets: &[&dyn AsFd], pid: &str) -> Builder {
    let mut redirections = String::new();
    for (index, socket) in sockets.iter().enumerate() {
        fcntl_setfd(socket.as_fd(), FdFlags::empty()).expect("inherited");
        redirections += &format!(" {}<&{}", index + 3, socket.as_fd().as_raw_fd());
    }
    let script = format!("export LISTEN_PID={pid} LISTEN_FDS={}; exec \"$@\"{redirections}", sockets.len());
    builder.under(&["bash", "-c", &script, "bash"])
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn serves_a_passed_socket_with_all_workers(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.wait_for_end();
    });
    let socket = listen();
    let address = socket.local_addr().expect("an address");
    // Somebody connects before anybody is there.
    let mut clients = vec![RawClient::connect(address)];
    let builder = Proxy::before(driver, &[&upstream]).bind(&address.to_string());
    let proxy = passing(builder, &[&socket], "$$").start();
    assert_eq!(proxy.address, address);
    clients.extend((1..120).map(|_| proxy.connect()));
    for client in &mut clients {
        client.send(&get("/sse", ""));
        client.stream_head();
    }
    let metrics = proxy.metrics();
    let streams = ["0", "1"].map(|w| metrics.sum("shadowcat_streams_active", &format!("worker=\"{w}\"")));
    assert_eq!(streams.iter().sum::<f64>(), 120.0);
    assert!(streams.iter().all(|&count| count <= 60.0 * 1.25 + 10.0), "{streams:?}");
}

fn nobody_is_refused_over_a_restart_on_a_passed_socket(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let socket = listen();
    let address = socket.local_addr().expect("an address");
    let start = || passing(Proxy::before(driver, &[&upstream]).bind(&address.to_string()), &[&socket], "$$").start();
    let mut proxy = start();
    for round in 0..3 {
        assert_eq!(proxy.ask(&get("/", "Connection: close\r\n")).text(), "served");
        if round == 1 {
            proxy.kill();
        } else {
            proxy.signal(Signal::TERM);
            assert_eq!(proxy.wait_exit().code(), Some(0));
        }
        let mut meanwhile = RawClient::connect(address);
        meanwhile.send(&get("/", "Connection: close\r\n"));
        proxy = start();
        assert_eq!(meanwhile.response().text(), "served");
    }
}

fn a_socket_that_does_not_fit_is_refused(driver: Driver) {
    let (one, two) = (listen(), listen());
    let address = one.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let local = UnixListener::bind(folder.path().join("socket")).expect("a socket");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let elsewhere = format!("listens on {address}, and proxy.bind is 127.0.0.1:9; make them the same");
    for (bind, sockets, expected) in [
        ("127.0.0.1:9", vec![&one as &dyn AsFd], elsewhere.as_str()),
        ("127.0.0.1:9", vec![&local], "is no TCP socket that listens"),
        ("127.0.0.1:9", vec![&datagrams], "is no TCP socket that listens"),
        (&address, vec![&one, &two], "2 sockets were passed, and one is of use"),
    ] {
        let (code, said) = passing(Proxy::builder(driver).bind(bind), &sockets, "$$").run_to_end();
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    // Announced, and not there.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=900; exec \"$@\"";
    let (code, said) = Proxy::builder(driver).under(&["bash", "-c", script, "bash"]).run_to_end();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("LISTEN_FDS: Bad file descriptor"), "{said}");
}

fn sockets_that_are_not_for_us_are_left_alone(driver: Driver) {
    let (socket, upstream) = (listen(), FakeUpstream::answering("served"));
    let proxy = passing(Proxy::before(driver, &[&upstream]), &[&socket], "1").start();
    assert_ne!(proxy.address, socket.local_addr().expect("an address"));
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
}
