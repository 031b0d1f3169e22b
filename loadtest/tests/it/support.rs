//! Processes: the generator, the proxy, the built-in server.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

use serde_json::Value;
use tempfile::NamedTempFile;

/// The proxy's binary of the same build; it is made if it is not there.
pub fn shadowcat() -> PathBuf {
    static BUILT: Once = Once::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("shadowcat");
    BUILT.call_once(|| {
        if !binary.is_file() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "shadowcat", "--bin", "shadowcat"]);
            if binary.to_string_lossy().contains("/release/") {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the proxy does not build");
        }
    });
    binary
}

/// A server process, ended when dropped.
pub struct Server {
    child: Child,
    /// `http://address`.
    pub origin: String,
}

impl Server {
    pub fn demo() -> Server {
        Server::start(&["demo", "--bind", "127.0.0.1:0"])
    }

    /// The proxy in front of a server, with these arguments more.
    pub fn proxy(upstream: &Server, arguments: &[&str]) -> Server {
        let start = ["reverse", "--bind", "127.0.0.1:0", "--set", "session.store=memory", "--workers", "1"];
        Server::start(&[&start, &["--upstream", upstream.origin.as_str()][..], arguments].concat())
    }

    fn start(arguments: &[&str]) -> Server {
        Server::run(Command::new(shadowcat()).args(arguments))
    }

    /// A program that tells its URL on stderr.
    fn run(command: &mut Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines().map_while(Result::ok);
        let mut said = String::new();
        let origin = lines.find_map(|line| {
            let _ = writeln!(said, "{line}");
            let at = line.find("listening on http")? + "listening on ".len();
            let url = line[at..].split_whitespace().next()?;
            Some(url.trim_end_matches("/mcp").to_owned())
        });
        let origin = origin.unwrap_or_else(|| panic!("it does not listen:\n{said}"));
        // It must not wait for somebody to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, origin }
    }

    pub fn url(&self) -> String {
        format!("{}/mcp", self.origin)
    }

    /// The sum of a metric's series whose labels contain this.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let mut stream = TcpStream::connect(self.origin.trim_start_matches("http://")).expect("a connection");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let series = page.lines().filter(of_name).filter(|line| line.contains(labels));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that is gone when dropped.
pub fn file(ending: &str, text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(ending).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the generator runs")
}

/// What came out: exit code, standard output, standard error.
pub fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Run a scenario; its exit code and the result as JSON.
pub fn load(scenario: &str, arguments: &[&str]) -> (i32, Value) {
    let scenario = file(".toml", scenario);
    load_file(&scenario.path().to_string_lossy(), arguments)
}

pub fn load_file(scenario: &str, arguments: &[&str]) -> (i32, Value) {
    let output = run(&[&[scenario, "--quiet", "--json", "-"], arguments].concat());
    let (code, stdout, stderr) = said(&output);
    let result = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
    (code.expect("it ended by itself"), result)
}

/// Errors of the first target by kind.
pub fn kinds(result: &Value) -> Vec<(String, u64)> {
    let errors = result["targets"][0]["errors_by_kind"].as_array().expect("a list");
    let of =
        |error: &Value| (error["kind"].as_str().expect("a kind").to_owned(), error["count"].as_u64().expect("a count"));
    errors.iter().map(of).collect()
}

pub fn operation<'r>(result: &'r Value, name: &str) -> &'r Value {
    let operations = result["targets"][0]["operations"].as_array().expect("a list");
    operations
        .iter()
        .find(|operation| operation["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {operations:?}"))
}
