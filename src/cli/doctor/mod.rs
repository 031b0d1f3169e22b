//! `doctor`: looks at everything that a server of this configuration needs, says what is wrong and how to mend it, and
//! changes nothing.

mod files;
mod machine;
mod net;

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::admin::args::Output;
use super::args::ServerArgs;
use super::print::print;
use crate::config;
use crate::config::plan::Plan;

#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// How the findings are printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// It works, but not as well as it could, or not for ever.
    Warn,
    /// A server does not start, or does not do what is asked of it.
    Fail,
}

impl State {
    fn label(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        }
    }

    /// As terminals show it (ECMA-48).
    fn coloured(self) -> &'static str {
        match self {
            State::Ok => "\u{1b}[32mok\u{1b}[0m  ",
            State::Warn => "\u{1b}[33mwarn\u{1b}[0m",
            State::Fail => "\u{1b}[31mfail\u{1b}[0m",
        }
    }
}

/// One line of the outcome.
struct Finding {
    check: String,
    state: State,
    found: String,
    /// Empty where nothing is to be mended.
    fix: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.add(check, State::Ok, found, "");
    }

    fn warn(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.add(check, State::Warn, found, fix);
    }

    fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.add(check, State::Fail, found, fix);
    }

    fn add(&mut self, check: impl Into<String>, state: State, found: impl Into<String>, fix: impl Into<String>) {
        let one_line = |text: String| text.replace(char::is_control, " ");
        let (check, found, fix) = (one_line(check.into()), one_line(found.into()), one_line(fix.into()));
        self.0.push(Finding { check, state, found, fix });
    }
}

/// # Errors
/// Standard output cannot be written. Whether something fails is the exit code.
pub fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    let plan = configuration(args, &mut findings);
    machine::look(plan.as_ref(), &mut findings);
    if let Some(plan) = &plan {
        net::look(plan, &mut findings);
        files::look(plan, &mut findings);
    }
    let text = match args.output {
        Output::Json => format!("{:#}\n", as_json(&findings)),
        Output::Table => in_words(&findings),
    };
    print(&text)?;
    let failed = findings.0.iter().any(|finding| finding.state == State::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn configuration(args: &DoctorArgs, findings: &mut Findings) -> Option<Plan> {
    const CHECK: &str = "configuration";
    match config::load(&args.server.sources()) {
        Ok(loaded) => {
            let from = loaded.layers.file.as_ref().map(|path| path.display().to_string());
            findings.ok(CHECK, from.unwrap_or_else(|| "no file: the defaults, flags and the environment".to_owned()));
            for warning in loaded.warnings {
                findings.warn(CHECK, warning, "");
            }
            if loaded.plan.upstreams.is_empty() {
                findings.warn(CHECK, "no upstream: every request gets 503", "--upstream URL, or [[upstreams]]");
            }
            Some(loaded.plan)
        }
        Err(errors) => {
            let text = errors.to_string();
            let said = text.lines().filter(|line| line.starts_with("error")).collect::<Vec<_>>().join("; ");
            let said = if said.is_empty() { text } else { said };
            findings.fail(CHECK, said, "shadowcat config check shows where");
            None
        }
    }
}

fn as_json(findings: &Findings) -> Value {
    let one = |finding: &Finding| {
        let Finding { check, state, found, fix } = finding;
        json!({ "check": check, "state": state.label(), "found": found, "fix": fix })
    };
    let of = |state: State| findings.0.iter().filter(|finding| finding.state == state).count();
    json!({
        "findings": findings.0.iter().map(one).collect::<Vec<_>>(),
        "ok": of(State::Ok), "warn": of(State::Warn), "fail": of(State::Fail),
    })
}

fn in_words(findings: &Findings) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    for Finding { check, state, found, fix } in &findings.0 {
        let state = if colour { state.coloured().to_owned() } else { format!("{:4}", state.label()) };
        let _ = write!(out, "{state}  {check}: {found}");
        let _ = if fix.is_empty() { writeln!(out) } else { writeln!(out, " -> {fix}") };
    }
    out
}
