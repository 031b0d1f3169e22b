//! The tools: what answers at once is written here, what takes time becomes a [`Work`].

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_channel::oneshot;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::catalog;
use super::mcp::{Caller, Outcome, Server, invalid, success};
use super::message::{Level, Params, is_id};
use super::reply::{self, Caching, Style, string, text};
use super::session::Refused;
use super::work::{Task, Work};

const STEPS_MAX: u32 = 100_000;
const INTERVAL_MAX_MS: u64 = 60_000;
/// Key of the one input that `ask` needs.
const ASKED: &str = "name";

/// Answers `tools/call`. Bad arguments are the tool's own error, which a model may mend
/// (tools page, "Error Handling").
pub fn call(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    match &*params.name {
        "echo" => echo(caller, id, params, out),
        "add" => add(caller, id, params, out),
        "slow" => slow(server, caller, id, params, out),
        "ask" if caller.style == Style::Modern => ask_modern(server, caller, id, params, out),
        "ask" => ask_legacy(server, caller, id, params, out),
        "touch" => touch(server, caller, id, params, out),
        "whoami" => whoami(server, caller, id, params, out),
        name => invalid(out, id, &format!("Unknown tool: {name}")),
    }
}

fn echo(caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    #[derive(Deserialize)]
    struct Arguments<'a> {
        #[serde(borrow)]
        text: Cow<'a, str>,
    }
    match arguments::<Arguments<'_>>(params) {
        Some(arguments) => say(out, id, caller.style, &arguments.text),
        None => fail(out, id, caller.style, "echo needs a string: text"),
    }
}

fn add(caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    #[derive(Deserialize)]
    struct Arguments {
        a: serde_json::Number,
        b: serde_json::Number,
    }
    let Some(Arguments { a, b }) = arguments(params) else {
        return fail(out, id, caller.style, "add needs two numbers: a and b");
    };
    let whole = a.as_i64().zip(b.as_i64()).and_then(|(a, b)| a.checked_add(b)).map(serde_json::Number::from);
    let real = || a.as_f64().zip(b.as_f64()).and_then(|(a, b)| serde_json::Number::from_f64(a + b));
    let Some(sum) = whole.or_else(real) else {
        return fail(out, id, caller.style, "the sum is out of range");
    };
    let structured = format!(r#"{{"sum":{sum}}}"#);
    success(out, id, caller.style, Caching::None, |out| say_members(out, &sum.to_string(), Some(&structured)))
}

fn slow(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    #[derive(Deserialize)]
    struct Arguments {
        #[serde(default = "steps")]
        steps: u32,
        #[serde(default = "interval")]
        interval: u64,
    }
    fn steps() -> u32 {
        5
    }
    fn interval() -> u64 {
        200
    }
    let Some(Arguments { steps, interval }) = arguments(params) else {
        return fail(out, id, caller.style, "slow takes two integers: steps and interval (milliseconds)");
    };
    if !(1..=STEPS_MAX).contains(&steps) || interval > INTERVAL_MAX_MS {
        return fail(out, id, caller.style, "slow takes 1 to 100000 steps of 0 to 60000 milliseconds");
    }
    let token = params.meta.as_ref().and_then(|meta| meta.progress_token).map(RawValue::get).filter(|raw| is_id(raw));
    let logs = caller.level.is_some_and(|level| level <= Level::Info);
    let interval = Duration::from_millis(interval);
    begin(server, caller, id, Task::Slow { steps, interval, token: token.map(Box::from), logs }, out)
}

#[derive(Deserialize)]
struct AskArguments<'a> {
    #[serde(borrow, default = "AskArguments::usual")]
    question: Cow<'a, str>,
}

impl AskArguments<'_> {
    fn usual() -> Cow<'static, str> {
        Cow::Borrowed("What is your name?")
    }
}

/// A request of ours on the call's stream, answered by another POST.
fn ask_legacy(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    let Some(AskArguments { question }) = arguments(params) else {
        return fail(out, id, caller.style, "ask takes a string: question");
    };
    if !caller.elicits {
        return fail(out, id, caller.style, "this client cannot be asked: it has no elicitation capability");
    }
    begin(server, caller, id, Task::Ask { question: question.into() }, out)
}

