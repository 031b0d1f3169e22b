//! What commands print on standard output; `completions` and `man`.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use comfy_table::{Cell, CellAlignment, Table, presets};

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

/// Say something on standard error, in one write: the log's thread writes lines there as well.
pub fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// A table without lines.
pub fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// One with titles. `numbers`: the columns that stand on the right.
pub fn titled(titles: &[&str], numbers: &[usize]) -> Table {
    let mut table = bare();
    table.set_header(titles.iter().map(|title| Cell::new(title.to_uppercase())));
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
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
    page(&command, &mut text).map_err(failed)?;
    print(&String::from_utf8_lossy(&text))
}

/// What no flag tells.
const MORE: &str = r#".SH "EXIT STATUS"
.TP
0
It was done, or a server was stopped and finished what ran.
.TP
1
It failed at run time; of \fBdoctor\fR and \fBhealth\fR: something is wrong.
.TP
2
Wrong usage.
.TP
69
An address, or a session store, is in use by another process.
.TP
78
A configuration that cannot work.
.SH FILES
.TP
\fI./shadowcat.toml\fR, \fI/config/shadowcat.toml\fR, \fI/etc/shadowcat/config.toml\fR
The configuration: the first that is there, unless \fB\-\-config\fR or \fISHADOWCAT_CONFIG\fR names one.
.TP
\fIadmin.sock\fR in the directory of the session store
The socket that \fBshadowcat admin\fR asks.
.SH ENVIRONMENT
\fISHADOWCAT_<SECTION>_<KEY>\fR sets any key of the configuration, \fIRUST_LOG\fR what is logged;
\fINO_COLOR\fR takes the colours away.
"#;

fn page(command: &clap::Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(text)?;
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    man.render_options_section(text)?;
    subcommands(command, "shadowcat", text)?;
    text.write_all(MORE.as_bytes())
}

/// Each command below the page of the program, with subsections for its sections.
fn subcommands(command: &clap::Command, path: &str, text: &mut Vec<u8>) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name());
        if !command.has_subcommands() {
            let man = clap_mangen::Man::new(command.clone().bin_name(path.as_str()));
            let mut sections = Vec::new();
            man.render_description_section(&mut sections)?;
            man.render_synopsis_section(&mut sections)?;
            man.render_options_section(&mut sections)?;
            let sections = String::from_utf8_lossy(&sections).replace(".SH ", ".SS ");
            write!(text, ".SH \"{}\"\n{sections}", path.to_uppercase().replace('-', "\\-"))?;
        }
        subcommands(command, &path, text)?;
    }
    Ok(())
}
