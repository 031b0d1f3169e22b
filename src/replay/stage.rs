//! One client's replay: what it says is looked up in the script, and what then came is played. Time is an argument, and what is
//! to be said where is told to whoever asks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Speed;
use super::canon::{self, Key, Params, likeness};
use super::script::{Script, To, What};
use super::splice::{self, Message, Names};
use crate::wire::mcp::code;
use crate::wire::tape::Http;

/// Not on the tape, or not as it is on the tape.
const MISS: i32 = -32000;
/// Of requests of one method, those that are compared with one that is not on the tape.
const COMPARED_MAX: usize = 1000;
/// Answers of the client that nothing waits for yet.
const ANSWERS_MAX: usize = 1024;
/// Requests of one client that are played at once.
const RUNS_MAX: usize = 1024;

/// One course that is being played.
pub type RunId = u64;

pub struct Stage {
    script: Arc<Script>,
    speed: Speed,
    /// How many of requests that are the same were played.
    played: HashMap<Key, usize>,
    notices: HashMap<Box<str>, usize>,
    runs: BTreeMap<RunId, Run>,
    /// The latest run of a course, and the id of its request.
    by_course: HashMap<usize, (RunId, Option<Box<str>>)>,
    last_run: RunId,
    answers: HashMap<Box<str>, Key>,
    /// For the operator, who is told each once.
    notes: Vec<String>,
    told: HashSet<String>,
}

struct Run {
    course: usize,
    id: Option<Box<str>>,
    token: Option<Box<str>>,
    step: usize,
    due: Duration,
}

/// What became of something that the client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A request, which is played.
    Call(RunId),
    /// A notification, or an answer.
    Taken,
    /// A request that is answered at once, with this.
    Answer(String),
}

/// What is to happen.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    Say {
        run: RunId,
        to: Target,
        said: Said,
    },
    /// The stream of the run ends here, and the run does not.
    Break(RunId),
    /// Nothing will come of this run. `open`: nor is its stream to end.
    End {
        run: RunId,
        open: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Run(RunId),
    Standalone,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub id: Option<String>,
    pub event: Option<String>,
    pub retry: Option<u64>,
    pub data: Vec<u8>,
    /// The request is answered with this.
    pub last: bool,
}

impl Stage {
    pub fn new(script: Arc<Script>, speed: Speed) -> Stage {
        Stage {
            script,
            speed,
            played: HashMap::new(),
            notices: HashMap::new(),
            runs: BTreeMap::new(),
            by_course: HashMap::new(),
            last_run: 0,
            answers: HashMap::new(),
            notes: Vec::new(),
            told: HashSet::new(),
        }
    }

    /// Play what the server said by itself.
    pub fn open(&mut self, now: Duration) {
        self.start(0, None, now);
    }

    /// Something that the client said.
    pub fn hear(&mut self, text: &str, now: Duration) -> Heard {
        let Some(message) = Message::parse(text) else {
            let id = "null";
            return if text.trim_start().starts_with('[') {
                self.note("a batch came: a replay takes one message at a time".to_owned());
                Heard::Answer(error(id, code::INVALID_REQUEST, "Invalid request: batches are not replayed", None))
            } else {
                Heard::Answer(error(id, code::PARSE_ERROR, "Parse error: this is no JSON-RPC message", None))
            };
        };
        match (&message.method, message.id()) {
            (Some(method), Some(_)) => self.request(method, &message, now),
            (Some(method), None) => {
                self.notice(method, &message, now);
                Heard::Taken
            }
            (None, Some(id)) => {
                self.answer(id, &message, now);
                Heard::Taken
            }
            (None, None) => {
                let text = "Invalid request: neither a method nor an answer";
                Heard::Answer(error("null", code::INVALID_REQUEST, text, None))
            }
        }
    }

