//! `config check`, `config show`, `config default`, `config reference`.

use std::io::Write;
use std::process::ExitCode;

use super::Failure;
use super::args::ConfigCommand;
use crate::config::{self, Loaded, PLACES};

/// # Errors
/// 78 with everything that is wrong.
pub fn run(command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let (file, more, origins) = match command {
        ConfigCommand::Check { file, more } => (file, more, None),
        ConfigCommand::Show { file, origin, more } => (file, more, Some(*origin)),
        ConfigCommand::Default => return print(&config::example()),
        ConfigCommand::Reference => return print(&config::reference()),
    };
    let loaded = config::check(&more.sources(file.clone())).map_err(|errors| Failure::config(errors.to_string()))?;
    for warning in &loaded.warnings {
        eprintln!("shadowcat: warning: {warning}");
    }
    match origins {
        Some(origins) => print(&config::show(&loaded, origins)),
        None => print(&verdict(&loaded)),
    }
}

fn verdict(loaded: &Loaded) -> String {
    match &loaded.layers.file {
        Some(path) => format!("{}: the configuration is good\n", path.display()),
        None => format!("no file ({}): the defaults and the environment are good\n", PLACES.join(", ")),
    }
}

/// A reader that has seen enough (`| head`) is no failure.
pub fn print(text: &str) -> Result<ExitCode, Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { code: 1, message: format!("standard output: {error}") })
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
