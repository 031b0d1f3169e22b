//! What a load test does: a TOML file, read whole, with every mistake told at its place.

mod read;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem::Finder;
use shadowcat::base::Secret;
use shadowcat::config::Problem;
use shadowcat::config::errors::did_you_mean;
use toml::de::DeTable;

use crate::message::Body;
use read::{File, Surroundings, Table};

/// The revision of MCP without sessions.
pub const MODERN: &str = "2026-07-28";
/// Longest run of one target, warm-up included.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
pub const THREADS_MAX: u64 = 256;

/// Scenarios that come with the program, by name.
const BUILT_IN: &[(&str, &str)] = &[
    ("tools-call", include_str!("../../scenarios/tools-call.toml")),
    ("fixed-rate", include_str!("../../scenarios/fixed-rate.toml")),
    ("modern", include_str!("../../scenarios/modern.toml")),
    ("sessions", include_str!("../../scenarios/sessions.toml")),
    ("streams", include_str!("../../scenarios/streams.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("slow-readers", include_str!("../../scenarios/slow-readers.toml")),
    ("churn", include_str!("../../scenarios/churn.toml")),
    ("tls", include_str!("../../scenarios/tls.toml")),
    ("tokens", include_str!("../../scenarios/tokens.toml")),
    ("large-bodies", include_str!("../../scenarios/large-bodies.toml")),
    ("ramp", include_str!("../../scenarios/ramp.toml")),
];

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub about: String,
    pub duration: Duration,
    pub warmup: Duration,
    /// For one request, its connection included.
    pub timeout: Duration,
    pub threads: usize,
    pub seed: u64,
    pub users: Vec<Users>,
    pub thresholds: Thresholds,
    /// What is counted apart.
    pub operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub name: String,
    /// One HTTP request; else a part of one, or several together.
    pub is_request: bool,
}

/// Users who all do the same.
#[derive(Clone, Debug)]
pub struct Users {
    pub name: String,
    pub connections: usize,
    pub version: String,
    pub pace: Pace,
    /// Then the connection ends and another begins; 0: never.
    pub requests_per_connection: u32,
    pub head_bytes: usize,
    pub fields: Vec<(String, String)>,
    /// Users take turns with them.
    pub tokens: Vec<Secret>,
    /// Each begins a session before it is measured.
    pub sessions: bool,
    /// TLS sessions are resumed where the server lets them.
    pub resumes_tls: bool,
    pub work: Vec<Work>,
    pub initialize: Body,
    pub initialized: Body,
    /// Index of the operation.
    pub connecting: usize,
}

impl Users {
    pub fn is_modern(&self) -> bool {
        self.version == MODERN
    }
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the answer to the one before is there, and the user has thought.
    Closed { think: Duration },
    /// At a rate, a second, whatever the server does.
    Open { rate: f64, poisson: bool },
    /// The same at a rate that grows by steps, for as long as the server keeps up.
    Ramp { from: f64, to: f64, steps: u32, poisson: bool, p99: Option<Duration> },
}

#[derive(Clone, Debug)]
pub struct Work {
    pub name: String,
    pub weight: u32,
    pub kind: Kind,
    pub call: Call,
    /// Index of the operation: of all together, if they are several.
    pub operation: usize,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Request,
    /// `initialize`, `notifications/initialized`, calls, DELETE.
    LifeCycle {
        calls: u32,
        steps: Steps,
    },
    /// An event stream, and what is subscribed to before it is opened.
    Stream {
        hold: Duration,
        subscribe: Vec<Call>,
        events_min: u64,
    },
}

/// Indices of the operations of a life cycle.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub initialize: usize,
    pub initialized: usize,
    pub call: usize,
    pub delete: usize,
}

/// One POST.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// As `Mcp-Name` repeats it.
    pub name: Option<String>,
    pub body: Body,
    pub status: u16,
    /// What a good answer contains.
    pub contains: Option<Arc<Finder<'static>>>,
    /// Bytes a second that the answer is read with.
    pub read_rate: Option<u64>,
}

