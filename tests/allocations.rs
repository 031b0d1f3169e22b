//! A request in the steady state takes nothing from the heap: the whole server in this process, its allocations counted.
//!
//! The request is what a busy client sends: a POST over a connection that stays open, with a session and a token, a limit for
//! each user, and metrics.

#[expect(dead_code, unused_imports, reason = "made for all black-box tests, of which few are here")]
#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use shadowcat::config::plan::Plan;
use shadowcat::config::{self, Sources};
use shadowcat::control::{self, ServiceManager, Source, Start, log};
use shadowcat::store::{self, Store};
use shadowcat::telemetry::{LogFilter, Logs};
use support::idp::Idp;
use support::mcp::{self, Replica};
use support::wait::wait_for;
use support::*;

const WARM_UP: usize = 300;
const REQUESTS: usize = 2_000;
/// What the housekeeping of a second or two may take, far below one a request.
const SPARED: u64 = REQUESTS as u64 / 50;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of threads that are workers.
static COUNTED: AtomicU64 = AtomicU64::new(0);
/// So many of the next are shown with where they come from.
static TO_SHOW: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, and who asked it.
struct Counting;

// SAFETY: all is left to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn count() {
    thread_local! {
        static IS_WORKER: Cell<bool> = const { Cell::new(false) };
        static IS_SHOWING: Cell<bool> = const { Cell::new(false) };
    }
    let is_worker = IS_WORKER.with(|known| {
        if !known.get() {
            known.set(thread_name().starts_with(b"worker-"));
        }
        known.get()
    });
    if !is_worker || IS_SHOWING.get() {
        return;
    }
    COUNTED.fetch_add(1, Relaxed);
    if TO_SHOW.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        IS_SHOWING.set(true);
        eprintln!("an allocation:\n{}", Backtrace::force_capture());
        IS_SHOWING.set(false);
    }
}

/// As the kernel knows it: the standard library's own would allocate.
fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: the call writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// `shadowcat reverse` on a thread of this process, which goes on until the process ends.
fn serve(config: &Path, logs: Arc<Logs>, filter: Arc<LogFilter>) -> SocketAddr {
    let plan = Arc::new(plan(config));
    let (tell, listening) = channel();
    thread::spawn(move || {
        let started = Instant::now();
        let place = store::Place::Directory(plan.session.path.clone());
        let store = Store::open(store::Options { place, started, ..store::Options::default() }).expect("a store");
        let source = Source { log: filter, read: Box::new(|| Err("it does not change".into())), files: vec![] };
        let manager = ServiceManager::default();
        let start = Start { plan, source, store, logs, started, faults: false, manager, passed: vec![] };
        control::serve(start, |address| tell.send(address).expect("somebody waits")).expect("a server");
    });
    listening.recv_timeout(PATIENCE).expect("a server that listens")
}

fn plan(config: &Path) -> Plan {
    let sources = Sources { file: Some(config.to_owned()), ..Sources::default() };
    config::load(&sources).unwrap_or_else(|errors| panic!("{errors}")).plan
}

#[test]
fn a_request_allocates_nothing() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (idp, replica) = (Idp::start(), Replica::new("one"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut log = None;
    for driver in ["io_uring", "epoll"] {
        let config = folder.path().join(format!("{driver}.toml"));
        let text = format!(
            "[proxy]\nbind = \"127.0.0.1:0\"\nworker_threads = 1\ndriver = \"{driver}\"\n\
             [session]\ndatabase_path = \"{}\"\n\
             [auth]\nissuer = \"{}\"\naudience = [\"https://mcp.example.com\"]\n\
             [rate_limit]\nper_user = 1000000\n\
             [[upstreams]]\nname = \"one\"\nurl = \"{}\"\n",
            folder.path().join(driver).display(),
            idp.issuer(),
            replica.upstream.url(),
        );
        std::fs::write(&config, text).expect("written");
        let log = log.get_or_insert_with(|| log::start(&plan(&config), None).expect("a log"));
        let address = serve(&config, log.logs.clone(), log.filter.clone());
        let taken = taken_by_requests(address, &format!("Authorization: Bearer {}\r\n", idp.token("ada")));
        assert!(taken <= SPARED, "{REQUESTS} requests on {driver} took {taken} allocations, which are shown above");
    }
}

/// What so many requests of one client take, on a worker that has served some.
fn taken_by_requests(address: SocketAddr, token: &str) -> u64 {
    let mut client = RawClient::connect(address);
    let before = COUNTED.load(Relaxed);
    let mut begin = || client.ask(&post_json("/mcp", token, &mcp::initialize(0)));
    // Keys may still be on their way.
    let begun = wait_for("a session", || Some(begin()).filter(|answer| answer.status == 200));
    let session = mcp::session_fields(begun.one("mcp-session-id").expect("a session"));
    let request = post_json("/mcp", &format!("{session}{token}"), &mcp::call(1, "echo"));
    let mut ask = |times: usize| (0..times).for_each(|_| assert_eq!(client.ask(&request).status, 200));
    ask(WARM_UP);
    assert!(COUNTED.load(Relaxed) > before, "nobody counts");
    let before = COUNTED.load(Relaxed);
    ask(REQUESTS);
    let taken = COUNTED.load(Relaxed) - before;
    eprintln!("{REQUESTS} requests took {taken} allocations");
    if taken > SPARED {
        TO_SHOW.store(4, Relaxed);
        ask(REQUESTS);
    }
    taken
}
