//! A proxy process: started, listened to, signalled, and killed when dropped.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use rustls::ClientConfig;

use super::client::{RawClient, Response};
use super::http::get;
use super::tls;
use super::upstream::FakeUpstream;
use super::wait::{PATIENCE, wait_for, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    IoUring,
    Epoll,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
        }
    }
}

pub struct Builder {
    driver: Driver,
    bind: String,
    /// `None`: as many as the proxy thinks right.
    workers: Option<usize>,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    config: Option<String>,
    memory: bool,
    wrapper: Vec<String>,
    tls: Option<Arc<ClientConfig>>,
    stdout: Mutex<Stdio>,
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    /// Where `/metrics` is, if not there (`admin.bind`).
    pub pages: Option<SocketAddr>,
    child: Child,
    log: Log,
    tls: Option<Arc<ClientConfig>>,
    _config: Option<NamedTempFile>,
}

impl Proxy {
    /// Two workers, sessions in memory, any free port.
    pub fn builder(driver: Driver) -> Builder {
        Builder {
            driver,
            bind: "127.0.0.1:0".to_owned(),
            workers: Some(2),
            arguments: Vec::new(),
            environment: Vec::new(),
            config: None,
            memory: true,
            wrapper: Vec::new(),
            tls: None,
            stdout: Mutex::new(Stdio::null()),
        }
    }

    pub fn before(driver: Driver, upstreams: &[&FakeUpstream]) -> Builder {
        upstreams.iter().fold(Proxy::builder(driver), |builder, upstream| builder.upstream(&upstream.url()))
    }

    pub fn connect(&self) -> RawClient {
        match &self.tls {
            None => RawClient::connect(self.address),
            Some(config) => tls::client(self.address, "localhost", config.clone()).expect("a handshake"),
        }
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &[u8]) -> Response {
        self.connect().ask(request)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("a signal");
    }

    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_for("the proxy to end", || self.child.try_wait().expect("wait"))
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Wait until it has said this: lines come a moment after what they tell of.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    pub fn metrics(&self) -> Metrics {
        let request = get("/metrics", "Connection: close\r\n");
        let answer = self.pages.map_or_else(|| self.ask(&request), |pages| RawClient::connect(pages).ask(&request));
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics(answer.text())
    }

    /// Metrics once nothing is under way but the request for them: what a client saw the end of is counted a moment later.
    pub fn settled_metrics(&self) -> Metrics {
        wait_for("requests to end", || {
            let metrics = self.metrics();
            let under_way =
                metrics.sum("shadowcat_requests_total", "") - metrics.sum("shadowcat_requests_ended_total", "");
            (under_way == 1.0).then_some(metrics)
        })
    }

    /// Wait until a series has this value.
    pub fn wait_for_metric(&self, name: &str, labels: &str, expected: f64) {
        let mut last = f64::NAN;
        wait_for(&format!("{name}{{{labels}}} to be {expected}"), || {
            last = self.metrics().sum(name, labels);
            (last == expected).then_some(())
        });
    }

    /// Resident memory, bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kibibytes * 1024
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("descriptors").count()
    }

    /// CPU time used so far, clock ticks (10 ms).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("stat");
        let behind_name = stat.rsplit(')').next().expect("fields");
        behind_name.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().expect("ticks")).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the proxy said:\n{}", self.log());
        }
    }
}

impl Builder {
    pub fn argument(mut self, argument: impl Into<OsString>) -> Builder {
        self.arguments.push(argument.into());
        self
    }

    pub fn set(self, key: &str, value: &str) -> Builder {
        self.argument("--set").argument(format!("{key}={value}"))
    }

    pub fn upstream(self, url: &str) -> Builder {
        self.argument("--upstream").argument(url)
    }

    pub fn workers(mut self, workers: usize) -> Builder {
        self.workers = Some(workers);
        self
    }

    pub fn default_workers(mut self) -> Builder {
        self.workers = None;
        self
    }

    pub fn bind(mut self, address: &str) -> Builder {
        address.clone_into(&mut self.bind);
        self
    }

    /// Sessions in LMDB, in this directory.
    pub fn store(mut self, directory: &Path) -> Builder {
        self.memory = false;
        self.set("session.store", "lmdb").set("session.database_path", &directory.display().to_string())
    }

    /// Sessions wherever the configuration or its defaults say.
    pub fn store_of_the_config(mut self) -> Builder {
        self.memory = false;
        self
    }

