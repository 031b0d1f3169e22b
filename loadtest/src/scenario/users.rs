//! `[[users]]` and their `[[users.work]]`.

use std::sync::Arc;
use std::time::Duration;

use memchr::memmem::Finder;
use serde_json::{Value, json};
use shadowcat::base::Secret;

use super::read::Table;
use super::{Call, Kind, MODERN, Operation, Pace, Steps, Users, Work};
use crate::message::{self, Body};

const VERSIONS: &[&str] = &["2025-03-26", "2025-06-18", "2025-11-25", MODERN];
const CONNECTIONS_MAX: u64 = 100_000;
const RATE_MAX: f64 = 1e7;
const BODY_BYTES_MAX: u64 = 64 << 20;
const TOKENS_MAX: usize = 100_000;
const HOUR: Duration = Duration::from_secs(3600);
/// The argument that is made longer to reach `body_bytes`.
const FILLED: &str = "text";

/// `several`: operations are named after their users as well.
pub fn read(table: &Table<'_>, index: usize, several: bool, operations: &mut Vec<Operation>) -> Users {
    let name = table.text("name").unwrap_or_else(|| format!("users-{}", index + 1));
    let version = table.choice("version", VERSIONS).unwrap_or("2025-11-25");
    let mut operation = |suffix: &str, is_request| {
        let name = if several { format!("{name}/{suffix}") } else { suffix.to_owned() };
        operations.push(Operation { name, is_request });
        operations.len() - 1
    };
    let connecting = operation("connect", false);
    let tables = table.tables("work");
    if tables.is_empty() {
        table.wrong("work", "these users have no work", "add [[users.work]] with a call, a request or a stream");
    }
    let work: Vec<Work> = tables.iter().map(|work| self::work(work, version, &mut operation)).collect();
    let cycles = work.iter().filter(|work| matches!(work.kind, Kind::LifeCycle { .. })).count();
    if cycles > 0 && cycles < work.len() {
        table.wrong(
            "work",
            "who begins sessions again and again does nothing else",
            "put the other work into [[users]] of its own",
        );
    }
    let users = Users {
        connections: table.count("connections", 1..CONNECTIONS_MAX).unwrap_or(1) as usize,
        version: version.to_owned(),
        pace: pace(table),
        requests_per_connection: table.count("requests_per_connection", 0..1_000_000_000).unwrap_or(0) as u32,
        head_bytes: table.size("head_bytes", 0..32 * 1024).unwrap_or(0) as usize,
        fields: fields(table),
        tokens: tokens(table),
        sessions: table.flag("sessions").unwrap_or(true) && version != MODERN && cycles == 0,
        resumes_tls: table.flag("resume_tls").unwrap_or(true),
        work,
        initialize: Body::request(
            "initialize",
            &json!({"protocolVersion": version, "capabilities": {}, "clientInfo": message::client()}),
        ),
        initialized: Body::notification("notifications/initialized", &Value::Null),
        connecting,
        name: name.clone(),
    };
    table.done();
    users
}

fn pace(table: &Table<'_>) -> Pace {
    let rate = table.number("rate", 0.001..RATE_MAX);
    let poisson = table.choice("arrivals", &["constant", "poisson"]) == Some("poisson");
    let think = table.time("think", true, HOUR);
    let ramp = table.table("ramp").map(|ramp| {
        let from = ramp.number("from", 0.001..RATE_MAX);
        let to = ramp.number("to", 0.001..RATE_MAX);
        for (key, value) in [("from", from), ("to", to)] {
            if value.is_none() && !ramp.has(key) {
                ramp.wrong("", format!("the ramp has no `{key}`"), "a rate, requests a second");
            }
        }
        let steps = ramp.count("steps", 2..1000).unwrap_or(10) as u32;
        let p99 = ramp.time("p99", false, HOUR);
        ramp.done();
        Pace::Ramp { from: from.unwrap_or(1.0), to: to.unwrap_or(1.0), steps, poisson, p99 }
    });
    match (rate, ramp) {
        (Some(_), Some(_)) => {
            table.wrong("ramp", "both a rate and a ramp", "a ramp has rates of its own");
            Pace::Closed { think: Duration::ZERO }
        }
        (rate, ramp) if rate.is_some() || ramp.is_some() => {
            if think.is_some() {
                table.wrong("think", "time to think is for a closed loop", "without `rate` and `ramp`");
            }
            ramp.unwrap_or(Pace::Open { rate: rate.unwrap_or(1.0), poisson })
        }
        _ => {
            if table.has("arrivals") {
                table.wrong("arrivals", "arrivals are those of an open loop", "add `rate` or `ramp`");
            }
            Pace::Closed { think: think.unwrap_or_default() }
        }
    }
}

