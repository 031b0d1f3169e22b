//! What the proxy answers itself: liveness, readiness, metrics.

use std::sync::atomic::Ordering::Relaxed;

use super::connection::Client;
use super::guard::Request;
use super::upstream::LocalView;
use super::{Worker, auth, outbound};
use crate::net::{Buffer, within};
use crate::telemetry::account::Account;
use crate::telemetry::exposition::{self, Rates, Sessions};
use crate::wire::http1::encode;
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::Method;

/// A path that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Health,
    Ready,
    Metrics,
    /// RFC 9728.
    ResourceMetadata,
    PanicConnection,
    PanicWorker,
}

pub fn find(worker: &Worker, view: &LocalView, request: &Request<'_>) -> Option<Page> {
    match request.path() {
        path if view.view.gate.is_some() && is_metadata(path) => Some(Page::ResourceMetadata),
        b"/health" => Some(Page::Health),
        b"/ready" => Some(Page::Ready),
        b"/metrics" => Some(Page::Metrics),
        b"/__fault/panic-connection" if worker.shared.faults => Some(Page::PanicConnection),
        b"/__fault/panic-worker" if worker.shared.faults => Some(Page::PanicWorker),
        _ => None,
    }
}

/// Answer it; whether the connection may go on.
pub async fn answer(
    worker: &Worker,
    view: &LocalView,
    client: &Client,
    request: &Request<'_>,
    page: Page,
    account: &Account,
) -> bool {
    // Probes and scrapes are nobody's requests.
    account.leave_trace();
    let keep = request.keep_alive() && request.body() == BodyLength::Empty;
    let mut out = Buffer::from_vec(Vec::with_capacity(4096));
    if !matches!(request.method(), Method::Get | Method::Head) {
        account.status.set(405);
        outbound::own_head(out.vec(), 405, "text/plain", 0, keep, |out| encode::field(out, b"Allow", b"GET, HEAD"));
    } else {
        let (status, kind, body) = render(worker, view, client, request, page);
        account.status.set(status);
        outbound::own_head(out.vec(), status, kind, body.len(), keep, |out| {
            encode::field(out, b"Cache-Control", b"no-store");
        });
        if request.method() == Method::Get {
            out.vec().extend_from_slice(&body);
        }
    }
    account.sent_client(out.len());
    let (Ok((Ok(()), _)),) = (within(view.view.plan.timeouts.write, client.stream.write_all(out)).await,) else {
        return false;
    };
    keep
}

fn render(
    worker: &Worker,
    view: &LocalView,
    client: &Client,
    request: &Request<'_>,
    page: Page,
) -> (u16, &'static str, Vec<u8>) {
    const JSON: &str = "application/json";
    match page {
        Page::Health => (200, JSON, br#"{"status":"ok"}"#.to_vec()),
        Page::Ready => match unreadiness(worker, view) {
            None => (200, JSON, br#"{"status":"ready"}"#.to_vec()),
            Some(why) => (503, JSON, format!(r#"{{"status":"not ready","reason":"{why}"}}"#).into_bytes()),
        },
        Page::Metrics => {
            let stats = worker.shared.store.stats();
            let sessions = Sessions {
                active: stats.active,
                total: stats.created_total,
                adopted: stats.adopted_total,
                expired: stats.expired_total,
                commits: stats.commits_total,
                commit_failures: stats.commit_failures_total,
                touches_dropped: stats.touches_dropped_total,
                used_bytes: stats.used_bytes,
            };
            let series = worker.shared.registry.series();
            let durations = &worker.shared.session_durations;
            let rates = Rates {
                exceeded: view.view.limits.exceeded(),
                remaining: view.view.limits.remaining(&view.view.rules, worker.shared.started),
            };
            let (logs, now) = (&worker.shared.logs, worker.shared.started.elapsed());
            let page = exposition::render(&series, &sessions, &rates, logs, durations, now);
            (200, exposition::CONTENT_TYPE, page)
        }
        Page::ResourceMetadata => match (&view.view.plan.auth, &view.view.keys) {
            (Some(plan), Some(keys)) => {
                let path = &request.path_text()[auth::METADATA_PATH.len()..];
                (200, JSON, auth::metadata(plan, &keys.current(), client, request.host, path))
            }
            _ => (404, JSON, b"{}".to_vec()),
        },
        Page::PanicConnection => panic!("asked to panic by a fault test"),
        Page::PanicWorker => {
            worker.shared.tell(worker.index, super::Command::Die);
            (202, JSON, b"{}".to_vec())
        }
    }
}

/// The well-known path, also with a resource's own path behind it (RFC 9728 section 3.1).
fn is_metadata(path: &[u8]) -> bool {
    path.strip_prefix(auth::METADATA_PATH.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

fn unreadiness(worker: &Worker, view: &LocalView) -> Option<&'static str> {
    if worker.shared.draining.load(Relaxed) {
        return Some("shutting down");
    }
    if view.view.upstreams.is_empty() {
        return Some("no upstream is configured");
    }
    let now = worker.now_ms();
    let open = |upstream: &super::Upstream| upstream.words.is_open(now) && upstream.address.is_some();
    (!view.view.upstreams.iter().any(open)).then_some("no upstream is reachable")
}