/// An interim result, answered by a retry (MRTR page).
fn ask_modern(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    let Some(AskArguments { question }) = arguments(params) else {
        return fail(out, id, caller.style, "ask takes a string: question");
    };
    if !caller.elicits {
        reply::error_with(out, Some(id), -32021, "ask requires the elicitation capability", |out| {
            text(out, r#","data":{"requiredCapabilities":{"elicitation":{}}}"#);
        });
        return Outcome::Body(400);
    }
    let now = SystemTime::now();
    let state = &*params.request_state;
    if (!state.is_empty() || params.input_responses.is_some()) && !server.sealer.verify(state, &question, now) {
        return invalid(out, id, "Invalid params: requestState is not of this request, or expired");
    }
    let greeting = match params.input_responses.map(answer_of) {
        None | Some(Ok(None)) => None,
        Some(Ok(Some(answer))) => greeting(answer),
        Some(Err(_)) => return invalid(out, id, "Invalid params: inputResponses is not an object of results"),
    };
    match greeting {
        Some(greeting) => say(out, id, caller.style, &greeting),
        None => {
            reply::input_required(out, id, |out| {
                text(out, r#""inputRequests":{"name":"#);
                elicitation(out, &question);
                text(out, r#"},"requestState":"#);
                string(out, &server.sealer.seal(&question, now));
            });
            Outcome::Body(200)
        }
    }
}

fn answer_of(responses: &RawValue) -> serde_json::Result<Option<&RawValue>> {
    let mut map: std::collections::HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(responses.get())?;
    Ok(map.remove(ASKED))
}

/// Writes the `elicitation/create` request's `method` and `params` as an object. `mode` is left out:
/// absent means `form`, and 2025-06-18 does not know it.
pub fn elicitation(out: &mut Vec<u8>, question: &str) {
    text(out, r#"{"method":"elicitation/create","params":{"message":"#);
    string(out, question);
    text(out, r#","requestedSchema":{"type":"object","properties":{"name":{"type":"string","title":"Name"}},"#);
    text(out, r#""required":["name"]}}}"#);
}

/// What to say to an `ElicitResult`; `None` if it must be asked again.
pub fn greeting(answer: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Result<'a> {
        #[serde(borrow)]
        action: Cow<'a, str>,
        #[serde(borrow, default)]
        content: Option<Content<'a>>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }
    let result: Result<'_> = serde_json::from_str(answer.get()).ok()?;
    match (&*result.action, result.content) {
        ("accept", Some(content)) => Some(format!("Hello, {}!", content.name)),
        ("decline", _) => Some("You declined to answer.".to_owned()),
        ("cancel", _) => Some("You dismissed the question.".to_owned()),
        _ => None,
    }
}

fn touch(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    #[derive(Deserialize)]
    struct Arguments<'a> {
        #[serde(borrow, default = "readme")]
        uri: Cow<'a, str>,
    }
    fn readme() -> Cow<'static, str> {
        Cow::Borrowed(catalog::README)
    }
    match arguments::<Arguments<'_>>(params) {
        Some(Arguments { uri }) if catalog::exists(&uri) => {
            server.catalog.touch();
            server.hub.updated(&uri);
            say(out, id, caller.style, &format!("Touched {uri}"))
        }
        _ => fail(out, id, caller.style, "touch takes the URI of a resource: uri"),
    }
}

fn whoami(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    #[derive(Deserialize)]
    struct Arguments<'a> {
        #[serde(borrow, default)]
        region: Option<Cow<'a, str>>,
    }
    let Some(Arguments { region }) = arguments(params) else {
        return fail(out, id, caller.style, "whoami takes a string: region");
    };
    let calls = caller.session.as_ref().map_or(&server.calls, |session| &session.calls);
    let calls = calls.fetch_add(1, Ordering::Relaxed) + 1;
    let mut structured = Vec::new();
    text(&mut structured, r#"{"replica":"#);
    string(&mut structured, &server.replica);
    text(&mut structured, r#","session":"#);
    match &caller.session {
        Some(session) => string(&mut structured, session.id.as_str()),
        None => text(&mut structured, "null"),
    }
    let running = server.works.running.load(Ordering::Relaxed);
    let cancelled = server.works.cancelled.load(Ordering::Relaxed);
    text(&mut structured, &format!(r#","version":"{}","calls":{calls}"#, caller.version));
    text(&mut structured, &format!(r#","running":{running},"cancelled":{cancelled}"#));
    if let Some(region) = region {
        text(&mut structured, r#","region":"#);
        string(&mut structured, &region);
    }
    structured.push(b'}');
    let structured = String::from_utf8(structured).expect("JSON is UTF-8");
    success(out, id, caller.style, Caching::None, |out| say_members(out, &structured, Some(&structured)))
}

/// The arguments of a call; absent ones are an empty object.
fn arguments<'a, T: Deserialize<'a>>(params: &Params<'a>) -> Option<T> {
    let raw = params.arguments.map_or("{}", RawValue::get);
    // serde would also fill a struct from an array, by position.
    raw.starts_with('{').then(|| serde_json::from_str(raw).ok()).flatten()
}

/// Makes a work of a task: in its session, or bound to the connection where there is none.
fn begin(server: &Server, caller: &Caller, id: &str, task: Task, out: &mut Vec<u8>) -> Outcome {
    let (cancelled, guard) = match &caller.session {
        None => {
            let (guard, cancelled) = oneshot::channel();
            (cancelled, Some(guard))
        }
        Some(session) => match session.start(id) {
            Ok(cancelled) => (cancelled, None),
            Err(refused) => {
                let reason = match refused {
                    Refused::DuplicateId => "Invalid request: this id is in use",
                    Refused::TooMany => "Invalid request: too many calls at once",
                    Refused::Ended => "Session not found",
                };
                reply::error(out, Some(id), -32600, reason);
                return Outcome::Body(if refused == Refused::Ended { 404 } else { 200 });
            }
        },
    };
    let (style, session) = (caller.style, caller.session.clone());
    Outcome::Work(Work { id: id.into(), task, style, session, cancelled, guard, counters: Arc::clone(&server.works) })
}

fn say(out: &mut Vec<u8>, id: &str, style: Style, words: &str) -> Outcome {
    success(out, id, style, Caching::None, |out| say_members(out, words, None))
}

/// A tool's own error.
pub fn fail(out: &mut Vec<u8>, id: &str, style: Style, reason: &str) -> Outcome {
    success(out, id, style, Caching::None, |out| {
        say_members(out, reason, None);
        text(out, r#","isError":true"#);
    })
}

/// The members of a `CallToolResult`; `structured` is JSON text.
pub fn say_members(out: &mut Vec<u8>, words: &str, structured: Option<&str>) {
    text(out, r#""content":[{"type":"text","text":"#);
    string(out, words);
    text(out, "}]");
    if let Some(structured) = structured {
        text(out, r#","structuredContent":"#);
        text(out, structured);
    }
}