fn fields(table: &Table<'_>) -> Vec<(String, String)> {
    let fields = table.pairs("headers");
    for (name, value) in &fields {
        let is_token =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !is_token || !value.bytes().all(|b| matches!(b, b' '..=b'~')) {
            table.wrong("headers", format!("`{name}` is no header, or its value no header text"), "plain ASCII");
        }
        let ours = ["host", "content-length", "transfer-encoding", "connection"];
        if ours.contains(&name.to_ascii_lowercase().as_str()) {
            table.wrong("headers", format!("the header {name} cannot be set"), "it follows from the request");
        }
    }
    fields
}

/// One for all, or a file with one a line.
fn tokens(table: &Table<'_>) -> Vec<Secret> {
    let plain = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    let mut tokens: Vec<Secret> = Vec::new();
    if let Some(token) = table.expanded("token") {
        if !plain(&token) {
            table.wrong("token", "a token is visible ASCII without spaces", "");
        }
        tokens.push(Secret::new(token));
    }
    if let Some(path) = table.expanded("token_file") {
        match table.open(&path) {
            Err(error) => table.wrong("token_file", format!("cannot read {path}: {error}"), "one token a line"),
            Ok(text) => {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                match lines.clone().enumerate().find(|(_, line)| !plain(line)) {
                    Some((at, _)) => {
                        let message = format!("{path}: token {} is not visible ASCII without spaces", at + 1);
                        table.wrong("token_file", message, "one token a line");
                    }
                    None => tokens.extend(lines.take(TOKENS_MAX).map(Secret::new)),
                }
                if tokens.is_empty() {
                    table.wrong("token_file", format!("{path} holds no token"), "one token a line");
                }
            }
        }
    }
    tokens
}

fn work(table: &Table<'_>, version: &str, operation: &mut impl FnMut(&str, bool) -> usize) -> Work {
    let modern = version == MODERN;
    let kinds = ["call", "request", "stream"].map(|key| table.has(key));
    if kinds.iter().filter(|given| **given).count() != 1 {
        table.wrong("", "work is one of `call`, `request` and `stream`", "e.g. call = \"echo\"");
    }
    let hold = table.time("stream", false, 24 * HOUR);
    let call = if hold.is_some() { stream(table, modern) } else { call(table, modern) };
    let usual = match (&call.name, hold) {
        (_, Some(_)) => "stream".to_owned(),
        (Some(name), None) if call.method == "tools/call" => name.clone(),
        _ => call.method.clone(),
    };
    let name = table.text("name").unwrap_or(usual);
    let calls = table.count("session_calls", 0..1_000_000);
    if calls.is_some() && modern {
        table.wrong("session_calls", format!("{MODERN} has no sessions"), "for `version` up to 2025-11-25");
    }
    let subscribe = table.texts("subscribe");
    let events_min = table.count("events_min", 0..1_000_000_000);
    if hold.is_none() && (!subscribe.is_empty() || events_min.is_some()) {
        table.wrong("subscribe", "`subscribe` and `events_min` are for a stream", "stream = \"10s\"");
    }
    let kind = match (hold, calls) {
        (Some(hold), _) => {
            let subscribe = if modern { Vec::new() } else { subscribe.iter().map(|uri| subscription(uri)).collect() };
            Kind::Stream { hold, subscribe, events_min: events_min.unwrap_or(0) }
        }
        (None, Some(calls)) => {
            let mut step = |step: &str| operation(&format!("{name}/{step}"), true);
            let steps = Steps {
                initialize: step("initialize"),
                initialized: step("initialized"),
                call: step("call"),
                delete: step("delete"),
            };
            Kind::LifeCycle { calls: calls as u32, steps }
        }
        (None, None) => Kind::Request,
    };
    let weight = table.count("weight", 1..1_000_000).unwrap_or(1) as u32;
    let operation = operation(&name, !matches!(kind, Kind::LifeCycle { .. }));
    table.done();
    Work { name, weight, kind, call, operation }
}

