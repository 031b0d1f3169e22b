//! Black-box tests over the real binary: raw bytes in, raw bytes out, on both I/O drivers.

mod faults;
mod http1;
mod mcp;
mod probes;
mod sessions;
mod smuggling;
mod streaming;
mod support;
mod upstreams;
mod workers;

/// Each test as `name::io_uring` and `name::epoll`. A kernel that refuses io_uring fails them; nothing is skipped.
#[macro_export]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn io_uring() {
                super::$name("io_uring");
            }

            #[test]
            fn epoll() {
                super::$name("epoll");
            }
        })*
    };
}
