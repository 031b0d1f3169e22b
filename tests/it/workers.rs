//! Workers: how many, where they run, who gets what, and what happens when one fails.

use std::fs;

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    runs_as_many_workers_as_told,
    runs_one_worker_a_cpu_by_default,
    pins_each_worker_where_there_are_enough_cpus,
    a_port_in_use_is_69,
    a_restart_gets_its_port_back,
    every_worker_serves,
    connections_stay_on_the_cpu_of_their_packets,
    a_burst_from_one_cpu_stays_with_its_worker,
    a_crowd_from_one_cpu_is_spread_over_workers,
    long_streams_are_spread_over_workers,
    a_panic_loses_one_connection,
    a_worker_that_dies_is_restarted_and_counted,
    fault_paths_are_ordinary_without_their_switch,
);

fn runs_as_many_workers_as_told(driver: Driver) {
    for workers in [1, 3, 5] {
        let proxy = Proxy::builder(driver).workers(workers).start();
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("shadowcat_driver_info", ""), workers as f64, "{}", metrics.0);
    }
    let (code, said) = Proxy::builder(driver).workers(0).run_to_end();
    assert!(matches!(code, Some(2 | 78)), "{code:?}: {said}");
}

fn runs_one_worker_a_cpu_by_default(driver: Driver) {
    let proxy = Proxy::builder(driver).default_workers().under(&["taskset", "-c", "0"]).start();
    assert_eq!(proxy.metrics().sum("shadowcat_driver_info", ""), 1.0);
    let cpus = std::thread::available_parallelism().expect("a number of CPUs").get();
    let proxy = Proxy::builder(driver).default_workers().start();
    assert_eq!(proxy.metrics().sum("shadowcat_driver_info", ""), cpus as f64);
}

/// The CPUs that each worker's thread may run on.
fn places(proxy: &Proxy) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).expect("threads");
    let mut places = Vec::new();
    for task in tasks.map(|task| task.expect("a thread").path()) {
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.starts_with("worker-") {
            let status = fs::read_to_string(task.join("status")).expect("status");
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).expect("CPUs");
            places.push(line.split_whitespace().nth(1).expect("a list").to_owned());
        }
    }
    places
}

fn pins_each_worker_where_there_are_enough_cpus(driver: Driver) {
    let cpus = std::thread::available_parallelism().expect("a number of CPUs").get();
    let proxy = Proxy::builder(driver).workers(cpus).start();
    let mut pinned = places(&proxy);
    assert_eq!(pinned.len(), cpus);
    assert!(pinned.iter().all(|list| list.parse::<usize>().is_ok()), "{pinned:?}");
    pinned.sort();
    pinned.dedup();
    assert_eq!(pinned.len(), cpus, "two workers on one CPU");
}

fn a_port_in_use_is_69(driver: Driver) {
    let upstream = FakeUpstream::answering("first");
    let first = Proxy::before(driver, &[&upstream]).start();
    let address = first.address.to_string();
    let (code, said) = Proxy::before(driver, &[&upstream]).bind(&address).run_to_end();
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    // None of its connections go to a server that is not there.
    for _ in 0..20 {
        assert_eq!(first.ask(&get("/", "")).text(), "first");
    }
}

fn a_restart_gets_its_port_back(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let mut proxy = Proxy::before(driver, &[&upstream]).start();
    let address = proxy.address.to_string();
    // Whatever lingers of a server that is gone, connections in TIME_WAIT or a ring that the kernel still takes apart:
    // its successor listens.
    for round in 0..10 {
        let mut client = proxy.connect();
        assert_eq!(client.ask(&get("/", "")).text(), "served");
        assert_eq!(proxy.ask(&get("/", "Connection: close\r\n")).text(), "served");
        if round % 2 == 0 {
            proxy.kill();
        } else {
            proxy.signal(Signal::TERM);
            assert_eq!(proxy.wait_exit().code(), Some(0));
        }
        proxy = Proxy::before(driver, &[&upstream]).bind(&address).start();
    }
    assert_eq!(proxy.ask(&get("/", "")).text(), "served");
}

/// Connections that each worker accepted, or has.
fn by_worker(proxy: &Proxy, name: &str, workers: usize) -> Vec<f64> {
    let metrics = proxy.metrics();
    (0..workers).map(|worker| metrics.sum(name, &format!("worker=\"{worker}\""))).collect()
}

fn every_worker_serves(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).workers(3).start();
    // Connections that stay: whoever has his share leaves more to others.
    let mut clients: Vec<_> = (0..150).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&get("/", "")).text(), "served");
    }
    let requests = by_worker(&proxy, "shadowcat_requests_total", 3);
    assert!(requests.iter().all(|&count| count > 5.0), "{requests:?}");
}

/// Whether the kernel heeds which CPU a listener is for: since 6.2. One CPU tells nothing.
fn heeds_cpus() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 2) && cpus().len() > 1
}

/// Those that this process may use, in order.
fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("an affinity");
    (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
}

/// What this thread sends over loopback arrives where it runs.
fn go_to(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).expect("a CPU of ours");
}

