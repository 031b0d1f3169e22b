//! The commands as a process: output and exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{run, text_file};

#[test]
fn usage_and_mode_as_a_container_starts_them() {
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage"));
    assert_eq!(run(&[], &[("SHADOWCAT_MODE", "sideways")]).status.code(), Some(2));
    let nothing = run(&[], &[("SHADOWCAT_MODE", "")]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("Usage"), "set to nothing is not set");
    assert_eq!(run(&["reverse", "--nonsense"], &[]).status.code(), Some(2));
    assert_eq!(run(&["reverse", "--set", "proxy.bind=x"], &[]).status.code(), Some(78));
    let version = run(&["--version"], &[]);
    assert!(String::from_utf8_lossy(&version.stdout).contains("aws-lc-rs"));
}

#[test]
fn the_mode_of_the_environment_starts_a_server() {
    for mode in ["reverse", "gateway"] {
        let state = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_shadowcat"))
            .env_clear()
            .envs([("SHADOWCAT_MODE", mode), ("SHADOWCAT_BIND", "127.0.0.1:0"), ("RUST_LOG", "shadowcat=warn")])
            .env("XDG_STATE_HOME", state.path())
            .current_dir(state.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("listening on http://127.0.0.1:"), "{mode}: {line}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{mode}");
        assert!(state.path().join("shadowcat").is_dir(), "{mode}: sessions below the state directory");
    }
}

#[test]
fn a_file_in_the_working_directory_is_found() {
    let (keep, _path) = text_file("[proxy]\nbind = \"127.0.0.1:4711\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    let output = command.args(["config", "show", "--origin"]).env_clear().current_dir(keep.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("bind = \"127.0.0.1:4711\" # ./shadowcat.toml:2:8"), "{shown}");
}

#[test]
fn the_commands_say_what_they_checked_and_exit_with_78_when_it_is_bad() {
    let (_keep, path) = text_file("[proxy]\nbind = \"127.0.0.1:0\"\n");
    let name = path.to_str().unwrap();
    let good = run(&["config", "check", name], &[]);
    assert_eq!(String::from_utf8(good.stdout).unwrap(), format!("{name}: the configuration is good\n"));
    assert_eq!(run(&["config", "check", "/nowhere.toml"], &[]).status.code(), Some(78));
    assert_eq!(run(&["config", "check"], &[("SHADOWCAT_CONFIG", "/nowhere.toml")]).status.code(), Some(78));
    assert_eq!(run(&["config", "check", name, "--set", "proxy.bindd=x"], &[]).status.code(), Some(78));
    assert_eq!(run(&["config", "show", name, "--set", "nonsense"], &[]).status.code(), Some(2));
    for (flag, feature) in [("--tls-min-version=1.3", "no TLS"), ("--set=record.enabled=true", "record.output")] {
        let output = run(&["reverse", "--config", name, flag], &[]);
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8_lossy(&output.stderr).contains(feature));
    }
}
