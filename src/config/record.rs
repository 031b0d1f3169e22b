//! `[record]` as run.

use std::sync::Arc;

use super::plan::RecordPlan;
use super::planning::Planner;
use super::sections;
use crate::wire::redact::{self, JsonPath, Names, Rules};

const OUTPUT: &str = "record.output";
const HEADERS: &str = "record.redact_headers";
const NAMES: &str = "record.redact_names";
const PATHS: &str = "record.redact_paths";
const PATTERNS: &str = "record.redact_patterns";
/// Each is looked for in all that is recorded.
const RULES_MAX: usize = 64;

pub fn plan(planner: &mut Planner<'_>) -> Option<RecordPlan> {
    let written = [HEADERS, NAMES, PATHS, PATTERNS].map(|key| planner.layers.optional(key).unwrap_or_default());
    let rules = rules(planner, &written);
    let layers = planner.layers;
    if !sections::is_on(layers, "record") {
        return None;
    }
    let Some(output) = layers.optional(OUTPUT) else {
        let message = format!("record.enabled without {OUTPUT}: say where the tapes go (record --output)");
        planner.blame("record.enabled", message);
        return None;
    };
    let plan = RecordPlan {
        output,
        body_bytes_max: layers.required("record.body_bytes"),
        file_bytes_max: layers.required::<Option<u64>>("record.file_bytes").unwrap_or(u64::MAX),
        total_bytes_max: layers.required("record.total_bytes"),
        age_max: layers.required("record.max_age"),
        free_bytes_min: layers.required("record.min_free"),
        queue_bytes: layers.required("record.queue_bytes"),
        rules: Arc::new(rules),
        rules_as_written: written,
    };
    if plan.total_bytes_max.is_some_and(|total| total < plan.file_bytes_max) {
        planner.blame("record.total_bytes", "record.total_bytes is less than record.file_bytes, one tape's");
    }
    Some(plan)
}

fn rules(planner: &mut Planner<'_>, [headers, names, paths, patterns]: &[Vec<String>; 4]) -> Rules {
    for (key, list) in [(HEADERS, headers), (NAMES, names), (PATHS, paths), (PATTERNS, patterns)] {
        if list.len() > RULES_MAX {
            planner.blame(key, format!("{key}: at most {RULES_MAX}"));
        }
    }
    let mut rules = Rules {
        names: Names::new(names),
        headers: headers.iter().map(|header| header.to_ascii_lowercase()).collect(),
        ..Rules::default()
    };
    for text in paths {
        match JsonPath::parse(text) {
            Ok(path) => rules.paths.push(path),
            Err(why) => planner.blame(PATHS, format!("{PATHS}: `{text}`: {why}")),
        }
    }
    for text in patterns {
        match redact::pattern(text) {
            Ok(pattern) => rules.patterns.push(pattern),
            Err(why) => planner.blame(PATTERNS, format!("{PATTERNS}: `{text}`: {why}")),
        }
    }
    rules
}
