//! `admin`: what an operator asks a server that runs, over its socket; sessions also of a store that no server has open.

pub mod args;
mod client;
mod file;
mod print;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use super::{Failure, serve};
use crate::config;
use crate::config::plan::{Plan, StoreKind};
use crate::control::admin::sessions::{self as stored, Query};
use crate::store::{OpenError, Store};
use args::{AdminArgs, AdminCommand, SessionsCommand, UpstreamsCommand, Whereabouts};
use client::{AskError, Carried};

/// # Errors
/// 1: no server, or it refused; 69: another process has the store; 78: the configuration.
pub fn run(args: &AdminArgs) -> Result<ExitCode, Failure> {
    let place = Place::find(&args.where_to)?;
    let answer = match &args.command {
        AdminCommand::BackupSessions { output, .. } => place.back_up(output)?,
        AdminCommand::RestoreSessions { input, .. } => place.restore(input)?,
        AdminCommand::Sessions(SessionsCommand::Kill { ids, .. }) => {
            let killed: Vec<Value> = ids.iter().map(|id| place.kill(id)).collect::<Result<_, _>>()?;
            json!({ "killed": killed })
        }
        command => place.ask(command)?,
    };
    print::answer(&args.command, &answer)
}

/// Where the server is, and where its sessions are.
struct Place {
    socket: Option<PathBuf>,
    /// `None`: the socket was named, and nothing else is known.
    plan: Option<Plan>,
}

impl Place {
    fn find(whereabouts: &Whereabouts) -> Result<Place, Failure> {
        if let Some(socket) = &whereabouts.socket {
            return Ok(Place { socket: Some(socket.clone()), plan: None });
        }
        let sources = whereabouts.more.sources(whereabouts.config.clone());
        match config::check(&sources) {
            Ok(loaded) => {
                let socket = loaded.plan.admin.socket.as_ref();
                if let Some(socket) = socket.filter(|socket| !socket.is_named) {
                    is_nobody_elses(&socket.path, loaded.plan.session.store)?;
                }
                Ok(Place { socket: socket.map(|socket| socket.path.clone()), plan: Some(loaded.plan) })
            }
            // A server that runs may be asked all the same, and will say what it thinks of a reload.
            Err(errors) => match config::admin_socket(&sources).filter(|socket| UnixStream::connect(socket).is_ok()) {
                Some(socket) => Ok(Place { socket: Some(socket), plan: None }),
                None => Err(Failure::config(format!(
                    "{errors}\nto go without the configuration, name the server's socket: --socket PATH"
                ))),
            },
        }
    }

    /// Over the socket; `None`: no server is there, so that the store may be looked at.
    fn over_socket<T>(&self, ask: impl FnOnce(&Path) -> Result<T, AskError>) -> Result<Option<T>, Failure> {
        let Some(socket) = &self.socket else { return Ok(None) };
        match ask(socket) {
            Ok(answer) => Ok(Some(answer)),
            Err(AskError::Absent(error)) if self.plan.is_some() && is_absent(&error) => Ok(None),
            Err(AskError::Absent(error)) => Err(failure(format!("no server at {}: {error}", socket.display()))),
            Err(AskError::Io(error)) => Err(failure(format!("{}: {error}", socket.display()))),
            Err(AskError::Refused(why)) => Err(failure(why)),
        }
    }

