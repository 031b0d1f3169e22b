//! What logs and traces are told of a request: noted while it runs, handed over when it ended.
//!
//! Nothing here waits or formats. A record is copied into a bounded box of this worker (`telemetry::Journal`); without room it
//! is counted and gone, but for tool calls where `logging.audit_required` keeps a place for each before upstream is asked.

use std::cell::Cell;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Worker;
use super::account::{Closed, Open};
use super::envelope::{self, Intake};
use super::guard::Request;
use super::refusal::Refusal;
use super::upstream::LocalView;
use crate::config::plan::{AccessLog, TelemetryPlan};
use crate::telemetry::account::{MethodId, Trace};
use crate::telemetry::record::{self, Audited, Record, Termination, place};
use crate::telemetry::spans::{Asked, Sampled, Traced};
use crate::telemetry::text::{Text, Texts};
use crate::wire::http1::head::{Name, RequestHead};
use crate::wire::json::Peek;
use crate::wire::trace_context::{self, SpanContext};

/// What is told of a head, which is gone when the request ended.
#[derive(Default)]
pub struct Notes {
    /// One byte more than is told, so that a cut shows; as the next.
    path: Cell<Text<65>>,
    request_id: Cell<Text<41>>,
    /// SHA-256 of a tool call's arguments.
    arguments: Cell<Option<[u8; 32]>>,
    /// A place in the audit log is kept for it.
    has_place: Cell<bool>,
}

/// A request has a head. Whether it is traced is decided here, unless its message says more.
pub fn notice(open: &Open<'_>, head: &RequestHead, bytes: &[u8]) {
    let plan = &open.view.view.plan;
    if plan.log.access != AccessLog::Off || plan.log.audit.is_some() || plan.telemetry.is_some() {
        let target = head.path_and_query.of(bytes);
        // Queries may hold secrets.
        let path = &target[..memchr::memchr(b'?', target).unwrap_or(target.len())];
        open.notes.path.set(Text::of(if path.is_empty() { b"/" } else { path }));
        if let Some(id) = head.fields.find(bytes, Name::XRequestId) {
            open.notes.request_id.set(Text::of(id));
        }
    }
    if let Some(plan) = &plan.telemetry {
        let one = head.fields.find(bytes, Name::Traceparent).filter(|_| !head.fields.is_repeated(Name::Traceparent));
        let parent = one.and_then(trace_context::parse);
        let trace = begin(open.worker, plan, parent);
        open.account.trace.set(trace);
        if trace.is_sampled {
            let text = |name| head.fields.find(bytes, name).unwrap_or_default();
            let traced = Traced {
                client_span_id: open.worker.random.next().to_be_bytes(),
                tracestate: parent.and_then(|_| tracestate(head, bytes)),
                protocol: Text::of(text(Name::McpProtocolVersion)),
                user_agent: Text::of(user_agent(head, bytes)),
                link: None,
            };
            open.account.traced.replace(Some(Box::new(traced)));
        }
    }
}

fn user_agent<'a>(head: &RequestHead, bytes: &'a [u8]) -> &'a [u8] {
    let mut others = head.fields.all(Name::Other);
    let found = others.find(|field| field.name.of(bytes).eq_ignore_ascii_case(b"user-agent"));
    found.map_or(&[], |field| field.value.of(bytes))
}

/// All fields of the name are one list (section 3.3 of Trace Context).
fn tracestate(head: &RequestHead, bytes: &[u8]) -> Option<Box<[u8]>> {
    let parts: Vec<&[u8]> = head.fields.all(Name::Tracestate).map(|field| field.value.of(bytes)).collect();
    Some(parts.join(&b","[..])).filter(|state| trace_context::is_tracestate(state)).map(Into::into)
}

/// The place of a request in its trace, or in a new one. Who began a trace decides whether it is sampled.
fn begin(worker: &Worker, plan: &TelemetryPlan, parent: Option<SpanContext>) -> Trace {
    let id = || worker.random.next();
    match parent {
        Some(parent) => Trace {
            trace_id: parent.trace_id,
            span_id: if parent.is_sampled { id().to_be_bytes() } else { [0; 8] },
            parent_id: parent.span_id,
            is_sampled: parent.is_sampled,
        },
        None => {
            // As other samplers by ratio: part of the id decides, so that all agree on the same trace.
            let (high, low) = (id(), id());
            let is_sampled = ((low >> 8) as f64) < plan.sampling_ratio * (1u64 << 56) as f64;
            let trace_id = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
            Trace { trace_id, span_id: (id() | 1).to_be_bytes(), parent_id: [0; 8], is_sampled }
        }
    }
}

