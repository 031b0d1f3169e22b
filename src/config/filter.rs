//! What is logged: `--log-level`, else `RUST_LOG`, else `[logging] level`.

use super::layers::Origin;
use super::planning::Planner;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A filter in the syntax of `RUST_LOG`, of directives that are good.
pub fn choose(planner: &mut Planner<'_>) -> String {
    let level = planner.text("logging.level");
    if let Some(nonsense) = directives(&level).into_iter().find(|directive| !is_directive(directive)) {
        let message =
            format!("logging.level: `{nonsense}` is no level (error, warn, info, debug, trace, off) and no filter");
        planner.blame("logging.level", message);
        return "info".into();
    }
    // Flags win over the environment.
    if matches!(planner.layers.get("logging.level").map(|setting| &setting.origin), Some(Origin::Flag(_))) {
        return level;
    }
    let rust_log = planner.sources.environment.get("RUST_LOG").map_or("", String::as_str);
    let (good, bad): (Vec<&str>, Vec<&str>) = directives(rust_log).into_iter().partition(|text| is_directive(text));
    for nonsense in bad {
        planner.warnings.push(format!("RUST_LOG: `{nonsense}` is no filter and is ignored"));
    }
    if good.is_empty() { level } else { good.join(",") }
}

/// Whether a text is a level, or a filter as in `RUST_LOG`.
///
/// # Errors
/// The part of it that is neither.
pub fn check(text: &str) -> Result<(), String> {
    let parts = directives(text);
    match parts.iter().find(|directive| !is_directive(directive)) {
        None if parts.is_empty() => Err("expected a level such as debug, or a filter as in RUST_LOG".into()),
        None => Ok(()),
        Some(nonsense) => Err(format!("`{nonsense}` is no level (error, warn, info, debug, trace, off) and no filter")),
    }
}

/// The parts between commas, but not those within brackets (`target[span{field=1,other=2}]=debug`).
fn directives(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0u32);
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// `level`, `target`, `target=level` or `target[span]=level`, as in `RUST_LOG`.
///
/// A bare word is a target for the library, which then logs nothing but that; near misses of a level are nonsense here.
fn is_directive(text: &str) -> bool {
    if text.parse::<tracing_subscriber::filter::Directive>().is_err() {
        return false;
    }
    match text.rsplit_once('=') {
        Some((target, level)) => is_target(target) && (is_level(level) || text.ends_with(']')),
        None => is_level(text) || is_target(text) && looks_like_a_crate(text),
    }
}

fn looks_like_a_crate(text: &str) -> bool {
    text.contains(['_', ':', '['])
        || ["shadowcat", "monoio", "rustls", "heed", "hyper", "tower", "tokio"].contains(&text)
}

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) || matches!(text.as_bytes(), [b'0'..=b'5'])
}

fn is_target(text: &str) -> bool {
    let name = text.split('[').next().unwrap_or_default();
    (!name.is_empty() || text.starts_with('[')) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_crates_that_are_not_here_are_fine_and_nonsense_is_not() {
        for good in [
            "shadowcat=info",
            "tower_http=debug",
            "WARN",
            "shadowcat::worker=trace",
            "a[b{c=1,d=2}]=debug",
            "off",
            "tower_http",
            "a=5",
        ] {
            assert!(is_directive(good), "{good}");
        }
        for bad in ["loud", "a=b=", "=info", "shadowcat=loud", "a b=info", "info=", "ifno", "a=6"] {
            assert!(!is_directive(bad), "{bad}");
        }
    }

    #[test]
    fn commas_within_brackets_part_nothing() {
        assert_eq!(directives("a=info, ,b[c{d=1,e=2}]=warn,"), ["a=info", "b[c{d=1,e=2}]=warn"]);
    }
}
