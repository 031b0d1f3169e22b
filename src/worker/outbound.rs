//! The heads that leave, always rebuilt from parsed fields: a received framing field is never copied.

use std::sync::Arc;

use super::auth::Caller;
use super::connection::Client;
use super::cookies;
use super::exchange::Exchange;
use super::guard::Request;
use super::session::Session;
use super::shared::Upstream;
use crate::base::Span;
use crate::identity::Credential;
use crate::telemetry::account::Account;
use crate::wire::http1::encode::{self, Copied, Lines};
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::{Method, Name, ResponseHead, Version};
use crate::wire::mcp::header;
use crate::wire::trace_context::SpanContext;

/// What `Via` calls us (RFC 9110 section 7.6.3).
const VIA: &[u8] = b"1.1 shadowcat";

/// What we usually add to a head, at most, bytes.
pub const ADDED_BYTES: usize = 512;

/// How the head of a request was put together for upstream, up to its framing: so is the next, if it has the form of the
/// request's head and nothing else that it is made of changed.
#[derive(Default)]
pub struct Written {
    /// Two requests had heads of the form: a third is expected.
    is_expected: bool,
    of: Option<Sources>,
    /// What is not copied from the request's head.
    ours: Vec<u8>,
    /// Where in `ours` the rest goes.
    places: Places,
    /// The same head put together anew, which must be equal.
    #[cfg(debug_assertions)]
    anew: (Vec<u8>, Places),
}

/// Where in a head what is not the same in the next one stands.
#[derive(Default)]
struct Places {
    /// What is copied from the request's.
    copied: Vec<Copied>,
    /// Upstream's id of the session.
    session: Span,
}

/// What such a head is made of besides the request's, the session's id and what the connection is.
struct Sources {
    view: u32,
    upstream: usize,
    credential: Option<Arc<Credential>>,
    caller: Caller,
}

impl Written {
    /// A head of the same form came.
    pub fn expect(&mut self) {
        self.is_expected = true;
    }

    /// Another head came.
    pub fn forget(&mut self) {
        (self.is_expected, self.of) = (false, None);
    }

    /// Remember how `head` was put together; the places are those in it.
    fn keep(&mut self, head: &[u8], of: Sources) {
        self.ours.clear();
        let Places { copied, session } = &mut self.places;
        let (mut from, was) = (0, session.start);
        for copied in copied {
            let at = copied.at as usize;
            self.ours.extend_from_slice(&head[from..at]);
            from = at + copied.of.len as usize;
            if copied.at <= was {
                session.start -= copied.of.len;
            }
            copied.at = self.ours.len() as u32;
        }
        self.ours.extend_from_slice(&head[from..]);
        self.of = Some(of);
    }

    /// The head for a request whose own is in `bytes`; whether it could be put together so.
    fn repeat(&mut self, out: &mut Vec<u8>, exchange: &Exchange<'_>, to: &Destination<'_>) -> bool {
        let session_id = to.session.and_then(Session::header_value).unwrap_or_default();
        let is_as_before = self.of.as_ref().is_some_and(|sources| to.is_made_of(exchange, sources));
        let Places { copied, session } = &self.places;
        if !is_as_before || session.len as usize != session_id.len() {
            return false;
        }
        self.ours[session.start as usize..(session.start + session.len) as usize].copy_from_slice(session_id);
        let mut from = 0;
        for copied in copied {
            let at = copied.at as usize;
            out.extend_from_slice(&self.ours[from..at]);
            out.extend_from_slice(copied.of.of(exchange.request.bytes));
            from = at;
        }
        out.extend_from_slice(&self.ours[from..]);
        true
    }
}

/// Where a request goes, and what we add.
pub struct Destination<'a> {
    /// Place of the upstream in the view.
    pub upstream: usize,
    pub credential: Option<&'a Arc<Credential>>,
    pub session: Option<&'a Session>,
    /// The framing that we chose.
    pub body: BodyLength,
}

