//! Configuration as an operator meets it: files, variables, flags, and what is said when one is wrong.

mod auth;
mod commands;
mod files;
mod fuzzed;
mod messages;
mod precedence;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shadowcat::config::Sources;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn secrets() -> BTreeMap<String, String> {
    environment(&[("OAUTH_CLIENT_ID", "id"), ("OAUTH_CLIENT_SECRET", "s3cr3t"), ("HOME", "/users/x")])
}

fn from_file(path: &Path) -> Sources {
    Sources { file: Some(path.to_owned()), environment: secrets(), ..Sources::default() }
}

fn reverse() -> PathBuf {
    root().join("config/reverse.toml")
}

fn text_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shadowcat.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shadowcat"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}
