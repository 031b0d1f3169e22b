//! Real clients see the same of a server over stdin and stdout directly and behind HTTP (`forward http -- COMMAND`).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Server, node, output, peers, script};

/// The command that starts a server.
fn everything(peers: &Path) -> Vec<PathBuf> {
    let module = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    vec![peers.join("node_modules/node/bin/node"), peers.join(module), "stdio".into()]
}

fn fixture(peers: &Path) -> Vec<PathBuf> {
    vec![peers.join("node_modules/node/bin/node"), script("fixture-stdio.mjs"), peers.join("node_modules")]
}

fn as_json(server: &[PathBuf]) -> String {
    serde_json::to_string(server).unwrap()
}

fn bridge(driver: &str, server: &[PathBuf]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(["forward", "http", "--listen", "127.0.0.1:0", "--driver", driver, "--"]).args(server);
    Server::start(command, "listening on http://")
}

/// What a client printed, but for what is of one transport alone.
fn seen(said: &str) -> Value {
    let mut seen: Value = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let of_transport = ["session", "closed", "left"];
    seen.as_object_mut().unwrap().retain(|name, _| !of_transport.contains(&name.as_str()));
    seen
}

/// `client` prints the same for the server itself and for its URL behind the bridge, on both drivers.
fn same_behind_http(server: &[PathBuf], client: impl Fn(&str, bool) -> String) -> Value {
    let direct = seen(&client(&as_json(server), false));
    for driver in ["io_uring", "epoll"] {
        let bridge = bridge(driver, server);
        assert_eq!(seen(&client(&format!("http://{}/mcp", bridge.address), true)), direct, "{driver}");
    }
    direct
}

#[test]
fn the_typescript_client_sees_the_same_behind_http() {
    let peers = peers();
    let seen = same_behind_http(&everything(&peers), |at, bridged| {
        let how = if bridged { ["http", "bridged"] } else { ["stdio", "everything"] };
        output(node(&peers).arg(script("client.mjs")).arg(peers.join("node_modules")).arg(at).args(how))
    });
    assert_eq!((&seen["long"], &seen["progress"], &seen["asked"]), (&true.into(), &vec![1, 2, 3, 4].into(), &1.into()));
}

#[test]
fn the_second_typescript_client_sees_the_same_behind_http_in_both_eras() {
    let peers = peers();
    for way in ["legacy", "auto", "pinned"] {
        let seen = same_behind_http(&fixture(&peers), |at, _| {
            output(node(&peers).arg(script("client-v2.mjs")).arg(peers.join("node_modules")).args([at, way]))
        });
        assert_eq!(seen["era"], if way == "legacy" { "legacy" } else { "modern" });
        assert_eq!(seen["cancelled"], 1);
    }
}

#[test]
fn the_python_client_sees_the_same_behind_http() {
    let peers = peers();
    let seen = same_behind_http(&everything(&peers), |at, bridged| {
        let how = if bridged { "bridged" } else { "stdio" };
        output(Command::new(peers.join("venv/bin/python")).arg(script("client.py")).args([at, how]))
    });
    assert_eq!(seen["progress"], 4);
}

/// With a server of the legacy era alone, and with one of both.
#[test]
fn the_inspector_sees_the_same_behind_http() {
    let peers = peers();
    for server in [everything(&peers), fixture(&peers)] {
        let tools = |target: &[&str]| {
            let mut command = node(&peers);
            command.arg(peers.join("node_modules/.bin/mcp-inspector")).arg("--cli").args(target);
            output(command.args(["--method", "tools/list"]))
        };
        let own: Vec<&str> = server.iter().map(|part| part.to_str().unwrap()).collect();
        let direct = tools(&own);
        assert!(direct.contains("\"tools\""), "{direct}");
        let bridge = bridge("epoll", &server);
        let url = format!("http://{}/mcp", bridge.address);
        assert_eq!(tools(&[&url, "--transport", "http"]), direct);
    }
}

/// The suite against the fixture over HTTP, and against the one over stdin and stdout behind the bridge. What differs is what a
/// server cannot do there, or what the suite notes without judging it.
fn conformance(requirements: &str, totals: &str, differ: &[&str]) {
    let peers = peers();
    let direct = Server::fixture(&peers);
    let bridge = bridge("epoll", &fixture(&peers));
    let directory = tempfile::tempdir().unwrap();
    let mut command = node(&peers);
    command.arg(script("compare.mjs")).arg(peers.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
    command.arg(requirements).arg(directory.path());
    let done =
        command.args([&direct, &bridge].map(|server| format!("http://{}/mcp", server.address))).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains(totals), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    let found: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("differs: ")).collect();
    let unexpected = found.iter().filter(|line| !differ.iter().any(|known| line.starts_with(known)));
    assert_eq!(unexpected.collect::<Vec<_>>(), [&""; 0], "{said}");
    // What does not differ any more is taken out of the list.
    assert!(differ.iter().all(|known| found.iter().any(|line| line.starts_with(known))), "{said}");
    assert!(!found.iter().any(|line| line.ends_with("FAILURE")), "{said}");
}

/// A server over stdin and stdout cannot close the stream of its call; and answers that come at once are JSON here.
#[test]
fn conformance_of_2025_11_25_behind_http() {
    let differ =
        ["server-server-sse-polling / ", "server-server-sse-multiple-streams / server-sse-streams-functional #1"];
    conformance("2025-11-25", "84 passed, 0 failed directly", &differ);
}

#[test]
fn conformance_of_2026_07_28_behind_http() {
    conformance("2026-07-28", "164 passed, 30 failed directly", &[]);
}
