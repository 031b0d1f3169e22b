//! Traces as a real receiver gets them: `tests/peers/otlp.py`, on Python's gRPC and OpenTelemetry's own definitions.

#[expect(dead_code, unused_imports, reason = "made for all black-box tests, of which few are here")]
#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::mcp::*;
use support::proxy::Builder;
use support::wait::wait_for;
use support::{Driver, FakeUpstream, Proxy, get, post_json, wait_until};

on_both_drivers!(
    a_tool_call_is_two_spans_with_the_attributes_of_the_conventions,
    a_trace_goes_on_through_the_proxy,
    what_failed_says_how,
    a_collector_that_is_not_there_costs_no_request,
);

const EXPORTED: &str = "shadowcat_spans_exported_total";
const DROPPED: &str = "shadowcat_spans_dropped_total";

/// The receiver.
struct Collector {
    child: Child,
    port: u16,
    stdin: ChildStdin,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Collector {
        Collector::at(0)
    }

    fn at(port: u16) -> Collector {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let peers = std::env::var_os("SHADOWCAT_PEERS_DIR").map_or(root.join("target/peers"), PathBuf::from);
        let done = Command::new("bash").arg(root.join("tests/peers/setup.sh")).arg(&peers).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut command = Command::new(peers.join("venv/bin/python"));
        command.arg(root.join("tests/peers/otlp.py")).arg(port.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on ")).expect("it says where it is");
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        thread::spawn(move || lines.for_each(|line| eprintln!("collector: {line}")));
        let (stdin, said) = (child.stdin.take().unwrap(), Arc::<Mutex<Vec<Value>>>::default());
        let (stdout, kept) = (BufReader::new(child.stdout.take().unwrap()), said.clone());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Collector { child, port, stdin, said }
    }

    /// A proxy that sends its traces there.
    fn traces(&self, builder: Builder) -> Builder {
        builder.set("telemetry.otlp_endpoint", &format!("http://127.0.0.1:{}", self.port))
    }

    /// Answer like this from now on.
    fn answer(&mut self, how: &str) {
        let told = self.count("mode");
        writeln!(self.stdin, "{how}").unwrap();
        wait_until("the collector to heed", || self.count("mode") > told);
    }

    fn count(&self, kind: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.get(kind).is_some()).count()
    }