    /// What only a server that runs can do, and what the store can as well.
    fn ask(&self, command: &AdminCommand) -> Result<Value, Failure> {
        let (method, target, body) = request(command);
        let carried = body.map_or(Carried::Nothing, Carried::Json);
        if let Some(answer) = self.over_socket(|socket| client::ask(socket, method, &target, carried))? {
            return Ok(answer);
        }
        let error = |error: &dyn std::fmt::Display| failure(error.to_string());
        match command {
            AdminCommand::Sessions(SessionsCommand::List { limit, after, upstream, subject, .. }) => {
                let (after, upstream, subject) = (after.clone(), upstream.clone(), subject.clone());
                let query = Query { limit: *limit as usize, after, upstream, subject };
                self.on_store(|store| stored::list(store, &query).map_err(|why| error(&why)))
            }
            AdminCommand::Sessions(SessionsCommand::Show { id, .. }) => {
                self.on_store(|store| stored::show(store, id).map_err(|why| error(&why)))
            }
            AdminCommand::CleanupSessions { older_than, dry_run, .. } => {
                self.on_store(|store| stored::clean_up(store, *older_than, *dry_run).map_err(|why| error(&why)))
            }
            AdminCommand::CompactSessions { .. } => {
                self.on_store(|store| store.compact().map(|done| stored::replaced(&done)).map_err(|why| error(&why)))
            }
            _ => Err(self.nobody()),
        }
    }

    fn kill(&self, id: &str) -> Result<Value, Failure> {
        let killed = |answer: Value| answer.get("killed").cloned().unwrap_or(answer);
        let target = format!("/sessions/{}", escaped(id));
        if let Some(answer) = self.over_socket(|socket| client::ask(socket, "DELETE", &target, Carried::Nothing))? {
            return Ok(killed(answer));
        }
        self.on_store(|store| match stored::kill(store, id) {
            Ok((_, answer)) => Ok(killed(answer)),
            Err(why) => Err(failure(why.to_string())),
        })
    }

    fn back_up(&self, output: &Path) -> Result<Value, Failure> {
        file::write_checked(output, |new| {
            if self.over_socket(|socket| client::fetch(socket, "/store/backup", new))?.is_some() {
                return Ok(());
            }
            self.on_store(|store| store.back_up(new).map_err(|why| failure(why.to_string())))
        })
    }

    fn restore(&self, input: &Path) -> Result<Value, Failure> {
        let unreadable = |error: io::Error| failure(format!("{}: {error}", input.display()));
        let mut backup = std::fs::File::open(input).map_err(unreadable)?;
        let length = backup.metadata().map_err(unreadable)?.len();
        let sent =
            self.over_socket(|socket| client::ask(socket, "PUT", "/store/backup", Carried::File(&mut backup, length)));
        let named = |error: Failure| Failure { message: format!("{}: {}", input.display(), error.message), ..error };
        if let Some(answer) = sent.map_err(named)? {
            return Ok(answer);
        }
        let plan = self.plan()?;
        let store = match open(plan) {
            // Damage is what a restore is for; the damaged file was put aside.
            Err(error @ OpenError::Damaged { .. }) => {
                eprintln!("shadowcat: {error}");
                open(plan)
            }
            opened => opened,
        };
        with(store.map_err(|error| self.cannot_open(&error))?, |store| {
            let done = store.restore(&mut backup).map_err(|why| failure(format!("{}: {why}", input.display())))?;
            Ok(stored::replaced(&done))
        })
    }

    /// On the store itself, whose lock keeps servers away meanwhile.
    fn on_store<T>(&self, work: impl FnOnce(&Store) -> Result<T, Failure>) -> Result<T, Failure> {
        let plan = self.plan()?;
        if !plan.session.path.join("data.mdb").exists() {
            let path = plan.session.path.display();
            return Err(failure(format!("{}, and there is no session store at {path}", self.nobody().message)));
        }
        with(open(plan).map_err(|error| self.cannot_open(&error))?, work)
    }

    fn plan(&self) -> Result<&Plan, Failure> {
        let plan = self.plan.as_ref().ok_or_else(|| self.nobody())?;
        match plan.session.store {
            StoreKind::Lmdb => Ok(plan),
            StoreKind::Memory => {
                Err(failure(format!("{}, and sessions in memory end with their server", self.nobody().message)))
            }
        }
    }

    fn nobody(&self) -> Failure {
        failure(match &self.socket {
            Some(socket) => format!("no server answers at {}", socket.display()),
            None => "the configuration has no admin socket".to_owned(),
        })
    }

