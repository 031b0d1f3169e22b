//! The account of a request is opened when its exchange begins and closed once, in whatever way that ends.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::time::Instant;

use super::Worker;
use super::auth::Caller;
use super::connection::Client;
use super::refusal::Refusal;
use super::report::{self, Notes};
use super::tap::{self, Tap};
use super::upstream::LocalView;
use crate::net::turn;
use crate::telemetry::Fault;
use crate::telemetry::account::{Account, By, Ended, MethodId, Outcome, Split};
use crate::wire::answer::{Form, Listener, Said};
use crate::wire::http1::head::{Name, RequestHead, ResponseHead};
use crate::wire::json::{Kind, Peek};

/// What is written down of a request that is under way.
pub struct Ledger {
    pub account: Account,
    pub tap: Tap,
    pub notes: Notes,
    caller: RefCell<Caller>,
    is_closed: Cell<bool>,
}

/// A ledger that is closed when this is dropped, at the latest.
pub struct Open<'a> {
    pub worker: &'a Worker,
    pub view: &'a LocalView,
    pub client: &'a Client,
    ledger: &'a Ledger,
}

impl Deref for Open<'_> {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        self.ledger
    }
}

/// All that is known of a request that ended.
pub struct Closed<'a> {
    pub worker: &'a Worker,
    pub view: &'a LocalView,
    pub client: &'a Client,
    pub account: &'a Account,
    pub notes: &'a Notes,
    pub caller: &'a Caller,
    /// What was seen of its message; `None` if it was dropped in the middle.
    pub peek: Option<&'a Peek>,
    pub ended: Instant,
    pub split: Split,
    /// What was recorded of it; none of one that never began.
    pub tap: Option<&'a Tap>,
}

impl Ledger {
    /// Of a request whose head is parsed.
    pub fn of(head: &RequestHead) -> Ledger {
        let account = Account::new(turn::time());
        account.verb.set(head.method);
        account.bytes_in.set(head.len as u64);
        let (tap, notes) = (Tap::default(), Notes::default());
        Ledger { account, tap, notes, caller: RefCell::default(), is_closed: Cell::new(false) }
    }

    pub fn open<'a>(&'a self, worker: &'a Worker, view: &'a LocalView, client: &'a Client) -> Open<'a> {
        self.is_closed.set(false);
        Open { worker, view, client, ledger: self }
    }

    pub fn caller(&self) -> Caller {
        self.caller.borrow().clone()
    }

    /// Whether there was a message, which who is told of the request wants to see.
    pub fn has_message(&self) -> bool {
        self.account.method.get().is_some()
    }
}

/// A request whose head was refused, or did not come in time; `answered`: bytes of the answer.
pub fn never_begun(worker: &Worker, view: &LocalView, client: &Client, refusal: &Refusal, answered: usize) {
    worker.cells.requests.add(1);
    let account = Account::new(Instant::now());
    refused(&account, refusal, true);
    account.sent_client(answered);
    let (caller, ended, split) = (&Caller::Anonymous, account.begun, Split::default());
    let (account, notes) = (&account, &Notes::default());
    tell(&Closed { worker, view, client, account, notes, caller, peek: None, ended, split, tap: None });
}

impl Open<'_> {
    pub fn is_from(&self, caller: &Caller) {
        self.caller.replace(caller.clone());
    }

    /// It is not over: whoever gets the ledger opens it again.
    pub fn leave(self) {
        self.is_closed.set(true);
    }

    /// It ended; `peek` has seen what was to be seen of its message.
    pub fn close(&self, peek: &Peek) {
        self.is_closed.set(true);
        self.settle(Some(peek));
    }

    fn settle(&self, peek: Option<&Peek>) {
        let (account, notes, caller, ended) = (&self.account, &self.notes, self.caller.borrow(), Instant::now());
        // Of a body beyond the peek limit more may have been seen since.
        if let (None, Some(peek)) = (account.method.get(), peek) {
            understood(account, peek, true);
        }
        let split = account.split(ended);
        let (worker, view, client, tap) = (self.worker, self.view, self.client, Some(&self.tap));
        tell(&Closed { worker, view, client, account, notes, caller: &caller, peek, ended, split, tap });
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.is_closed.get() {
            let reason = if std::thread::panicking() { "panic" } else { "dropped" };
            self.account.ended.set(Ended { by: By::Proxy, reason, early: self.account.status.get() == 0 });
            self.settle(None);
        }
    }
}