    /// Batches that were answered like this.
    fn batches(&self, answer: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line["answer"] == answer).count()
    }

    fn spans(&self) -> Vec<Value> {
        self.said.lock().unwrap().iter().filter_map(|line| line.get("span").cloned()).collect()
    }

    /// The spans of this kind of a request of this path.
    fn spans_of(&self, path: &str, kind: u64) -> Vec<Value> {
        let of_path = |span: &Value| {
            let said = |key: &str| span["attributes"][key].as_str().unwrap_or_default().to_owned();
            said("url.path") == path || said("url.full").ends_with(path)
        };
        self.spans().into_iter().filter(|span| span["kind"] == kind && of_path(span)).collect()
    }

    fn span_of(&self, path: &str, kind: u64) -> Value {
        wait_for(&format!("the span of {path}"), || self.spans_of(path, kind).pop())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The values of `SpanKind`, and of `StatusCode`.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const ERROR: u64 = 2;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn a_tool_call_is_two_spans_with_the_attributes_of_the_conventions(driver: Driver) {
    let (collector, replica) = (Collector::start(), Replica::new("a"));
    let config = format!(
        "[[upstreams]]\nname = \"primary\"\nurl = \"{}\"\n[telemetry]\nservice_name = \"edge\"\n\
         [telemetry.resource_attributes]\nenvironment = \"production\"\nregion = \"us-west-2\"\nversion = \"0.2.0\"\n",
        replica.upstream.url()
    );
    let proxy = collector.traces(Proxy::builder(driver).config(&config)).start();
    let (_, id) = begin_session(&proxy);
    let before = unix_nanoseconds();
    let fields = format!("{}User-Agent: tests/1.0\r\n", session_fields(&id));
    assert_eq!(proxy.ask(&post_json("/mcp?x=secret", &fields, &call(7, "echo"))).status, 200);
    // The request ends a moment after its answer arrived.
    let after = unix_nanoseconds() + 100_000_000;
    let is_call = |span: &Value| span["name"] == "tools/call echo";
    let of_kind =
        |kind: u64| wait_for("a span", || collector.spans().into_iter().find(|s| is_call(s) && s["kind"] == kind));
    let (server, client) = (of_kind(SERVER), of_kind(CLIENT));

    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let hash: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let attributes = json!({
        "http.request.method": "POST",
        "url.path": "/mcp",
        "url.scheme": "http",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "network.transport": "tcp",
        "client.address": "127.0.0.1",
        "user_agent.original": "tests/1.0",
        "mcp.protocol.version": LEGACY,
        "mcp.session.id": hash,
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "jsonrpc.request.id": "7",
        "http.response.status_code": 200,
        "shadowcat.upstream": "primary",
        "shadowcat.termination": "--",
    });
    assert_eq!(server["attributes"], attributes);
    let attributes = json!({
        "http.request.method": "POST",
        "url.full": format!("{}/mcp", replica.upstream.url()),
        "server.address": "127.0.0.1",
        "server.port": replica.upstream.address.port(),
        "network.protocol.version": "1.1",
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "jsonrpc.request.id": "7",
        "http.response.status_code": 200,
        "shadowcat.upstream": "primary",
    });
    assert_eq!(client["attributes"], attributes);
    assert_eq!((&server["parent_id"], &server["status"], &server["tracestate"]), (&json!(""), &json!(0), &json!("")));
    assert_eq!((&client["parent_id"], &client["trace_id"]), (&server["span_id"], &server["trace_id"]));
    let times: Vec<u64> =
        [&server["start"], &client["start"], &client["end"], &server["end"]].map(|time| time.as_u64().unwrap()).into();
    assert!(times.is_sorted() && before <= times[0] && times[3] <= after, "{before} {times:?} {after}");
    let resource = &server["resource"];
    for (key, expected) in
        [("service.name", "edge"), ("environment", "production"), ("region", "us-west-2"), ("version", "0.2.0")]
    {
        assert_eq!(resource[key], expected, "{resource}");
    }
    // What upstream is told is the client span's, and the body is what it was.
    let seen = replica.upstream.last_request();
    let context = format!("00-{}-{}-01", text(&server["trace_id"]), text(&client["span_id"]));
    assert_eq!(seen.head.all("traceparent"), [&context]);
    assert_eq!(seen.text(), call(7, "echo"));
    // A probe is nobody's request.
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    assert_eq!(proxy.ask(&get("/last", "")).status, 405);
    collector.span_of("/last", SERVER);
    assert!(collector.spans_of("/health", SERVER).is_empty());
    assert!(!format!("{:?}", collector.spans()).contains("secret"));
    wait_until("the count", || proxy.metrics().sum(EXPORTED, "") == collector.spans().len() as f64);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn unix_nanoseconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn a_trace_goes_on_through_the_proxy(driver: Driver) {
    let (collector, upstream) = (Collector::start(), FakeUpstream::answering("{}"));
    // Nothing is sampled but what belongs to a trace that is.
    let proxy = collector.traces(Proxy::before(driver, &[&upstream])).set("telemetry.sampling_ratio", "0").start();
    let told =
        |name: &str| upstream.last_request().head.all(name).iter().map(|value| value.to_string()).collect::<Vec<_>>();
    let sampled = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");

    let fields = format!("{sampled}tracestate: rojo=00f067aa0ba902b7\r\nTracestate: congo=t61rcWkgMzE\r\n");
    assert_eq!(proxy.ask(&get("/header", &fields)).status, 200);
    let (server, client) = (collector.span_of("/header", SERVER), collector.span_of("/header", CLIENT));
    assert_eq!((text(&server["trace_id"]), text(&server["parent_id"])), (TRACE, PARENT));
    assert_eq!((text(&client["trace_id"]), &client["parent_id"]), (TRACE, &server["span_id"]));
    assert_eq!(server["tracestate"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
    assert_eq!(told("traceparent"), [format!("00-{TRACE}-{}-01", text(&client["span_id"]))]);
    assert_eq!(told("tracestate"), ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]);
    // Sampled, and the parent is remote.
    assert_eq!((server["flags"].as_u64(), client["flags"].as_u64()), (Some(0x301), Some(0x101)));

    // Of the message and of the head: the message's sender is the parent, the other one is linked.
    let meta = "4bf92f3577b34da6a3ce929d0e0e4736";
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"name":"t", "_meta":{{"traceparent":"00-{meta}-00f067aa0ba902b7-01","tracestate":"own=1"}}}}}}"#
    );
    assert_eq!(proxy.ask(&post_json("/meta", &fields, &body)).status, 200);
    let server = collector.span_of("/meta", SERVER);
    assert_eq!((text(&server["trace_id"]), text(&server["parent_id"])), (meta, "00f067aa0ba902b7"));
    assert_eq!(server["links"], json!([{"trace_id": TRACE, "span_id": PARENT}]));
    assert_eq!((&server["tracestate"], &server["attributes"]["jsonrpc.request.id"]), (&json!("own=1"), &json!("a")));
    assert_eq!(upstream.last_request().text(), body);
    let client = collector.span_of("/meta", CLIENT);
    assert_eq!(told("traceparent"), [format!("00-{meta}-{}-01", text(&client["span_id"]))]);
    assert_eq!(told("tracestate"), ["own=1"]);
    let alone = body.replace("4bf9", "5bf9");
    assert_eq!(proxy.ask(&post_json("/alone", "", &alone)).status, 200);
    assert_eq!(collector.span_of("/alone", SERVER)["links"], json!([]));

    // Who began a trace and does not sample it is passed on as it is.
    let unsampled = format!("traceparent: 00-{TRACE}-{PARENT}-00\r\ntracestate: a=b\r\n");
    assert_eq!(proxy.ask(&get("/unsampled", &unsampled)).status, 200);
    assert_eq!(told("traceparent"), [format!("00-{TRACE}-{PARENT}-00")]);
    assert_eq!(told("tracestate"), ["a=b"]);
    // What is none, or is there twice, is replaced, and what belongs to it is gone.
    for nonsense in ["traceparent: 00-0-0-01\r\n".to_owned(), format!("{sampled}{sampled}"), String::new()] {
        assert_eq!(proxy.ask(&get("/nonsense", &format!("{nonsense}tracestate: a=b\r\n"))).status, 200);
        let context = told("traceparent");
        assert!(context.len() == 1 && context[0].len() == 55 && context[0].ends_with("-00"), "{context:?}");
        assert!(!context[0].contains(TRACE) && told("tracestate").is_empty(), "{context:?}");
    }
    assert_eq!(proxy.ask(&get("/end", &sampled)).status, 200);
    collector.span_of("/end", CLIENT);
    for path in ["/unsampled", "/nonsense"] {
        assert!(collector.spans_of(path, SERVER).is_empty(), "{path}");
    }
}

