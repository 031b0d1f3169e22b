//! `forward`: stand in front of one server, on the machine of who develops with it.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::Failure;
use super::args::{MoreSettings, address, key_and_value};
use super::serve::{self, Banner};
use crate::bridge::{self, Bridge};
use crate::config::plan::DriverChoice;
use crate::config::schema::DRIVERS;
use crate::config::{self, Sources};
use crate::net::driver::Choice;
use crate::{demo, stdio};

/// The hidden command that guards a server of the bridge, in a process of its own.
pub const GUARD: &str = "guard";
/// From the end of the grace to SIGKILL is another one; this is for the rest.
const STOP_EXTRA: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Subcommand)]
pub enum ForwardCommand {
    /// Start a server that speaks over stdin and stdout, and pass everything on both ways, signals and exit code too
    Stdio(StdioArgs),
    /// Listen for HTTP clients, in front of an HTTP server or of one that speaks over stdin and stdout
    Http(Box<HttpArgs>),
}

#[derive(Clone, Debug, Args)]
pub struct StdioArgs {
    /// How long the server may take to end once the client closed its stdin: then SIGTERM, and after as long again SIGKILL
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// The server and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Debug, Args)]
pub struct HttpArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: String,
    /// The MCP server, http:// or https://; or give a command after --
    #[arg(long, value_name = "URL", required_unless_present = "command", conflicts_with = "command")]
    target: Option<String>,
    /// Processes of the command that may run at a time: one for each session, and one for all requests without sessions
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_servers: u16,
    /// How long a process may take to end once its stdin is closed: then SIGTERM, and after as long again SIGKILL
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// A web page that may ask, such as http://localhost:6274; pages of this machine may anyway
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// How the proxy does I/O [default: auto]
    #[arg(long, value_name = "DRIVER", value_parser = PossibleValuesParser::new(DRIVERS))]
    driver: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Set any key of the configuration; repeat for more. No file is read
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// A server that speaks over stdin and stdout, and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Debug, Args)]
pub struct GuardArgs {
    #[arg(long, value_parser = humantime::parse_duration)]
    grace: Duration,
    /// For which process the server is
    #[arg(long)]
    proxy: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// # Errors
/// The system refuses pipes, processes or threads; as `reverse`.
pub fn run(command: &ForwardCommand) -> Result<ExitCode, Failure> {
    match command {
        ForwardCommand::Stdio(args) => {
            let code = stdio::forward(server(&args.command, args.grace)).map_err(failed("forward stdio"))?;
            Ok(ExitCode::from(code))
        }
        ForwardCommand::Http(args) => http(args),
    }
}

/// # Errors
/// The system refuses what a guard needs.
pub fn guard(args: &GuardArgs) -> Result<ExitCode, Failure> {
    let code = stdio::guard(server(&args.command, args.grace), args.proxy).map_err(failed("guard"))?;
    Ok(ExitCode::from(code))
}

fn server(command: &[OsString], grace: Duration) -> stdio::Server {
    let (program, arguments) = command.split_first().expect("clap asks for one");
    stdio::Server { program: program.clone(), arguments: arguments.to_vec(), grace }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure { code: 1, message: format!("{what}: {error}") }
}

fn http(args: &HttpArgs) -> Result<ExitCode, Failure> {
    let sources = args.sources();
    if args.command.is_empty() {
        return serve::serve(sources, |_| Ok(None));
    }
    if let Err((code, message)) = stdio::check(&args.command[0]) {
        return Err(Failure { code, message });
    }
    let mut started = None;
    let served = serve::serve(sources, |sources| {
        let bridge = args.bridge(sources)?;
        sources.upstreams = vec![format!("http://{}/mcp", bridge.address)];
        let of_upstream =
            [("name", "stdio"), ("credential_header", bridge::SECRET_FIELD), ("credential", &bridge.secret)];
        for (key, value) in of_upstream {
            sources.flags.push((format!("upstreams.0.{key}"), value.to_owned(), "-- COMMAND".to_owned()));
        }
        started = Some(bridge);
        Ok(Some(demo::banner as Banner))
    });
    if let Some(bridge) = started
        && !bridge.stop(args.grace.saturating_mul(2).saturating_add(STOP_EXTRA))
    {
        eprintln!("shadowcat: a server could not be ended in time");
    }
    served
}

impl HttpArgs {
    fn sources(&self) -> Sources {
        let mut sources = MoreSettings::set(&self.set).sources(None);
        let origins = (!self.allow_origin.is_empty()).then(|| self.allow_origin.join(","));
        let one = Some("1".to_owned());
        for (key, value, flag) in [
            ("proxy.bind", &Some(self.listen.clone()), "--listen"),
            ("proxy.worker_threads", &one, "forward http"),
            ("proxy.driver", &self.driver, "--driver"),
            ("proxy.allowed_origins", &origins, "--allow-origin"),
            ("logging.level", &self.log_level, "--log-level"),
        ] {
            if let Some(value) = value {
                sources.flags.push((key.to_owned(), value.clone(), flag.to_owned()));
            }
        }
        sources.upstreams = self.target.iter().cloned().collect();
        sources.in_memory = true;
        // A file that lies about is for another server.
        sources.no_usual_places = true;
        sources
    }

    /// What the settings say of sessions and I/O holds for the bridge as well.
    fn bridge(&self, sources: &Sources) -> Result<Bridge, Failure> {
        let plan = config::load(sources).map_err(|errors| Failure::config(errors.to_string()))?.plan;
        let mut guard: Vec<OsString> = [GUARD, "--grace"].map(OsString::from).to_vec();
        guard.push(humantime::format_duration(self.grace).to_string().into());
        guard.extend(["--proxy".into(), std::process::id().to_string().into(), "--".into()]);
        guard.extend(self.command.iter().cloned());
        let settings = bridge::Settings {
            guard,
            servers_max: self.max_servers.into(),
            session_timeout: plan.session.timeout,
            driver: match plan.driver {
                DriverChoice::Auto => Choice::Auto,
                DriverChoice::IoUring => Choice::IoUring,
                DriverChoice::Epoll => Choice::Epoll,
            },
        };
        Bridge::start(settings).map_err(failed("forward http"))
    }
}