/// Its message is read. What that says of a trace goes before what the head says (OpenTelemetry's conventions for MCP):
/// then the parent is the message's sender, and the context of the HTTP request is linked.
pub fn understood(open: &Open<'_>, peek: &Peek) {
    let Some(plan) = &open.view.view.plan.telemetry else { return };
    let Some((text, state)) = peek.trace_context() else { return };
    let Some(parent) = trace_context::parse(text) else { return };
    let (account, before) = (&open.account, open.account.trace.get());
    let by_head = SpanContext { trace_id: before.trace_id, span_id: before.parent_id, is_sampled: before.is_sampled };
    let trace = begin(open.worker, plan, Some(parent));
    account.trace.set(trace);
    let mut traced = account.traced.take().unwrap_or_default();
    if trace.is_sampled {
        traced.client_span_id = open.worker.random.next().to_be_bytes();
        traced.tracestate = state.filter(|state| trace_context::is_tracestate(state)).map(Into::into);
        traced.link = Some(by_head).filter(|head| head.span_id != [0; 8] && *head != parent);
        account.traced.replace(Some(traced));
    }
}

/// Whether a request may go on, as far as the audit log is concerned: where there is one, what a request does must be seen,
/// and where it must be complete, there must be room.
///
/// # Errors
/// 415, 413, 400 for what hides its message; 503 while there is no room.
pub fn admit(open: &Open<'_>, request: &Request<'_>, peek: &Peek, intake: &Intake) -> Result<(), Refusal> {
    let worker = open.worker;
    let Some(audit) = &worker.shared.logs.audit else { return Ok(()) };
    envelope::must_be_seen(request, peek, intake.is_whole())?;
    if peek.method() != Some(b"tools/call") {
        return Ok(());
    }
    open.notes.arguments.set(hash_of_arguments(intake.body.bytes()));
    if open.view.view.plan.log.audit_required {
        let outbox = audit.outbox(worker.index);
        if outbox.len() + worker.audit_places.get() >= outbox.places() {
            return Err(Refusal::AUDIT_FULL);
        }
        worker.audit_places.set(worker.audit_places.get() + 1);
        open.notes.has_place.set(true);
    }
    Ok(())
}

/// SHA-256 of `params.arguments` as they were received. The keys stand once each, or the body was refused.
fn hash_of_arguments(body: &[u8]) -> Option<[u8; 32]> {
    #[derive(Deserialize)]
    struct Call<'a> {
        #[serde(borrow)]
        params: Params<'a>,
    }
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        arguments: &'a RawValue,
    }
    let call: Call<'_> = serde_json::from_slice(body).ok()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, call.params.arguments.get().as_bytes());
    digest.as_ref().try_into().ok()
}

/// A request ended.
pub fn tell(closed: &Closed<'_>) {
    let Closed { worker, view, account, notes, .. } = *closed;
    let (plan, logs) = (&view.view.plan.log, &worker.shared.logs);
    let wanted = plan.access == AccessLog::All || (plan.access == AccessLog::Errors && record::is_error(account));
    let access = logs.access.as_ref().filter(|_| wanted);
    let audit = logs.audit.as_ref().filter(|_| account.method.get() == Some(MethodId::TOOLS_CALL));
    let spans = logs.spans.as_ref().filter(|_| account.trace.get().is_sampled);
    if notes.has_place.get() {
        worker.audit_places.set(worker.audit_places.get() - 1);
    }
    if access.is_none() && audit.is_none() && spans.is_none() {
        return;
    }
    // Most have a line and nothing else: made in the place where it waits.
    if let (Some(access), None, None) = (access, audit, spans) {
        access.leave(worker.index, record(closed));
        return;
    }
    let record = record(closed);
    if let Some(audit) = audit
        && !audit.leave(worker.index, Audited { record, arguments: notes.arguments.get(), rule: account.rule.get() })
    {
        let lost = audit.outbox(worker.index).lost();
        if lost.is_power_of_two() {
            tracing::error!(
                worker = worker.index,
                lost,
                "records of the audit log are lost: it is not written in time"
            );
        }
    }
    if let Some(access) = access {
        access.leave(worker.index, record);
    }
    if let (Some(spans), Some(traced)) = (spans, account.traced.take()) {
        spans.leave(worker.index, sampled(closed, record, traced));
    }
}

