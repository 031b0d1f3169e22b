//! Requests of our own to an upstream, about sessions: one that no client will ever use is ended, one whose upstream is
//! gone begins anew elsewhere.

use super::Exchange;
use crate::net::{self, Buffer, within};
use crate::wire::http1::body::BodyDecoder;
use crate::wire::http1::encode;
use crate::wire::http1::framing;
use crate::wire::http1::head::{Method, Name, Progress, ResponseHead};
use crate::wire::mcp::header;
use crate::worker::refusal::Refusal;
use crate::worker::upstream::{self, Lease, Wanted};

/// Longest answer to an `initialize` that is read, bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// Upstream began a session that no client will ever use: tell it, in a task of its own.
pub(super) fn abandon(exchange: &Exchange<'_>, index: usize, upstream_session: &[u8]) {
    let out = request(exchange, index, b"DELETE", Some(upstream_session), None);
    let (worker, key) = (exchange.worker.clone(), exchange.view.view.upstreams[index].key.clone());
    let limit = exchange.view.view.upstreams[index].plan.timeout;
    net::spawn(async move {
        let view = worker.view();
        // It may stand elsewhere in the view of now.
        let Some(index) = view.view.upstream_of(&key) else { return };
        let wanted = Wanted { pinned: Some(index), fresh: true, ..Wanted::default() };
        let Ok(lease) = upstream::lease(&worker, &view, wanted).await else { return };
        let _ = within(limit, async {
            let _ = lease.stream.write_all(out).await;
            let _ = lease.read_message(Buffer::default()).await;
        })
        .await;
    });
}

/// A session of a client that began with `initialize` begins again at the upstream of `lease`; upstream's id for it.
///
/// # Errors
/// 502 or 504: upstream does not begin a session.
pub(super) async fn begin_anew(exchange: &Exchange<'_>, lease: &Lease, initialize: &str) -> Result<Vec<u8>, Refusal> {
    let limit = exchange.view.view.upstreams[lease.index].plan.timeout;
    let out = request(exchange, lease.index, b"POST", None, Some(initialize));
    let issued = ask(exchange, lease, out, limit).await?.ok_or(Refusal::UPSTREAM_PROTOCOL)?;
    // It is told on a connection of its own, since nobody knows what follows on the first.
    let wanted = Wanted { pinned: Some(lease.index), fresh: true, ..Wanted::default() };
    let second = upstream::lease(exchange.worker, exchange.view, wanted).await?;
    let out = request(exchange, second.index, b"POST", Some(&issued), Some(INITIALIZED));
    ask(exchange, &second, out, limit).await?;
    Ok(issued)
}

/// Send it, and read an answer to its end, or to that of its first event; the session id in it.
async fn ask(
    exchange: &Exchange<'_>,
    lease: &Lease,
    out: Buffer,
    limit: std::time::Duration,
) -> Result<Option<Vec<u8>>, Refusal> {
    let asked = within(limit, async {
        let _ = lease.stream.write_all(out).await;
        read(exchange, lease).await
    });
    let answer = asked.await.map_err(|_| Refusal::UPSTREAM_TIMEOUT).and_then(|answer| answer);
    match &answer {
        Ok(_) => lease.answered(exchange.worker, exchange.view),
        Err(refusal) => {
            refusal.fault().into_iter().for_each(|fault| lease.cells().fault(fault));
            lease.failed(exchange.worker, exchange.view);
        }
    }
    answer
}

async fn read(exchange: &Exchange<'_>, lease: &Lease) -> Result<Option<Vec<u8>>, Refusal> {
    let limits = &exchange.plan().limits.head;
    let mut head = ResponseHead::default();
    let mut bytes = Vec::new();
    loop {
        more(lease, &mut bytes).await?;
        match head.parse(&bytes, limits) {
            Ok(Progress::Complete) if (100..200).contains(&head.status) => return Err(Refusal::UPSTREAM_PROTOCOL),
            Ok(Progress::Complete) => break,
            Ok(Progress::Incomplete) => {}
            Err(_) => return Err(Refusal::UPSTREAM_PROTOCOL),
        }
    }
    if !(200..300).contains(&head.status) {
        tracing::warn!(upstream = exchange.name(lease), status = head.status, "a session does not begin anew");
        return Err(Refusal::UPSTREAM_PROTOCOL);
    }
    let issued = head.find(&bytes, Name::McpSessionId).map(<[u8]>::to_vec);
    let is_stream = super::is_event_stream(&head, &bytes);
    let framed = framing::response(&head, &bytes, Method::Post).map_err(|_| Refusal::UPSTREAM_PROTOCOL)?;
    let mut decoder = BodyDecoder::new(framed.body, Some(ANSWER_BYTES_MAX as u64));
    let mut piece = bytes.split_off(head.len);
    let mut body = Vec::new();
    while !decoder.is_done() {
        let decoded = decoder.decode(&mut piece).map_err(|_| Refusal::UPSTREAM_PROTOCOL)?;
        body.extend_from_slice(&piece[..decoded.data]);
        if is_stream && crate::wire::sse::block_end(&body).is_some() {
            break;
        }
        if !decoder.is_done() {
            piece.clear();
            more(lease, &mut piece).await?;
        }
    }
    Ok(issued)
}

async fn more(lease: &Lease, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
    let (read, buffer) = lease.read_message(Buffer::default()).await;
    match read {
        Ok(1..) if bytes.len() < ANSWER_BYTES_MAX => {
            bytes.extend_from_slice(buffer.bytes());
            Ok(())
        }
        Ok(1..) => Err(Refusal::UPSTREAM_PROTOCOL),
        _ => Err(Refusal::UPSTREAM_CLOSED),
    }
}

/// A request about the session of the request that is under way: to the same place, by the same caller.
fn request(
    exchange: &Exchange<'_>,
    index: usize,
    method: &[u8],
    upstream_session: Option<&[u8]>,
    body: Option<&str>,
) -> Buffer {
    let (request, upstream) = (exchange.request, &exchange.view.view.upstreams[index]);
    let target = if request.path() == b"/" { upstream.plan.path.as_bytes() } else { request.path_and_query() };
    let host = if request.host.is_empty() { upstream.plan.authority.as_bytes() } else { request.host };
    let mut buffer = Buffer::small();
    let out = buffer.vec();
    encode::request_line(out, method, target);
    encode::field(out, b"Host", host);
    if let Some(id) = upstream_session {
        encode::field(out, header::SESSION_ID.as_bytes(), id);
        if let Some(version) = request.find(Name::McpProtocolVersion) {
            encode::field(out, b"MCP-Protocol-Version", version);
        }
    }
    if let Ok(Some(own)) = exchange.credential(index) {
        encode::field(out, own.field.as_bytes(), own.value.expose().as_bytes());
    }
    if let Some(caller) = exchange.caller.known() {
        encode::field(out, b"X-Forwarded-User", caller.principal.name.as_bytes());
        encode::field(out, b"X-Forwarded-Scopes", caller.scopes.as_bytes());
    }
    if let Some(body) = body {
        encode::field(out, b"Content-Type", b"application/json");
        encode::field(out, b"Accept", b"application/json, text/event-stream");
        encode::content_length(out, body.len() as u64);
    }
    encode::end(out);
    out.extend_from_slice(body.unwrap_or_default().as_bytes());
    buffer
}
