//! `config check`, `config show`, `config reference`.

use std::process::ExitCode;

use super::Failure;
use super::args::{ConfigCommand, sources};
use crate::config::{self, schema};

/// # Errors
/// 78 with everything that is wrong.
pub fn run(command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let (file, set, origins) = match command {
        ConfigCommand::Check { file, set } => (file, set, None),
        ConfigCommand::Show { file, origin, set } => (file, set, Some(*origin)),
        ConfigCommand::Reference => {
            print!("{}", schema::reference());
            return Ok(ExitCode::SUCCESS);
        }
    };
    let loaded = config::check(&sources(file.clone(), set)).map_err(|errors| Failure::config(errors.to_string()))?;
    for warning in &loaded.warnings {
        eprintln!("shadowcat: warning: {warning}");
    }
    match origins {
        Some(origins) => print!("{}", config::show(&loaded.layers, origins)),
        None => println!("the configuration is good"),
    }
    Ok(ExitCode::SUCCESS)
}
