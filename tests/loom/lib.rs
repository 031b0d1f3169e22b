//! The words of an endpoint on loom's atomics: the files of `src/table` as they are, beside a `sync` module of their own.

#[path = "../../src/table/breaker.rs"]
pub mod breaker;
#[path = "../../src/table/endpoint.rs"]
pub mod endpoint;
mod sync;
#[path = "../../src/table/waiting.rs"]
pub mod waiting;

/// As the balancer does for who joins the common line.
pub fn admit_now(endpoint: &std::sync::Arc<endpoint::Endpoint>, now: u64) {
    endpoint.admit_now(now, None);
}

/// Run `model` in every interleaving with at most so many switches away from a thread that could go on; `None`: in all.
pub fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}
