//! A request on its way to an upstream, perhaps to more than one.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Exchange, own};
use crate::identity::Credential;
use crate::net::Buffer;
use crate::telemetry::Fault;
use crate::telemetry::account::Account;
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::Method;
use crate::wire::json::Peek;
use crate::worker::envelope::Intake;
use crate::worker::outbound::{self, Destination, Written};
use crate::worker::refusal::Refusal;
use crate::worker::relay::Unanswered;
use crate::worker::session::{self, Session};
use crate::worker::upload::Upload;
use crate::worker::upstream::{self, Lease, Wanted};

/// Longest `initialize` that a session keeps, bytes.
const INITIALIZE_BYTES_MAX: usize = 16 * 1024;
/// Upstreams that a failed read is sent to after the first.
const ELSEWHERE_MAX: usize = 2;

/// The request, until an answer begins.
pub(super) struct Sending<'a> {
    session: Option<&'a Session>,
    /// Ours at the upstream that was chosen.
    pub(super) credential: Option<Arc<Credential>>,
    /// A whole body is kept for a second try; one that streams is given away.
    body: Buffer,
    streaming: Option<Box<Intake>>,
    was_streaming: bool,
    /// A pooled connection had died: once more over a fresh one.
    retried: bool,
    /// Where it went before, or instead: few do.
    detour: Option<Box<Detour>>,
}

#[derive(Default)]
struct Detour {
    /// The session, where it went on.
    moved: Option<Session>,
    /// Upstreams that failed the request, and what the first made of it.
    failed: Vec<usize>,
    failure: Option<Refusal>,
}

