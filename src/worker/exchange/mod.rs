//! ONE REQUEST: the whole story. Only this file calls the stages.

mod own;
mod sending;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::Ledger;
use super::auth::{self, Caller};
use super::connection::{After, Client};
use super::envelope::{self, Envelope};
use super::flow::{Flow, Flowing, Flows, Streaming};
use super::guard::{self, Request};
use super::inspect::Inspect;
use super::limit::{self, Subject};
use super::outbound::{self, Shown};
use super::refusal::{self, Refusal};
use super::relay::{self, Answer, Relayed, Watch};
use super::session::{self, Birth, Session};
use super::tap::{self, Tap};
use super::upload::Upload;
use super::upstream::{Lease, LocalView};
use super::{Phase, Scratch, Worker, account, local, login, report};
use crate::config::plan::Plan;
use crate::identity::{Credential, CredentialMissing};
use crate::net::{Buffer, Stream, turn};
use crate::store::{Reservation, Transport};
use crate::telemetry::account::Account;
use crate::wire::http1::body::BodyDecoder;
use crate::wire::http1::framing::{self, BodyLength};
use crate::wire::http1::head::{Method, Name, ResponseHead};
use crate::wire::mcp::Era;
use sending::Sending;

/// What holds for the whole of one request: set once, read by every stage.
pub struct Exchange<'a> {
    pub passage: Passage<'a>,
    pub request: &'a Request<'a>,
    pub envelope: Envelope,
    /// When `timeouts.request` is over.
    pub deadline: Option<Instant>,
    /// Of the upstream that was chosen.
    timeout: Cell<Duration>,
}

/// What of it still holds when the request is forgotten and its answer flows.
pub struct Passage<'a> {
    pub worker: &'a Rc<Worker>,
    pub view: &'a LocalView,
    pub client: &'a Client,
    pub caller: &'a Caller,
    pub account: &'a Account,
    pub tap: &'a Tap,
}

impl<'a> Deref for Exchange<'a> {
    type Target = Passage<'a>;

    fn deref(&self) -> &Passage<'a> {
        &self.passage
    }
}

impl Exchange<'_> {
    /// The whole body was seen, and it is modern.
    pub fn is_modern_after_all(&self) {
        self.account.era.set(Era::Modern);
    }

    pub fn upstream_timeout(&self) -> Duration {
        self.timeout.get()
    }

    /// The upstream in logs.
    pub fn name(&self, lease: &Lease) -> &str {
        self.key(lease.index)
    }

    /// The upstream as sessions remember it.
    pub fn key(&self, index: usize) -> &str {
        &self.view.view.upstreams[index].key
    }

    /// What the upstream is sent in place of the client's credential.
    fn credential(&self, index: usize) -> Result<Option<Arc<Credential>>, CredentialMissing> {
        let entry = self.view.view.upstreams[index].entry;
        self.view.view.keys.as_ref().map_or(Ok(None), |keys| keys.credential(entry))
    }

    pub fn timeout_refusal(&self) -> Refusal {
        let whole = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if whole { Refusal::REQUEST_TIMEOUT } else { Refusal::UPSTREAM_TIMEOUT }
    }

    /// Send without waiting where that can be; what comes of it is found by the next read or write.
    async fn post_to(&self, stream: &Stream, limit: Duration, bytes: Buffer) -> io::Result<()> {
        match stream.post(bytes) {
            Ok(()) => Ok(()),
            Err(bytes) => Box::pin(self.write_to(stream, limit, bytes)).await.0,
        }
    }

    pub async fn write_client(&self, bytes: Buffer) -> Result<(), Refusal> {
        let limit = self.plan().timeouts.write;
        self.account.sent_client(bytes.len());
        self.post_to(&self.client.stream, limit, bytes).await.map_err(|_| Refusal::CLIENT_GONE)
    }
}

