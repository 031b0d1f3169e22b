//! Sessions as an administrator sees them: never a whole id, which is as good as a password, and nothing of upstream's own.
//!
//! The same for a server that runs and for a store that none has open.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::SessionId;
use crate::store::{Compacted, ReadError, Record, Store, Transport, WriteError};
use crate::wire::sealed;

/// Sessions in one answer, if nothing else is asked for, and at most.
pub const LIMIT: usize = 100;
pub const LIMIT_MAX: usize = 10_000;
/// What is shown of an id: enough to tell it from all others (72 bits), and of no use to who reads it.
const SHOWN: usize = 12;
/// Shorter beginnings name too many.
const PREFIX_MIN: usize = 4;

/// Which sessions to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub limit: usize,
    /// Those behind this id, as it was shown.
    pub after: Option<String>,
    pub upstream: Option<String>,
    pub subject: Option<String>,
}

/// Why there is no such session.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("no session begins with `{0}`")]
    Unknown(String),
    #[error("more than one session begins with `{0}`: write more of it")]
    Ambiguous(String),
    #[error("at least {PREFIX_MIN} characters of an id are needed")]
    TooShort,
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Write(#[from] WriteError),
}

impl Missing {
    pub fn status(&self) -> u16 {
        match self {
            Missing::Unknown(_) => 404,
            Missing::Ambiguous(_) => 409,
            Missing::TooShort => 400,
            Missing::Read(_) | Missing::Write(_) => 500,
        }
    }
}

/// # Errors
/// The store cannot be read.
pub fn list(store: &Store, query: &Query) -> Result<Value, ReadError> {
    let (mut shown, mut after) = (Vec::new(), query.after.as_deref().map(as_stored));
    let wanted = |record: &Record| {
        let upstream = query.upstream.as_ref().is_none_or(|name| is_of(record, name));
        let owner = record.principal.as_ref().map(|principal| &principal.subject);
        upstream && query.subject.as_ref().is_none_or(|subject| owner == Some(subject))
    };
    // One more than asked for tells whether there are more.
    loop {
        let some = store.list("", after.as_deref(), LIMIT_MAX)?;
        let Some((last, _)) = some.last() else { break };
        after = Some(last.as_str()[..SHOWN].to_owned());
        let left = query.limit + 1 - shown.len();
        let fitting = some.iter().filter(|(_, record)| wanted(record)).take(left);
        shown.extend(fitting.map(|(id, record)| of(store, id, record)));
        if shown.len() > query.limit {
            break;
        }
    }
    let more = shown.len() > query.limit;
    shown.truncate(query.limit);
    Ok(json!({ "sessions": shown, "more": more }))
}

/// Sessions by the upstream where they live.
///
/// # Errors
/// The store cannot be read.
pub fn by_upstream(store: &Store) -> Result<std::collections::HashMap<String, u64>, ReadError> {
    let (mut counts, mut after) = (std::collections::HashMap::new(), None::<String>);
    loop {
        let some = store.list("", after.as_deref(), LIMIT_MAX)?;
        let Some((last, _)) = some.last() else { return Ok(counts) };
        after = Some(last.as_str()[..SHOWN].to_owned());
        for (_, record) in some {
            *counts.entry(record.upstream).or_default() += 1;
        }
    }
}

/// # Errors
/// There is none, or several.
pub fn show(store: &Store, id: &str) -> Result<Value, Missing> {
    let (id, record) = find(store, id)?;
    Ok(of(store, &id, &record))
}

/// End it; on return nobody finds it any more.
///
/// # Errors
/// There is none, or several; the store cannot commit.
pub fn kill(store: &Store, id: &str) -> Result<(SessionId, Value), Missing> {
    let (id, record) = find(store, id)?;
    store.end(id).wait()?;
    Ok((id, json!({ "killed": of(store, &id, &record) })))
}

/// # Errors
/// The store cannot be read or written.
pub fn clean_up(store: &Store, idle: Duration, dry_run: bool) -> Result<Value, WriteError> {
    let count = store.clean_up(idle, dry_run)?;
    if !dry_run && count > 0 {
        tracing::info!(count, ?idle, "an administrator ended old sessions");
    }
    Ok(json!({ "sessions": count, "dry_run": dry_run, "left": store.stats().active }))
}

/// What a restore or a compaction came to.
pub fn replaced(done: &Compacted) -> Value {
    json!({
        "sessions": done.sessions, "bytes_before": done.before, "bytes_after": done.after,
        "kept": done.kept.as_ref().map(|path| path.display().to_string()),
    })
}

/// By the beginning of its id, or by the whole of what its client sends.
fn find(store: &Store, text: &str) -> Result<(SessionId, Record), Missing> {
    let sealed = SessionId::parse(text.as_bytes()).is_none().then(|| sealed::name_of(text.as_bytes())).flatten();
    let prefix = sealed.map_or_else(|| as_stored(text), |id| id.as_str().to_owned());
    if prefix.len() < PREFIX_MIN {
        return Err(Missing::TooShort);
    }
    let mut found = store.list(&prefix, None, 2)?;
    let shown = text.chars().take(SHOWN).collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(Missing::Ambiguous(shown)),
        (None, _) => Err(Missing::Unknown(shown)),
    }
}

/// Sessions of an upstream with several addresses remember which: `name@address`.
fn is_of(record: &Record, upstream: &str) -> bool {
    record.upstream == upstream || record.upstream.split('@').next() == Some(upstream)
}

fn of(store: &Store, id: &SessionId, record: &Record) -> Value {
    let now = store.now_ms();
    let seconds = |since: u64| now.saturating_sub(since) / 1000;
    json!({
        "id": brief(id),
        "upstream": record.upstream,
        "transport": match record.transport { Transport::StreamableHttp => "http", Transport::HttpSse { .. } => "sse" },
        "protocol": record.protocol,
        "issuer": record.principal.as_ref().map(|principal| &principal.issuer),
        "subject": record.principal.as_ref().map(|principal| &principal.subject),
        "age_seconds": seconds(record.created_ms),
        "idle_seconds": seconds(record.seen_ms),
    })
}

/// A hyphen at its beginning would be taken for a flag by a shell's command: `.` stands for it, which no id has.
fn brief(id: &SessionId) -> String {
    let shown = &id.as_str()[..SHOWN];
    shown.strip_prefix('-').map_or_else(|| shown.to_owned(), |rest| format!(".{rest}"))
}

fn as_stored(shown: &str) -> String {
    shown.strip_prefix('.').map_or_else(|| shown.to_owned(), |rest| format!("-{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_as_it_is_shown_is_no_flag_and_found_again() {
        let id = SessionId::from_random([0xfb; 24]);
        let hyphen = SessionId::parse(&[b'-'; 32]).unwrap();
        assert_eq!((brief(&id).len(), brief(&hyphen).as_str()), (SHOWN, ".-----------"));
        for id in [id, hyphen] {
            assert!(id.as_str().starts_with(&as_stored(&brief(&id))));
        }
    }
}
