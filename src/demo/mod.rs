//! The built-in MCP server: both eras over HTTP, to try a client or a proxy on, and to load one.
//!
//! ```text
//! origin      connections, heads and bodies, streams (a module of its own)
//! service     what is left to do where the answer was made
//! endpoint    paths, methods, Host and Origin      -> Next
//! mcp         one POST: which era                  -> Answer
//! ├ modern    2026-07-28: checks, listen           (mirrored, request_state)
//! ├ legacy    initialize, sessions, batches        (session)
//! └ tools     echo add slow ask touch whoami       -> Work
//! work        calls that take time, writing to an event log
//! hub         who hears of changed resources
//! ```
//!
//! Everything from `endpoint` down to `tools` is sans-io and answers into buffers that the connection keeps.

mod catalog;
mod endpoint;
mod hub;
mod legacy;
mod mcp;
mod message;
mod mirrored;
mod modern;
mod reply;
mod request_state;
mod service;
mod session;
mod tools;
mod work;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand;

use crate::net::driver::Choice;
use crate::net::spawn as start;
use crate::origin;
pub use crate::origin::Running;
use mcp::Server;

/// How a demo server is to run.
#[derive(Clone, Debug)]
pub struct Demo {
    /// Port 0 takes any free one.
    pub bind: SocketAddr,
    /// Threads, each with a runtime and a listener; at least one.
    pub workers: usize,
    /// Issue no sessions in the legacy era, as load-balanced servers do.
    pub stateless: bool,
    /// A proxy in front has checked Host and Origin, and hands on the client's own.
    pub behind_proxy: bool,
    /// Epoll unless told otherwise: it is there wherever the server may run.
    pub driver: Choice,
    /// What `whoami` calls this server; random if absent.
    pub replica: Option<String>,
}

impl Demo {
    pub fn new(bind: SocketAddr) -> Demo {
        Demo { bind, workers: 1, stateless: false, behind_proxy: false, driver: Choice::Epoll, replica: None }
    }

    /// Starts the server. Fails if the address cannot be bound, also when another server has it.
    pub fn spawn(self) -> io::Result<Running> {
        let replica = self.replica.unwrap_or_else(random_name).into_boxed_str();
        let loopback_only = self.bind.ip().is_loopback() && !self.behind_proxy;
        let server = Arc::new(Server::new(replica, self.stateless, loopback_only));
        let ticking = Arc::clone(&server);
        origin::spawn("demo", self.bind, self.workers, self.driver, &server, move || start(service::tick(ticking)))
    }
}

/// Starts a demo server with sessions, for clients that reach it directly.
pub fn spawn(bind: SocketAddr, workers: usize) -> io::Result<Running> {
    Demo { workers, ..Demo::new(bind) }.spawn()
}

/// Lines to paste into a shell, for whoever started a server, or a proxy before it, at `address`.
pub fn banner(address: SocketAddr) -> String {
    let url = url(address);
    format!(
        "MCP at {url}\n\n\
         curl -sS {url} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"2025-11-25\",\
         \"capabilities\":{{}},\"clientInfo\":{{\"name\":\"curl\",\"version\":\"1\"}}}}}}'\n\n\
         npx @modelcontextprotocol/inspector --cli {url} --transport http --method tools/list\n"
    )
}

/// The URL that reaches `address` from this machine.
fn url(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}/mcp")
}

fn random_name() -> String {
    let mut random = [0u8; 4];
    rand::fill(&mut random).expect("the system's random source works");
    format!("demo-{:08x}", u32::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_names_an_address_that_can_be_reached() {
        assert!(banner(([0, 0, 0, 0], 8080).into()).contains("http://127.0.0.1:8080/mcp"));
        assert!(banner("[::]:80".parse().expect("address")).contains("http://[::1]:80/mcp"));
    }

    #[test]
    fn a_second_server_on_the_address_is_refused() {
        let running = spawn(([127, 0, 0, 1], 0).into(), 2).expect("a free port");
        for workers in [1, 2] {
            let refused = spawn(running.address, workers).expect_err("taken");
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
