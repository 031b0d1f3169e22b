//! What the schema knows and this version cannot run yet. A server refuses to start on it: nothing is silently ignored.
//! Whoever builds a feature takes its line out of `FEATURES`.

use super::errors::Problem;
use super::layers::{Layers, Origin};

/// Each by its section: its `enabled`, and without one anything it says, turns it on.
const FEATURES: &[(&str, &str)] = &[("recording", "record")];

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
    let found = FEATURES.iter().filter_map(|(name, section)| {
        let (path, origin) = switched_on(layers, section)?;
        Some(origin.problem(format!("{path}: {name} is not available in this version")))
    });
    found.collect()
}

/// The names of features and what turns them on, for the reference.
pub fn list() -> impl Iterator<Item = (&'static str, String)> {
    FEATURES.iter().map(|(name, section)| (*name, format!("`[{section}]`")))
}