impl Destination<'_> {
    fn sources(&self, exchange: &Exchange<'_>) -> Sources {
        Sources {
            view: exchange.view.number,
            upstream: self.upstream,
            credential: self.credential.cloned(),
            caller: exchange.caller.clone(),
        }
    }

    fn is_made_of(&self, exchange: &Exchange<'_>, sources: &Sources) -> bool {
        let same_credential = match (self.credential, &sources.credential) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        let same_place = sources.view == exchange.view.number && sources.upstream == self.upstream;
        same_place && same_credential && sources.caller.is(exchange.caller)
    }
}

/// The head of a request as upstream gets it; `written` is that of the request's head.
pub fn request(out: &mut Vec<u8>, exchange: &Exchange<'_>, to: &Destination<'_>, written: &mut Written) {
    // Each span has an id of its own, and an id in the target is written in another place.
    let may_repeat = !exchange.account.trace.get().is_told_on() && !to.session.is_some_and(Session::is_in_target);
    if may_repeat && written.repeat(out, exchange, to) {
        #[cfg(debug_assertions)]
        {
            let (anew, places) = &mut written.anew;
            anew.clear();
            line_and_fields(anew, exchange, to, places);
            assert_eq!(*anew, *out, "a head is put together as it would be anew");
        }
    } else {
        written.of = None;
        line_and_fields(out, exchange, to, &mut written.places);
        if written.is_expected && may_repeat {
            written.keep(out, to.sources(exchange));
        }
    }
    framing(out, exchange.request.method(), to.body);
    encode::end(out);
}

/// Put it together in `out`, empty before, and say in `places` where what stands.
fn line_and_fields(out: &mut Vec<u8>, exchange: &Exchange<'_>, to: &Destination<'_>, places: &mut Places) {
    let traced = exchange.account.trace.get().is_told_on();
    places.session = Span::EMPTY;
    places.copied.clear();
    let (upstream, credential, session) = (&exchange.view.view.upstreams[to.upstream], to.credential, to.session);
    let (client, request, caller) = (exchange.client, exchange.request, exchange.caller);
    let plan = exchange.plan();
    let bytes = request.bytes;
    let target = target(request, upstream, session);
    encode::request_line(out, request.head.method_text.of(bytes), &target);
    if plan.guards.rewrite_host || request.host.is_empty() {
        encode::field(out, b"Host", upstream.plan.authority.as_bytes());
    } else {
        encode::field(out, b"Host", request.host);
    }
    let asked = plan.auth.is_some();
    let replaced = |name: &[u8]| credential.is_some_and(|own| own.field.as_bytes().eq_ignore_ascii_case(name));
    let api_key = plan.auth.as_ref().map(|auth| auth.api_key_header.as_bytes());
    let is_ours = |name: &[u8]| api_key.is_some_and(|own| own.eq_ignore_ascii_case(name)) || replaced(name);
    let browsers = plan.auth.as_ref().is_some_and(|auth| auth.login.is_some());
    let mut lines = Lines::new(out, bytes, Some(&mut places.copied));
    for field in encode::forwardable(&request.head.fields, bytes) {
        let forward = match field.known {
            Name::Cookie if browsers => {
                cookies::forward(lines.out(), field.name.of(bytes), field.value.of(bytes));
                false
            }
            Name::Host | Name::McpSessionId => false,
            Name::Forwarded | Name::XForwardedFor | Name::XForwardedProto | Name::XForwardedHost => false,
            Name::XForwardedOther => client.trusted,
            // Who the client claims to be is believed of a trusted proxy, and only while we do not ask ourselves.
            Name::Identity => client.trusted && !asked,
            // A client's credential was for us. Where nobody asked for it, it may be for upstream.
            Name::Authorization => !asked && !replaced(b"Authorization"),
            Name::Traceparent | Name::Tracestate => !traced,
            Name::XRequestId | Name::Other => !is_ours(field.name.of(bytes)),
            _ => true,
        };
        if forward {
            lines.copy(field);
        }
    }
    let out = lines.out();
    if let Some(own) = credential {
        encode::field(out, own.field.as_bytes(), own.value.expose().as_bytes());
    }
    if let Some(known) = caller.known() {
        encode::field(out, b"X-Forwarded-User", known.principal.name.as_bytes());
        encode::field(out, b"X-Forwarded-Scopes", known.scopes.as_bytes());
    }
    if let Some(upstream_id) = session.and_then(Session::header_value) {
        encode::field(out, header::SESSION_ID.as_bytes(), upstream_id);
        let start = out.len() - upstream_id.len() - encode::LINE_END.len();
        places.session = Span { start: start as u32, len: upstream_id.len() as u32 };
    }
    if traced {
        trace_context(out, exchange.account);
    }
    forwarded(out, client, request);
    encode::field(out, b"Via", VIA);
}