    /// Where its standard output goes; else nowhere.
    pub fn stdout(self, place: impl Into<Stdio>) -> Builder {
        *self.stdout.lock().expect("stdout") = place.into();
        self
    }

    /// The text of a configuration file.
    pub fn config(mut self, text: &str) -> Builder {
        self.config = Some(text.to_owned());
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run under another program that ends in an `exec`, e.g. `prlimit`.
    /// Clients speak TLS, with these settings.
    pub fn over_tls(mut self, config: Arc<ClientConfig>) -> Builder {
        self.tls = Some(config);
        self
    }

    pub fn under(mut self, wrapper: &[&str]) -> Builder {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn command(&self, config: Option<&NamedTempFile>) -> Command {
        let mut words = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_shadowcat").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["reverse", "--bind", &self.bind, "--driver", self.driver.name()]);
        if let Some(workers) = self.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if self.memory {
            command.args(["--set", "session.store=memory"]);
        }
        if let Some(file) = config {
            command.arg("--config").arg(file.path());
        }
        // Neither the developer's environment nor a file where the tests run may say anything.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("SHADOWCAT_") || name == "RUST_LOG" {
                command.env_remove(name.as_ref());
            }
        }
        command.current_dir(std::env::temp_dir()).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let stdout = std::mem::replace(&mut *self.stdout.lock().expect("stdout"), Stdio::null());
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        command
    }

    fn spawn(&self) -> (Child, Log, Option<NamedTempFile>) {
        let config = self.config.as_ref().map(|text| {
            let mut file = NamedTempFile::with_suffix(".toml").expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            file
        });
        let mut child = self.command(config.as_ref()).spawn().expect("the binary starts");
        let log = Log::collect(child.stderr.take().expect("stderr"));
        (child, log, config)
    }

    /// Start it, wait until every worker accepts, and be sure that all of them run on the driver that was asked for.
    pub fn start(self) -> Proxy {
        self.try_start().unwrap_or_else(|(code, said)| panic!("the proxy does not listen: {code:?}: {said}"))
    }

    /// As [`start`](Builder::start), or the exit code and what it said if it does not come up.
    pub fn try_start(self) -> Result<Proxy, (Option<i32>, String)> {
        let (mut child, log, config) = self.spawn();
        let mut pages = None;
        let address = loop {
            match log.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("pages of the administrator address=") {
                        pages = address.trim().parse().ok();
                    }
                    if let Some((_, rest)) = line.split_once("listening on http") {
                        let word =
                            rest.trim_start_matches(['s', ':', '/']).split_whitespace().next().unwrap_or_default();
                        break word.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("the proxy neither listens nor ends: {}", log.text()),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = wait_for("the proxy to end", || child.try_wait().expect("wait"));
                    return Err((status.code(), log.text()));
                }
            }
        };
        let proxy = Proxy { address, pages, child, log, tls: self.tls, _config: config };
        let metrics = proxy.metrics();
        let label = format!("driver=\"{}\"", self.driver.name());
        let on_it = metrics.sum("shadowcat_driver_info", &label);
        let all = self.workers.map_or_else(|| metrics.sum("shadowcat_driver_info", ""), |workers| workers as f64);
        assert!(on_it == all && on_it > 0.0, "{on_it} of {all} workers run on {label}: {}", metrics.0);
        Ok(proxy)
    }

    /// Run it to its end, which must come by itself: exit code, and what it said on stderr.
    pub fn run_to_end(self) -> (Option<i32>, String) {
        let (mut child, log, _config) = self.spawn();
        let status = wait_for("the program to end", || child.try_wait().expect("wait"));
        while log.lines.recv_timeout(PATIENCE).is_ok() {}
        (status.code(), log.text())
    }
}

/// What a process says, collected by a thread.
struct Log {
    text: Arc<Mutex<String>>,
    lines: Receiver<String>,
}

impl Log {
    fn collect(stream: impl Read + Send + 'static) -> Log {
        let text: Arc<Mutex<String>> = Arc::default();
        let (tell, lines) = channel();
        let kept = text.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                kept.lock().expect("log").push_str(&format!("{line}\n"));
                let _ = tell.send(line);
            }
        });
        Log { text, lines }
    }

    fn text(&self) -> String {
        self.text.lock().expect("log").clone()
    }
}

/// The text of `/metrics`.
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of the series of this name whose labels contain `labels`.
    pub fn sum(&self, name: &str, labels: &str) -> f64 {
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = self.0.lines().filter(of_name).filter(|line| line.contains(labels));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
