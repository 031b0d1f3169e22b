//! Flags and commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

use super::admin::args::AdminArgs;
use super::doctor::DoctorArgs;
use super::forward::{ForwardCommand, GuardArgs};
use super::health::HealthArgs;
use super::replay::ReplayArgs;
use super::tape::args::TapeCommand;
use crate::config::schema::{DRIVERS, WORKERS_MAX};
use crate::config::{self, Sources};

/// The commit it was built from, which whoever builds a release sets.
const COMMIT: Option<&str> = option_env!("SHADOWCAT_COMMIT");

#[cfg(feature = "mimalloc")]
const ALLOCATOR: &str = "mimalloc";
#[cfg(not(feature = "mimalloc"))]
const ALLOCATOR: &str = "the system's";

/// A proxy for MCP servers.
#[derive(Debug, Parser)]
#[command(name = "shadowcat", version, long_version = long_version(), about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stand in front of one MCP server, or of replicas of one.
    Reverse(Box<ServerArgs>),
    /// The same for many upstreams from a configuration file.
    Gateway(Box<ServerArgs>),
    /// Stand in front of one server for one client on this machine
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Be the server that a recording is of
    Replay(ReplayArgs),
    /// See recordings, turn them into other forms, delete them
    #[command(subcommand)]
    Tape(TapeCommand),
    /// Check a configuration, or show what holds.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what /metrics shows, as docs/METRICS.md
    Metrics,
    /// Prepare credentials for a configuration
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Ask a server that runs, or the sessions of one that does not
    Admin(Box<AdminArgs>),
    /// Ask a server how it is: the probe of a container
    Health(Box<HealthArgs>),
    /// Look at everything that a server needs, and say how to mend what is wrong
    Doctor(Box<DoctorArgs>),
    /// Print what a shell needs to complete commands
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man,
    /// Run the built-in MCP server alone, for tests and load.
    Demo(DemoArgs),
    #[command(name = super::forward::GUARD, hide = true)]
    Guard(GuardArgs),
    #[command(name = super::STORE_CHECK, hide = true)]
    StoreCheck { directory: PathBuf },
}

#[derive(Clone, Debug, Default, Args)]
pub struct ServerArgs {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    bind: Option<String>,
    /// An MCP server, http:// or https://; repeat for replicas
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Worker threads [default: the CPUs the process may use]
    #[arg(long, value_name = "N")]
    workers: Option<u64>,
    /// How workers do I/O [default: auto]
    #[arg(long, value_name = "DRIVER", value_parser = PossibleValuesParser::new(DRIVERS))]
    driver: Option<String>,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Oldest TLS version [default: 1.2]
    #[arg(long, value_name = "VERSION", value_parser = PossibleValuesParser::new(["1.2", "1.3"]))]
    tls_min_version: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    more: MoreSettings,
    /// Start a built-in MCP server behind the proxy
    #[arg(long, conflicts_with = "upstream")]
    pub demo: bool,
}

/// What `config` takes as well.
#[derive(Clone, Debug, Default, Args)]
pub struct MoreSettings {
    /// Authentication settings: the keys of [auth] (YAML)
    #[arg(long, global = true, value_name = "FILE")]
    auth_config: Option<PathBuf>,
    /// Set any key of the configuration; repeat for more
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000", value_parser = config::address)]
    pub bind: SocketAddr,
    /// Worker threads
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=WORKERS_MAX))]
    pub workers: u64,
    /// How workers do I/O
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = PossibleValuesParser::new(DRIVERS))]
    pub driver: String,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file: every error with its line and column
    Check {
        /// Without it, the file that a server would read
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        more: MoreSettings,
    },
    /// Show what holds; secrets are left out
    Show {
        /// Without it, the file that a server would read
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        more: MoreSettings,
    },
    /// Print a complete file, commented
    Default,
    /// Print a JSON Schema for editors and checkers
    Schema,
    /// Print the reference of all keys (Markdown)
    Reference,
}

#[derive(Clone, Debug, Subcommand)]
pub enum AuthCommand {
    /// Print the hash of an API key for [[auth.api_keys]]; the key is read from standard input
    HashKey {
        /// Make a new key, and print both
        #[arg(long)]
        generate: bool,
    },
}

