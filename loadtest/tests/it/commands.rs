//! The command line: what is printed, written and returned.

use serde_json::Value;

use crate::support::{Server, file, load, run, said};

const CALLS: &str = r#"
about = "hello"
duration = "500ms"
warmup = "0s"
[[users]]
connections = 2
[[users.work]]
call = "echo"
arguments = { text = "hello" }
"#;

#[test]
fn mistakes_of_a_scenario_are_told_with_their_places() {
    let scenario = file(".toml", "duration = \"5s\"\n[[users]]\nconections = 3\n[[users.work]]\ncall = \"echo\"\n");
    let path = scenario.path().to_string_lossy().into_owned();
    let (code, stdout, stderr) = said(&run(&[&path, "--target", "http://127.0.0.1:1/mcp"]));
    assert_eq!((code, stdout.as_str()), (Some(78), ""));
    assert!(stderr.contains(&format!("{path}:3:1")), "{stderr}");
    assert!(
        stderr.contains("unknown key `conections` in [[users]]") && stderr.contains("did you mean `connections`?"),
        "{stderr}"
    );
}

#[test]
fn usage_is_told() {
    let scenario = file(".toml", CALLS);
    let path = scenario.path().to_string_lossy().into_owned();
    for (arguments, expected) in [
        (vec![], "<SCENARIO>"),
        (vec![path.as_str()], "no target"),
        (vec![path.as_str(), "--target", "127.0.0.1:80"], "expected"),
        (vec![path.as_str(), "--target", "http://127.0.0.1:1/", "--target", "http://127.0.0.1:1/"], "two targets"),
        (vec![path.as_str(), "--target", "http://127.0.0.1:1/", "--rate", "-1"], "--rate"),
        (vec!["mixed", "--target", "http://127.0.0.1:1/", "--rate", "5"], "one group of users"),
    ] {
        let (code, _, stderr) = said(&run(&arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{expected:?} in {stderr}");
    }
    let (code, _, stderr) = said(&run(&["tool-call", "--check"]));
    assert_eq!(code, Some(78));
    assert!(stderr.contains("did you mean `tools-call`?"), "{stderr}");
}

#[test]
fn scenarios_are_listed_and_checked() {
    let (code, stdout, _) = said(&run(&["--list"]));
    assert_eq!(code, Some(0));
    for name in stdout.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "tokens") {
        assert_eq!(run(&[name, "--check"]).status.code(), Some(0), "{name}");
    }
    assert!(stdout.lines().count() >= 12, "{stdout}");
}

#[test]
fn a_threshold_that_is_missed_has_a_code_of_its_own() {
    let demo = Server::demo();
    let scenario = format!("{CALLS}[thresholds]\np50 = 0.000001\nrate = 1\nadded_p99 = \"1ms\"\n");
    let (code, result) = load(&scenario, &["--target", &demo.url()]);
    assert_eq!((code, &result["passed"]), (4, &Value::Bool(false)));
    let passed = |what: &str| {
        let all = result["thresholds"].as_array().expect("a list");
        all.iter().find(|one| one["what"] == what).expect(what)["passed"].as_bool().expect("a verdict")
    };
    assert!(!passed("p50") && passed("rate") && passed("errors"));
    assert!(!passed("added p99"), "without --direct nothing is known of it");
}

#[test]
fn results_go_to_the_terminal_and_to_files() {
    let demo = Server::demo();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let scenario = file(".toml", CALLS);
    let path = scenario.path().to_string_lossy().into_owned();
    let target = format!("one={}", demo.url());
    let direct = format!("two={}", demo.url());
    let arguments = [&path, "--target", &target, "--direct", &direct, "--json", &at("r.json"), "--html", &at("r.html")];
    let (code, stdout, stderr) = said(&run(&arguments));
    assert_eq!(code, Some(0), "{stderr}");
    for expected in ["hello", "== one", "== two", "p99.9", "one adds", "generator: 1 thread", "passed", "%"] {
        assert!(stdout.contains(expected), "{expected:?} in\n{stdout}");
    }
    assert!(stderr.contains("one: ") && stderr.contains("/s"), "no progress in {stderr}");
    let result: Value = serde_json::from_str(&std::fs::read_to_string(at("r.json")).expect("a file")).expect("JSON");
    let target = &result["targets"][0];
    let total: u64 = target["histogram"].as_array().expect("parts").iter().map(|part| part[1].as_u64().unwrap()).sum();
    assert_eq!(total, target["requests"].as_u64().unwrap() - target["errors"].as_u64().unwrap());
    let times = ["min", "p50", "p90", "p99", "p999", "max"].map(|key| target["latency"][key].as_u64().expect(key));
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    let page = std::fs::read_to_string(at("r.html")).expect("a file");
    assert!(page.starts_with("<!doctype html>") && page.contains("\"name\":\"two\""), "{}", page.len());
    let (code, _, stderr) = said(&run(&[&path, "--target", &demo.url(), "--quiet", "--json", "/nowhere/r.json"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot write /nowhere/r.json"), "{stderr}");
}