fn record(closed: &Closed<'_>) -> Record {
    let Closed { view, client, account, notes, caller, peek, ended, split, .. } = *closed;
    let method = account.method.get();
    // The id of a task may be all that it takes to read its result.
    let is_named = matches!(method.map(MethodId::label), Some("tools/call" | "prompts/get" | "resources/read"));
    let name = peek.filter(|_| is_named).and_then(Peek::name);
    let (path, request_id) = (notes.path.get(), notes.request_id.get());
    let principal = caller.principal().map_or(&b""[..], |principal| principal.name.as_bytes());
    let upstream = account.upstream.get().map_or(&b""[..], |at| view.view.upstreams[at].key.as_bytes());
    Record {
        ended,
        times: split.into(),
        client: client.peer,
        verb: account.verb.get(),
        status: account.status.get(),
        era: account.era.get(),
        method,
        outcome: account.outcome(),
        said: account.said(),
        termination: Termination::of(account),
        reason: account.ended.get().reason,
        retries: account.retries.get(),
        bytes_in: account.bytes_in.get(),
        bytes_out: account.bytes_out.get(),
        session: account.session.get(),
        trace: account.trace.get(),
        texts: Texts::of([
            (principal, place::PRINCIPAL.1),
            (upstream, place::UPSTREAM.1),
            (name.unwrap_or_default(), place::NAME.1),
            (path.bytes(), place::PATH.1),
            (request_id.bytes(), place::REQUEST_ID.1),
        ]),
    }
}

fn sampled(closed: &Closed<'_>, record: Record, traced: Box<Traced>) -> Box<Sampled> {
    let Closed { view, client, account, peek, .. } = *closed;
    Box::new(Sampled {
        rpc_id: peek.and_then(Peek::id).filter(|id| *id != b"null").map_or(Text::NONE, |id| Text::of(unquoted(id))),
        is_tls: client.stream.is_tls(),
        begun: account.begun,
        asked: asked(view, &record, account.upstream.get(), account.sent.get()),
        record,
        traced,
    })
}

fn asked(
    view: &LocalView,
    record: &Record,
    upstream: Option<usize>,
    sent: Option<std::time::Instant>,
) -> Option<Asked> {
    let (plan, at) = (&view.view.upstreams[upstream?].plan, sent?);
    let scheme = if plan.tls.is_some() { "https" } else { "http" };
    let path = record.text(place::PATH).to_text();
    let path = if path == "/" { &plan.path } else { &path };
    let url = format!("{scheme}://{}{path}", plan.authority).into();
    Some(Asked { at, host: plan.host.as_str().into(), port: plan.port, url })
}

/// A JSON text without its quotes.
fn unquoted(id: &[u8]) -> &[u8] {
    id.strip_prefix(b"\"").and_then(|id| id.strip_suffix(b"\"")).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_hashed_as_they_were_sent() {
        let hash = |body: &str| hash_of_arguments(body.as_bytes()).map(|hash| hash[..4].to_vec());
        let call = |arguments: &str| format!(r#"{{"id":1,"params":{{"name":"t","arguments":{arguments},"x":1}}}}"#);
        // sha256sum of `{"a":1}`.
        assert_eq!(hash(&call(r#"{"a":1}"#)), Some(vec![0x01, 0x5a, 0xbd, 0x7f]));
        assert_ne!(hash(&call(r#"{"a": 1}"#)), hash(&call(r#"{"a":1}"#)));
        assert_eq!(hash(r#"{"params":{"name":"t"}}"#), None);
        assert_eq!(hash(r#"{"params":{"arg\u0075ments":{"a":1}}}"#), Some(vec![0x01, 0x5a, 0xbd, 0x7f]));
    }
}