impl Passage<'_> {
    /// As far as it is known: in a body beyond the peek limit the end may tell.
    pub fn era(&self) -> Era {
        self.account.era.get()
    }

    pub fn plan(&self) -> &Plan {
        &self.view.view.plan
    }

    async fn write_to(&self, stream: &Stream, limit: Duration, bytes: Buffer) -> (io::Result<()>, Buffer) {
        self.client.write_by(stream.fd(), self.worker.ticks_from_now(limit));
        let written = stream.write_all(bytes).await;
        self.client.wrote();
        written
    }

    /// As [`write_client`](Exchange::write_client), not at the end of the turn but now: where a client that left must be
    /// noticed at once.
    #[expect(clippy::manual_async_fn, reason = "one would hold the bytes twice, and thousands of streams hold this")]
    pub fn write_client_now(&self, mut bytes: Buffer) -> impl Future<Output = Result<(), Refusal>> {
        async move {
            self.account.sent_client(bytes.len());
            let sent = self.client.stream.send_some(bytes.bytes()).map_err(|_| Refusal::CLIENT_GONE)?;
            bytes.consume(sent);
            if bytes.is_empty() {
                return Ok(());
            }
            let written = Box::pin(self.write_to(&self.client.stream, self.plan().timeouts.write, bytes)).await;
            written.0.map_err(|_| Refusal::CLIENT_GONE)
        }
    }
}

/// How far a request got, for whoever must answer when a stage says no.
#[derive(Default)]
struct Standing {
    /// It was read to its end, and the client keeps the connection.
    keep_alive: bool,
    /// Its answer has begun.
    answered: bool,
}

/// What became of a request.
pub enum Told<F> {
    Over(After),
    /// Its answer is a stream without end, which has begun.
    Flows(Box<F>),
}

/// Run one request whose head is parsed in `scratch` and stands at the front of `input`; on return `input` holds what
/// followed the request.
pub async fn run(
    worker: &Rc<Worker>,
    view: &Rc<LocalView>,
    client: &Client,
    input: &mut Buffer,
    scratch: &mut Scratch,
) -> Told<Flow> {
    scratch.peek.reset();
    let ledger = Ledger::of(&scratch.head);
    let open = ledger.open(worker, view, client);
    let mut standing = Standing::default();
    let after = match story(worker, view, client, input, scratch, &mut standing, &open).await {
        Ok(Told::Over(after)) => after,
        Ok(Told::Flows(flowing)) => {
            open.leave();
            return Told::Flows(Flow::of(*flowing, view, ledger, scratch));
        }
        Err(refusal) => {
            account::refused(&open.account, &refusal, !standing.answered);
            if standing.answered || refusal.reason == Refusal::CLIENT_GONE.reason {
                worker.cells.refused(refusal.reason);
                After::Abort
            } else {
                let keep = standing.keep_alive && !refusal.close && !worker.is_draining();
                tap::refused(&open, scratch.bytes.bytes());
                let id = scratch.peek.id();
                let answer = Box::pin(refusal::answer(worker, client, &refusal, id, keep, Some(&open)));
                let (bytes, sent) = answer.await;
                open.account.sent_client(bytes);
                match (sent, keep) {
                    (true, true) => After::KeepAlive,
                    (true, false) => After::Linger,
                    // Half of it may have been sent.
                    (false, _) => After::Abort,
                }
            }
        }
    };
    open.close(&scratch.peek);
    Told::Over(after)
}

