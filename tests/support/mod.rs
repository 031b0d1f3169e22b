//! What the black-box tests stand on: a proxy process, scripted upstreams, a client that speaks bytes.
//!
//! Blocking sockets and threads only. Nothing here waits for a time to pass: everything waits for an event or for a
//! state, and gives up after [`wait::PATIENCE`].

pub mod browser;
pub mod client;
pub mod front;
pub mod http;
pub mod idp;
pub mod mcp;
pub mod proxy;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod wire;

pub use client::{Outcome, RawClient};
pub use http::{get, post, post_json, post_with};
pub use proxy::{Driver, Proxy};
pub use upstream::{Conversation, FakeUpstream};
pub use wait::{PATIENCE, QUIET, wait_until};
pub use wire::Ending;

/// Each test as `name::io_uring` and `name::epoll`. A kernel that refuses io_uring fails them; nothing is skipped.
#[macro_export]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn io_uring() {
                super::$name($crate::support::Driver::IoUring);
            }

            #[test]
            fn epoll() {
                super::$name($crate::support::Driver::Epoll);
            }
        })*
    };
}
