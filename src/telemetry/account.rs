//! The account of one request: when, what, and what it came to. Metrics, logs and traces tell of it.
//!
//! It lives on the stack of its exchange. Each stage sets its field where the fact arises, by one assignment, and
//! `worker::account` closes it once, whatever became of the request. Plain data: nothing here allocates or reads a clock.
//!
//! Four looks at the clock a request: when it begins, when it was sent, when upstream spoke, when it is closed. Waiting in
//! a line or for a new connection costs two more each.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::spans::Traced;
use crate::base::SessionId;
use crate::wire::answer::{Listener, Said};
use crate::wire::http1::head::Method;
use crate::wire::mcp::Era;

/// One request.
pub struct Account {
    // --- when
    pub begun: Instant,
    /// Waited for a place at an upstream, over all tries.
    pub queued: Cell<Duration>,
    /// Waited for new connections, made or not, over all tries.
    pub connecting: Cell<Duration>,
    /// Upstream was sent what we had; of the latest try. What followed of a long body went on beside the wait.
    pub sent: Cell<Option<Instant>>,
    /// Its answer's head was there, or it failed; of the latest try.
    pub answered: Cell<Option<Instant>>,
    /// From `sent` to `answered`, over all tries.
    pub upstream_took: Cell<Duration>,

    // --- what
    pub verb: Cell<Method>,
    /// What MCP calls it; see [`METHODS`].
    pub method: Cell<Option<MethodId>>,
    pub era: Cell<Era>,
    /// A message that wants an answer.
    pub wants_answer: Cell<bool>,
    /// The session that it belongs to, or that it began.
    pub session: Cell<Option<SessionId>>,
    /// Place of the latest upstream in the view.
    pub upstream: Cell<Option<usize>>,
    /// Tries after the first.
    pub retries: Cell<u32>,
    /// A stream without end: its head is its answer.
    pub is_endless: Cell<bool>,
    /// All zero where nothing is traced.
    pub trace: Cell<Trace>,
    /// What else holds where it is sampled.
    pub traced: RefCell<Option<Box<Traced>>>,

    // --- what it came to
    /// Of the answer that the client got, or was being sent; 0: none.
    pub status: Cell<u16>,
    /// Listens to upstream's answer.
    pub listener: RefCell<Listener>,
    pub ended: Cell<Ended>,
    /// The rule of `[[auth.rules]]` that denied it, from 1.
    pub rule: Cell<Option<u16>>,
    /// From the client: the head, and the body without its framing.
    pub bytes_in: Cell<u64>,
    /// To the client, as sent.
    pub bytes_out: Cell<u64>,
}

/// The context of a trace (W3C Trace Context) that this request is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: [u8; 16],
    /// Of the span that stands for this request.
    pub span_id: [u8; 8],
    /// Of the one that caused it.
    pub parent_id: [u8; 8],
    pub is_sampled: bool,
}

impl Trace {
    /// Whether upstream is told of a span of ours. Else what the client says of its trace goes on as it is.
    pub fn is_told_on(&self) -> bool {
        self.trace_id != [0; 16] && (self.is_sampled || self.parent_id == [0; 8])
    }
}

/// How a request ended: the termination code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub by: By,
    /// Why; empty for a good end. The label `reason` of refusals.
    pub reason: &'static str,
    /// Before the client saw any of upstream's answer.
    pub early: bool,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(usize)]
pub enum By {
    /// Nobody: it came to its end.
    #[default]
    Nobody,
    Client,
    /// We said no, or lost it.
    Proxy,
    Upstream,
    /// A stream without end, by the end of the proxy.
    Drain,
}

impl By {
    pub const ALL: [By; 5] = [By::Nobody, By::Client, By::Proxy, By::Upstream, By::Drain];

    /// The label `by`.
    pub fn label(self) -> &'static str {
        match self {
            By::Nobody => "nobody",
            By::Client => "client",
            By::Proxy => "proxy",
            By::Upstream => "upstream",
            By::Drain => "drain",
        }
    }
}

/// What came of it, from the client's point of view: HTTP, JSON-RPC and tools fail apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    Ok,
    /// Upstream answered with a status of 400 or above.
    HttpError,
    /// A JSON-RPC error.
    RpcError,
    /// The result of a tool that failed (`isError`).
    ToolError,
    /// The answer was too long to be looked into, was encoded, or held no answer.
    Unknown,
    /// The proxy refused it.
    Refused,
    /// Upstream did not answer, or not to the end.
    Failed,
    /// The client left.
    Gone,
}

impl Outcome {
    pub const ALL: [Outcome; 8] = [
        Outcome::Ok,
        Outcome::HttpError,
        Outcome::RpcError,
        Outcome::ToolError,
        Outcome::Unknown,
        Outcome::Refused,
        Outcome::Failed,
        Outcome::Gone,
    ];

    /// The label `outcome`.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::HttpError => "http_error",
            Outcome::RpcError => "rpc_error",
            Outcome::ToolError => "tool_error",
            Outcome::Unknown => "unknown",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Gone => "gone",
        }
    }
}

/// Where the time of a request went. What the parts leave of the total is ours: reading, checking, passing on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub total: Duration,
    pub queue: Duration,
    pub connect: Duration,
    /// Until upstream's first byte.
    pub upstream: Duration,
    pub own: Duration,
}

