//! The service manager that started us, if one did (systemd, or what speaks the same): the sockets that it passes and what
//! it is told. sd_listen_fds(3), sd_notify(3).

use std::env;
use std::ffi::OsStr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::net::listener::Passed;

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// A manager that reads nothing holds us up for this long and no longer.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// A status is one line of this length at most.
const STATUS_CHARS_MAX: usize = 200;

/// Says how we are; silent where nobody listens. Clones speak over the same socket.
#[derive(Clone, Default)]
pub struct ServiceManager {
    socket: Option<Arc<UnixDatagram>>,
    /// It takes us for hung when it hears nothing for this long.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// What the environment says: how to tell the manager, and the sockets that it passed. The variables are removed, so
    /// that no child takes them for its own.
    ///
    /// # Safety
    /// Changes the environment: no other thread may run yet.
    ///
    /// # Errors
    /// Sockets are announced that are not there.
    pub unsafe fn from_environment() -> Result<(ServiceManager, Vec<Passed>), String> {
        let announced = sd_notify::listen_fds().map(|descriptors| descriptors.len());
        // SAFETY: as the caller promises.
        let passed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
        let sockets = match announced {
            // Names may be left over from sockets that were for our parent.
            Ok(0) => Vec::new(),
            _ => passed.map_err(|error| format!("LISTEN_FDS: {error}"))?.map(|(fd, name)| own(fd, name)).collect(),
        };
        // SAFETY: as the caller promises.
        let watchdog = unsafe { sd_notify::watchdog_enabled_and_unset_env() };
        let socket = env::var_os(NOTIFY_SOCKET).and_then(|path| match connect(&path) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                eprintln!("shadowcat: warning: NOTIFY_SOCKET {}: {error}", path.display());
                None
            }
        });
        // SAFETY: as the caller promises.
        unsafe { env::remove_var(NOTIFY_SOCKET) };
        Ok((ServiceManager { socket, watchdog }, sockets))
    }

    /// The time within which it wants to hear [`alive`](ServiceManager::alive).
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// Something before the start is over may take `time`.
    pub fn starting(&self, status: &str, time: Duration) {
        self.tell(&[NotifyState::Status(&line(status)), extension(time)]);
    }

    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    /// Until it is told [`ready`](ServiceManager::ready) again.
    pub fn reloading(&self) {
        let Ok(now) = NotifyState::monotonic_usec_now() else { return };
        self.tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration")]);
    }

    /// All is well.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// We stop, and need `time` until the next word, whatever its own limit for that.
    pub fn stopping(&self, status: &str, time: Duration) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status(&line(status)), extension(time)]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::warn!(%error, "the service manager cannot be told: {}", text.trim_end().replace('\n', ", "));
        }
    }
}

fn own(fd: i32, name: String) -> Passed {
    // SAFETY: the manager opened it for us, and the variables that announced it are gone: nobody else owns it.
    Passed { socket: unsafe { OwnedFd::from_raw_fd(fd) }.into(), number: fd, name }
}

/// A path, or the name of an abstract socket behind an `@`.
fn connect(path: &OsStr) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

fn extension(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

/// The first line, bounded: what follows a line break would be another message.
fn line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(STATUS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager that is told over a socket of this test.
    fn manager(watchdog: Option<Duration>) -> (ServiceManager, UnixDatagram, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let theirs = UnixDatagram::bind(&path).unwrap();
        let ours = connect(path.as_os_str()).unwrap();
        (ServiceManager { socket: Some(Arc::new(ours)), watchdog }, theirs, folder)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Tests run in processes of their own.
    #[test]
    fn the_environment_says_who_listens_and_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let theirs = UnixDatagram::bind(&path).unwrap();
        // Sockets of another process: its parent's, say.
        let variables = [
            ("LISTEN_PID", "1"),
            ("LISTEN_FDS", "1"),
            ("LISTEN_FDNAMES", "http"),
            ("WATCHDOG_USEC", "3000000"),
            (NOTIFY_SOCKET, path.to_str().unwrap()),
        ];
        // SAFETY: nothing else in this process reads the environment meanwhile.
        variables.iter().for_each(|(name, value)| unsafe { env::set_var(name, value) });
        // SAFETY: as before.
        let (manager, passed) = unsafe { ServiceManager::from_environment() }.unwrap();
        assert!(passed.is_empty());
        assert_eq!(manager.watchdog(), Some(Duration::from_secs(3)));
        manager.ready("here");
        assert_eq!(heard(&theirs), "READY=1\nSTATUS=here\n");
        for (name, _) in variables {
            assert_eq!(env::var_os(name), None, "{name}");
        }
    }

    #[test]
    fn a_status_never_becomes_a_message_of_its_own() {
        let (manager, socket, _folder) = manager(None);
        manager.ready("refused:\nWATCHDOG=trigger\nREADY=1");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=refused:\n");
        manager.ready(&"x".repeat(10_000));
        assert_eq!(heard(&socket).len(), "READY=1\nSTATUS=\n".len() + STATUS_CHARS_MAX);
        manager.ready("");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=\n");
    }

    #[test]
    fn times_are_bounded_by_what_the_message_holds() {
        let (manager, socket, _folder) = manager(None);
        manager.stopping("ending", Duration::from_secs(15));
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=ending\nEXTEND_TIMEOUT_USEC=15000000\n");
        manager.starting("opening", Duration::from_secs(1 << 40));
        assert_eq!(heard(&socket), "STATUS=opening\nEXTEND_TIMEOUT_USEC=4294967295\n");
    }

    #[test]
    fn a_manager_that_is_gone_or_reads_nothing_does_no_harm() {
        let (manager, socket, _folder) = manager(Some(Duration::from_secs(1)));
        socket.set_nonblocking(true).unwrap();
        // Far more than its queue holds; the last ones are lost after a second each.
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            manager.alive();
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(socket);
        manager.alive();
        ServiceManager::default().alive();
        assert_eq!(ServiceManager { watchdog: Some(SEND_TIMEOUT), socket: None }.watchdog(), None);
    }

    #[test]
    fn abstract_sockets_are_reached() {
        let name = format!("shadowcat-test-{}", std::process::id());
        let theirs = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let ours = connect(OsStr::new(&format!("@{name}"))).unwrap();
        ours.send(b"here").unwrap();
        assert_eq!(heard(&theirs), "here");
    }
}
