//! Open and closed loops: what is sent when, and how it is counted.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::fake::{Fake, result};
use crate::on_both_drivers;
use crate::support::{Server, command, kinds, load, operation, said};

on_both_drivers!(
    a_closed_loop_is_counted_as_the_proxy_counts_it,
    an_open_loop_keeps_its_rate_on_all_threads,
    a_stall_is_felt_by_all_who_were_due_meanwhile,
    a_ramp_ends_where_the_target_falls_behind,
    connections_end_after_so_many_requests,
    an_interrupt_shows_what_there_is,
);

const CALLS: &str = r#"
duration = "1s"
warmup = "0s"
[[users]]
connections = 8
[[users.work]]
call = "echo"
arguments = { text = "hello" }
answer_contains = "hello"
"#;

fn a_closed_loop_is_counted_as_the_proxy_counts_it(driver: &str) {
    let demo = Server::demo();
    let proxy = Server::proxy(&demo, &[]);
    let (code, result) = load(CALLS, &["--target", &proxy.url(), "--driver", driver]);
    assert_eq!(code, 0, "{result:#}");
    let target = &result["targets"][0];
    assert_eq!(target["generator"]["driver"], driver);
    let calls = target["requests"].as_f64().expect("a number");
    assert!(calls > 100.0, "{calls}");
    assert_eq!(proxy.metric("shadowcat_mcp_requests_total", "tool=\"echo\",outcome=\"ok\""), calls);
    assert_eq!(proxy.metric("shadowcat_mcp_requests_total", "method=\"initialize\""), 8.0);
    // Sessions were ended as well.
    assert_eq!(proxy.metric("shadowcat_sessions_active", ""), 0.0);
}

fn an_open_loop_keeps_its_rate_on_all_threads(driver: &str) {
    let demo = Server::demo();
    let scenario = CALLS.replace("connections = 8", "connections = 8\nrate = 250");
    let arguments = ["--target", &demo.url(), "--driver", driver, "--threads", "2", "--duration", "2s"];
    let (code, result) = load(&scenario, &arguments);
    assert_eq!(code, 0, "{result:#}");
    let target = &result["targets"][0];
    assert_eq!(target["requests"].as_u64().unwrap() + target["unsent"].as_u64().unwrap(), 500, "{target:#}");
    assert!(target["generator"]["late"]["count"].as_u64() > Some(100), "somebody waited to send: {target:#}");
}

/// One answer out of many takes half a second. A closed view would see one slow request.
fn a_stall_is_felt_by_all_who_were_due_meanwhile(driver: &str) {
    let never = (Mutex::new(()), Condvar::new());
    let fake = Fake::start(move |request| {
        if request.number == 50 {
            let guard = never.0.lock().expect("a lock");
            drop(never.1.wait_timeout(guard, Duration::from_millis(500)).expect("a lock"));
        }
        result(request, "hello")
    });
    let scenario = CALLS.replace("connections = 8", "connections = 1\nrate = 100");
    let (code, result) = load(&scenario, &["--target", &fake.url, "--driver", driver, "--duration", "2s"]);
    assert_eq!(code, 0, "{result:#}");
    let target = &result["targets"][0];
    assert_eq!(target["requests"], 200);
    let histogram = target["histogram"].as_array().expect("a list");
    let slower = histogram.iter().filter(|part| part[0].as_f64() > Some(1e8)).map(|part| part[1].as_u64().unwrap());
    // Fifty were due while it stalled: the first waited 500 ms, the last 10.
    let slower: u64 = slower.sum();
    assert!((35..150).contains(&slower), "{slower} of them took more than 100 ms");
    let (due, sent) = (&target["latency"]["p90"], &target["service"]["p90"]);
    assert!(due.as_u64() > sent.as_u64(), "{due} from when it was due, {sent} from when it was sent");
}

fn a_ramp_ends_where_the_target_falls_behind(driver: &str) {
    let demo = Server::demo();
    // Two connections of calls that take at least 20 ms each: never more than 100 a second.
    let scenario = r#"
        duration = "4s"
        warmup = "0s"
        [[users]]
        connections = 2
        ramp = { from = 20, to = 620, steps = 4 }
        [[users.work]]
        call = "slow"
        arguments = { steps = 1, interval = 20 }
    "#;
    let (code, result) = load(scenario, &["--target", &demo.url(), "--driver", driver]);
    assert_eq!(code, 0, "{result:#}");
    let target = &result["targets"][0];
    let steps = target["steps"].as_array().expect("steps");
    assert_eq!((steps[0]["offered"].as_f64(), steps.len()), (Some(20.0), 2), "{steps:#?}");
    assert_eq!((steps[0]["why"].as_str(), steps[1]["why"].as_str()), (Some(""), Some("answers fell behind")));
    assert_eq!(target["saturation"]["rate"], 20.0);
    assert!(target["seconds"].as_f64() < Some(2.5), "it goes on: {target:#}");
}

fn connections_end_after_so_many_requests(driver: &str) {
    let demo = Server::demo();
    let scenario = CALLS.replace(
        "connections = 8",
        "connections = 2\nrequests_per_connection = 3\nsessions = false\nversion = \"2026-07-28\"\nrate = 150",
    );
    let (code, result) = load(&scenario, &["--target", &demo.url(), "--driver", driver]);
    assert_eq!(code, 0, "{result:#}");
    let (calls, made) = (operation(&result, "echo")["good"].as_u64(), operation(&result, "connect")["good"].as_u64());
    let (calls, made) = (calls.expect("a number"), made.expect("a number"));
    assert!(calls >= 100 && made.abs_diff(calls.div_ceil(3)) <= 1, "{made} connections for {calls} calls");
}

fn an_interrupt_shows_what_there_is(driver: &str) {
    let demo = Server::demo();
    let scenario = crate::support::file(".toml", CALLS);
    let path = scenario.path().to_string_lossy().into_owned();
    let url = demo.url();
    let arguments = [path.as_str(), "--target", &url, "--driver", driver, "--duration", "1m"];
    let child = command(&arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let mut child = child.expect("the generator starts");
    // The first line of progress: it measures.
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("stderr"));
    std::io::BufRead::read_line(&mut stderr, &mut line).expect("a line");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    let output = child.wait_with_output().expect("it ends");
    let (code, stdout, _) = said(&output);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("interrupted after") && stdout.contains("requests"), "{stdout}");
}

#[test]
fn no_errors_of_any_kind_come_from_a_target_that_is_well() {
    let demo = Server::demo();
    let proxy = Server::proxy(&demo, &[]);
    let (code, result) = load(CALLS, &["--target", &proxy.url(), "--direct", &demo.url(), "--rounds", "2"]);
    assert_eq!((code, kinds(&result)), (0, Vec::new()));
    let [target, direct] = &result["targets"].as_array().expect("targets")[..] else { panic!("{result:#}") };
    assert_eq!((&target["direct"], &direct["direct"]), (&false.into(), &true.into()));
    assert_eq!(target["rounds"].as_array().map(Vec::len), Some(2));
    let added = result["added"][0]["latency"]["p50"].as_f64().expect("a number");
    let expected = target["latency"]["p50"].as_f64().unwrap() - direct["latency"]["p50"].as_f64().unwrap();
    assert_eq!(added, expected);
}
