//! What the schema knows and this version cannot run yet. A server refuses to start on it: nothing is silently ignored.
//! Whoever builds a feature takes its line out of `FEATURES`.

use super::errors::Problem;
use super::layers::{Layers, Origin};

/// What turns a feature on.
enum By {
    /// A section: its `enabled`, and without one anything it says.
    Section(&'static str),
    /// A key with this value; "": with any.
    Key(&'static str, &'static str),
}

const FEATURES: &[(&str, By)] = &[
    ("tracing", By::Section("telemetry")),
    ("the circuit breaker", By::Section("circuit_breaker")),
    ("recording", By::Section("record")),
    ("the administrator's interface", By::Section("admin")),
    ("sealed session ids", By::Key("session.secret", "")),
    ("failover of sessions", By::Key("session.failover", "reinitialize")),
];

/// Whether a section with an `enabled` key is on.
pub fn is_on(layers: &Layers, section: &str) -> bool {
    switched_on(layers, section).is_some()
}

/// What turned the section on.
fn switched_on(layers: &Layers, section: &str) -> Option<(String, Origin)> {
    let switch = format!("{section}.enabled");
    match (layers.optional::<bool>(&switch), layers.get(&switch)) {
        (Some(false), _) => None,
        (Some(true), Some(setting)) => Some((switch, setting.origin.clone())),
        _ => layers.said_in(section).next().map(|(path, origin)| (path.to_owned(), origin.clone())),
    }
}

/// Features that are on and not there; each problem stands where it was turned on.
pub fn enabled(layers: &Layers) -> Vec<Problem> {
    let found = FEATURES.iter().filter_map(|(name, by)| {
        let (path, origin) = match by {
            By::Section(section) => switched_on(layers, section)?,
            By::Key(path, value) => {
                let setting = layers.get(path)?;
                let said: String = layers.optional(path)?;
                if !value.is_empty() && said != *value {
                    return None;
                }
                ((*path).to_owned(), setting.origin.clone())
            }
        };
        Some(origin.problem(format!("{path}: {name} is not available in this version")))
    });
    found.collect()
}

/// The names of features and what turns them on, for the reference.
pub fn list() -> impl Iterator<Item = (&'static str, String)> {
    FEATURES.iter().map(|(name, by)| {
        let by = match by {
            By::Section(section) => format!("`[{section}]`"),
            By::Key(path, "") => format!("`{path}`"),
            By::Key(path, value) => format!("`{path} = \"{value}\"`"),
        };
        (*name, by)
    })
}
