//! `shadowcat doctor`: what it finds wrong, and that it changes nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::idp::Idp;
use crate::support::tls::Authority;
use crate::support::upstream::Refusing;
use crate::support::*;

fn doctor(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.arg("doctor").args(arguments).env_clear().current_dir(std::env::temp_dir());
    command.output().expect("the command runs")
}

fn findings(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    found["findings"].as_array().expect("findings").clone()
}

/// The findings of a configuration.
fn look(config: &str, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("shadowcat.toml");
    std::fs::write(&path, config).expect("written");
    let arguments = [&["--output", "json", "--config", path.to_str().expect("UTF-8")], more].concat();
    let output = doctor(&arguments);
    (output.status.code(), findings(&output))
}

fn of<'f>(findings: &'f [Value], check: &str) -> &'f Value {
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{check}: {findings:#?}"))
}

fn expect(findings: &[Value], check: &str, state: &str, found: &str) {
    let finding = of(findings, check);
    assert_eq!(finding["state"], state, "{finding}");
    assert!(finding["found"].as_str().is_some_and(|text| text.contains(found)), "{finding}");
    assert_eq!(finding["fix"] == "", state == "ok", "{finding}");
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("an address").to_string()
}

#[test]
fn a_machine_where_all_is_well_passes() {
    let (upstream, directory) = (FakeUpstream::answering("x"), TempDir::new().expect("a directory"));
    let store = directory.path().join("sessions.db");
    let config = format!(
        "[proxy]\nbind = \"{}\"\n[performance]\nmax_connections = 1000\n[session]\ndatabase_path = \"{}\"\n[[upstreams]]\nname = \"a\"\nurl = \"{}\"\n",
        free(),
        store.display(),
        upstream.url()
    );
    let (code, found) = look(&config, &[]);
    assert_eq!(code, Some(0), "{found:#?}");
    expect(&found, "io_uring", "ok", "a ring with");
    expect(&found, "file descriptors", "ok", "max_connections = 1000");
    expect(&found, "proxy.bind", "ok", "is free");
    expect(&found, "upstream a", "ok", "connects");
    expect(&found, "session store", "ok", "which the first start makes");
    assert!(!store.exists(), "it changes nothing");
    let table = doctor(&["--upstream", &upstream.url(), "--bind", &free()]);
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(table.contains("ok    io_uring: a ring") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn what_is_wrong_is_named_with_a_fix() {
    let (taken, refusing) = (TcpListener::bind("127.0.0.1:0").expect("an address"), Refusing::new());
    let (authority, directory) = (Authority::new(), TempDir::new().expect("a directory"));
    let short = authority.write(directory.path(), "short", &authority.sign_for("localhost", 3 * 86_400 + 60));
    let other = authority.write(directory.path(), "other", &authority.sign("localhost"));
    let store = directory.path().join("sessions.db");
    std::fs::create_dir(&store).expect("a directory");
    std::fs::write(store.join("data.mdb"), "no store").expect("written");
    let config = format!(
        "[proxy]\nbind = \"{}\"\nworker_threads = 200\n[performance]\nmax_connections = 10000000\n\
         [session]\ndatabase_path = \"{}\"\n[tls]\ncert_path = \"{}\"\nkey_path = \"{}\"\n\
         [[upstreams]]\nname = \"a\"\nurl = \"{}\"\n[[upstreams]]\nname = \"b\"\nurl = \"http://nowhere.invalid\"\n",
        taken.local_addr().expect("an address"),
        store.display(),
        short.0.display(),
        other.1.display(),
        refusing.url()
    );
    let (code, found) = look(&config, &[]);
    assert_eq!(code, Some(1));
    expect(&found, "CPUs", "warn", "200 workers");
    expect(&found, "file descriptors", "warn", "10000000");
    expect(&found, "proxy.bind", "fail", "in use by somebody else");
    expect(&found, "upstream a", "fail", "Connection refused");
    expect(&found, "upstream b", "fail", "does not resolve");
    expect(&found, "session store", "fail", "is damaged");
    expect(&found, "TLS files", "fail", "short.pem");
    expect(&found, &format!("certificate {}", short.0.display()), "warn", "it ends in 3 days");
    assert_eq!(std::fs::read(store.join("data.mdb")).expect("a file"), b"no store", "it changes nothing");
    let (code, found) = look("[proxy]\nbnd = \"x\"\n", &[]);
    assert_eq!(code, Some(1));
    expect(&found, "configuration", "fail", "unknown key `bnd`");
    expect(&found, "io_uring", "ok", "a ring with");
}

#[test]
fn the_store_of_a_server_that_runs_is_left_alone() {
    let (upstream, directory) = (FakeUpstream::answering("x"), TempDir::new().expect("a directory"));
    let proxy = Proxy::before(Driver::Epoll, &[&upstream]).store(directory.path()).start();
    let config = format!(
        "[proxy]\nbind = \"{}\"\n[session]\ndatabase_path = \"{}\"\n",
        proxy.address,
        directory.path().display()
    );
    let (code, found) = look(&config, &["--upstream", &upstream.url()]);
    assert_eq!(code, Some(0), "{found:#?}");
    expect(&found, "session store", "ok", &format!("open in process {}", proxy.pid()));
    expect(&found, "proxy.bind", "ok", "by a server of this configuration");
}

#[test]
fn an_identity_provider_is_asked_for_its_keys_and_its_time() {
    let idp = Idp::start();
    let config = |more: &str| format!("[auth]\nissuer = \"{}\"\naudience = [\"x\"]\n{more}", idp.issuer());
    let check = format!("issuer {}", idp.issuer());
    // Its metadata tell where the keys are.
    let (_, found) = look(&config(""), &[]);
    expect(&found, &check, "ok", "usable keys: 1");
    let of_another = |keys: &str| {
        let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        FakeUpstream::saying(format!("{head}Content-Length: {}\r\n\r\n{keys}", keys.len()))
    };
    // The key is that of RFC 7517, appendix A.1.
    let long_ago = of_another(
        r#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"}]}"#,
    );
    let (code, found) = look(&config(&format!("jwks_url = \"{}\"\n", long_ago.url())), &[]);
    assert_eq!(code, Some(1));
    expect(&found, &check, "fail", "usable keys: 1; its clock and ours are");
    let keyless = of_another(r#"{"keys":[]}"#);
    let (_, found) = look(&config(&format!("jwks_url = \"{}\"\n", keyless.url())), &[]);
    expect(&found, &check, "fail", "none of its keys");
    let (_, found) = look(&config(&format!("jwks_url = \"{}\"\n", Refusing::new().url())), &[]);
    expect(&found, &check, "fail", "refused");
}

/// As a container engine's profile does it: the three calls of io_uring are refused.
#[test]
fn a_filter_that_refuses_io_uring_is_named() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/without_io_uring.py");
    for (driver, state) in [("auto", "warn"), ("io_uring", "fail")] {
        let mut command = Command::new("python3");
        command
            .arg(&script)
            .arg(env!("CARGO_BIN_EXE_shadowcat"))
            .args(["doctor", "--output", "json", "--driver", driver]);
        let found = findings(&command.output().expect("python runs"));
        expect(&found, "io_uring", state, "a seccomp filter refuses it");
    }
}
