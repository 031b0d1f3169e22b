//! Real clients and servers, recorded: they notice nothing, and the tapes are as the schema says.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Server, node, output, peers, script};

fn lines(tape: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(tape).expect("a tape");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn tapes(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

/// What check-jsonschema says of every line.
fn check(peers: &Path, tapes: &[PathBuf]) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut files = Vec::new();
    for line in tapes.iter().flat_map(|tape| lines(tape)) {
        files.push(directory.path().join(format!("{}.json", files.len())));
        std::fs::write(&files[files.len() - 1], line.to_string()).expect("written");
    }
    assert!(files.len() > 20, "{}", files.len());
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tape.schema.json");
    output(Command::new(peers.join("venv/bin/check-jsonschema")).arg("--schemafile").arg(schema).args(files));
}

/// Methods of messages that have an answer on the tape, each once.
fn answered(tapes: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for tape in tapes {
        let lines = lines(tape);
        for line in lines.iter().filter(|line| line["answers"].is_u64()) {
            let asked = lines.iter().find(|asked| asked["seq"] == line["answers"]).expect("the request");
            found.extend(asked["rpc"]["method"].as_str().map(str::to_owned));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What `client` prints for the command that starts server-everything, directly and recorded.
fn same_when_recorded(client: impl Fn(&Path, &str) -> String) {
    let (peers, directory) = (peers(), tempfile::tempdir().expect("a directory"));
    let tape = directory.path().join("everything.tape");
    let program = |name: &str| peers.join(name).to_str().expect("UTF-8").to_owned();
    let everything = program("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    let direct = [program("node_modules/node/bin/node"), everything, "stdio".to_owned()];
    let output = tape.to_str().expect("UTF-8");
    let proxy = [env!("CARGO_BIN_EXE_shadowcat"), "record", "--output", output, "--", "forward", "stdio", "--"];
    let recorded: Vec<&str> = proxy.into_iter().chain(direct.iter().map(String::as_str)).collect();
    let seen = client(&peers, &serde_json::to_string(&direct).expect("JSON"));
    assert_eq!(client(&peers, &serde_json::to_string(&recorded).expect("JSON")), seen);
    let tapes = tapes(directory.path());
    let methods = answered(&tapes);
    for method in ["initialize", "tools/list", "tools/call"] {
        assert!(methods.iter().any(|found| found == method), "{method} in {methods:?}");
    }
    check(&peers, &tapes);
}

#[test]
fn the_typescript_client_is_recorded_over_stdio() {
    same_when_recorded(|peers, command| {
        let mut client = node(peers);
        output(client.arg(script("client.mjs")).arg(peers.join("node_modules")).args([command, "stdio", "everything"]))
    });
}

#[test]
fn the_python_client_is_recorded_over_stdio() {
    same_when_recorded(|peers, command| {
        output(Command::new(peers.join("venv/bin/python")).arg(script("client.py")).args([command, "stdio"]))
    });
}

#[test]
fn the_typescript_client_is_recorded_over_http() {
    let (peers, directory) = (peers(), tempfile::tempdir().expect("a directory"));
    let server = Server::everything(&peers, "streamableHttp");
    let client = |address: &str| {
        let mut client = node(&peers);
        let url = format!("http://{address}/mcp");
        output(client.arg(script("client.mjs")).arg(peers.join("node_modules")).args([
            url.as_str(),
            "http",
            "everything",
        ]))
    };
    let seen = client(&server.address);
    for driver in ["io_uring", "epoll"] {
        let place = directory.path().join(driver);
        let proxy =
            Server::proxy_with(driver, &server.address, &["--set", &format!("record.output={}", place.display())]);
        assert_eq!(client(&proxy.address), seen);
        let has =
            |kind: &str| tapes(&place).iter().flat_map(|tape| lines(tape)).any(|line| line["http"]["kind"] == kind);
        super::wait::wait_until("the tape", || has("event") && has("request") && has("response"));
        drop(proxy);
        let tapes = tapes(&place);
        let methods = answered(&tapes);
        for method in ["initialize", "tools/list", "tools/call"] {
            assert!(methods.iter().any(|found| found == method), "{method} in {methods:?}");
        }
        check(&peers, &tapes);
    }
}
