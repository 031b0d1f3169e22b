//! What the proxy answers itself: liveness, readiness; metrics, whose text control makes.

use std::time::Duration;

use futures_channel::oneshot;

use super::connection::Client;
use super::guard::Request;
use super::shared::Page as Text;
use super::upstream::LocalView;
use super::{Worker, auth, outbound};
use crate::net::{Buffer, within};
use crate::telemetry::account::Account;
use crate::telemetry::{Loss, exposition};
use crate::wire::http1::encode;
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::Method;

/// How long a page of metrics may take.
const METRICS_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are written at a time, so that a long page keeps nobody waiting.
const PIECE_BYTES: usize = 64 * 1024;

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
    HangWorker,
}

pub fn find(worker: &Worker, view: &LocalView, request: &Request<'_>) -> Option<Page> {
    match request.path() {
        path if view.view.gate.is_some() && is_metadata(path) => Some(Page::ResourceMetadata),
        b"/health" => Some(Page::Health),
        b"/ready" => Some(Page::Ready),
        b"/metrics" => Some(Page::Metrics),
        b"/__fault/panic-connection" if worker.shared.faults => Some(Page::PanicConnection),
        b"/__fault/panic-worker" if worker.shared.faults => Some(Page::PanicWorker),
        b"/__fault/hang-worker" if worker.shared.faults => Some(Page::HangWorker),
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
    let mut text = Text::default();
    if !matches!(request.method(), Method::Get | Method::Head) {
        account.status.set(405);
        outbound::own_head(out.vec(), 405, "text/plain", 0, keep, |out| encode::field(out, b"Allow", b"GET, HEAD"));
    } else {
        let (status, kind, body) = render(worker, view, client, request, page).await;
        account.status.set(status);
        outbound::own_head(out.vec(), status, kind, body.len(), keep, |out| {
            encode::field(out, b"Cache-Control", b"no-store");
        });
        if request.method() == Method::Get {
            text = body;
        }
    }
    let mut rest = &text[..];
    loop {
        let (piece, later) = rest.split_at(rest.len().min(PIECE_BYTES));
        out.vec().extend_from_slice(piece);
        account.sent_client(out.len());
        let written = within(view.view.plan.timeouts.write, client.stream.write_all(out)).await;
        if !matches!(written, Ok((Ok(()), _))) {
            return false;
        }
        if later.is_empty() {
            return keep;
        }
        (rest, out) = (later, Buffer::streaming(PIECE_BYTES));
    }
}

async fn render(
    worker: &Worker,
    view: &LocalView,
    client: &Client,
    request: &Request<'_>,
    page: Page,
) -> (u16, &'static str, Text) {
    const JSON: &str = "application/json";
    let (status, kind, text) = match page {
        Page::Health => (200, JSON, br#"{"status":"ok"}"#.to_vec()),
        Page::Ready => match worker.shared.unreadiness(&view.view) {
            None => (200, JSON, br#"{"status":"ready"}"#.to_vec()),
            Some(why) => (503, JSON, format!(r#"{{"status":"not ready","reason":"{why}"}}"#).into_bytes()),
        },
        // Not passed on to an upstream that has a page of that name: who moved ours did not mean that.
        Page::Metrics if view.view.plan.admin.bind.is_some() => {
            (404, JSON, br#"{"error":"metrics are at admin.bind"}"#.to_vec())
        }
        Page::Metrics => match metrics(worker).await {
            Some(text) => return (200, exposition::CONTENT_TYPE, text),
            None => (503, "text/plain", b"too many ask for metrics at once\n".to_vec()),
        },
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
        Page::HangWorker => loop {
            std::thread::park();
        },
    };
    (status, kind, Text::new(text))
}

/// Ask control, which makes it beside the workers.
async fn metrics(worker: &Worker) -> Option<Text> {
    let (ask, asked) = oneshot::channel();
    if worker.shared.scrapes.try_send(ask).is_err() {
        worker.shared.registry.lost(Loss::Scrapes);
        return None;
    }
    within(METRICS_PATIENCE, asked).await.ok()?.ok()
}

/// The well-known path, also with a resource's own path behind it (RFC 9728 section 3.1).
fn is_metadata(path: &[u8]) -> bool {
    path.strip_prefix(auth::METADATA_PATH.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}
