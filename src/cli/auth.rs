//! `auth hash-key`.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use super::Failure;
use super::args::AuthCommand;
use crate::identity::api_key::{generate_key, hash_key};

/// More than any key has; standard input may have no end.
const INPUT_BYTES_MAX: u64 = 4096;

/// # Errors
/// 1 if standard input cannot be read or what it holds is no key.
pub fn run(command: &AuthCommand) -> Result<ExitCode, Failure> {
    let AuthCommand::HashKey { generate } = command;
    let failure = |message: String| Failure { code: 1, message };
    let refused = |why: &'static str| failure(why.to_owned());
    let text = if *generate {
        let key = generate_key().map_err(refused)?;
        let hash = hash_key(&key).map_err(refused)?;
        eprintln!("The key is for the client and shown only here; the hash is for [[auth.api_keys]].");
        format!("key  {key}\nhash {hash}\n")
    } else {
        let key = read_key().map_err(|error| failure(format!("standard input: {error}")))?;
        format!("{}\n", hash_key(&key).map_err(refused)?)
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).map_err(|error| failure(format!("standard output: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// One line. Never an argument: those are for every user of the machine to see.
fn read_key() -> std::io::Result<String> {
    let stdin = std::io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        eprint!("API key (what you type is shown): ");
        stdin.read_line(&mut text)?;
    } else {
        stdin.lock().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
