//! `shadowcat health`, as the probe of a container runs it.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Instant;

use crate::on_both_drivers;
use crate::support::tls::Authority;
use crate::support::upstream::Silent;
use crate::support::*;

on_both_drivers!(
    says_how_the_server_is,
    speaks_tls_to_a_server_that_does,
    finds_a_server_that_asks_for_certificates_by_its_socket,
    announces_itself_where_the_proxy_protocol_is_spoken,
);

/// With the flags of the server, as a container has them in its environment.
fn health(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.arg("health").args(arguments).env_clear().current_dir(std::env::temp_dir());
    command.output().expect("the command runs")
}

fn told(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn says_how_the_server_is(driver: Driver) {
    let upstream = FakeUpstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).bind("0.0.0.0:0").start();
    let bind = format!("0.0.0.0:{}", proxy.address.port());
    assert_eq!(told(&health(&["--bind", &bind])), (Some(0), "{\"status\":\"ok\"}\n".to_owned()));
    assert_eq!(told(&health(&["--ready", "--bind", &bind])), (Some(0), "{\"status\":\"ready\"}\n".to_owned()));
    drop(proxy);
    let (code, text) = told(&health(&["--bind", &bind]));
    assert_eq!(code, Some(1));
    // A ring that was killed gives its sockets back a moment later.
    assert!(text.contains("/health: Connection re"), "{text}");
    let unready = Proxy::builder(driver).start();
    let (code, text) = told(&health(&["--ready", "--bind", &unready.address.to_string()]));
    assert_eq!(code, Some(1));
    assert!(text.contains("/ready: 503") && text.contains("no upstream is configured"), "{text}");
    assert_eq!(told(&health(&["--bind", &unready.address.to_string()])).0, Some(0));
}

/// The settings of a server with TLS, whose certificate names somebody else than us.
fn with_tls(authority: &Authority, directory: &std::path::Path) -> String {
    let (certificate, key) = authority.write(directory, "mcp", &authority.sign("localhost"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400)).expect("permissions");
    format!("[tls]\ncert_path = \"{}\"\nkey_path = \"{}\"\n", certificate.display(), key.display())
}

fn speaks_tls_to_a_server_that_does(driver: Driver) {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let config = with_tls(&authority, directory.path());
    let path = directory.path().join("shadowcat.toml");
    std::fs::write(&path, &config).expect("written");
    let proxy = Proxy::builder(driver).config(&config).over_tls(authority.client().into()).start();
    let (file, bind) = (path.display().to_string(), proxy.address.to_string());
    assert_eq!(told(&health(&["--config", &file, "--bind", &bind])), (Some(0), "{\"status\":\"ok\"}\n".to_owned()));
    // Without TLS it is another server than the one that is meant.
    assert_eq!(told(&health(&["--bind", &bind])).0, Some(1));
}

fn finds_a_server_that_asks_for_certificates_by_its_socket(driver: Driver) {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let roots = directory.path().join("ca.pem");
    std::fs::write(&roots, &authority.pem).expect("written");
    let socket = directory.path().join("a.sock");
    let config = format!(
        "[admin]\nsocket = \"{}\"\n{}client_ca_path = \"{}\"\nrequire_client_cert = true\n",
        socket.display(),
        with_tls(&authority, directory.path()),
        roots.display()
    );
    let path = directory.path().join("shadowcat.toml");
    std::fs::write(&path, &config).expect("written");
    let signed = authority.sign("me");
    let own = authority.client_with(&[&rustls::version::TLS13], Some(&signed));
    let proxy = Proxy::builder(driver).config(&config).over_tls(own.into()).start();
    let (file, bind) = (path.display().to_string(), proxy.address.to_string());
    assert_eq!(told(&health(&["--config", &file, "--bind", &bind])), (Some(0), "{\"status\":\"ok\"}\n".to_owned()));
    let (code, text) = told(&health(&["--ready", "--config", &file, "--bind", &bind]));
    assert_eq!(code, Some(1));
    assert!(text.contains("no upstream is configured"), "{text}");
}

fn announces_itself_where_the_proxy_protocol_is_spoken(driver: Driver) {
    let settings = ["--set", "proxy.proxy_protocol=true", "--set", "proxy.trusted_proxies=127.0.0.1"];
    let config = "[proxy]\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n[admin]\nbind = \"127.0.0.1:0\"\n";
    let proxy = Proxy::builder(driver).config(config).start();
    let bind = proxy.address.to_string();
    let arguments = [&settings[..], &["--bind", &bind]].concat();
    assert_eq!(told(&health(&arguments)), (Some(0), "{\"status\":\"ok\"}\n".to_owned()));
}

#[test]
fn ends_in_time_whatever_comes() {
    let deaf = Silent::new();
    let mute = FakeUpstream::new(|conversation| {
        conversation.wait_for_end();
    });
    let drips = FakeUpstream::new(|conversation| {
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        while conversation.send(b"x") {
            let begun = Instant::now();
            wait_until("a moment", || begun.elapsed().as_millis() > 20);
        }
    });
    for address in [deaf.address, mute.address, drips.address] {
        let begun = Instant::now();
        let (code, text) = told(&health(&["--timeout", "300ms", "--bind", &address.to_string()]));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("timed out"), "{text}");
        assert!(begun.elapsed().as_secs() < 5, "{text}");
    }
    let other = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.send(b"SSH-2.0-x\r\n");
    });
    let (code, text) = told(&health(&["--bind", &other.address.to_string()]));
    assert_eq!(code, Some(1));
    assert!(text.contains("the answer is no HTTP"), "{text}");
}