async fn story(
    worker: &Rc<Worker>,
    view: &LocalView,
    client: &Client,
    input: &mut Buffer,
    scratch: &mut Scratch,
    standing: &mut Standing,
    open: &account::Open<'_>,
) -> Result<Told<Flowing>, Refusal> {
    let (account, begun) = (&open.account, open.account.begun);
    let plan = &view.view.plan;
    let Scratch { head, bytes, repeated, peek, answer, shown, .. } = scratch;
    // The head was kept for as long as the exchange lasts, the large buffer is not.
    let mut following = std::mem::take(input);
    following.consume(head.len);
    if following.is_empty() {
        following = Buffer::default();
    }
    report::notice(open, head, bytes.bytes());
    let request = guard::admit(view, client, head, bytes.bytes(), &mut repeated.admitted)?;
    if let Some(page) = local::find(worker, view, &request) {
        let keep = Box::pin(local::answer(worker, view, client, &request, page, account)).await;
        *input = following;
        return Ok(Told::Over(if keep { After::KeepAlive } else { After::Linger }));
    }
    if let Some(page) = login::find(&view.view, &request) {
        // Each of them may make us ask the authorization server.
        let subject = Subject { client, request: &request, session: None, peek, whole: true, user: None, at: begun };
        limit::admit(worker, &view.view, &subject)?;
        return Ok(Told::Over(show(worker, view, client, &request, page, input, following, account).await));
    }
    let identified = auth::identify(worker, &view.view, client, &request).await;
    if let Err(refusal) = &identified
        && let Some(page) = login::invites(&view.view, &request, refusal)
    {
        return Ok(Told::Over(show(worker, view, client, &request, page, input, following, account).await));
    }
    if let Err(refusal) = &identified
        && !request.is_soon_read(plan.limits.peek_bytes_max)
    {
        return Err(refusal.clone().closing());
    }
    let (envelope, mut intake) = envelope::read(plan, client, &request, following, peek).await?;
    account.received(intake.body.len());
    account.era.set(envelope.era);
    account::understood(account, peek, intake.is_whole());
    report::understood(open, peek);
    if intake.is_whole() {
        *input = std::mem::take(&mut intake.rest);
        standing.keep_alive = request.keep_alive();
    }
    let caller = identified?;
    open.is_from(&caller);
    report::admit(open, &request, peek, &intake)?;
    auth::authorize(&view.view, client, &request, peek, intake.is_whole(), &caller)?;
    let session = session::resume(worker, view, &request, &envelope, &caller, &mut repeated.session)?;
    account.session.set(session.as_ref().map(|session| session.id));
    tap::request(open, &request, &envelope, session.as_ref(), &intake);
    let (user, whole) = (caller.known(), intake.is_whole());
    let subject = Subject { client, request: &request, session: session.as_ref(), peek, whole, user, at: begun };
    limit::admit(worker, &view.view, &subject)?;
    let reserved = session::reserve(worker, &request, &envelope, session.as_ref())?;
    let deadline = plan.timeouts.request.map(|limit| begun + limit);
    let (timeout, request, caller) = (Cell::new(Duration::MAX), &request, &caller);
    let tap = &open.tap;
    let passage = Passage { worker, view, client, caller, account, tap };
    let exchange = Exchange { passage, request, envelope, deadline, timeout };
    let peek = RefCell::new(peek);

    let mut sending = Sending::new(session.as_ref(), intake);
    loop {
        let lease = sending.lease(&exchange).await?;
        let mut watch = Watch::new(&exchange);
        let mut upload = sending.send(&exchange, &lease, &peek, &mut repeated.written).await;
        let answered = relay::answer_head(&exchange, &lease, answer, &mut upload, &mut watch).await;
        account.spoke(turn::time());
        let bytes = match answered {
            Ok(bytes) => bytes,
            Err(failed) => {
                drop(upload);
                sending.retry_or_fail(&exchange, &lease, failed)?;
                continue;
            }
        };
        lease.answered(worker, view);
        if answer.status == 401
            && sending.credential.is_some()
            && let Some(keys) = &view.view.keys
        {
            keys.credential_refused(view.view.upstreams[lease.index].entry);
        }
        lease.heed_keep_alive(answer.find(bytes.bytes(), Name::KeepAlive));
        let initialize = sending.initialize(&exchange);
        let parts = Parts { answer, shown, bytes, session: session.as_ref(), reserved, initialize };
        let End { after, reusable, flows } = finish(&exchange, standing, input, &lease, parts, upload, watch).await?;
        if let Some(flows) = flows {
            return Ok(Told::Flows(Box::new(Flowing { lease, flows, after, reusable })));
        }
        if reusable {
            lease.give_back(worker, view);
        }
        return Ok(Told::Over(after));
    }
}

