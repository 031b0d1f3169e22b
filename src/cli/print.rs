//! What commands print on standard output; `completions` and `man`.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use super::Failure;
use super::args::Cli;

/// A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> Result<ExitCode, Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { code: 1, message: format!("standard output: {error}") })
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// # Errors
/// As [`print`].
pub fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "shadowcat", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// One page with all commands.
///
/// # Errors
/// As [`print`].
pub fn man() -> Result<ExitCode, Failure> {
    let failed = |error: std::io::Error| Failure { code: 1, message: error.to_string() };
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).map_err(failed)?;
    subcommands(&command, "shadowcat", &mut text).map_err(failed)?;
    print(&String::from_utf8_lossy(&text))
}

/// The options of each command below the page of the program.
fn subcommands(command: &clap::Command, path: &str, text: &mut Vec<u8>) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name());
        if !command.has_subcommands() {
            writeln!(text, ".SH {}", path.to_uppercase())?;
            let man = clap_mangen::Man::new(command.clone());
            man.render_description_section(text)?;
            man.render_synopsis_section(text)?;
            man.render_options_section(text)?;
        }
        subcommands(command, &path, text)?;
    }
    Ok(())
}
