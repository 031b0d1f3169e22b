//! The built-in MCP server: both eras over HTTP, to try a client or a proxy on, and to load one.
//!
//! ```text
//! worker      accept, one runtime a thread
//! connection  one connection: read a request whole, answer in one send
//! http        heads and bodies
//! endpoint    paths, methods, Host and Origin      -> Next
//! mcp         one POST: which era                  -> Answer
//! ├ modern    2026-07-28: checks, listen           (mirrored, request_state)
//! ├ legacy    initialize, sessions, batches        (session)
//! └ tools     echo add slow ask touch whoami       -> Work
//! work        calls that take time, writing to an event log
//! events      one SSE stream's events, resumable   (hub: who hears of changed resources)
//! relay       a log to the client
//! ```
//!
//! Everything down to `tools` is sans-io and answers into buffers that the connection keeps.

mod catalog;
mod connection;
mod endpoint;
mod events;
mod http;
mod hub;
mod legacy;
mod mcp;
mod message;
mod mirrored;
mod modern;
mod relay;
mod reply;
mod request_state;
mod session;
mod tools;
mod work;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use aws_lc_rs::rand;

use crate::net::driver::Choice;
use crate::net::listener;
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
        let (address, listeners) = listener::bind(self.bind, self.workers.max(1))?;
        let replica = self.replica.unwrap_or_else(random_name).into_boxed_str();
        let loopback_only = address.ip().is_loopback() && !self.behind_proxy;
        let server = Arc::new(Server::new(replica, self.stateless, loopback_only));
        let threads = listeners.into_iter().enumerate().map(|(index, listener)| {
            let server = Arc::clone(&server);
            let thread = std::thread::Builder::new().name(format!("demo-{index}"));
            thread.spawn(move || {
                if let Err(error) = worker::run(listener, server, self.driver, index == 0) {
                    eprintln!("demo server: worker {index}: {error}");
                }
            })
        });
        Ok(Running { address, threads: threads.collect::<io::Result<_>>()? })
    }
}

/// A demo server; its threads run until the process exits.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Blocks for as long as the server runs, which is until a worker cannot go on.
    pub fn join(self) {
        for thread in self.threads {
            // Why it ended has been said on stderr, by the worker or by the panic hook.
            let _ended = thread.join();
        }
    }

    /// Where the MCP endpoint is.
    pub fn url(&self) -> String {
        url(self.address)
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
