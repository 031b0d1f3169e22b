//! SDK clients see the same of server-everything over stdio directly and through `forward stdio`.

use std::process::Command;

use super::{node, output, peers, script};

/// What `client` prints for the command that starts the server, directly and through the proxy.
fn same_through_forward(peers: &std::path::Path, client: impl Fn(&str) -> String) -> String {
    let program = |name: &str| peers.join(name).to_str().unwrap().to_owned();
    let everything = program("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    let direct = [program("node_modules/node/bin/node"), everything, "stdio".to_owned()];
    let proxy = [env!("CARGO_BIN_EXE_shadowcat"), "forward", "stdio", "--"].map(str::to_owned);
    let forwarded: Vec<&String> = proxy.iter().chain(&direct).collect();
    let seen = client(&serde_json::to_string(&direct).unwrap());
    assert_eq!(client(&serde_json::to_string(&forwarded).unwrap()), seen);
    seen
}

#[test]
fn the_typescript_client_sees_the_same_over_stdio() {
    let peers = peers();
    let seen = same_through_forward(&peers, |command| {
        let mut client = node(&peers);
        output(client.arg(script("client.mjs")).arg(peers.join("node_modules")).args([command, "stdio", "everything"]))
    });
    for part in [r#""long":true"#, r#""progress":[1,2,3,4]"#, r#""asked":1"#, r#""left":false"#] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
}

#[test]
fn the_python_client_sees_the_same_over_stdio() {
    let peers = peers();
    let seen = same_through_forward(&peers, |command| {
        output(Command::new(peers.join("venv/bin/python")).arg(script("client.py")).args([command, "stdio"]))
    });
    assert!(seen.contains(r#""progress": 4"#), "{seen}");
}
