//! `[admin]`: where the administrator's socket is.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::plan::{AdminPlan, SessionPlan, SocketPlan, StoreKind};
use super::planning::{Planner, temporary};

/// Longest path, bytes: the 107 that the address of a unix socket holds (unix(7)), less what it is longer while it is made.
const PATH_MAX: usize = 100;
/// Beside the session store.
const NAME: &str = "admin.sock";

pub fn plan(planner: &mut Planner<'_>, bind: SocketAddr, session: &SessionPlan) -> AdminPlan {
    if !planner.layers.required::<bool>("admin.enabled") {
        return AdminPlan::default();
    }
    AdminPlan { socket: socket(planner, bind, session), bind: planner.layers.optional("admin.bind") }
}

fn socket(planner: &mut Planner<'_>, bind: SocketAddr, session: &SessionPlan) -> Option<SocketPlan> {
    if let Some(path) = planner.layers.optional::<PathBuf>("admin.socket") {
        if !fits(&path) {
            planner.blame(
                "admin.socket",
                format!("admin.socket is longer than the {PATH_MAX} bytes that a socket's path may have"),
            );
        }
        return Some(SocketPlan { path, is_named: true });
    }
    let path = match session.store {
        StoreKind::Lmdb => session.path.join(NAME),
        StoreKind::Memory => beside_nothing(planner, bind)?,
    };
    if !fits(&path) {
        planner
            .warnings
            .push(format!("no socket for `shadowcat admin`: {} is too long; set admin.socket", path.display()));
        return None;
    }
    Some(SocketPlan { path, is_named: false })
}

/// Without a store on disk: by the address, so that the command finds it. Port 0 is another port each time, which no
/// command could guess.
fn beside_nothing(planner: &Planner<'_>, bind: SocketAddr) -> Option<PathBuf> {
    if bind.port() == 0 {
        return None;
    }
    let environment = &planner.sources.environment;
    let runtime = environment.get("XDG_RUNTIME_DIR").filter(|path| path.starts_with('/'));
    let directory = runtime.map_or_else(|| temporary(environment), |path| Path::new(path).join("shadowcat"));
    Some(directory.join(format!("{bind}.sock")))
}

fn fits(path: &Path) -> bool {
    path.as_os_str().as_bytes().len() <= PATH_MAX
}