/// Without `[telemetry]` nobody touches what clients say of their traces.
#[test]
fn traces_of_others_pass_untouched() {
    let upstream = FakeUpstream::answering("{}");
    let proxy = Proxy::before(Driver::Epoll, &[&upstream]).start();
    let fields = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\nbaggage: c=d\r\n");
    assert_eq!(proxy.ask(&get("/", &fields)).status, 200);
    let seen = upstream.last_request().head;
    assert_eq!(seen.all("traceparent"), [format!("00-{TRACE}-{PARENT}-01")]);
    assert_eq!((seen.one("tracestate"), seen.one("baggage")), (Some("a=b"), Some("c=d")));
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
    assert!(!upstream.last_request().head.has("traceparent"));
}

fn what_failed_says_how(driver: Driver) {
    let collector = Collector::start();
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            let body = match request.head.target() {
                "/tool" => r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#,
                "/rpc" => r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#,
                "/broken" => {
                    conversation.respond(500, "", "");
                    continue;
                }
                "/silent" => return,
                _ => "{}",
            };
            conversation.respond_json(200, "", body);
        }
    });
    // As in the deployment guide.
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    let builder = Proxy::before(driver, &[&upstream]).variable("SHADOWCAT_TELEMETRY_ENABLED", "true");
    let proxy = builder.variable("SHADOWCAT_TELEMETRY_ENDPOINT", &endpoint).start();
    for (path, body, status) in [
        ("/tool", call(1, "t"), 200),
        ("/rpc", call(1, "t"), 200),
        ("/broken", call(1, "t"), 500),
        ("/silent", call(1, "t"), 502),
        ("/refused", "{".into(), 400),
    ] {
        assert_eq!(proxy.ask(&post_json(path, "", &body)).status, status, "{path}");
    }
    for (path, error, status) in [
        ("/tool", Some("tool_error"), ERROR),
        ("/rpc", Some("-32602"), ERROR),
        ("/broken", Some("500"), ERROR),
        ("/silent", Some("upstream_closed"), ERROR),
        // The client's error, not ours.
        ("/refused", None, 0),
    ] {
        let span = collector.span_of(path, SERVER);
        assert_eq!((span["attributes"]["error.type"].as_str(), &span["status"]), (error, &json!(status)), "{span}");
    }
    let span = collector.span_of("/rpc", SERVER);
    assert_eq!(span["attributes"]["rpc.response.status_code"], "-32602");
    let span = collector.span_of("/refused", SERVER);
    assert_eq!((&span["attributes"]["shadowcat.reason"], &span["name"]), (&json!("json"), &json!("POST")), "{span}");
    assert!(collector.spans_of("/refused", CLIENT).is_empty());
    assert_eq!(collector.span_of("/silent", CLIENT)["attributes"]["error.type"], "upstream_closed");
}

