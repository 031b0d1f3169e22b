//! Flags and commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Sources;

const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nTLS: rustls with aws-lc-rs\nI/O: monoio on io_uring (DEFER_TASKRUN, COOP_TASKRUN) or epoll\nsessions: LMDB"
);

/// A proxy for MCP servers.
#[derive(Debug, Parser)]
#[command(name = "shadowcat", version, long_version = LONG_VERSION, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stand in front of one MCP server, or of replicas of one.
    Reverse(ServerArgs),
    /// The same for many upstreams from a configuration file.
    Gateway(ServerArgs),
    /// Check a configuration, or show what holds.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run the built-in MCP server alone, for tests and load.
    Demo(DemoArgs),
    #[command(name = super::STORE_CHECK, hide = true)]
    StoreCheck { directory: PathBuf },
}

#[derive(Clone, Debug, Default, Args)]
pub struct ServerArgs {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    bind: Option<String>,
    /// An MCP server, http:// or https://; repeat for replicas
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Worker threads [default: the CPUs the process may use]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Configuration file (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How workers do I/O
    #[arg(long, value_enum)]
    driver: Option<Driver>,
    /// Authentication settings (YAML)
    #[arg(long, value_name = "FILE")]
    auth_config: Option<PathBuf>,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Oldest TLS version
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"])]
    tls_min_version: Option<String>,
    /// Set any key of the configuration
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Start a built-in MCP server behind the proxy
    #[arg(long)]
    pub demo: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Driver {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    pub bind: SocketAddr,
    /// Worker threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub workers: usize,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file: every error with its line and column
    Check {
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
        set: Vec<(String, String)>,
    },
    /// Show what holds; secrets are left out
    Show {
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
        set: Vec<(String, String)>,
    },
    /// Print the reference of all keys (Markdown)
    Reference,
}

impl ServerArgs {
    /// What the flags and the environment say.
    pub fn sources(&self) -> Sources {
        let mut sources = sources(self.config.clone(), &self.set);
        let mut flag = |key: &str, value: Option<String>, name: &str| {
            if let Some(value) = value {
                sources.flags.push((key.to_owned(), value, name.to_owned()));
            }
        };
        flag("proxy.bind", self.bind.clone(), "--bind");
        flag("proxy.worker_threads", self.workers.map(|n| n.to_string()), "--workers");
        let driver = self.driver.and_then(|driver| driver.to_possible_value());
        flag("proxy.driver", driver.map(|value| value.get_name().to_owned()), "--driver");
        flag("tls.cert_path", self.tls_cert.clone(), "--tls-cert");
        flag("tls.key_path", self.tls_key.clone(), "--tls-key");
        flag("tls.min_version", self.tls_min_version.clone(), "--tls-min-version");
        if self.auth_config.is_some() {
            flag("auth.enabled", Some("true".to_owned()), "--auth-config");
        }
        sources.upstreams = self.upstream.clone();
        sources
    }
}

/// What `--config`, `--set` and the environment say.
pub fn sources(file: Option<PathBuf>, set: &[(String, String)]) -> Sources {
    let flags = set.iter().map(|(key, value)| (key.clone(), value.clone(), format!("--set {key}"))).collect();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Sources { file, flags, environment, ..Sources::default() }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