fn connections_stay_on_the_cpu_of_their_packets(driver: Driver) {
    if !heeds_cpus() {
        return;
    }
    let (cpus, upstream) = (cpus(), FakeUpstream::answering("served"));
    let proxy = Proxy::before(driver, &[&upstream]).workers(2).start();
    go_to(cpus[1]);
    let before = by_worker(&proxy, "shadowcat_connections_total", 2);
    let mut clients = Vec::new();
    for number in 0..32 {
        go_to(cpus[number % 2]);
        let mut client = proxy.connect();
        assert_eq!(client.ask(&get("/", "")).text(), "served");
        clients.push(client);
    }
    let after = by_worker(&proxy, "shadowcat_connections_total", 2);
    // The second time metrics were asked for is one more.
    assert_eq!([after[0] - before[0], after[1] - before[1]], [16.0, 17.0]);
}

/// One CPU's burst comes before that of the other; and who has a few connections has them with one worker.
fn a_burst_from_one_cpu_stays_with_its_worker(driver: Driver) {
    if !heeds_cpus() {
        return;
    }
    let (cpus, upstream) = (cpus(), FakeUpstream::answering("served"));
    let proxy = Proxy::before(driver, &[&upstream]).workers(2).start();
    let mut clients = Vec::new();
    for cpu in [cpus[1], cpus[0]] {
        go_to(cpu);
        for _ in 0..32 {
            let mut client = proxy.connect();
            assert_eq!(client.ask(&get("/", "")).text(), "served");
            clients.push(client);
        }
        let open = by_worker(&proxy, "shadowcat_connections_active", 2);
        // Who asks for metrics is one more of the CPU at hand.
        let there = if cpu == cpus[1] { [0.0, 33.0] } else { [33.0, 32.0] };
        assert_eq!(open, there);
    }
}

fn a_crowd_from_one_cpu_is_spread_over_workers(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).workers(2).start();
    go_to(cpus()[0]);
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = proxy.connect();
        assert_eq!(client.ask(&get("/", "")).text(), "served");
        clients.push(client);
    }
    let open = by_worker(&proxy, "shadowcat_connections_active", 2);
    assert!(open.iter().all(|&count| count <= 100.0 * 1.25 + 18.0), "{open:?}");
}

fn long_streams_are_spread_over_workers(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.wait_for_end();
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(2).start();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = proxy.connect();
        client.send(&get("/sse", ""));
        client.stream_head();
        clients.push(client);
    }
    let streams = by_worker(&proxy, "shadowcat_streams_active", 2);
    assert_eq!(streams.iter().sum::<f64>(), 200.0);
    // Above mean x 1.25 + 16 a worker gives new connections away.
    assert!(streams.iter().all(|&count| count <= 100.0 * 1.25 + 18.0), "{streams:?}");
}

fn faulty(driver: Driver, upstream: &FakeUpstream) -> proxy::Builder {
    Proxy::before(driver, &[upstream]).variable("SHADOWCAT_FAULTS", "1")
}

fn a_panic_loses_one_connection(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/sse" => {
                    conversation.begin_events("");
                    conversation.tell("streaming");
                    conversation.wire.fill(PATIENCE);
                }
                _ => conversation.respond(200, "", "fine"),
            }
        }
    });
    let proxy = faulty(driver, &upstream).workers(1).start();
    let mut other = proxy.connect();
    assert_eq!(other.ask(&get("/", "")).text(), "fine");
    let mut stream = proxy.connect();
    stream.send(&get("/sse", ""));
    stream.stream_head();
    upstream.expect_event("streaming");
    for n in 1..=5 {
        let mut lost = proxy.connect();
        lost.send(&get("/__fault/panic-connection", ""));
        assert!(lost.wire.rest(PATIENCE).1.is_some());
        assert_eq!(other.ask(&get("/", "")).text(), "fine");
        assert_eq!(proxy.metrics().sum("shadowcat_connection_panics_total", ""), n as f64);
    }
    stream.expect_quiet();
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_worker_restarts_total", ""), 0.0);
    assert_eq!(metrics.sum("shadowcat_streams_active", ""), 1.0);
}

fn a_worker_that_dies_is_restarted_and_counted(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = faulty(driver, &replica.upstream).workers(2).start();
    let ids: Vec<String> = (0..4).map(|_| begin_session(&proxy).1).collect();
    // A crowd of connections on both workers; those of the worker that stays must not notice.
    let mut crowd: Vec<RawClient> = (0..100).map(|_| proxy.connect()).collect();
    for client in &mut crowd {
        assert_eq!(client.ask(&get("/health", "")).status, 200);
    }
    for n in 1..=3 {
        let mut fatal = proxy.connect();
        fatal.send(&get("/__fault/panic-worker", ""));
        fatal.wire.rest(PATIENCE);
        proxy.wait_for_metric("shadowcat_worker_restarts_total", "", n as f64);
        wait_until("both workers to run", || proxy.metrics().sum("shadowcat_driver_info", "") == 2.0);
        for _ in 0..30 {
            assert_eq!(proxy.ask(&in_session(&ids[n % 4], &request(1, "ping"))).status, 200);
        }
        if n == 1 {
            let alive = crowd.iter_mut().filter_map(|client| {
                client.send(&get("/health", ""));
                (client.outcome().status() == 200).then_some(())
            });
            let alive = alive.count();
            assert!((1..100).contains(&alive), "{alive} of 100 connections are alive");
        }
    }
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 4.0);
}

fn fault_paths_are_ordinary_without_their_switch(driver: Driver) {
    let upstream = FakeUpstream::answering("ordinary");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for path in ["/__fault/panic-connection", "/__fault/panic-worker", "/__fault/hang-worker"] {
        assert_eq!(proxy.ask(&get(path, "")).text(), "ordinary");
    }
    assert_eq!(proxy.metrics().sum("shadowcat_worker_restarts_total", ""), 0.0);
}
