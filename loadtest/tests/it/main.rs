//! The load generator as its user runs it: against the real proxy and the built-in server, and against servers that
//! misbehave.

mod commands;
mod fake;
mod faults;
mod loops;
mod scenarios;
mod support;

/// Each test as `name::io_uring` and `name::epoll`.
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
