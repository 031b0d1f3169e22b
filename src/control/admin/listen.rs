//! The two listeners: who may come in, and how many at a time.

use std::fs;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, SockAddr, Socket, Type};

use super::desk::Reader;
use super::http::{self, Answer, Stream};
use super::{CONNECTIONS_MAX, Desk};
use crate::config::plan::{AdminPlan, SocketPlan};
use crate::control::supervisor::cannot_bind;

/// Pause when accepting fails (EMFILE).
const PAUSE: Duration = Duration::from_millis(100);

/// The socket's file, which goes when the server does.
pub struct Listening {
    file: Option<SocketFile>,
}

struct SocketFile {
    path: PathBuf,
    /// Device and number: another server's socket of that name is not ours.
    identity: (u64, u64),
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(SocketFile { path, identity }) = &self.file
            && identity_of(path).is_ok_and(|found| found == *identity)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Start what the plan asks for; the threads end with the process.
///
/// # Errors
/// An address that is in use or cannot be bound, a socket that the configuration names and that cannot be made.
pub fn start(plan: &AdminPlan, desk: &Arc<Desk>) -> anyhow::Result<Listening> {
    let mut file = None;
    if let Some(socket) = &plan.socket {
        match open(socket, desk) {
            Ok(opened) => file = Some(opened),
            Err(error) if socket.is_named => {
                return Err(error.context(format!("admin.socket {}", socket.path.display())));
            }
            Err(error) => {
                let path = socket.path.display();
                tracing::warn!("no socket for `shadowcat admin` at {path}: {error:#}; set admin.socket");
            }
        }
    }
    if let Some(address) = plan.bind {
        let listener =
            TcpListener::bind(address).map_err(|error| cannot_bind(format!("admin.bind {address}"), error))?;
        tracing::info!(address = %listener.local_addr()?, "metrics and pages of the administrator");
        let desk = desk.clone();
        let loopback = address.ip().is_loopback();
        thread::Builder::new().name("admin-pages".into()).spawn(move || {
            run(
                "admin-page",
                || listener.accept().map(|(stream, _)| stream),
                move |stream| {
                    http::serve(stream, |request| {
                        if request.has_origin || (loopback && !is_loopback(&request.host)) {
                            return Answer::error(403, "asked by a web page, or for another host");
                        }
                        desk.page(request, Reader::Anybody).unwrap_or_else(|| Answer::error(404, "no such page"))
                    })
                },
            );
        })?;
    }
    Ok(Listening { file })
}

fn open(socket: &SocketPlan, desk: &Arc<Desk>) -> anyhow::Result<SocketFile> {
    let path = &socket.path;
    make_directory(path, socket.is_named)?;
    let listener = bind(path)?;
    let identity = identity_of(path)?;
    tracing::info!(path = %path.display(), "the socket of `shadowcat admin`");
    let desk = desk.clone();
    thread::Builder::new().name("admin-socket".into()).spawn(move || {
        run(
            "admin",
            || listener.accept().map(|(stream, _)| stream),
            move |stream: &mut UnixStream| {
                let is_ours = is_ours(stream);
                http::serve(stream, |request| match is_ours {
                    true => desk.answer(request),
                    false => Answer::error(403, "for the server's own user, and root"),
                })
            },
        );
    })?;
    Ok(SocketFile { path: path.clone(), identity })
}

/// Accept for ever; each connection gets a thread.
fn run<S: Stream + 'static>(
    name: &str,
    accept: impl Fn() -> io::Result<S>,
    serve: impl Fn(&mut S) -> io::Result<()> + Send + Sync + 'static,
) {
    let (serve, open) = (Arc::new(serve), Arc::new(AtomicUsize::new(0)));
    loop {
        let mut stream = match accept() {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an administrator's connection");
                pause();
                continue;
            }
        };
        if open.load(Relaxed) >= CONNECTIONS_MAX {
            let _ = http::turn_away(&mut stream, Answer::error(503, "too many connections at once"));
            continue;
        }
        open.fetch_add(1, Relaxed);
        let (serve, place) = (serve.clone(), Place(open.clone()));
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _place = place;
            if let Err(error) = serve(&mut stream) {
                tracing::debug!(%error, "an administrator's connection broke");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for an administrator's connection");
        }
    }
}

/// One of the connections that are served at a time.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "the accepting thread of the control side, not a worker")]
fn pause() {
    thread::sleep(PAUSE);
}

/// The mode of the file says the same; this also holds where somebody changed it.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

/// For a place of our own choice: of this user and for nobody else, since others may write beside it.
fn make_directory(path: &Path, is_named: bool) -> anyhow::Result<()> {
    let Some(parent) = path.parent().filter(|parent| !is_named && !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(|| parent.display().to_string())?;
    let found = fs::symlink_metadata(parent)?;
    let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    anyhow::ensure!(is_ours && found.permissions().mode() & 0o002 == 0, "others may write to {}", parent.display());
    Ok(())
}

/// Listen at `path`. The socket of a server that is gone is replaced; one that somebody answers at is not, and neither
/// is anything else.
fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => anyhow::bail!("there is something else of that name"),
        Ok(_) if UnixStream::connect(path).is_ok() => anyhow::bail!("another server answers there"),
        _ => {}
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before there is a file: it never has another mode.
    rustix::fs::fchmod(&socket, 0o600.into())?;
    socket.bind(&SockAddr::unix(&new)?)?;
    let placed = fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
        .and_then(|()| socket.listen(CONNECTIONS_MAX as i32))
        .and_then(|()| fs::rename(&new, path));
    if placed.is_err() {
        let _ = fs::remove_file(&new);
    }
    placed?;
    Ok(UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A name that no DNS can turn to this machine (rebinding), or none at all.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.to_ascii_lowercase();
    let is_address = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_address || name.is_empty() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_a_dead_server_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind(&path).unwrap_err().to_string().contains("another server answers"));
        drop(first);
        let second = bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(bind(&path).unwrap_err().to_string().contains("something else"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_loopback_names_reach_a_page_on_loopback() {
        for good in ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "a.localhost:1", ""] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["evil.example:9090", "10.0.0.1:9090", "localhost.evil.example", "[::2]:1"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
