//! Prometheus: promtool finds nothing to mend in a page, and a server scrapes two replicas and adds them up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::{Server, free_port, wait};

/// Answers of a server on a connection that ends with them.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it accepts");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

fn call(address: &str, tool: &str) {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"x"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    );
    let fields = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n");
    let answer = ask(
        address,
        &format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, \
             text/event-stream\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Two replicas, one on each driver, that were asked for something of everything.
fn replicas(demo: &Server) -> [Server; 2] {
    ["io_uring", "epoll"].map(|driver| {
        let settings =
            ["rate_limit.per_tool_limit=100", "rate_limit.per_tool_window=100000", "circuit_breaker.enabled=true"];
        let more = settings.map(|setting| ["--set", setting]).concat();
        let proxy = Server::proxy_with(driver, &demo.address, &more);
        for tool in ["echo", "echo", "echo", "made-up"] {
            call(&proxy.address, tool);
        }
        proxy
    })
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn promtool_finds_nothing_to_mend() {
    let demo = Server::demo();
    for proxy in replicas(&demo) {
        let answer = ask(&proxy.address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (_, page) = answer.split_once("\r\n\r\n").expect("a page");
        assert!(page.contains("shadowcat_mcp_requests_total"), "{page}");
        let mut child = promtool(&["check", "metrics"]).spawn().expect("promtool; see .ci/run for its package");
        child.stdin.take().expect("stdin").write_all(page.as_bytes()).expect("written");
        let done = child.wait_with_output().expect("its end");
        let said = [done.stderr, done.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(done.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn prometheus_scrapes_two_replicas_and_adds_them_up() {
    let demo = Server::demo();
    let proxies = replicas(&demo);
    let (directory, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let config = directory.path().join("prometheus.yml");
    let targets = proxies.each_ref().map(|proxy| format!("'{}'", proxy.address)).join(", ");
    let text = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: shadowcat\n  static_configs:\n  - targets: [{targets}]\n"
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new("prometheus");
    command.arg("--config.file").arg(&config).arg("--storage.tsdb.path").arg(directory.path().join("data"));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("prometheus; see .ci/run for its package");
    let prometheus = Server { child, address: format!("http://127.0.0.1:{port}") };
    // The number that an expression is now, if there is one.
    let value = |expression: &str| -> Option<f64> {
        let done = promtool(&["query", "instant", &prometheus.address, expression]).output().expect("promtool");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        said.split("=> ").nth(1)?.split_whitespace().next()?.parse().ok()
    };
    for (expression, expected) in [
        ("sum(up{job='shadowcat'})", 2.0),
        ("sum(shadowcat_mcp_requests_total{method='tools/call',tool='echo',outcome='ok'})", 6.0),
        ("sum(shadowcat_proxy_requests_total)", 8.0),
        ("sum(shadowcat_proxy_request_seconds_count)", 8.0),
        ("sum(shadowcat_rate_limit_remaining{key='tool:echo'})", 194.0),
        ("count(shadowcat_upstream_breaker_state == 1)", 2.0),
        ("count(shadowcat_driver_info)", 4.0),
    ] {
        wait::wait_until(expression, || value(expression) == Some(expected));
    }
    // Quantiles over both, from buckets, and of each, as the proxy has them.
    let merged = value("histogram_quantile(0.9, sum by (le) (shadowcat_proxy_request_seconds_bucket))");
    let single = value("max(shadowcat_proxy_request_duration_seconds{quantile='0.9'})");
    for quantile in [merged, single] {
        assert!(quantile.is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{merged:?} {single:?}");
    }
}