impl Account {
    pub fn new(begun: Instant) -> Account {
        Account {
            begun,
            queued: Cell::default(),
            connecting: Cell::default(),
            sent: Cell::default(),
            answered: Cell::default(),
            upstream_took: Cell::default(),
            verb: Cell::default(),
            method: Cell::default(),
            era: Cell::new(Era::Legacy),
            wants_answer: Cell::default(),
            session: Cell::default(),
            upstream: Cell::default(),
            retries: Cell::default(),
            is_endless: Cell::default(),
            trace: Cell::default(),
            traced: RefCell::default(),
            status: Cell::default(),
            listener: RefCell::default(),
            ended: Cell::default(),
            rule: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
        }
    }

    pub fn received(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    pub fn sent_client(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// Upstream spoke, or will not: the wait that began when it was sent is over.
    pub fn spoke(&self, now: Instant) {
        self.answered.set(Some(now));
        if let Some(sent) = self.sent.get() {
            self.upstream_took.set(self.upstream_took.get() + now.saturating_duration_since(sent));
        }
    }

    /// It is no part of any trace.
    pub fn leave_trace(&self) {
        self.trace.set(Trace::default());
        self.traced.take();
    }

    pub fn said(&self) -> Said {
        self.listener.borrow().said()
    }

    pub fn outcome(&self) -> Outcome {
        match self.ended.get().by {
            By::Client => Outcome::Gone,
            By::Upstream => Outcome::Failed,
            By::Proxy => Outcome::Refused,
            By::Nobody | By::Drain => match self.said() {
                _ if self.status.get() >= 400 => Outcome::HttpError,
                Said::Error(_) => Outcome::RpcError,
                Said::ToolError => Outcome::ToolError,
                Said::Unknown => Outcome::Unknown,
                Said::Nothing | Said::Result => Outcome::Ok,
            },
        }
    }

    /// `ended`: when it was closed. The time of a stream without end is that of its head.
    pub fn split(&self, ended: Instant) -> Split {
        let end = self.answered.get().filter(|_| self.is_endless.get()).unwrap_or(ended);
        let total = end.saturating_duration_since(self.begun);
        let (queue, connect, upstream) = (self.queued.get(), self.connecting.get(), self.upstream_took.get());
        Split { total, queue, connect, upstream, own: total.saturating_sub(queue + connect + upstream) }
    }
}

/// What a request's message is, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodId(u8);

/// The methods of MCP that a client may send, of all versions, and what else a message may be.
pub const METHODS: [&str; 29] = [
    "tools/call",
    "tools/list",
    "initialize",
    "ping",
    "server/discover",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/get",
    "prompts/list",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
    "notifications/elicitation/complete",
    "response",
    "batch",
    "other",
];

impl MethodId {
    pub const TOOLS_CALL: MethodId = MethodId(0);
    /// An answer to a request of the server.
    pub const RESPONSE: MethodId = MethodId(26);
    pub const BATCH: MethodId = MethodId(27);
    pub const OTHER: MethodId = MethodId(28);

    pub fn of(method: &[u8]) -> MethodId {
        let known = METHODS[..usize::from(Self::RESPONSE.0)].iter().position(|known| known.as_bytes() == method);
        known.map_or(Self::OTHER, |index| MethodId(index as u8))
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The label `method`.
    pub fn label(self) -> &'static str {
        METHODS[self.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_told_by_their_names() {
        assert_eq!(MethodId::of(b"tools/call"), MethodId::TOOLS_CALL);
        assert_eq!(MethodId::of(b"notifications/cancelled").label(), "notifications/cancelled");
        for other in [&b"response"[..], b"batch", b"other", b"", b"tools/callx"] {
            assert_eq!(MethodId::of(other).label(), "other");
        }
        assert_eq!((MethodId::RESPONSE.label(), MethodId::BATCH.label()), ("response", "batch"));
    }

    #[test]
    fn what_nobody_waited_for_is_our_own_time() {
        let begun = Instant::now();
        let account = Account::new(begun);
        let at = |ms| begun + Duration::from_millis(ms);
        account.queued.set(Duration::from_millis(5));
        account.sent.set(Some(at(10)));
        account.spoke(at(30));
        // Once more elsewhere, over a new connection.
        account.connecting.set(Duration::from_millis(2));
        account.sent.set(Some(at(33)));
        account.spoke(at(40));
        let ms = Duration::from_millis;
        let expected = Split { total: ms(50), queue: ms(5), connect: ms(2), upstream: ms(27), own: ms(16) };
        assert_eq!(account.split(at(50)), expected);
        account.is_endless.set(true);
        assert_eq!(account.split(at(5000)), Split { total: ms(40), own: ms(6), ..expected });
    }

    #[test]
    fn the_three_ways_to_fail_are_apart() {
        let account = Account::new(Instant::now());
        let listen = |text: &[u8]| {
            let mut listener = Listener::new(crate::wire::answer::Form::Json, true);
            listener.hear(text, true);
            account.listener.replace(listener);
        };
        account.status.set(200);
        listen(br#"{"error":{"code":-32602}}"#);
        assert_eq!(account.outcome(), Outcome::RpcError);
        listen(br#"{"result":{"isError":true}}"#);
        assert_eq!(account.outcome(), Outcome::ToolError);
        account.status.set(400);
        assert_eq!(account.outcome(), Outcome::HttpError);
        account.ended.set(Ended { by: By::Upstream, reason: "upstream_closed", early: false });
        assert_eq!(account.outcome(), Outcome::Failed);
    }
}
