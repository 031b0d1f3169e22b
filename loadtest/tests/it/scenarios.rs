//! The scenarios that come along, each against the real proxy.

use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::on_both_drivers;
use crate::support::{Server, file, kinds, load_file, operation};

on_both_drivers!(tls, streams, slow_readers);

fn fine(scenario: &str, proxy: &Server, arguments: &[&str]) -> Value {
    let url = proxy.url();
    let (code, result) = load_file(scenario, &[&["--target", &url], arguments].concat());
    // What is asked of speed is for a release build on a quiet machine.
    assert!(matches!(code, 0 | 4), "{scenario}: {code}: {:?}", kinds(&result));
    assert_eq!(kinds(&result), Vec::new(), "{scenario}");
    assert!(result["targets"][0]["requests"].as_u64() > Some(0), "{scenario}: {result:#}");
    result
}

#[test]
fn calls_and_sessions() {
    let demo = Server::demo();
    let proxy = Server::proxy(&demo, &[]);
    for scenario in ["tools-call", "fixed-rate", "modern", "sessions", "churn", "large-bodies", "ramp"] {
        let result = fine(scenario, &proxy, &["--warmup", "200ms", "--duration", "1500ms"]);
        if scenario == "sessions" {
            let made = |step: &str| operation(&result, step)["good"].as_u64().expect("a number");
            let whole = made("session");
            assert!(whole > 0 && made("session/call").abs_diff(3 * whole) < 3 * 32, "{result:#}");
        }
    }
    assert_eq!(proxy.metric("shadowcat_sessions_active", ""), 0.0, "a session was left behind");
}

#[test]
fn mixed() {
    let demo = Server::demo();
    let proxy = Server::proxy(&demo, &[]);
    let result = fine("mixed", &proxy, &["--warmup", "200ms", "--duration", "3s"]);
    // (Streams are due when it starts, which is in the warm-up.)
    for name in ["legacy/slow tool", "modern/echo", "comers/session"] {
        assert!(operation(&result, name)["good"].as_u64() > Some(0), "{name}");
    }
    assert!(result["targets"][0]["events"].as_u64() >= Some(100), "{result:#}");
}

fn streams(driver: &str) {
    let demo = Server::demo();
    let proxy = Server::proxy(&demo, &[]);
    let result = fine("streams", &proxy, &["--duration", "3s", "--warmup", "0s", "--driver", driver]);
    assert_eq!(operation(&result, "legacy/stream")["good"], 200);
    assert_eq!(operation(&result, "modern/stream")["good"], 200);
    // One event a second each, and one more that acknowledges.
    let events = result["targets"][0]["events"].as_u64().expect("a number");
    assert!((800..=1800).contains(&events), "{events}");
}

fn slow_readers(driver: &str) {
    let demo = Server::demo();
    let proxy = Server::proxy(&demo, &[]);
    let scenario = r#"
        duration = "3s"
        warmup = "0s"
        [[users]]
        connections = 2
        [[users.work]]
        call = "echo"
        body_bytes = "256KiB"
        read_rate = "256KiB"
    "#;
    let path = file(".toml", scenario);
    let result = fine(&path.path().to_string_lossy(), &proxy, &["--driver", driver]);
    let latency = &operation(&result, "echo")["latency"];
    // Nobody reads 256 KiB at 256 KiB a second in less than a second.
    let p50 = latency["p50"].as_f64().expect("a number") / 1e9;
    assert!((0.9..3.0).contains(&p50), "{p50} s");
}

fn tls(driver: &str) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = file(".pem", &ca.self_signed(&ca_key).expect("a certificate").pem());
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).expect("a certificate");
    let (certificate, key) = (file(".pem", &leaf.pem()), file(".pem", &key.serialize_pem()));
    let path = |file: &tempfile::NamedTempFile| file.path().to_string_lossy().into_owned();
    let demo = Server::demo();
    // Pages on an address of their own, which speaks no TLS.
    let files = ["--tls-cert", &path(&certificate), "--tls-key", &path(&key)];
    let proxy = Server::proxy(&demo, &files);
    let ca = path(&authority);
    let result = fine("tls", &proxy, &["--duration", "2s", "--driver", driver, "--ca", &ca]);
    let good = |name: &str| operation(&result, name)["good"].as_u64().expect("a number");
    assert!(good("staying/echo") > 100);
    // A connection for each call; those at the edges of what is measured may be on its one side alone.
    for group in ["full handshakes", "resumed"] {
        let (calls, made) = (good(&format!("{group}/echo")), good(&format!("{group}/connect")));
        assert!(calls > 10 && calls.abs_diff(made) <= 16, "{group}: {made} connections for {calls} calls");
    }
    // And without the authority nothing is believed.
    let url = proxy.url();
    let (code, _, stderr) =
        crate::support::said(&crate::support::run(&["tools-call", "--target", &url, "--driver", driver]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("TLS handshake failed"), "{stderr}");
}

/// An authorization server of Python and OpenSSL.
struct Tokens(Child);

impl Drop for Tokens {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/idp.py");
    let _issuer = Tokens(
        Command::new("python3")
            .arg(script)
            .arg(folder.path())
            .arg("4")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3"),
    );
    let at = |name: &str| folder.path().join(name);
    let begun = std::time::Instant::now();
    let read = |name: &str| loop {
        match std::fs::read_to_string(at(name)) {
            Ok(text) if !text.trim().is_empty() => break text.trim().to_owned(),
            _ if begun.elapsed().as_secs() > 30 => panic!("no {name}"),
            _ => std::thread::yield_now(),
        }
    };
    let issuer = read("issuer");
    let tokens: Vec<String> = (0..4).map(|user| read(&format!("token-{user}"))).collect();
    std::fs::write(at("tokens"), tokens.join("\n")).expect("written");
    let demo = Server::demo();
    let settings = ["auth.enabled=true", &format!("auth.issuer={issuer}"), "auth.audience=https://mcp.example.com"];
    let proxy = Server::proxy(&demo, &settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>());
    let url = proxy.url();
    let run = |tokens: &str| {
        let arguments = ["tokens", "--target", &url, "--duration", "1s", "--warmup", "0s", "--quiet", "--json", "-"];
        let output = crate::support::command(&arguments).env("LOADTEST_TOKENS", tokens).output().expect("it runs");
        crate::support::said(&output)
    };
    let (code, stdout, stderr) = run(&at("tokens").to_string_lossy());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let nonsense = file(".txt", "nonsense\n");
    let (code, _, stderr) = run(&nonsense.path().to_string_lossy());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("status 401"), "{stderr}");
}
