//! The driver ladder: io_uring with DEFER_TASKRUN (Linux 6.1), io_uring with COOP_TASKRUN (5.19), epoll.
//!
//! Never io_uring without those flags: measured, it costs up to 66 % more CPU a request than epoll. monoio's own
//! detection probes a ring without flags and then fails with EINVAL where ours do not exist, so the ladder is ours.

use std::future::Future;
use std::io;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::{posts, ready};

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Auto,
    IoUring,
    Epoll,
}

/// What a worker got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    UringDefer,
    UringCoop,
    Epoll,
}

impl Driver {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Driver::UringDefer | Driver::UringCoop => "io_uring",
            Driver::Epoll => "epoll",
        }
    }

    /// The flag that the ring was set up with, or "".
    pub fn flags(self) -> &'static str {
        match self {
            Driver::UringDefer => "defer_taskrun",
            Driver::UringCoop => "coop_taskrun",
            Driver::Epoll => "",
        }
    }
}

/// Submission queue entries of a ring; 256 to 8,192 made no measurable difference.
const RING_ENTRIES: u32 = 1024;

/// Build a runtime on this thread and run `main` on it to its end. `main` is told which driver it runs on.
///
/// # Errors
/// The last rung's error if no driver that `choice` allows could be built.
pub fn run<F, T>(choice: Choice, main: impl FnOnce(Driver) -> F) -> io::Result<T>
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    if choice != Choice::Epoll {
        for driver in [Driver::UringDefer, Driver::UringCoop] {
            match ring(driver).build() {
                Ok(mut runtime) => {
                    if let Err(error) = posts::use_ring(flags(driver)) {
                        tracing::warn!(%error, "no second ring: each send is a call");
                    }
                    return runtime.block_on(ready::attended(main(driver)));
                }
                Err(error) if driver == Driver::UringCoop && choice == Choice::IoUring => return Err(error),
                Err(_) => {}
            }
        }
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    runtime.block_on(ready::attended(main(Driver::Epoll)))
}

/// Whether a worker could have such a ring.
///
/// # Errors
/// What refused it.
pub fn try_ring(driver: Driver) -> io::Result<()> {
    ring(driver).build().map(drop)
}

fn flags(driver: Driver) -> io_uring::Builder {
    let mut flags = io_uring::IoUring::builder();
    match driver {
        Driver::UringDefer => flags.setup_single_issuer().setup_defer_taskrun(),
        _ => flags.setup_coop_taskrun(),
    };
    flags
}

fn ring(driver: Driver) -> RuntimeBuilder<monoio::time::TimeDriver<IoUringDriver>> {
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(flags(driver)).with_entries(RING_ENTRIES).enable_timer()
}