impl<'a> Sending<'a> {
    pub(super) fn new(session: Option<&'a Session>, mut intake: Intake) -> Sending<'a> {
        let body = std::mem::take(&mut intake.body);
        let was_streaming = !intake.is_whole();
        let streaming = was_streaming.then(|| Box::new(intake));
        Sending { session, credential: None, body, streaming, was_streaming, retried: false, detour: None }
    }

    /// The session, where it went on at another upstream.
    fn moved(&self) -> Option<&Session> {
        self.detour.as_ref()?.moved.as_ref()
    }

    fn failed(&self) -> &[usize] {
        self.detour.as_ref().map_or(&[], |detour| &detour.failed)
    }

    pub(super) async fn lease(&mut self, exchange: &Exchange<'_>) -> Result<Lease, Refusal> {
        let (worker, view) = (exchange.worker, exchange.view);
        let lease = match (self.moved().is_some(), self.session) {
            (false, Some(session)) => self.lease_of(exchange, session).await?,
            (true, Some(_)) => self.lease_of_moved(exchange).await?,
            (_, None) => self.lease_any(exchange).await.map_err(|refusal| {
                // Nobody else can take it: what the first upstream made of it is the answer.
                let first = self.detour.as_mut().and_then(|detour| detour.failure.take());
                first.unwrap_or(refusal)
            })?,
        };
        exchange.account.upstream.set(Some(lease.index));
        exchange.timeout.set(view.view.upstreams[lease.index].plan.timeout);
        self.credential = exchange.credential(lease.index).map_err(|error| {
            tracing::error!(upstream = exchange.name(&lease), %error, "a request cannot be sent");
            Refusal::NO_CREDENTIAL
        })?;
        lease.cells().requests.add(1);
        if self.failed().is_empty() && !self.retried {
            worker.retry_budget.deposit(view.view.plan.balance.retry_budget);
        }
        Ok(lease)
    }

    /// The upstream where the session lives. Sessions of one that has refused connections for long are over; those of one
    /// that checks have found unhealthy are not, but their clients had better begin anew where it is not. Where
    /// `session.failover` says so, we do that for them.
    async fn lease_of(&mut self, exchange: &Exchange<'_>, session: &Session) -> Result<Lease, Refusal> {
        let (worker, view) = (exchange.worker, exchange.view);
        let movable = session.initialize(view).filter(|_| exchange.request.method() != Method::Delete);
        let Some(index) = session.upstream else { return Box::pin(self.relocate(exchange, session, movable)).await };
        let words = &view.view.upstreams[index].words;
        let now = worker.now_ms();
        if words.marked_down_since().is_some() {
            let elsewhere = view.view.upstreams.iter().any(|other| other.words.is_open(now));
            return match elsewhere {
                true => Box::pin(self.relocate(exchange, session, movable)).await,
                false => Err(Refusal::UPSTREAM_UNHEALTHY),
            };
        }
        let refusal =
            match upstream::lease(worker, view, Wanted { pinned: session.upstream, ..self.again(exchange.account) })
                .await
            {
                Ok(lease) => return Ok(lease),
                Err(refusal) => refusal,
            };
        let is_gone = matches!(refusal.fault(), Some(Fault::Connect | Fault::Timeout));
        if is_gone && movable.is_some() {
            return Box::pin(self.relocate(exchange, session, movable)).await;
        }
        if words.has_lost_its_sessions(worker.now_ms()) {
            session::end(worker, session.id).await?;
            return Err(Refusal::SESSION_UNKNOWN);
        }
        Err(refusal)
    }

    /// Let the session go on at another upstream.
    async fn relocate(
        &mut self,
        exchange: &Exchange<'_>,
        session: &Session,
        initialize: Option<&str>,
    ) -> Result<Lease, Refusal> {
        let initialize = initialize.ok_or(Refusal::SESSION_UNKNOWN)?;
        let (worker, view) = (exchange.worker, exchange.view);
        let avoid: Vec<usize> = session.upstream.into_iter().collect();
        let lease = upstream::lease(
            worker,
            view,
            Wanted { pinned: None, fresh: true, avoid: &avoid, account: Some(exchange.account) },
        )
        .await?;
        let issued = own::begin_anew(exchange, &lease, initialize).await?;
        let moved = session::relocate(worker, view, session, lease.index, &issued).await?;
        tracing::info!(session = ?session.id, to = exchange.name(&lease), "a session goes on at another upstream");
        self.detour.get_or_insert_default().moved = Some(moved);
        self.lease_of_moved(exchange).await
    }

    async fn lease_of_moved(&self, exchange: &Exchange<'_>) -> Result<Lease, Refusal> {
        let pinned = self.moved().and_then(|moved| moved.upstream);
        let index = pinned.ok_or(Refusal::SESSION_UNKNOWN)?;
        upstream::lease(exchange.worker, exchange.view, Wanted { pinned: Some(index), ..self.again(exchange.account) })
            .await
    }

    fn again<'b>(&'b self, account: &'b Account) -> Wanted<'b> {
        Wanted { pinned: None, fresh: self.retried, avoid: self.failed(), account: Some(account) }
    }

    /// The body, where it begins a session that is to keep it.
    pub(super) fn initialize(&self, exchange: &Exchange<'_>) -> Option<&[u8]> {
        let wanted = exchange.plan().session.reinitialize && exchange.envelope.initializes && !self.was_streaming;
        Some(self.body.bytes()).filter(|body| wanted && body.len() <= INITIALIZE_BYTES_MAX && body.starts_with(b"{"))
    }

    /// Any upstream, but rather the one that issued the request's opaque state.
    async fn lease_any(&self, exchange: &Exchange<'_>) -> Result<Lease, Refusal> {
        let (worker, view) = (exchange.worker, exchange.view);
        let any = self.again(exchange.account);
        let issuer = exchange.envelope.affinity.and_then(|key| worker.shared.affinity.find(key));
        if let Some(index) = issuer.and_then(|number| view.view.upstream_numbered(number))
            && !self.failed().contains(&index)
            && view.view.upstreams[index].words.accepts(worker.now_ms(), view.view.trip.as_ref())
            && let Ok(lease) = upstream::lease(worker, view, Wanted { pinned: Some(index), ..any }).await
        {
            return Ok(lease);
        }
        upstream::lease(worker, view, any).await
    }

    /// Send head and body in one go; what is still to come of the body goes on as an upload. A failed write is not an
    /// error here: the reader finds out what upstream made of it.
    pub(super) async fn send<'b>(
        &mut self,
        exchange: &'b Exchange<'b>,
        lease: &'b Lease,
        peek: &'b RefCell<&mut Peek>,
        written: &mut Written,
    ) -> Upload<'b> {
        let framing = match (self.was_streaming, exchange.request.body()) {
            (true, framing) => framing,
            (false, BodyLength::Empty) => BodyLength::Empty,
            (false, _) => BodyLength::Length(self.body.len() as u64),
        };
        let session = self.moved().or(self.session);
        let to = Destination { upstream: lease.index, credential: self.credential.as_ref(), session, body: framing };
        // What we add to the head is a few lines; what is longer after all only costs a larger allocation.
        let mut out = Buffer::for_message(exchange.request.head.len + self.body.len() + outbound::ADDED_BYTES);
        outbound::request(out.vec(), exchange, &to, written);
        let limit = exchange.upstream_timeout();
        if self.was_streaming && framing == BodyLength::Chunked && !self.body.is_empty() {
            let size = crate::wire::http1::encode::chunk_head(self.body.len());
            self.body.frame_as_chunk(size.as_bytes(), crate::wire::http1::encode::CHUNK_END);
        }
        if self.body.len() <= crate::net::buffer::SMALL_BYTES {
            out.vec().extend_from_slice(self.body.bytes());
            let _ = exchange.post_to(&lease.stream, limit, out).await;
        } else {
            let _ = exchange.write_to(&lease.stream, limit, out).await;
            self.body = exchange.write_to(&lease.stream, limit, std::mem::take(&mut self.body)).await.1;
        }
        match self.streaming.take() {
            Some(intake) => Upload::start(exchange, &lease.stream, *intake, peek),
            None => Upload::none(),
        }
    }

    /// What failed before upstream said a word, and may be repeated: once more over a fresh connection, if the pooled one
    /// was dead; else at another upstream, if the budget allows it.
    ///
    /// # Errors
    /// The failure, if that was all.
    pub(super) fn retry_or_fail(
        &mut self,
        exchange: &Exchange<'_>,
        lease: &Lease,
        unanswered: Unanswered,
    ) -> Result<(), Refusal> {
        let Unanswered { refusal, silent } = unanswered;
        let may_repeat = silent && exchange.envelope.repeatable && !self.was_streaming;
        if may_repeat && lease.reused && !self.retried && refusal.fault() == Some(Fault::Closed) {
            self.retried = true;
            exchange.account.retries.set(exchange.account.retries.get() + 1);
            lease.cells().retries.add(1);
            return Ok(());
        }
        let Some(fault) = refusal.fault() else { return Err(refusal) };
        lease.cells().fault(fault);
        if matches!(fault, Fault::Closed | Fault::Timeout) {
            lease.failed(exchange.worker, exchange.view);
        }
        let others = exchange.view.view.upstreams.len() - 1;
        let elsewhere = may_repeat && self.session.is_none() && self.failed().len() < ELSEWHERE_MAX.min(others);
        if !elsewhere || refusal.reason == Refusal::REQUEST_TIMEOUT.reason {
            return Err(refusal);
        }
        if !exchange.worker.retry_budget.withdraw() {
            exchange.worker.cells.retries_denied.add(1);
            return Err(refusal);
        }
        exchange.account.retries.set(exchange.account.retries.get() + 1);
        let detour = self.detour.get_or_insert_default();
        detour.failed.push(lease.index);
        detour.failure.get_or_insert(refusal);
        lease.cells().retries.add(1);
        Ok(())
    }
}