/// The span that upstream's own are below.
fn trace_context(out: &mut Vec<u8>, account: &Account) {
    let (trace, traced) = (account.trace.get(), account.traced.borrow());
    let span_id = traced.as_ref().map_or(trace.span_id, |traced| traced.client_span_id);
    let context = SpanContext { trace_id: trace.trace_id, span_id, is_sampled: trace.is_sampled };
    encode::field(out, b"traceparent", &context.to_text());
    if let Some(state) = traced.as_ref().and_then(|traced| traced.tracestate.as_deref()) {
        encode::field(out, b"tracestate", state);
    }
}

/// Path and query; "/" means the configured URL's path, and our id of a 2024-11-05 session becomes upstream's.
fn target<'a>(request: &Request<'a>, upstream: &Upstream, session: Option<&Session>) -> std::borrow::Cow<'a, [u8]> {
    let target = request.path_and_query();
    if request.head.target.of(request.bytes) == b"*" {
        return b"*".as_slice().into();
    }
    if let Some(rewritten) = session.and_then(|session| session.rewrite_target(target)) {
        return rewritten.into();
    }
    match target {
        [b'/', rest @ ..] if matches!(rest.first(), None | Some(b'?')) && upstream.plan.path != "/" => {
            [upstream.plan.path.as_bytes(), rest].concat().into()
        }
        _ => target.into(),
    }
}