/// A page of the login.
#[expect(clippy::too_many_arguments, reason = "each is lent or given away on its own")]
async fn show(
    worker: &Worker,
    view: &LocalView,
    client: &Client,
    request: &Request<'_>,
    page: login::Page,
    input: &mut Buffer,
    following: Buffer,
    account: &Account,
) -> After {
    let keep = Box::pin(login::answer(worker, &view.view, client, request, page, account)).await;
    *input = following;
    if keep { After::KeepAlive } else { After::Linger }
}

/// An answer whose head was read, and what it may mean for a session.
struct Parts<'a> {
    answer: &'a ResponseHead,
    shown: &'a mut Shown,
    bytes: Buffer,
    session: Option<&'a Session>,
    reserved: Option<Reservation>,
    /// The request's body, where a session that it begins is to keep it.
    initialize: Option<&'a [u8]>,
}

/// How an exchange ended, or will when its stream does.
struct End {
    after: After,
    /// Upstream's connection holds nothing more and may serve again.
    reusable: bool,
    flows: Option<Box<Flows>>,
}

/// From the answer's head to the end of the answer.
async fn finish(
    exchange: &Exchange<'_>,
    standing: &mut Standing,
    input: &mut Buffer,
    lease: &Lease,
    parts: Parts<'_>,
    mut upload: Upload<'_>,
    mut watch: Watch<'_>,
) -> Result<End, Refusal> {
    let Parts { answer, shown: memory, bytes, session, mut reserved, initialize } = parts;
    let (worker, request, client) = (exchange.worker, exchange.request, exchange.client);
    let cells = lease.cells();
    let blame = |refusal: Refusal| {
        if let Some(fault) = refusal.fault() {
            cells.fault(fault);
        }
        refusal
    };
    let framed = framing::response(answer, bytes.bytes(), request.method()).map_err(|error| {
        tracing::warn!(upstream = exchange.name(lease), %error, "upstream's answer is not valid");
        blame(Refusal::UPSTREAM_PROTOCOL)
    })?;
    let is_stream = is_event_stream(answer, bytes.bytes());
    account::listen(exchange.account, answer, bytes.bytes(), is_stream);
    let settled = settle_session(exchange, lease, session, &mut reserved, answer, bytes.bytes(), initialize).await;
    let shown = settled.map_err(blame)?;
    let mut inspect = inspection(exchange, lease, session, reserved, is_stream, answer.status);

    let keep = request.keep_alive() && !upload.is_running() && !worker.is_draining();
    let announced = match framed.body {
        BodyLength::Empty => announced_length(answer, bytes.bytes(), request.method()),
        _ => None,
    };
    let delivery = outbound::delivery(framed.body, request.head.version, keep, announced);
    let mut out = Buffer::for_message(bytes.len() + outbound::ADDED_BYTES);
    outbound::response(out.vec(), answer, bytes.bytes(), shown.as_deref(), delivery, memory);
    tap::answer(exchange, exchange.name(lease), answer, bytes.bytes(), out.bytes(), is_stream);
    let streaming = is_stream.then(|| Streaming::begin(exchange, lease, session));
    if is_stream {
        watch.it_matters();
        if exchange.envelope.endless {
            account::endless(worker, exchange.view, exchange.account);
        }
    }
    let decoder = BodyDecoder::new(framed.body, None);
    let parts = Answer { bytes, head_len: answer.len, decoder, delivery, is_stream };
    let answered = &mut standing.answered;
    let relayed = relay::answer(exchange, lease, out, parts, answered, &mut inspect, &mut upload, &mut watch).await;
    let (clean, flows) = match (relayed, streaming) {
        (Ok(Relayed::Flows(rest)), Some(streaming)) => (true, Some(Box::new(Flows { rest, inspect, streaming }))),
        (relayed, _) => {
            if let Some(stream) = inspect.began() {
                // A 2024-11-05 session lives as long as its stream.
                session::end(worker, stream.id()).await?;
            }
            (matches!(relayed.map_err(blame)?, Relayed::Whole { clean: true }), None)
        }
    };
    let sent = !upload.is_running();
    if let Some(rest) = upload.rest.take() {
        *input = rest;
    }
    if flows.is_none() {
        client.enter(Phase::Busy);
    }
    let after = match (delivery.keep_alive, sent) {
        (true, true) => After::KeepAlive,
        (false, true) => After::Close,
        (_, false) => After::Linger,
    };
    let reusable = clean && sent && framed.keep_alive && framed.body != BodyLength::UntilClose;
    Ok(End { after, reusable, flows })
}

