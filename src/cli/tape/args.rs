//! Flags and commands of `tape`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::filter::{Filter, Moment};
use crate::cli::admin::args::Format as Print;

#[derive(Clone, Debug, Subcommand)]
pub enum TapeCommand {
    /// The tapes in a directory
    List {
        #[arg(value_name = "DIR", default_value = ".")]
        directory: PathBuf,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        print: Print,
    },
    /// What was said, a line a frame; as JSON, the lines of the tape themselves
    Show {
        #[arg(required = true, value_name = "TAPE")]
        tapes: Vec<PathBuf>,
        #[command(flatten)]
        filter: FilterArgs,
        /// One frame in full, by its number
        #[arg(long, value_name = "N")]
        frame: Option<u64>,
        #[command(flatten)]
        print: Print,
    },
    /// Calls, errors and times by method and tool
    Stats {
        #[arg(required = true, value_name = "TAPE")]
        tapes: Vec<PathBuf>,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        print: Print,
    },
    /// Check every line, every checksum and every number; 1 if something is wrong
    Validate {
        #[arg(required = true, value_name = "TAPE")]
        tapes: Vec<PathBuf>,
        #[command(flatten)]
        print: Print,
    },
    /// Write a tape in another form to standard output
    Export {
        #[arg(value_name = "TAPE")]
        tape: PathBuf,
        #[arg(long, value_enum, default_value = "json")]
        format: Form,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Delete tapes; what is no tape is left alone
    Delete {
        #[arg(required = true, value_name = "TAPE")]
        tapes: Vec<PathBuf>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Draw a tape as one page for a browser, which needs nothing else
    View {
        #[arg(value_name = "TAPE")]
        tape: PathBuf,
        /// The page
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
        #[command(flatten)]
        filter: FilterArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// One document: the head, and the frames that were wanted
    Json,
    /// An HTTP archive (HAR 1.2), as browsers import it
    Har,
    /// A shell script that asks a server the same again
    Curl,
}

/// Which frames are wanted; all that are given must hold.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Requests and notifications of this method, and their answers; may end with *
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Calls of this tool, prompt or resource, and their answers; may end with *
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// Tapes of the session whose hash begins so
    #[arg(long, value_name = "HASH")]
    session: Option<String>,
    /// From then on: a time such as 2026-11-25T20:00:00Z, or so long after the start, such as 90s
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// Until then
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    until: Option<Moment>,
    /// What failed: JSON-RPC errors, tools that say so, statuses of 400 and above
    #[arg(long)]
    errors: bool,
}

impl FilterArgs {
    pub fn filter(&self) -> Filter {
        Filter {
            method: self.method.clone(),
            name: self.tool.clone(),
            session: self.session.clone(),
            since: self.since,
            until: self.until,
            errors: self.errors,
        }
    }
}