    fn request(&mut self, method: &str, message: &Message<'_>, now: Duration) -> Heard {
        let id = message.id().unwrap_or("null");
        let params = Params::of(message.params.map(serde_json::value::RawValue::get));
        let key = canon::key(method, &params);
        let script = Arc::clone(&self.script);
        let found = match script.calls.get(&key) {
            Some(courses) => Some((key, courses.as_slice())),
            None => script.with_secrets(method, &params),
        };
        let Some((key, courses)) = found else {
            if method == "ping" {
                return Heard::Answer(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
            }
            return Heard::Answer(self.miss(method, message, params));
        };
        if self.runs.len() >= RUNS_MAX {
            return Heard::Answer(error(id, MISS, "Too many requests at once for a replay", None));
        }
        let played = self.played.entry(key).or_default();
        let course = courses[(*played).min(courses.len() - 1)];
        *played += 1;
        if *played == courses.len() + 1 {
            let what = script.name_of(course);
            self.note(format!("{what} is asked more often than on the tape: its last answer is given again"));
        }
        if method == "initialize" {
            self.compare_versions(course, &params);
        }
        let run = self.start(course, Some((id.into(), message.progress_token().map(Into::into))), now);
        Heard::Call(run)
    }

    fn notice(&mut self, method: &str, message: &Message<'_>, now: Duration) {
        if method == "notifications/cancelled"
            && let Some(id) = message.cancels()
        {
            self.runs.retain(|_, run| run.id.as_deref() != Some(id));
        }
        let script = Arc::clone(&self.script);
        let played = self.notices.entry(method.into()).or_default();
        if let Some(&course) = script.notices.get(method).and_then(|courses| courses.get(*played)) {
            *played += 1;
            self.start(course, None, now);
        }
    }

    fn answer(&mut self, id: &str, message: &Message<'_>, now: Duration) {
        let [result, error] = [message.result, message.error].map(|value| value.map(serde_json::value::RawValue::get));
        if self.answers.len() < ANSWERS_MAX {
            self.answers.insert(id.into(), canon::answer_key(result, error));
        }
        let script = Arc::clone(&self.script);
        for run in self.runs.values_mut() {
            if let Some(What::Await { id: awaited, .. }) =
                script.courses[run.course].steps.get(run.step).map(|step| &step.what)
                && **awaited == *id
            {
                run.due = now;
            }
        }
    }

    fn start(&mut self, course: usize, names: Option<(Box<str>, Option<Box<str>>)>, now: Duration) -> RunId {
        self.last_run += 1;
        let (id, token) = names.map_or((None, None), |(id, token)| (Some(id), token));
        let wait = self.script.courses[course].steps.first().map_or(0, |step| step.wait_us);
        self.by_course.insert(course, (self.last_run, id.clone()));
        let run = Run { course, id, token, step: 0, due: now + self.speed.wait(wait) };
        self.runs.insert(self.last_run, run);
        self.last_run
    }

    /// The client does not want to hear of it any more.
    pub fn stop(&mut self, run: RunId) {
        self.runs.remove(&run);
    }

    /// When something is to be played next, if nobody says anything.
    pub fn due(&self) -> Option<Duration> {
        self.runs.values().filter(|run| !self.waits(run)).map(|run| run.due).min()
    }

    /// Whether it waits for an answer of the client's.
    fn waits(&self, run: &Run) -> bool {
        let step = self.script.courses[run.course].steps.get(run.step);
        step.is_some_and(|step| matches!(&step.what, What::Await { id, .. } if !self.answers.contains_key(id)))
    }

    /// Plays the next step that is due.
    pub fn play(&mut self, now: Duration) -> Option<Out> {
        loop {
            let ready = self.runs.iter().filter(|(_, run)| run.due <= now && !self.waits(run));
            let (&id, _) = ready.min_by_key(|(id, run)| (run.due, **id))?;
            if let Some(out) = self.advance(id, now) {
                return Some(out);
            }
        }
    }

    fn advance(&mut self, id: RunId, now: Duration) -> Option<Out> {
        let script = Arc::clone(&self.script);
        let run = self.runs.get_mut(&id)?;
        let course = &script.courses[run.course];
        let Some(step) = course.steps.get(run.step) else { return self.over(id) };
        run.step += 1;
        let base = if matches!(step.what, What::Await { .. }) { now } else { run.due };
        run.due = base + self.speed.wait(course.steps.get(run.step).map_or(0, |next| next.wait_us));
        let (number, own_id, own_token) = (run.course, run.id.clone(), run.token.clone());
        match &step.what {
            What::Break => Some(Out::Break(id)),
            What::Await { id: asked, answer } => {
                let given = self.answers.remove(asked)?;
                if answer.is_none_or(|recorded| recorded == given) {
                    return None;
                }
                let what = format!("request {asked} of the server was answered otherwise than on the tape");
                self.note(format!("{what}; it belongs to {}", script.name_of(number)));
                // Without a request that could be told, it goes on.
                self.fail(id, &own_id?, &format!("Not on the tape: {what}"))
            }
            What::Say { line, to, last } => {
                let names = Names {
                    recorded_id: course.id.as_deref(),
                    id: own_id.as_deref(),
                    recorded_token: course.token.as_deref(),
                    token: own_token.as_deref(),
                };
                let (to, names) = match to {
                    To::Own => (Target::Run(id), names),
                    To::Standalone => (Target::Standalone, names),
                    To::Of(listens) => {
                        // Nobody listens now who listened then; or it goes by the name that the listener has.
                        let (listener, id) = self.by_course.get(listens)?;
                        let recorded_id = script.courses[*listens].id.as_deref();
                        (Target::Run(*listener), Names { recorded_id, id: id.as_deref(), ..names })
                    }
                };
                let said = script.frame(*line, |frame| {
                    let content = frame.content().unwrap_or_default();
                    let data = match std::str::from_utf8(&content) {
                        Ok(text) => splice::rewrite(text, names)?.into_bytes(),
                        Err(_) => content.into_owned(),
                    };
                    let mut said = Said { data, last: *last, ..Said::default() };
                    if let Some(Http::Event { id, event, retry }) = &frame.http {
                        said.id = id.as_ref().map(ToString::to_string);
                        said.event = event.as_ref().map(ToString::to_string);
                        said.retry = *retry;
                    }
                    Some(said)
                });
                match said {
                    Some(said) => said.map(|said| Out::Say { run: id, to, said }),
                    None => {
                        self.note(
                            "the tape changed while it was replayed: a line of it cannot be read any more".to_owned(),
                        );
                        None
                    }
                }
            }
        }
    }

    /// Nothing more of it is on the tape.
    fn over(&mut self, id: RunId) -> Option<Out> {
        let script = Arc::clone(&self.script);
        let (number, name) = self.runs.get(&id).map(|run| (run.course, run.id.clone()))?;
        let course = &script.courses[number];
        let is_answered_by_status = course.reply.status != 0 && !course.reply.is_stream;
        if course.answered || course.left_open || is_answered_by_status {
            self.runs.remove(&id);
            return Some(Out::End { run: id, open: course.left_open && !course.answered });
        }
        let what = format!("the tape has no answer to {}", script.name_of(number));
        self.note(what.clone());
        self.fail(id, &name?, &format!("Not on the tape: {what}"))
    }

    /// Answers the request with an error, with which its course ends.
    fn fail(&mut self, id: RunId, name: &str, what: &str) -> Option<Out> {
        let run = self.runs.get_mut(&id)?;
        // What is left of the course is nothing but its end.
        run.step = usize::MAX;
        let data = error(name, MISS, what, None).into_bytes();
        self.runs.remove(&id);
        Some(Out::Say { run: id, to: Target::Run(id), said: Said { data, last: true, ..Said::default() } })
    }

    /// The error for a request that is not on the tape: it names what is nearest.
    fn miss(&mut self, method: &str, message: &Message<'_>, params: Params) -> String {
        let id = message.id().unwrap_or("null");
        let facts = &self.script.facts;
        if (method == "initialize" && !facts.is_legacy) || (message.is_modern() && !facts.is_modern) {
            self.note(format!("{method}: the tape is of the other era of MCP"));
            return error(id, code::METHOD_NOT_FOUND, "Method not found: the tape is of the other era of MCP", None);
        }
        let text = params.text();
        let name = message.params.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        let name = name.as_ref().and_then(|params| params["name"].as_str().or_else(|| params["uri"].as_str()));
        let called = name.map_or_else(|| method.to_owned(), |name| format!("{method} {name}"));
        let nearest = self.nearest(method, name, &text);
        let (words, data) = match nearest {
            Some(course) => {
                let recorded = &self.script.courses[course];
                let of_it = self.script.params(course);
                let params = of_it.text();
                let what = self.script.name_of(course);
                (
                    format!("the nearest there is {what} with {}", brief(&params)),
                    json!({ "nearest": { "frame": recorded.seq, "method": recorded.method, "params": of_it.value() } }),
                )
            }
            None => ("there is no request there".to_owned(), Value::Null),
        };
        let said = format!("ot on the tape: {called} with {}; {words}", brief(&text));
        self.note(format!("n{said}"));
        error(id, MISS, &format!("N{said}"), Some(data))
    }

    /// The recorded request that is most like this one.
    fn nearest(&self, method: &str, name: Option<&str>, params: &str) -> Option<usize> {
        let script = &self.script;
        let methods = script.methods.keys().map(|known| (strsim::jaro_winkler(known, method), known));
        let (_, method) = methods.max_by(|one, other| one.0.total_cmp(&other.0).then_with(|| one.1.cmp(other.1)))?;
        let like = |&course: &usize| {
            let same_name = script.courses[course].name.as_deref() == name;
            f64::from(u8::from(same_name)) + likeness(&script.params(course).text(), params)
        };
        let candidates = script.methods.get(method)?;
        // Of those that are alike, the first.
        let candidates = candidates[..candidates.len().min(COMPARED_MAX)].iter().rev();
        candidates
            .map(|course| (like(course), *course))
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, it)| it)
    }

    fn compare_versions(&mut self, course: usize, params: &Params) {
        let recorded = self.script.params(course).value();
        let (now, then) = (params.clone().value(), recorded);
        if now["protocolVersion"] != then["protocolVersion"] {
            let [now, then] = [now, then].map(|params| brief(&params["protocolVersion"].to_string()));
            self.note(format!(
                "the client asks for protocol {now}; the one on the tape asked for {then}, and its answer is given"
            ));
        }
    }

    fn note(&mut self, what: String) {
        // Clients that go on asking do not fill the memory.
        if self.told.len() < 10_000 && self.told.insert(what.clone()) {
            self.notes.push(what);
        }
    }

    /// What the operator is to be told.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// How a request is answered over HTTP.
    pub fn course_of(&self, run: RunId) -> Option<usize> {
        self.runs.get(&run).map(|run| run.course)
    }
}

impl Script {
    /// A recorded request that had secrets, which are not on the tape.
    fn with_secrets(&self, method: &str, params: &Params) -> Option<(Key, &[usize])> {
        let candidates = self.methods.get(method)?.iter().filter(|&&course| self.courses[course].redacted);
        for &course in candidates.take(COMPARED_MAX) {
            let recorded = self.params(course);
            if params.fit(&recorded) {
                let key = canon::key(method, &recorded);
                return self.calls.get(&key).map(|courses| (key, courses.as_slice()));
            }
        }
        None
    }

    /// A request as people are told of it.
    pub fn name_of(&self, course: usize) -> String {
        let course = &self.courses[course];
        let name = course.name.as_ref().map(|name| format!(" {}", brief(name))).unwrap_or_default();
        format!("{}{name} (frame {})", brief(&course.method), course.seq)
    }
}

/// At most so much of it, on one line.
fn brief(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut said: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        said.push('…');
    }
    if said.is_empty() { "no params".to_owned() } else { said }
}

fn error(id: &str, code: i32, message: &str, data: Option<Value>) -> String {
    let mut error = json!({ "code": code, "message": message });
    if let Some(data) = data.filter(|data| !data.is_null()) {
        error["data"] = data;
    }
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}