/// What is good enough. Times are of answers, measured from when their requests were due.
#[derive(Clone, Debug, Default)]
pub struct Thresholds {
    /// The part of requests that may fail.
    pub errors: f64,
    /// Requests a second, at least.
    pub rate: Option<f64>,
    /// Quantile, its name, the longest time.
    pub latency: Vec<(f64, &'static str, Duration)>,
    /// The same for what the target adds to a direct run.
    pub added: Vec<(f64, &'static str, Duration)>,
}

/// Quantiles that thresholds and tables have.
pub const QUANTILES: [(f64, &str); 5] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];
const LATENCY_KEYS: [(f64, &str, &str); 5] = [
    (0.5, "p50", "added_p50"),
    (0.9, "p90", "added_p90"),
    (0.95, "p95", "added_p95"),
    (0.99, "p99", "added_p99"),
    (0.999, "p999", "added_p999"),
];

/// Anywhere, so that a scenario can be read alone.
const NOWHERE: Surroundings = Surroundings { variable: |_| Some("x".into()), file: |_| Ok("x".into()) };

/// Names and first lines of the scenarios that come along.
pub fn built_in() -> impl Iterator<Item = (&'static str, String)> {
    BUILT_IN.iter().map(|(name, text)| {
        let about = load_text(name, name, text, NOWHERE).map(|scenario| scenario.about);
        (*name, about.unwrap_or_default())
    })
}

/// A scenario by its file, or by the name of one that comes along.
///
/// # Errors
/// All that is wrong with it.
pub fn load(wanted: &str) -> Result<Scenario, Vec<Problem>> {
    let here = Surroundings { variable: |name| std::env::var(name).ok(), file: |path| std::fs::read_to_string(path) };
    if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == wanted) {
        return load_text(&format!("{name}.toml (built in)"), name, text, here);
    }
    let path = Path::new(wanted);
    let text = std::fs::read_to_string(path).map_err(|error| {
        let names = BUILT_IN.iter().map(|(name, _)| *name);
        let hint = match did_you_mean(wanted, names.clone()) {
            hint if hint.is_empty() => format!("a file, or one of {}", names.collect::<Vec<_>>().join(", ")),
            hint => hint,
        };
        vec![Problem::new(format!("cannot read the scenario `{wanted}`: {error}")).hint(hint)]
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    load_text(wanted, &name, &text, here)
}

fn load_text(file: &str, name: &str, text: &str, surroundings: Surroundings) -> Result<Scenario, Vec<Problem>> {
    let file = File::new(file, text, surroundings);
    let (document, mistakes) = DeTable::parse_recoverable(file.text());
    for mistake in mistakes {
        file.wrong(mistake.span().unwrap_or_default(), mistake.message(), "");
    }
    let scenario = scenario(name, &file.root(&document));
    drop(document);
    file.finish().map(|()| scenario)
}

fn scenario(name: &str, table: &Table<'_>) -> Scenario {
    let mut operations = Vec::new();
    let time = |key, otherwise, may_be_zero| {
        table.time(key, may_be_zero, DURATION_MAX).unwrap_or(Duration::from_secs(otherwise))
    };
    let mut scenario = Scenario {
        name: name.to_owned(),
        about: table.text("about").unwrap_or_default(),
        duration: time("duration", 10, false),
        warmup: time("warmup", 1, true),
        timeout: time("timeout", 10, false),
        threads: table.count("threads", 1..THREADS_MAX).unwrap_or(1) as usize,
        seed: table.count("seed", 0..u64::from(u32::MAX)).unwrap_or(1),
        users: Vec::new(),
        thresholds: table.table("thresholds").map(|table| thresholds(&table)).unwrap_or_default(),
        operations: Vec::new(),
    };
    let groups = table.tables("users");
    if groups.is_empty() && !table.has("users") {
        table.wrong("users", "the scenario has no users", "add [[users]] with at least one [[users.work]]");
    }
    let several = groups.len() > 1;
    scenario.users =
        groups.iter().enumerate().map(|(i, group)| users::read(group, i, several, &mut operations)).collect();
    scenario.operations = operations;
    let ramps = scenario.users.iter().filter(|users| matches!(users.pace, Pace::Ramp { .. })).count();
    if ramps > 1 {
        table.wrong("users", "only one group of users may have a ramp", "");
    }
    table.done();
    scenario
}

fn thresholds(table: &Table<'_>) -> Thresholds {
    let most = Duration::from_secs(3600);
    let mut read = Thresholds {
        errors: table.number("errors", 0.0..1.0).unwrap_or_default(),
        rate: table.number("rate", 0.0..1e9),
        ..Thresholds::default()
    };
    for (quantile, key, added) in LATENCY_KEYS {
        let name = QUANTILES.iter().find(|(known, _)| *known == quantile).map_or(key, |(_, name)| name);
        read.latency.extend(table.time(key, false, most).map(|time| (quantile, name, time)));
        read.added.extend(table.time(added, false, most).map(|time| (quantile, name, time)));
    }
    table.done();
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let problems =
            load_text("x.toml", "x", text, Surroundings { variable: |_| None, ..NOWHERE }).expect_err("a mistake");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_scenario_that_comes_along_loads() {
        for (name, text) in BUILT_IN {
            let loaded = load_text(name, name, text, NOWHERE);
            let scenario = loaded.unwrap_or_else(|problems| panic!("{name}: {}", problems[0]));
            assert!(!scenario.about.is_empty() && !scenario.users.is_empty(), "{name}");
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        for entry in std::fs::read_dir(folder).expect("scenarios") {
            let path = entry.expect("a file").path();
            let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
            assert!(BUILT_IN.iter().any(|(name, _)| *name == stem), "{stem} does not come along");
        }
    }

    #[test]
    fn mistakes_are_told_all_at_once_with_place_and_suggestion() {
        let said = problems(
            "duraton = \"5s\"\nwarmup = \"soon\"\n[[users]]\nconnections = 0\nversion = \"2025-11-24\"\n\
             [[users.work]]\ncall = \"echo\"\nbody_bytes = 10\n[thresholds]\np98 = \"1s\"\n",
        );
        for expected in [
            "x.toml:1:1",
            "unknown key `duraton`",
            "did you mean `duration`?",
            "x.toml:2:10",
            "expected a time such as",
            "x.toml:4:15",
            "a whole number from 1 to",
            "did you mean `2025-11-25`?",
            "x.toml:8:14",
            "at least",
            "did you mean `p9",
        ] {
            assert!(said.contains(expected), "{expected:?} in\n{said}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let work = "[[users.work]]\ncall = \"echo\"\n";
        for (text, expected) in [
            ("".to_owned(), "no users"),
            ("[[users]]\n".to_owned(), "no work"),
            (format!("[[users]]\nrate = 5\nthink = \"1s\"\n{work}"), "closed loop"),
            (format!("[[users]]\nrate = 5\nramp = {{ from = 1, to = 2 }}\n{work}"), "both a rate and a ramp"),
            (format!("[[users]]\nversion = \"2026-07-28\"\n{work}session_calls = 2\n"), "no sessions"),
            ("[[users]]\n[[users.work]]\ncall = \"a\"\nrequest = \"b\"\n".to_owned(), "one of"),
            (format!("[[users]]\ntoken = \"${{NO_SUCH_TOKEN}}\"\n{work}"), "NO_SUCH_TOKEN is not set"),
            (format!("[[users]]\nheaders = {{ \"X Y\" = \"a\" }}\n{work}"), "header"),
            ("a = [\n".to_owned(), "x.toml:"),
        ] {
            let said = problems(&text);
            assert!(said.contains(expected), "{expected:?} in\n{said}");
        }
    }
}