fn call(table: &Table<'_>, modern: bool) -> Call {
    let tool = table.text("call");
    let method = table.text("request").or_else(|| tool.as_ref().map(|_| "tools/call".to_owned())).unwrap_or_default();
    let mut params = table.json("params").unwrap_or(Value::Null);
    let arguments = table.json("arguments");
    if let Some(tool) = &tool {
        if !params.is_null() {
            table.wrong("params", "`params` are for a `request`", "a `call` has `arguments`");
        }
        params = json!({"name": tool, "arguments": arguments.unwrap_or_else(|| json!({}))});
    } else if arguments.is_some() {
        table.wrong("arguments", "`arguments` are for a `call`", "a `request` has `params`");
    }
    let name = match method.as_str() {
        "tools/call" | "prompts/get" => params["name"].as_str().map(str::to_owned),
        "resources/read" => params["uri"].as_str().map(str::to_owned),
        _ => None,
    };
    if name.as_ref().is_some_and(|name| !name.bytes().all(|b| b.is_ascii_graphic())) {
        table.wrong("", "names and URIs are visible ASCII", "");
    }
    if modern {
        params = message::with_meta(params, MODERN);
    }
    let mut contains = table.text("answer_contains").map(String::into_bytes);
    if let Some(bytes) = table.size("body_bytes", 1..BODY_BYTES_MAX) {
        let text = filled(table, tool.is_some(), &method, &mut params, bytes as usize);
        contains = contains.or_else(|| text.filter(|_| tool.as_deref() == Some("echo")));
    }
    Call {
        body: Body::request(&method, &params),
        name,
        status: table.count("answer_status", 200..599).unwrap_or(200) as u16,
        contains: contains.map(|text| Arc::new(Finder::new(&text).into_owned())),
        read_rate: table.size("read_rate", 1..1 << 40),
        method,
    }
}

/// Make the body as long as it is to be; how its text is spelt in JSON.
fn filled(table: &Table<'_>, is_call: bool, method: &str, params: &mut Value, bytes: usize) -> Option<Vec<u8>> {
    if !is_call {
        table.wrong("body_bytes", "`body_bytes` are for a `call`", "the argument `text` is filled up");
        return None;
    }
    let argument = &mut params["arguments"][FILLED];
    let given = argument.as_str().unwrap_or_default().to_owned();
    *argument = Value::from(given.as_str());
    let least = Body::request(method, params).bytes.len();
    let Some(missing) = bytes.checked_sub(least) else {
        table.wrong("body_bytes", format!("the body has {least} bytes already"), format!("at least {least}"));
        return None;
    };
    let text = given + &"x".repeat(missing);
    let text = Value::from(text);
    // As it stands in JSON, without its quotes.
    let spelt = text.to_string();
    let spelt = spelt.as_bytes()[1..spelt.len() - 1].to_vec();
    params["arguments"][FILLED] = text;
    Some(spelt)
}

/// What opens a modern stream; a legacy one is opened by GET, which has no body.
fn stream(table: &Table<'_>, modern: bool) -> Call {
    let method = if modern { "subscriptions/listen" } else { "" };
    let notifications = json!({"notifications": {"resourceSubscriptions": table.texts("subscribe")}});
    Call {
        method: method.to_owned(),
        name: None,
        body: Body::request(method, &message::with_meta(notifications, MODERN)),
        status: 200,
        contains: None,
        read_rate: table.size("read_rate", 1..1 << 40),
    }
}

fn subscription(uri: &str) -> Call {
    let method = "resources/subscribe";
    Call {
        method: method.to_owned(),
        name: None,
        body: Body::request(method, &json!({"uri": uri})),
        status: 200,
        contains: None,
        read_rate: None,
    }
}