    fn cannot_open(&self, error: &OpenError) -> Failure {
        match error {
            OpenError::InUse { path, pid } => {
                let message = format!("{}, but process {pid} has the session store {path} open", self.nobody().message);
                Failure { code: serve::EXIT_UNAVAILABLE, message }
            }
            other => failure(other.to_string()),
        }
    }
}

/// In a place where anybody may make directories, another user's socket could be waiting for what we send.
fn is_nobody_elses(socket: &Path, store: StoreKind) -> Result<(), Failure> {
    let parent = socket.parent().filter(|_| store == StoreKind::Memory);
    let owner = parent.and_then(|parent| std::fs::symlink_metadata(parent).ok()).map(|parent| parent.uid());
    let own = rustix::process::geteuid().as_raw();
    match owner {
        Some(owner) if owner != own && owner != 0 => {
            let message = format!("{} is of another user; name it with --socket if that is right", socket.display());
            Err(failure(message))
        }
        _ => Ok(()),
    }
}

/// There is no socket, or nobody behind it.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn open(plan: &Plan) -> Result<Store, OpenError> {
    Store::open(serve::store_options(plan))
}

fn with<T>(store: Store, work: impl FnOnce(&Store) -> Result<T, Failure>) -> Result<T, Failure> {
    let result = work(&store);
    store.close();
    result
}

fn request(command: &AdminCommand) -> (&'static str, String, Option<Value>) {
    let named = |name: &str| Some(json!({ "name": name }));
    let (method, target, body) = match command {
        AdminCommand::Status { .. } => ("GET", "/status", None),
        AdminCommand::Upstreams(UpstreamsCommand::List { .. }) => ("GET", "/upstreams", None),
        AdminCommand::Upstreams(UpstreamsCommand::Drain { name, .. }) => ("POST", "/upstreams/drain", named(name)),
        AdminCommand::Upstreams(UpstreamsCommand::Enable { name, .. }) => ("POST", "/upstreams/enable", named(name)),
        AdminCommand::Upstreams(UpstreamsCommand::Weight { name, weight, .. }) => {
            ("POST", "/upstreams/weight", Some(json!({ "name": name, "weight": weight })))
        }
        AdminCommand::Sessions(SessionsCommand::List { limit, after, upstream, subject, .. }) => {
            let mut query = url::form_urlencoded::Serializer::new(format!("/sessions?limit={limit}"));
            for (name, value) in [("after", after), ("upstream", upstream), ("subject", subject)] {
                value.as_ref().map(|value| query.append_pair(name, value));
            }
            return ("GET", query.finish(), None);
        }
        AdminCommand::Sessions(SessionsCommand::Show { id, .. }) => {
            return ("GET", format!("/sessions/{}", escaped(id)), None);
        }
        AdminCommand::LogLevel { filter: None, .. } => ("GET", "/log-level", None),
        AdminCommand::LogLevel { filter: Some(filter), .. } => ("PUT", "/log-level", Some(json!({ "filter": filter }))),
        AdminCommand::Reload { .. } => ("POST", "/reload", None),
        AdminCommand::Drain { .. } => ("POST", "/drain", None),
        AdminCommand::CleanupSessions { older_than, dry_run, .. } => {
            let body = json!({ "older_than_seconds": older_than.as_secs_f64(), "dry_run": dry_run });
            ("POST", "/store/cleanup", Some(body))
        }
        AdminCommand::CompactSessions { .. } => ("POST", "/store/compact", None),
        AdminCommand::Sessions(SessionsCommand::Kill { .. })
        | AdminCommand::BackupSessions { .. }
        | AdminCommand::RestoreSessions { .. } => unreachable!("asked in its own way"),
    };
    (method, target.to_owned(), body)
}

/// For a path: ids have letters, digits, `-`, `_` and `~`; anything else finds nothing, and breaks nothing.
fn escaped(id: &str) -> String {
    byte_serialize(id.as_bytes()).collect::<String>().replace("%7E", "~")
}

fn failure(message: String) -> Failure {
    Failure { code: 1, message }
}
