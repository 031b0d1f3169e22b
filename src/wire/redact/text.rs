//! Secrets in text, by what they look like and by the names they are assigned to.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexBuilder};

use super::{INSTEAD, Rules};

/// Longest pattern of the configuration, bytes; and the memory that one may take compiled.
pub const PATTERN_BYTES_MAX: usize = 1024;
const PATTERN_MEMORY_MAX: usize = 1 << 20;
/// A value that is assigned with a colon and without quotes may be prose: it counts from this length on, with a digit.
const UNQUOTED_MIN: usize = 8;

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of ours, which tests compile")
}

/// One look that tells most texts clean.
static SUSPICIOUS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i)pass[-_. ]?(?:w|phrase)|secret|token|(?:api|access|auth|private)[-_. ]?key|authorization|cookie|credential|bearer|client[-_. ]?assertion|code[-_. ]?verifier|session[-_. ]?id|eyJ|://[^/\s@]*@|\\u00|[?&](?:key|code|sig|auth)|sk-|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|AKIA|private key",
    )
});
/// What is a secret by its look; what is kept of it is `$1`.
static LOOKS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}",
        r"()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}",
        r"()\b(?:sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16})",
        r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r"(://[^/\s:@]*:)[^@\s/]+@",
        r"(?im)^((?:proxy-)?authorization:\s*|(?:set-)?cookie:\s*)\S.*$",
    ]
    .map(regex)
    .into()
});
/// `name=value`, `name: value`, `"name":"value`.
static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"([A-Za-z0-9_.-]{2,64})(\\?["']?\s{0,4}[=:]\s{0,4})("(?:[^"\\]|\\.)*"?|'[^']*'?|\\"(?:[^"\\]|\\[^"])*(?:\\")?|[^\s"'&,;)}\]<>]+)"#,
    )
});
/// `?name=value` of URLs.
static QUERY: LazyLock<Regex> = LazyLock::new(|| regex(r#"([?&]([^=&#\s"'?]{1,64})=)([^&#\s"'<>]+)"#));

/// A pattern of the configuration.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes"));
    }
    let built = RegexBuilder::new(text).size_limit(PATTERN_MEMORY_MAX).build();
    let regex = built.map_err(|error| error.to_string().replace('\n', " "))?;
    if regex.is_match("") {
        return Err("the pattern matches the empty text, which is everywhere".into());
    }
    Ok(regex)
}

/// Whether it is worth a closer look.
pub fn may_hold_secrets(rules: &Rules, text: &str) -> bool {
    SUSPICIOUS.is_match(text)
        || rules.names.are_more()
        || rules.patterns.iter().any(|pattern| pattern.is_match(text))
        // Escapes may hide what a pattern looks for.
        || (!rules.patterns.is_empty() && text.contains('\\'))
}

/// `text` without its secrets, as text of no kind.
pub fn clean<'t>(rules: &Rules, text: &'t str) -> Cow<'t, str> {
    if !may_hold_secrets(rules, text) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = Cow::Borrowed(text);
    for look in LOOKS.iter() {
        let replaced = look.replace_all(&cleaned, |found: &Captures<'_>| {
            let at = if found[0].ends_with('@') { "@" } else { "" };
            format!("{}{INSTEAD}{at}", &found[1])
        });
        if let Cow::Owned(replaced) = replaced {
            cleaned = Cow::Owned(replaced);
        }
    }
    for pattern in &rules.patterns {
        if let Cow::Owned(replaced) = pattern.replace_all(&cleaned, regex::NoExpand(INSTEAD)) {
            cleaned = Cow::Owned(replaced);
        }
    }
    let replaced = QUERY.replace_all(&cleaned, |found: &Captures<'_>| {
        let is_secret = rules.names.is_secret_in_query(&found[2]) && !is_hash(&found[3]);
        if is_secret { format!("{}{INSTEAD}", &found[1]) } else { found[0].to_owned() }
    });
    let replaced = ASSIGNED.replace_all(&replaced, |found: &Captures<'_>| {
        match rules.names.is_secret(&found[1]) && counts(&found[2], &found[3]) {
            true => format!("{}{}{}", &found[1], &found[2], quoted(&found[3])),
            false => found[0].to_owned(),
        }
    });
    match replaced == text {
        true => Cow::Borrowed(text),
        false => Cow::Owned(replaced.into_owned()),
    }
}

/// What stands for a session already.
fn is_hash(value: &str) -> bool {
    value.strip_prefix("sha256:").is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn counts(assigned: &str, value: &str) -> bool {
    let is_quoted = value.starts_with(['"', '\'', '\\']);
    let is_clear = is_quoted || assigned.contains('=');
    // The pattern ends before the bracket.
    let replaced = INSTEAD.trim_end_matches(']');
    let is_plain = value.trim_start_matches(['"', '\'', '\\']).starts_with(replaced) || is_hash(value);
    !is_plain && (is_clear || (value.len() >= UNQUOTED_MIN && value.bytes().any(|byte| byte.is_ascii_digit())))
}

/// The replacement, between the quotes that were there.
fn quoted(value: &str) -> String {
    let quotes = ["\\\"", "\"", "'"].into_iter().find(|quote| value.starts_with(quote)).unwrap_or_default();
    let closing = if value.len() > quotes.len() && value.ends_with(quotes) { quotes } else { "" };
    format!("{quotes}{INSTEAD}{closing}")
}
