//! Workers: how many, what happens when one fails, who else may use the port.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    runs_as_many_workers_as_told,
    refuses_a_port_that_is_in_use,
    loses_one_connection_to_a_panic,
    restarts_a_worker_that_dies,
);

fn runs_as_many_workers_as_told(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).workers(3).start();
    let driver_lines =
        |metrics: &Metrics| metrics.0.lines().filter(|l| l.starts_with("shadowcat_driver_info{")).count();
    assert_eq!(driver_lines(&proxy.metrics()), 3);
    let proxy = Proxy::before(driver, &[&upstream])
        .under(&["taskset", "-c", "0"])
        .argument("--set")
        .argument("pool.min_idle=0");
    // Without a number: the CPUs that it may use.
    let (code, _) = proxy.argument("--workers").argument("0").fail();
    assert_eq!(code, Some(78));
}

fn refuses_a_port_that_is_in_use(driver: &str) {
    let upstream = Upstream::answering("x");
    let first = Proxy::before(driver, &[&upstream]).start();
    let address = first.address.to_string();
    let (code, said) = Proxy::before(driver, &[&upstream]).argument("--bind").argument(&address).fail();
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert_eq!(first.connect().exchange(&get("/", "")).status, 200);
}

fn loses_one_connection_to_a_panic(driver: &str) {
    let upstream = Upstream::answering("x");
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).variable("SHADOWCAT_FAULTS", "1").start();
    let mut other = proxy.connect();
    assert_eq!(other.exchange(&get("/", "")).status, 200);
    let mut lost = proxy.connect();
    lost.send(&get("/__fault/panic-connection", ""));
    assert!(lost.rest().0.is_empty());
    assert_eq!(other.exchange(&get("/", "")).status, 200);
    assert_eq!(proxy.metrics().sum("shadowcat_connection_panics_total", ""), 1.0);
    assert_eq!(proxy.metrics().sum("shadowcat_worker_restarts_total", ""), 0.0);
}

fn restarts_a_worker_that_dies(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server]).workers(1).variable("SHADOWCAT_FAULTS", "1").start();
    let id = begin_session(&mut proxy.connect());
    let mut fatal = proxy.connect();
    fatal.send(&get("/__fault/panic-worker", ""));
    fatal.rest();
    wait_for("the worker to be back", || {
        (proxy.metrics().sum("shadowcat_worker_restarts_total", "") == 1.0).then_some(())
    });
    assert_eq!(call(&mut proxy.connect(), &id).status, 200);
}
