//! `record`: any command that passes traffic on, with what passes on a tape.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};

use super::args::{Cli, Command, MoreSettings, key_and_value};
use super::forward::{self, ForwardCommand};
use super::{Failure, serve};
use crate::config::plan::{Plan, RecordPlan};
use crate::tape::queue::{Facts, Kind};
use crate::tape::{self, Recorder, Running, Source, Voice};
use crate::wire::tape::Server;
use crate::{config, stdio};

#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// Where the tapes go: a directory, or for `forward stdio` a file
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Configuration file (TOML) whose [record] holds for `forward stdio`
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration; repeat for more
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// The command and its arguments, after --: forward, reverse, gateway
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// # Errors
/// 2 for a command that cannot be recorded, 78 for a place that cannot be written; else as that command.
pub fn run(args: &RecordArgs) -> Result<ExitCode, Failure> {
    let command = match Cli::try_parse_from([OsString::from("shadowcat")].iter().chain(&args.command)) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    let settings = args.settings()?;
    match command {
        Some(Command::Forward(ForwardCommand::Stdio(server))) => {
            let plan = args.plan(&settings)?;
            let code = forward_stdio(server.server(), &plan).map_err(|(code, message)| Failure { code, message })?;
            Ok(ExitCode::from(code))
        }
        _ if args.config.is_some() => {
            Err(wrong("give --config to the command that is recorded: record -- reverse --config FILE"))
        }
        Some(Command::Forward(ForwardCommand::Http(mut http))) => {
            http.set.extend(settings);
            forward::run(&ForwardCommand::Http(http))
        }
        Some(Command::Reverse(mut server) | Command::Gateway(mut server)) => {
            server.set(&settings);
            serve::run(&server)
        }
        _ => Err(wrong("record is for commands that pass traffic on: forward, reverse, gateway")),
    }
}

fn wrong(message: &str) -> Failure {
    Cli::command().error(ErrorKind::InvalidValue, message).exit()
}

impl RecordArgs {
    fn settings(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut settings = vec![("record.enabled".to_owned(), "true".to_owned())];
        settings.extend(self.set.iter().cloned());
        if let Some(output) = &self.output {
            let text = output.to_str().ok_or_else(|| Failure::config(format!("{}: not UTF-8", output.display())))?;
            settings.push(("record.output".to_owned(), text.to_owned()));
        }
        Ok(settings)
    }

    /// What holds for a server that has no configuration of its own.
    fn plan(&self, settings: &[(String, String)]) -> Result<RecordPlan, Failure> {
        let mut sources = MoreSettings::set(settings).sources(self.config.clone());
        sources.no_usual_places = true;
        let loaded = config::load(&sources).map_err(|errors| Failure::config(errors.to_string()))?;
        for warning in &loaded.warnings {
            eprintln!("shadowcat: warning: {warning}");
        }
        loaded.plan.record.ok_or_else(|| Failure::config("record.enabled is false: nothing would be recorded".into()))
    }
}

/// Record what the workers of a server see.
///
/// # Errors
/// The place of the tapes cannot be written.
pub fn start(record: &RecordPlan, plan: &Plan) -> Result<Running, Failure> {
    // Of several the answers say which it was.
    let upstream = match &plan.upstreams[..] {
        [one] => Some(format!("{}://{}{}", if one.tls.is_some() { "https" } else { "http" }, one.authority, one.path)),
        _ => None,
    };
    let upstream = upstream.map(|url| record.rules.text(&url).into_owned());
    let source = Source::Http(Server { upstream, ..Server::default() });
    let prepared = tape::prepare(record, source, plan.workers, Voice::Log)
        .map_err(|why| Failure::config(format!("record.output: {why}")))?;
    prepared.start().map_err(|error| Failure { code: 1, message: format!("recording: {error}") })
}

/// Stand in front of a server over stdio, and record what passes; its exit code.
fn forward_stdio(server: stdio::Server, plan: &RecordPlan) -> Result<u8, (u8, String)> {
    let words = std::iter::once(&server.program).chain(&server.arguments);
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let source = Source::Stdio(Server { command: plan.rules.arguments(&words), ..Server::default() });
    let prepared = tape::prepare(plan, source, 3, Voice::Stderr)
        .map_err(|why| (super::EXIT_CONFIG, format!("record.output: {why}")))?;
    if let Some(file) = prepared.file().filter(|file| *file != plan.output) {
        eprintln!("shadowcat: recording to {}", file.display());
    }
    let mut running = None;
    let watch = |running: &mut Option<Running>| -> io::Result<stdio::Watches> {
        // Only now: there were to be no threads before.
        let recorder = running.insert(prepared.start()?).recorder();
        Ok(stdio::Watches {
            client: watcher(&recorder, tape::CLIENT),
            server: watcher(&recorder, tape::SERVER),
            stderr: watcher(&recorder, tape::STDERR),
        })
    };
    let code = stdio::forward(server, Some(Box::new(|| watch(&mut running))));
    drop(running);
    code.map_err(|error| (1, format!("forward stdio: {error}")))
}

/// Leaves what it is shown in a queue. What finds no room is told before the next that does.
fn watcher(recorder: &Arc<Recorder>, stream: usize) -> stdio::Watch {
    let recorder = recorder.clone();
    let (mut lost_frames, mut lost_bytes) = (0u64, 0u64);
    Box::new(move |bytes| {
        let facts = Facts { kind: Kind::Bytes, flags: 0, exchange: 0, at: recorder.at(std::time::Instant::now()) };
        let mut lost = [0; 16];
        lost[..8].copy_from_slice(&lost_frames.to_le_bytes());
        lost[8..].copy_from_slice(&lost_bytes.to_le_bytes());
        let text = if lost_frames > 0 { &lost[..] } else { &[] };
        match recorder.leave(stream, facts, text, &[], bytes) {
            true => (lost_frames, lost_bytes) = (0, 0),
            // About a message each.
            false => (lost_frames, lost_bytes) = (lost_frames + 1, lost_bytes + bytes.len() as u64),
        }
    })
}