#[test]
fn the_ratio_decides_for_traces_that_begin_here() {
    let (collector, upstream) = (Collector::start(), FakeUpstream::answering("{}"));
    let proxy = collector.traces(Proxy::before(Driver::IoUring, &[&upstream]).workers(1));
    let proxy = proxy.set("telemetry.sampling_ratio", "0.25").start();
    let mut client = proxy.connect();
    for _ in 0..2000 {
        assert_eq!(client.ask(&get("/", "")).status, 200);
    }
    let told = |flags: &str| {
        let contexts =
            upstream.requests().into_iter().map(|request| request.head.one("traceparent").unwrap().to_owned());
        contexts.filter(|context| context.ends_with(flags)).count()
    };
    let sampled = told("-01");
    assert_eq!(sampled + told("-00"), 2000);
    // Six standard deviations around a quarter.
    assert!((384..616).contains(&sampled), "{sampled}");
    wait_until("all spans", || collector.spans().len() == 2 * sampled);
    // Told at the end, too.
    let mut proxy = proxy;
    let last = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
    assert_eq!(client.ask(&get("/last", &last)).status, 200);
    proxy.signal(Signal::TERM);
    assert!(proxy.wait_exit().success());
    collector.span_of("/last", SERVER);
}

fn a_collector_that_is_not_there_costs_no_request(driver: Driver) {
    // Nobody listens at first.
    let upstream = FakeUpstream::answering("{}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let builder = Proxy::before(driver, &[&upstream]).workers(1);
    let proxy = builder.set("telemetry.otlp_endpoint", &format!("http://127.0.0.1:{port}")).start();
    let mut client = proxy.connect();
    // More than the boxes hold.
    let begun = Instant::now();
    for _ in 0..6000 {
        assert_eq!(client.ask(&get("/first", "")).status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    wait_until("losses", || proxy.metrics().sum(DROPPED, r#"reason="no_room""#) > 0.0);
    proxy.wait_for_log("traces cannot be sent");
    let memory = proxy.memory();
    for _ in 0..6000 {
        assert_eq!(client.ask(&get("/first", "")).status, 200);
    }
    assert!(proxy.memory() < memory + (8 << 20), "{} after {memory}", proxy.memory());
    // It comes, and gets what was kept.
    let collector = Collector::at(port);
    wait_until("spans", || collector.spans().len() > 1000);
    proxy.wait_for_log("traces are sent again");
    // It goes, and comes back.
    drop(collector);
    assert_eq!(client.ask(&get("/away", "")).status, 200);
    let collector = Collector::at(port);
    assert_eq!(client.ask(&get("/back", "")).status, 200);
    collector.span_of("/away", SERVER);
    collector.span_of("/back", SERVER);
    assert_eq!(proxy.log().matches("traces cannot be sent").count(), 2, "{}", proxy.log());
}

#[test]
fn a_collector_that_says_no_is_heeded_and_counted() {
    let (mut collector, upstream) = (Collector::start(), FakeUpstream::answering("{}"));
    let proxy = collector.traces(Proxy::before(Driver::Epoll, &[&upstream])).start();
    let ask = |path: &str| assert_eq!(proxy.ask(&get(path, "")).status, 200);
    let dropped = |reason: &str| proxy.metrics().sum(DROPPED, &format!("reason=\"{reason}\""));
    // Not now: it is asked again, and nothing is lost.
    collector.answer("unavailable");
    ask("/unavailable");
    wait_until("a batch", || collector.batches("unavailable") >= 1);
    collector.answer("ok");
    collector.span_of("/unavailable", CLIENT);
    // Not before it says.
    collector.answer("exhausted 1.5");
    ask("/exhausted");
    wait_until("a batch", || collector.batches("exhausted") == 1);
    let begun = Instant::now();
    collector.answer("ok");
    collector.span_of("/exhausted", SERVER);
    assert!(begun.elapsed() > Duration::from_millis(1200), "{:?}", begun.elapsed());
    assert_eq!((dropped("rejected"), dropped("unavailable"), dropped("no_room")), (0.0, 0.0, 0.0));
    // Never.
    for (number, answer) in ["invalid", "exhausted"].into_iter().enumerate() {
        let exported = proxy.metrics().sum(EXPORTED, "");
        collector.answer(answer);
        ask("/refused");
        wait_until("the loss", || dropped("rejected") == 2.0 * (number + 1) as f64);
        assert_eq!(proxy.metrics().sum(EXPORTED, ""), exported);
    }
    // In part.
    let exported = proxy.metrics().sum(EXPORTED, "");
    collector.answer("partial 1");
    ask("/partial");
    wait_until("the part", || dropped("rejected") == 5.0);
    assert_eq!(proxy.metrics().sum(EXPORTED, ""), exported + 1.0);
    assert_eq!(collector.spans_of("/refused", SERVER).len(), 0);
}

/// One that takes connections and says nothing: requests go on, and so does the end of the program.
#[test]
fn a_collector_that_hangs_holds_up_nobody() {
    let (mut collector, upstream) = (Collector::start(), FakeUpstream::answering("{}"));
    let mut proxy = collector.traces(Proxy::before(Driver::IoUring, &[&upstream])).start();
    collector.answer("hang");
    assert_eq!(proxy.ask(&get("/first", "")).status, 200);
    wait_until("a batch", || collector.batches("hang") == 1);
    let mut client = proxy.connect();
    for _ in 0..5000 {
        assert_eq!(client.ask(&get("/more", "")).status, 200);
    }
    assert!(proxy.metrics().sum(DROPPED, r#"reason="no_room""#) > 0.0);
    proxy.signal(Signal::TERM);
    let begun = Instant::now();
    assert!(proxy.wait_exit().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
