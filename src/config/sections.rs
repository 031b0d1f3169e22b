//! Which sections are on.

use super::layers::Layers;

/// A section with an `enabled` key: that says it, and without one anything it says turns it on; but a recording needs a place,
/// which the command line may name.
pub fn is_on(layers: &Layers, section: &str) -> bool {
    match layers.optional::<bool>(&format!("{section}.enabled")) {
        Some(enabled) => enabled,
        None if section == "record" => layers.get("record.output").is_some(),
        None => layers.said_in(section).next().is_some(),
    }
}
