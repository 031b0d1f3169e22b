//! check-jsonschema, which others use in their CI, against `config schema`; and a shell that loads the completions.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::peers;

fn shadowcat(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_shadowcat")).args(arguments).output().expect("the command runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn check(peers: &Path, arguments: &[&str], files: &[PathBuf]) -> Output {
    let mut command = Command::new(peers.join("venv/bin/check-jsonschema"));
    command.args(arguments).args(files).output().expect("check-jsonschema runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_schema_takes_every_configuration_there_is_and_no_nonsense() {
    let (peers, directory) = (peers(), tempfile::tempdir().expect("a folder"));
    let schema = directory.path().join("schema.json");
    std::fs::write(&schema, shadowcat(&["config", "schema"])).expect("written");
    let meta = check(&peers, &["--check-metaschema"], std::slice::from_ref(&schema));
    assert!(meta.status.success(), "{}", said(&meta));
    // The complete example with everything in it, not only what is active.
    let whole = directory.path().join("whole.toml");
    let default = shadowcat(&["config", "default"]);
    let uncommented = default.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => rest,
        _ => line,
    });
    std::fs::write(&whole, uncommented.collect::<Vec<_>>().join("\n")).expect("written");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![whole];
    for folder in ["config", "tests/fixtures/guide"] {
        let found = std::fs::read_dir(root.join(folder)).expect("a folder").map(|entry| entry.expect("a file").path());
        files.extend(found.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
    }
    assert!(files.len() >= 5, "{files:?}");
    let schema = ["--schemafile", schema.to_str().expect("UTF-8")];
    let good = check(&peers, &schema, &files);
    assert!(good.status.success(), "{}", said(&good));
    for (text, expected) in [
        ("[proxy]\nbnd = \"127.0.0.1:1\"\n", "bnd"),
        ("[proxi]\n", "proxi"),
        ("[session]\nmax_sessions = 0\n", "max_sessions"),
        ("[session]\nstore = \"redis\"\n", "redis"),
        ("[[upstreams]]\nurl = 5\n", "url"),
        ("[tls]\nrequire_client_cert = \"yes\"\n", "require_client_cert"),
    ] {
        let bad = directory.path().join("bad.toml");
        std::fs::write(&bad, text).expect("written");
        let refused = check(&peers, &schema, &[bad]);
        assert!(!refused.status.success() && said(&refused).contains(expected), "{text}: {}", said(&refused));
    }
}

#[test]
fn a_shell_completes_commands() {
    let directory = tempfile::tempdir().expect("a folder");
    let script = directory.path().join("completions");
    std::fs::write(&script, shadowcat(&["completions", "bash"])).expect("written");
    let ask = "source \"$0\"; COMP_WORDS=(shadowcat admin s); COMP_CWORD=2; _shadowcat shadowcat s admin; echo \"${COMPREPLY[@]}\"";
    let answer = Command::new("bash").args(["-c", ask]).arg(&script).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "status sessions");
    for shell in ["zsh", "fish"] {
        assert!(shadowcat(&["completions", shell]).contains("backup-sessions"));
    }
    let page = shadowcat(&["man"]);
    assert!(page.contains(".TH shadowcat 1") && page.contains("SHADOWCAT ADMIN BACKUP\\-SESSIONS"), "{page}");
}