impl ServerArgs {
    /// What the flags and the environment say.
    pub fn sources(&self) -> Sources {
        let mut sources = self.more.sources(self.config.clone());
        let workers = self.workers.map(|number| number.to_string());
        for (key, value, flag) in [
            ("proxy.bind", &self.bind, "--bind"),
            ("proxy.worker_threads", &workers, "--workers"),
            ("proxy.driver", &self.driver, "--driver"),
            ("tls.cert_path", &self.tls_cert, "--tls-cert"),
            ("tls.key_path", &self.tls_key, "--tls-key"),
            ("tls.min_version", &self.tls_min_version, "--tls-min-version"),
            ("logging.level", &self.log_level, "--log-level"),
        ] {
            if let Some(value) = value {
                sources.flags.push((key.to_owned(), value.clone(), flag.to_owned()));
            }
        }
        sources.upstreams = self.upstream.clone();
        sources
    }
}

impl MoreSettings {
    pub fn set(set: &[(String, String)]) -> MoreSettings {
        MoreSettings { set: set.to_vec(), ..MoreSettings::default() }
    }

    /// What these flags, this file and the environment say.
    pub fn sources(&self, file: Option<PathBuf>) -> Sources {
        let flag = |(key, value): &(String, String)| (key.clone(), value.clone(), format!("--set {key}"));
        let mut sources = Sources {
            file,
            auth_config: self.auth_config.clone(),
            flags: self.set.iter().map(flag).collect(),
            ..Sources::default()
        };
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(sources.environment.insert(name, value)),
                Err(_) => sources.undecodable.push(name),
            }
        }
        sources
    }
}

fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let commit = COMMIT.map(|commit| format!(" (commit {commit})")).unwrap_or_default();
        format!(
            "{}{commit}\nTLS: rustls with aws-lc-rs\nI/O: monoio on io_uring (DEFER_TASKRUN, COOP_TASKRUN) \
             or epoll\nsessions: LMDB\nallocator: {ALLOCATOR}",
            env!("CARGO_PKG_VERSION")
        )
    });
    &TEXT
}

/// Wrong usage is told by clap, with the exit code for it; the configuration reads the text again.
pub fn address(text: &str) -> Result<String, String> {
    config::address(text).map(|_| text.to_owned())
}

pub fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(arguments: &[&str]) -> Sources {
        match Cli::try_parse_from(["shadowcat", "reverse"].iter().chain(arguments)).map(|cli| cli.command) {
            Ok(Some(Command::Reverse(args))) => args.sources(),
            other => panic!("{other:?}"),
        }
    }

    fn refuses(arguments: &[&str]) -> i32 {
        Cli::try_parse_from(["shadowcat"].iter().chain(arguments)).unwrap_err().exit_code()
    }

    #[test]
    fn clap_finds_no_contradiction() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_sets_its_key() {
        let sources = sources(&[
            "--bind",
            "0.0.0.0:443",
            "--upstream",
            "http://a",
            "--upstream",
            "http://b",
            "--workers",
            "3",
            "--driver",
            "epoll",
            "--config",
            "f.toml",
            "--auth-config",
            "auth.yaml",
            "--tls-cert",
            "c.pem",
            "--tls-key",
            "k.pem",
            "--tls-min-version",
            "1.3",
            "--log-level",
            "debug",
            "--set",
            "session.timeout=5m",
            "--set",
            "record.output=a=b",
        ]);
        let said: Vec<(&str, &str)> =
            sources.flags.iter().map(|(key, value, _)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            said,
            [
                ("session.timeout", "5m"),
                ("record.output", "a=b"),
                ("proxy.bind", "0.0.0.0:443"),
                ("proxy.worker_threads", "3"),
                ("proxy.driver", "epoll"),
                ("tls.cert_path", "c.pem"),
                ("tls.key_path", "k.pem"),
                ("tls.min_version", "1.3"),
                ("logging.level", "debug"),
            ]
        );
        assert_eq!(sources.upstreams, ["http://a", "http://b"]);
        assert_eq!(sources.file, Some("f.toml".into()));
        assert_eq!(sources.auth_config, Some("auth.yaml".into()));
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for arguments in [
            &["reverse", "--bind", "8080"][..],
            &["reverse", "--workers", "many"],
            &["reverse", "--driver", "kqueue"],
            &["reverse", "--tls-min-version", "1.1"],
            &["reverse", "--set", "session.timeout"],
            &["reverse", "--demo", "--upstream", "http://a"],
            &["sideways"],
        ] {
            assert_eq!(refuses(arguments), 2, "{arguments:?}");
        }
    }
}
