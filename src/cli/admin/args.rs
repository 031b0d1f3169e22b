//! Flags and commands of `admin`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::args::MoreSettings;
use crate::config;

#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    pub command: AdminCommand,
    #[command(flatten)]
    pub where_to: Whereabouts,
}

/// Of every command but the one whose output is a file.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Format {
    /// How the answer is printed
    #[arg(long, value_enum, default_value = "table")]
    pub output: Output,
}

/// How the server is found: by its configuration, or at once by its socket.
#[derive(Clone, Debug, Default, Args)]
pub struct Whereabouts {
    /// Configuration file of the server [default: where a server looks]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket of the server [default: what the configuration says]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    #[command(flatten)]
    pub more: MoreSettings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Debug, Subcommand)]
pub enum AdminCommand {
    /// How the server is
    Status {
        #[command(flatten)]
        format: Format,
    },
    /// See, take out and weigh upstreams
    #[command(subcommand)]
    Upstreams(UpstreamsCommand),
    /// See and end sessions
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Show what is logged, or change it until the server ends
    LogLevel {
        /// A level, or a filter as in RUST_LOG
        filter: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Read the configuration anew, and say whether it was taken
    Reload {
        #[command(flatten)]
        format: Format,
    },
    /// Finish what runs, and stop: as SIGTERM does
    Drain {
        #[command(flatten)]
        format: Format,
    },
    /// End sessions that nobody has used for so long
    CleanupSessions {
        /// Such as 7d, 12h, 30m; a bare number is seconds
        #[arg(long, value_name = "TIME", value_parser = age)]
        older_than: Duration,
        /// Only say how many
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Write all sessions to a file, while the server runs or not
    BackupSessions {
        /// The file, which gets its name when it is whole and was checked
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// How the answer is printed
        #[arg(long, value_enum, default_value = "table")]
        format: Output,
    },
    /// Go on with the sessions of a backup
    RestoreSessions {
        /// A file of backup-sessions
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
        #[command(flatten)]
        format: Format,
    },
    /// Give the room of sessions that ended back to the file system
    CompactSessions {
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum UpstreamsCommand {
    /// All upstreams and how they are
    List {
        #[command(flatten)]
        format: Format,
    },
    /// No new work for it; its sessions go on
    Drain {
        /// As `upstreams list` shows it; NAME@ADDRESS is one address of it
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// New work for it again
    Enable {
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Another share of new work, until the next reload
    Weight {
        name: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=config::schema::WEIGHT_MAX as i64))]
        weight: u32,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum SessionsCommand {
    /// Sessions, as many as asked for
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: u64,
        /// Those behind this id
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// Those of one upstream
        #[arg(long, value_name = "NAME")]
        upstream: Option<String>,
        /// Those of one user
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// One session
    Show {
        /// The id, or how it begins
        id: String,
        #[command(flatten)]
        format: Format,
    },
    /// End a session at once, with its open streams
    Kill {
        /// The ids, or how they begin
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
}

impl AdminCommand {
    pub fn output(&self) -> Output {
        match self {
            AdminCommand::BackupSessions { format, .. } => *format,
            AdminCommand::Status { format }
            | AdminCommand::LogLevel { format, .. }
            | AdminCommand::Reload { format }
            | AdminCommand::Drain { format }
            | AdminCommand::CleanupSessions { format, .. }
            | AdminCommand::RestoreSessions { format, .. }
            | AdminCommand::CompactSessions { format }
            | AdminCommand::Upstreams(
                UpstreamsCommand::List { format }
                | UpstreamsCommand::Drain { format, .. }
                | UpstreamsCommand::Enable { format, .. }
                | UpstreamsCommand::Weight { format, .. },
            )
            | AdminCommand::Sessions(
                SessionsCommand::List { format, .. }
                | SessionsCommand::Show { format, .. }
                | SessionsCommand::Kill { format, .. },
            ) => format.output,
        }
    }
}

/// humantime knows days, which settings write as hours.
fn age(text: &str) -> Result<Duration, String> {
    config::duration(text, true)
}
