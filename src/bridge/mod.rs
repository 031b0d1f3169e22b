//! L5: a server that speaks over stdin and stdout, as an HTTP server behind the proxy.
//!
//! ```text
//! origin      connections, heads and bodies, streams (a module of its own)
//! service     paths, methods, which era                                  (answers: what is said to one request)
//! ├ legacy    one process a session: ids as they are                     (session: calls, and where messages go)
//! └ modern    one process for all: ids of ours                           (shared: its calls, and when it is started anew;
//!                                                                         parameters: headers that mirror those of tools)
//! process     a server that runs: what waits to be written, what it says (queue)
//! message     what of a message matters here, and putting other values in its text
//! ```
//!
//! One thread. Nothing in it waits for a server or a client but the task that is about them, and all queues are bounded.

mod answers;
mod legacy;
mod message;
mod modern;
mod parameters;
mod process;
mod queue;
mod service;
mod session;
mod shared;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::base::SessionId;
use crate::net::driver::Choice;
use crate::origin::{self, Sessions};
use crate::stdio::Spawn;
use process::Children;
use session::Session;
use shared::Shared;

/// What says that a request comes from the proxy in front.
pub const SECRET_FIELD: &str = "X-Shadowcat-Bridge";

/// What is served, and how much of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What makes this program a guard of the server.
    pub guard: Vec<OsString>,
    /// Servers that may run at a time.
    pub servers_max: usize,
    /// A session that is not used for this long ends.
    pub session_timeout: Duration,
    pub driver: Choice,
}

/// The bridge, which runs until the process exits.
pub struct Bridge {
    pub address: SocketAddr,
    /// The value of [`SECRET_FIELD`].
    pub secret: String,
    server: Arc<Server>,
}

/// What the tasks of the bridge share.
struct Server {
    secret: SessionId,
    children: Arc<Children>,
    sessions: Sessions<Session>,
    session_timeout: Duration,
    shared: Shared,
}

impl Bridge {
    /// Listens on a free port of the loopback. Servers are started when clients ask for them.
    ///
    /// # Errors
    /// No address, no thread.
    pub fn start(settings: Settings) -> io::Result<Bridge> {
        let Settings { guard, servers_max, session_timeout, driver } = settings;
        let children = Arc::new(Children::new(Spawn { arguments: guard }, servers_max));
        let server = Arc::new(Server {
            // As hard to guess as the id of a session.
            secret: origin::new_id(),
            shared: Shared::new(children.clone()),
            children,
            sessions: Sessions::default(),
            session_timeout,
        });
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let tended = server.clone();
        let tend = move || crate::net::spawn(service::tend(tended));
        let running = origin::spawn("bridge", loopback, 1, driver, &server, tend)?;
        Ok(Bridge { address: running.address, secret: server.secret.as_str().to_owned(), server })
    }

    /// Ends all servers in order, and waits for that no longer than `limit`; false if some are left.
    pub fn stop(&self, limit: Duration) -> bool {
        self.server.children.close();
        self.server.sessions.end_all();
        self.server.shared.end();
        self.server.children.wait_until_none(limit)
    }
}
