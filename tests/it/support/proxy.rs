//! The proxy as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Client, PATIENCE, Upstream, wait_for};

pub struct Builder {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    driver: String,
    wrapper: Vec<String>,
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Proxy {
    pub fn builder(driver: &str) -> Builder {
        Builder { arguments: Vec::new(), environment: Vec::new(), driver: driver.to_owned(), wrapper: Vec::new() }
    }

    /// One worker more than one, sessions in memory.
    pub fn before(driver: &str, upstreams: &[&Upstream]) -> Builder {
        let mut builder = Proxy::builder(driver).set("session.store", "memory");
        for upstream in upstreams {
            builder = builder.upstream(&format!("http://{}", upstream.address));
        }
        builder
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the proxy to end", || self.child.try_wait().unwrap())
    }

    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn metrics(&self) -> Metrics {
        let answer = self.connect().exchange(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.status, 200);
        Metrics(String::from_utf8(answer.body).unwrap())
    }

    /// Resident memory, bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
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
    pub fn argument(mut self, argument: &str) -> Builder {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn set(self, key: &str, value: &str) -> Builder {
        self.argument("--set").argument(&format!("{key}={value}"))
    }

    pub fn upstream(self, url: &str) -> Builder {
        self.argument("--upstream").argument(url)
    }

    pub fn workers(self, workers: usize) -> Builder {
        self.argument("--workers").argument(&workers.to_string())
    }

    pub fn variable(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run under another program, e.g. `prlimit`.
    pub fn under(mut self, wrapper: &[&str]) -> Builder {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_shadowcat").to_owned();
        let mut words = self.wrapper.clone();
        words.push(binary);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("reverse").args(&self.arguments);
        if !self.arguments.iter().any(|argument| argument == "--bind") {
            command.args(["--bind", "127.0.0.1:0"]);
        }
        if !self.arguments.iter().any(|argument| argument == "--workers") {
            command.args(["--workers", "2"]);
        }
        command.args(["--driver", &self.driver]);
        command.env_remove("RUST_LOG").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Start it and wait until it listens; and be sure that it runs on the driver that was asked for.
    pub fn start(self) -> Proxy {
        let mut child = self.command().spawn().unwrap();
        let (log, lines) = collect(child.stderr.take().unwrap());
        let address = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on http://") {
                        break address.trim().parse().unwrap();
                    }
                }
                Err(_) => panic!("the proxy does not listen: {}", log.lock().unwrap()),
            }
        };
        let proxy = Proxy { child, address, log };
        let label = format!("driver=\"{}\"", self.driver);
        let metrics = proxy.metrics();
        assert!(metrics.0.contains(&label), "not on {}: {}", self.driver, metrics.0);
        proxy
    }

    /// Run it to its end: exit code and what it said.
    pub fn fail(self) -> (Option<i32>, String) {
        let mut child = self.command().spawn().unwrap();
        let (log, lines) = collect(child.stderr.take().unwrap());
        let status = wait_for("it to end", || child.try_wait().unwrap());
        while lines.recv_timeout(PATIENCE).is_ok() {}
        let said = log.lock().unwrap().clone();
        (status.code(), said)
    }
}

fn collect(stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, Receiver<String>) {
    let log: Arc<Mutex<String>> = Arc::default();
    let (tell, lines) = channel();
    let kept = log.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            kept.lock().unwrap().push_str(&format!("{line}\n"));
            let _ = tell.send(line);
        }
    });
    (log, lines)
}

/// The text of `/metrics`.
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of the series of this name whose labels contain `labels`.
    pub fn sum(&self, name: &str, labels: &str) -> f64 {
        self.0
            .lines()
            .filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
