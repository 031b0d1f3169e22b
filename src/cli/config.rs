//! `config check`, `config show`, `config default`, `config schema`, `config reference`.

use std::process::ExitCode;

use super::Failure;
use super::args::ConfigCommand;
use super::print::print;
use crate::config::{self, Loaded, PLACES};

/// # Errors
/// 78 with everything that is wrong.
pub fn run(command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let (file, more, origins) = match command {
        ConfigCommand::Check { file, more } => (file, more, None),
        ConfigCommand::Show { file, origin, more } => (file, more, Some(*origin)),
        ConfigCommand::Default => return print(&config::example()),
        ConfigCommand::Schema => return print(&format!("{:#}\n", config::json_schema())),
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