/// The one place where requests that ended are told of. Called on the worker: what is told here is counted in its own
/// cells, or handed over without waiting.
fn tell(closed: &Closed<'_>) {
    count(closed);
    report::tell(closed);
    tap::end(closed);
}

fn count(closed: &Closed<'_>) {
    let Closed { worker, view, account, peek, ended, split, .. } = *closed;
    let (cells, outcome, now) = (&worker.cells, account.outcome(), ended - worker.shared.started);
    cells.bytes_in.add(account.bytes_in.get());
    cells.bytes_out.add(account.bytes_out.get());
    cells.statuses.count(account.status.get());
    cells.ended(account.ended.get().by);
    if let Said::Error(code) = account.said() {
        cells.rpc_errors.count(code);
    }
    // Of a stream without end this was told with its head.
    let was_asked = account.sent.get().is_some() && !account.is_endless.get();
    if let Some(index) = account.upstream.get() {
        let upstream = &view.locals[index].cells;
        upstream.outcome(outcome);
        if was_asked {
            upstream.took(&split, now);
        }
    }
    if !account.is_endless.get() {
        cells.took(&split, was_asked, now);
    }
    let Some(method) = account.method.get() else { return };
    let mut tools = worker.tools.borrow_mut();
    let tool = peek.filter(|_| method == MethodId::TOOLS_CALL).and_then(|peek| std::str::from_utf8(peek.name()?).ok());
    // Half of the names are for tools that answered well: anybody can make names up.
    let part = if outcome == Outcome::Ok { 1.0 } else { 0.5 };
    let tool = tool.and_then(|name| tools.find(&worker.shared.registry.tools, worker.index, name, part));
    let calls = tool.unwrap_or(&cells.calls[method.index()]);
    calls.outcome(outcome);
    if was_asked {
        calls.duration.record(split.total, now);
    }
}

/// A stream without end answers with its head.
pub fn endless(worker: &Worker, view: &LocalView, account: &Account) {
    account.is_endless.set(true);
    if let (Some(index), Some(answered)) = (account.upstream.get(), account.answered.get()) {
        let (split, now) = (account.split(answered), answered - worker.shared.started);
        view.locals[index].cells.took(&split, now);
        worker.cells.took(&split, true, now);
        if let Some(method) = account.method.get() {
            worker.cells.calls[method.index()].duration.record(split.total, now);
        }
    }
}

/// What the message is, as far as it was seen; `whole`: to its end.
pub fn understood(account: &Account, peek: &Peek, whole: bool) {
    let kind = peek.kind();
    let method = match (kind, peek.method()) {
        (Kind::Batch, _) => Some(MethodId::BATCH),
        (_, Some(method)) => Some(MethodId::of(method)),
        (Kind::Response, None) => Some(MethodId::RESPONSE),
        (_, None) => None,
    };
    account.method.set(method);
    // In a body beyond the peek limit an id may still come.
    account.wants_answer.set(kind == Kind::Request || (method.is_some() && !whole));
}

/// Listen to upstream's answer, where it is one that says something.
pub fn listen(account: &Account, answer: &ResponseHead, bytes: &[u8], is_stream: bool) {
    account.status.set(answer.status);
    if !account.wants_answer.get() {
        return;
    }
    let form = if is_stream { Form::Events } else { Form::Json };
    let plain = answer.find(bytes, Name::ContentEncoding).is_none();
    let is_json = is_stream || answer.find(bytes, Name::ContentType).is_some_and(says_json);
    let to_tool = account.method.get() == Some(MethodId::TOOLS_CALL);
    let listener = if plain && is_json { Listener::new(form, to_tool) } else { Listener::deaf() };
    account.listener.replace(listener);
}

fn says_json(kind: &[u8]) -> bool {
    kind.len() >= 16 && kind[..16].eq_ignore_ascii_case(b"application/json")
}

/// A stage said no, or something broke; `early`: before the client saw an answer, so that it is told.
pub fn refused(account: &Account, refusal: &Refusal, early: bool) {
    let by = match refusal.reason {
        "client_gone" | "header_timeout" | "body_timeout" => By::Client,
        "request_timeout" => By::Proxy,
        _ if refusal.fault().is_some_and(|fault| fault != Fault::Busy) => By::Upstream,
        _ => By::Proxy,
    };
    account.ended.set(Ended { by, reason: refusal.reason, early });
    account.rule.set(refusal.rule());
    if early {
        let told = refusal.reason != Refusal::CLIENT_GONE.reason;
        account.status.set(if told { refusal.status } else { 0 });
    }
}
