//! The guard: parent of the server, one thread, asleep but for signals.
//!
//! ```text
//! Serving --over--> Ending --grace, SIGTERM--> Terminating --grace, SIGKILL--> Killed
//! ```
//!
//! Whatever the stage, the server's end leads to the end of all that it started, and to our exit with its code. So does
//! the proxy's death, at once.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Access;

use super::family::{self, Reaped};
use super::signals::{self, Mask, Origin, Pid};
use super::{Server, copy};

/// What a server leaves behind gets this long after SIGTERM.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// As shells have it.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_NOT_EXECUTABLE: u8 = 126;
const EXIT_RUN_TIME: u8 = 1;

pub struct Start {
    pub server: Server,
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub before: Mask,
    pub proxy: Pid,
}

#[derive(Clone, Copy)]
enum Stage {
    Serving,
    Ending { terminate_at: Instant },
    Terminating { kill_at: Instant },
    Killed,
}

/// The guard's whole life; the exit code to leave with.
pub fn run(start: Start) -> u8 {
    let Start { server, stdin, stdout, before, proxy } = start;
    let Server { program, arguments, grace } = server;
    match prepare(proxy) {
        Ok(true) => {}
        // Nobody is there to serve.
        Ok(false) => return EXIT_RUN_TIME,
        Err(error) => {
            eprintln!("shadowcat: cannot guard the server: {error}");
            return EXIT_RUN_TIME;
        }
    }
    let own = signals::own_pid();
    let mut command = Command::new(&program);
    command.args(arguments).stdin(stdin).stdout(stdout).process_group(0);
    // SAFETY: only async-signal-safe calls, and no allocation.
    unsafe {
        command.pre_exec(move || match signals::at_death_of_parent(libc::SIGKILL, own)? {
            true => before.restore(),
            false => Err(io::ErrorKind::Interrupted.into()),
        });
    }
    let child = match command.spawn() {
        Ok(child) => child.id().cast_signed(),
        Err(error) => {
            let (code, why) = explain(Path::new(&program), &error);
            eprintln!("shadowcat: cannot start {}: {why}", program.display());
            return code;
        }
    };
    // The pipes are the server's alone from here, and what the client reads and writes is the proxy's.
    drop(command);
    copy::close_stdin();
    copy::close_stdout();
    let code = watch(child, proxy, grace);
    family::end(if signals::parent_pid() == proxy { LEFT_BEHIND } else { Duration::ZERO });
    code
}

/// Out of the proxy's group, so that what ends that does not end us; false if the proxy is gone already.
fn prepare(proxy: Pid) -> io::Result<bool> {
    let _ = rustix::thread::set_name(c"shadowcat-guard");
    rustix::process::setpgid(None, None)?;
    family::adopt()?;
    signals::at_death_of_parent(signals::over(), proxy)
}

/// Until the server ended, or has to with all of its family.
fn watch(server: Pid, proxy: Pid, grace: Duration) -> u8 {
    let mut stage = Stage::Serving;
    loop {
        loop {
            match family::reap() {
                Reaped::Child(pid, exit) if pid == server => return exit.code,
                Reaped::Child(..) => {}
                Reaped::NoneYet => break,
                Reaped::Nobody => return EXIT_RUN_TIME,
            }
        }
        if signals::parent_pid() != proxy {
            return EXIT_RUN_TIME;
        }
        stage = match (signals::wait(stage.patience()), stage) {
            (None, Stage::Ending { terminate_at }) if terminate_at <= Instant::now() => {
                signals::send(server, libc::SIGTERM);
                Stage::Terminating { kill_at: Instant::now() + grace }
            }
            (None, Stage::Terminating { kill_at }) if kill_at <= Instant::now() => {
                signals::send(server, libc::SIGKILL);
                Stage::Killed
            }
            (Some(signal), Stage::Serving) if signal.number == signals::over() => {
                Stage::Ending { terminate_at: Instant::now() + grace }
            }
            (Some(signal), stage) if signals::PASSED.contains(&signal.number) => {
                match signal.origin {
                    Origin::ForGroup => signals::send_to_group(server, signal.number),
                    Origin::Process | Origin::Terminal => signals::send(server, signal.number),
                }
                stage
            }
            (_, stage) => stage,
        };
    }
}

impl Stage {
    fn patience(self) -> Option<Duration> {
        match self {
            Stage::Ending { terminate_at: at } | Stage::Terminating { kill_at: at } => {
                Some(at.saturating_duration_since(Instant::now()))
            }
            Stage::Serving | Stage::Killed => None,
        }
    }
}

/// Exit code and words for a program that would not start, as far as that can be seen from outside.
pub fn check(program: &OsStr) -> Result<(), (u8, String)> {
    let is_fine = |path: &Path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    let path = Path::new(program);
    let error = if program.as_encoded_bytes().contains(&b'/') {
        match (is_fine(path), path.exists()) {
            (true, _) => return Ok(()),
            (false, true) => io::ErrorKind::PermissionDenied,
            (false, false) => io::ErrorKind::NotFound,
        }
    } else {
        let places = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        if std::env::split_paths(&places).any(|place| is_fine(&place.join(program))) {
            return Ok(());
        }
        io::ErrorKind::NotFound
    };
    let (code, why) = explain(path, &error.into());
    Err((code, format!("cannot start {}: {why}", program.display())))
}

/// Exit code and words for a program that did not start.
fn explain(program: &Path, error: &io::Error) -> (u8, String) {
    let named_by_path = program.as_os_str().as_encoded_bytes().contains(&b'/');
    match error.kind() {
        io::ErrorKind::NotFound if named_by_path && program.exists() => {
            (EXIT_NOT_FOUND, "the interpreter that its first line names is not there".to_owned())
        }
        io::ErrorKind::NotFound if named_by_path => (EXIT_NOT_FOUND, "no such file".to_owned()),
        io::ErrorKind::NotFound => {
            (EXIT_NOT_FOUND, "no such program in PATH; install it, or give the path to it".to_owned())
        }
        io::ErrorKind::PermissionDenied if program.is_dir() => (EXIT_NOT_EXECUTABLE, "it is a directory".to_owned()),
        io::ErrorKind::PermissionDenied => {
            (EXIT_NOT_EXECUTABLE, "it is not executable; see chmod +x, or start its interpreter with it".to_owned())
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted => {
            (EXIT_RUN_TIME, error.to_string())
        }
        _ => (EXIT_NOT_EXECUTABLE, error.to_string()),
    }
}