/// What the answer means for sessions, before the client sees it; the id to show it.
async fn settle_session<'a>(
    exchange: &Exchange<'a>,
    lease: &Lease,
    session: Option<&Session>,
    reserved: &mut Option<Reservation>,
    answer: &ResponseHead,
    bytes: &[u8],
    initialize: Option<&[u8]>,
) -> Result<Option<Cow<'a, [u8]>>, Refusal> {
    let (worker, request) = (exchange.worker, exchange.request);
    let issued = answer.find(bytes, Name::McpSessionId);
    let success = (200..300).contains(&answer.status);
    if exchange.era() == Era::Modern {
        return Ok(None);
    }
    if let Some(session) = session {
        if answer.status == 404 || (request.method() == Method::Delete && success) {
            session::end(worker, session.id).await?;
            return Ok(None);
        }
        // The id that the client knows it by, whatever upstream calls it now.
        return Ok(issued.and(request.find(Name::McpSessionId)).map(Cow::Borrowed));
    }
    let Some(issued) = issued.filter(|_| success && request.method() == Method::Post) else { return Ok(None) };
    if answer.fields.is_repeated(Name::McpSessionId) {
        return Err(Refusal::UPSTREAM_PROTOCOL);
    }
    let birth = Birth {
        upstream: lease.index,
        upstream_session: issued,
        protocol: request.find(Name::McpProtocolVersion).unwrap_or(b""),
        transport: Transport::StreamableHttp,
        caller: exchange.caller,
        initialize,
    };
    match Box::pin(session::begin(worker, exchange.view, reserved.take(), birth)).await {
        Ok(begun) => {
            exchange.account.session.set(Some(begun.id));
            Ok(Some(Cow::Owned(begun.shown.into_bytes())))
        }
        Err(refusal) => {
            own::abandon(exchange, lease.index, issued);
            Err(refusal)
        }
    }
}

/// What is looked for in the answer's body, and where a session that begins in it is left.
fn inspection(
    exchange: &Exchange<'_>,
    lease: &Lease,
    session: Option<&Session>,
    reserved: Option<Reservation>,
    is_stream: bool,
    status: u16,
) -> Inspect {
    let modern = exchange.era() == Era::Modern;
    if is_stream && status == 200 && exchange.request.method() == Method::Get && session.is_none() {
        Inspect::endpoint(lease.index, reserved)
    } else if modern && exchange.view.view.upstreams.len() > 1 {
        Inspect::state(lease.index, is_stream)
    } else {
        Inspect::Nothing
    }
}

fn is_event_stream(answer: &ResponseHead, bytes: &[u8]) -> bool {
    let kind = answer.find(bytes, Name::ContentType).unwrap_or_default();
    kind.len() >= 17 && kind[..17].eq_ignore_ascii_case(b"text/event-stream")
}

/// The length that an answer to HEAD, or a 304, announces without a body.
fn announced_length(answer: &ResponseHead, bytes: &[u8], method: Method) -> Option<u64> {
    if method != Method::Head && answer.status != 304 {
        // 204 has no length (RFC 9110 section 8.6); every other empty answer says so.
        return (answer.status != 204).then_some(0);
    }
    std::str::from_utf8(answer.find(bytes, Name::ContentLength)?).ok()?.parse().ok()
}
