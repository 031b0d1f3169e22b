//! Upstreams as an administrator sees them, takes them out and weighs them.

use serde_json::{Value, json};

use super::http::Answer;
use super::sessions;
use crate::control::publisher::Trigger;
use crate::table::breaker::State;
use crate::worker::{Shared, Upstream, View};

/// `counted`: with their sessions, which takes a look at all of them.
///
/// # Errors
/// The sessions cannot be counted.
pub fn list(shared: &Shared, counted: bool) -> Result<Value, Answer> {
    let view = shared.view.load_full();
    let counts = counted.then(|| sessions::by_upstream(&shared.store)).transpose();
    let counts = counts.map_err(|error| Answer::error(500, error))?;
    let now = shared.now_ms();
    let one = |upstream: &Upstream| {
        let (plan, words) = (&upstream.plan, &upstream.words);
        json!({
            "name": plan.name,
            "url": format!("{}://{}{}", if plan.tls.is_some() { "https" } else { "http" }, plan.authority, plan.path),
            "endpoint": upstream.address,
            "state": state(&view, upstream, now),
            "drained": words.is_drained(),
            "healthy": words.marked_down_since().is_none(),
            "breaker": breaker(words.breaker()),
            "weight": plan.weight,
            "in_flight": words.in_flight(),
            "waiting": words.waiting(),
            "max_connections": plan.max_connections,
            "sessions": counts.as_ref().map(|counts| counts.get(&*upstream.key).copied().unwrap_or(0)),
        })
    };
    Ok(json!({ "upstreams": view.upstreams.iter().map(one).collect::<Vec<_>>() }))
}

/// The one reason that an operator wants first.
fn state(view: &View, upstream: &Upstream, now: u64) -> &'static str {
    let words = &upstream.words;
    match () {
        () if upstream.address.is_none() => "does not resolve",
        () if words.is_drained() => "drained",
        () if words.marked_down_since().is_some() => "unhealthy",
        () if !words.is_open(now) => "refuses connections",
        () if view.trip.is_some() && words.breaker() != State::Closed => "breaker open",
        () => "open",
    }
}

fn breaker(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half open",
    }
}

/// Take an upstream out, or in again: an entry with all its addresses, or one address as `name@address`.
///
/// # Errors
/// 404 with the names that there are.
pub fn set_drained(shared: &Shared, name: &str, drained: bool) -> Result<Value, Answer> {
    let view = shared.view.load_full();
    let now = shared.now_ms();
    let found: Vec<&Upstream> =
        view.upstreams.iter().filter(|upstream| upstream.plan.name == name || *upstream.key == *name).collect();
    if found.is_empty() {
        return Err(unknown(&view, name));
    }
    for upstream in &found {
        if drained { upstream.words.drain() } else { upstream.words.undrain(now) }
    }
    tracing::warn!(upstream = name, drained, "an administrator changed an upstream");
    let left = view.upstreams.iter().filter(|upstream| upstream.is_open(now)).count();
    Ok(json!({ "name": name, "drained": drained, "endpoints": found.len(), "open_upstreams": left }))
}

/// # Errors
/// There is no such upstream; no weight of this size.
pub fn set_weight(publisher: &Trigger, name: String, weight: u32) -> Result<Value, Answer> {
    match publisher.weigh(name.clone(), weight) {
        Some(Ok(before)) => {
            tracing::warn!(upstream = name, weight, before, "an administrator changed an upstream");
            Ok(json!({ "name": name, "weight": weight, "before": before, "until": "the next reload" }))
        }
        Some(Err(why)) => Err(Answer::error(400, why)),
        None => Err(Answer::error(503, "the configuration is being read; ask again")),
    }
}

fn unknown(view: &View, name: &str) -> Answer {
    let mut names: Vec<&str> = view.plan.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    names.truncate(20);
    Answer::error(404, format!("no upstream is named `{name}`; there are: {}", names.join(", ")))
}