/// `X-Forwarded-*` and `Forwarded` (RFC 7239). What the client sent of them is kept only from a trusted proxy.
fn forwarded(out: &mut Vec<u8>, client: &Client, request: &Request<'_>) {
    let (hop, host) = (&client.hop, request.host);
    if client.trusted {
        return forwarded_on(out, client, request);
    }
    out.extend_from_slice(hop.x_forwarded());
    if host.is_empty() {
        out.extend_from_slice(hop.forwarded());
    } else {
        encode::field(out, b"X-Forwarded-Host", host);
        out.extend_from_slice(hop.forwarded());
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

/// The same behind a trusted proxy: what it said comes first.
fn forwarded_on(out: &mut Vec<u8>, client: &Client, request: &Request<'_>) {
    let (hop, host, bytes) = (&client.hop, request.host, request.bytes);
    let earlier = |out: &mut Vec<u8>, name: Name| {
        for field in request.head.fields.all(name) {
            out.extend_from_slice(field.value.of(bytes));
            out.extend_from_slice(b", ");
        }
    };
    let scheme: &[u8] = if client.stream.is_tls() { b"https" } else { b"http" };
    out.extend_from_slice(b"X-Forwarded-For: ");
    earlier(out, Name::XForwardedFor);
    out.extend_from_slice(hop.address());
    out.extend_from_slice(b"\r\n");
    encode::field(out, b"X-Forwarded-Proto", request.find(Name::XForwardedProto).unwrap_or(scheme));
    if !host.is_empty() {
        encode::field(out, b"X-Forwarded-Host", request.find(Name::XForwardedHost).unwrap_or(host));
    }
    let (name, ours) = hop.forwarded().split_at(b"Forwarded: ".len());
    out.extend_from_slice(name);
    earlier(out, Name::Forwarded);
    out.extend_from_slice(ours);
    if !host.is_empty() {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

fn framing(out: &mut Vec<u8>, method: Method, body: BodyLength) {
    match body {
        BodyLength::Length(length) => encode::content_length(out, length),
        BodyLength::Chunked | BodyLength::UntilClose => encode::chunked(out),
        // RFC 9110 section 8.6: a method that means a body says how long it is.
        BodyLength::Empty if matches!(method, Method::Post | Method::Put | Method::Patch) => {
            encode::content_length(out, 0);
        }
        BodyLength::Empty => {}
    }
}

/// How an answer's body reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub body: BodyLength,
    /// `Content-Length` of an answer without a body (HEAD, 304).
    pub announced: Option<u64>,
    pub keep_alive: bool,
    pub http10: bool,
}

/// Status and fields of an answer as a client got them, for one with the same head.
#[derive(Default)]
pub struct Shown {
    /// That of [`ResponseHead::number`].
    number: u64,
    head: Vec<u8>,
}

/// The head of upstream's answer as the client gets it. `session_id`: the id to show, ours. `shown` belongs to `head`.
pub fn response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    bytes: &[u8],
    session_id: Option<&[u8]>,
    delivery: Delivery,
    shown: &mut Shown,
) {
    if shown.number != head.number {
        shown.number = head.number;
        shown.head.clear();
        encode::status_line(&mut shown.head, head.status, head.reason.of(bytes));
        copy_fields(&mut shown.head, head, bytes);
    }
    out.extend_from_slice(&shown.head);
    if let Some(id) = session_id {
        encode::field(out, header::SESSION_ID.as_bytes(), id);
    }
    match delivery.body {
        BodyLength::Length(length) => encode::content_length(out, length),
        BodyLength::Chunked => encode::chunked(out),
        BodyLength::UntilClose => {}
        BodyLength::Empty => {
            if let Some(length) = delivery.announced {
                encode::content_length(out, length);
            }
        }
    }
    connection(out, delivery.keep_alive, delivery.http10);
    encode::end(out);
}

/// All but the id of the session, and what was for us alone.
fn copy_fields<'a>(out: &'a mut Vec<u8>, head: &ResponseHead, bytes: &'a [u8]) -> &'a mut Vec<u8> {
    let mut lines = Lines::new(out, bytes, None);
    let fields = encode::forwardable(&head.fields, bytes);
    fields.filter(|field| field.known != Name::McpSessionId).for_each(|field| lines.copy(field));
    lines.out();
    out
}

/// An interim answer (1xx), passed on as it is but for hop-by-hop fields.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8]) {
    encode::status_line(out, head.status, head.reason.of(bytes));
    let out = copy_fields(out, head, bytes);
    encode::end(out);
}

/// The head of an answer that the proxy makes itself.
pub fn own_head(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    length: usize,
    keep_alive: bool,
    more: impl FnOnce(&mut Vec<u8>),
) {
    encode::status_line(out, status, b"");
    encode::field(out, b"Content-Type", content_type.as_bytes());
    encode::field(out, b"X-Content-Type-Options", b"nosniff");
    encode::content_length(out, length as u64);
    more(out);
    connection(out, keep_alive, false);
    encode::end(out);
}

fn connection(out: &mut Vec<u8>, keep_alive: bool, http10: bool) {
    if !keep_alive {
        encode::field(out, b"Connection", b"close");
    } else if http10 {
        encode::field(out, b"Connection", b"keep-alive");
    }
}

/// How the answer is framed towards a client of this version.
pub fn delivery(body: BodyLength, version: Version, keep_alive: bool, announced: Option<u64>) -> Delivery {
    let http10 = version == Version::Http10;
    let body = match body {
        BodyLength::Chunked | BodyLength::UntilClose if http10 => BodyLength::UntilClose,
        BodyLength::UntilClose => BodyLength::Chunked,
        other => other,
    };
    Delivery { body, announced, keep_alive: keep_alive && body != BodyLength::UntilClose, http10 }
}
