//! One user: what it has before it is measured, and what it does again and again.

use std::time::Duration;

use shadowcat::base::Secret;

use crate::answer::Want;
use crate::client::{Client, Follow, Streamed};
use crate::fault::{Fault, Kind as Fail};
use crate::message::{self, Body, Head, Message, Verb};
use crate::scenario::{Call, Kind, Pace, Steps, Users, Work};
use crate::thread::Thread;

/// How long somebody rests who cannot reach the target, so that failing costs nobody a core.
const REST: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_secs(1);

pub struct User {
    group: usize,
    token: Option<Secret>,
    client: Client,
    session: Option<String>,
    /// For the session at hand: one for each work, in their order.
    messages: Vec<Message>,
    ids: u64,
    /// Failures one behind the other.
    failures: u32,
}

/// What a request is, besides its bytes.
struct Ask<'a> {
    operation: usize,
    due: u64,
    sent: u64,
    want: Want,
    rate: Option<u64>,
    users: &'a Users,
}

impl User {
    pub fn new(thread: &Thread, group: usize, number: usize, client: Client) -> User {
        let tokens = &thread.plan.scenario.users[group].tokens;
        let token = (!tokens.is_empty()).then(|| tokens[number % tokens.len()].clone());
        User { group, token, client, session: None, messages: Vec::new(), ids: 0, failures: 0 }
    }

    /// What it needs before it is measured: a session, and what its streams subscribe to.
    ///
    /// # Errors
    /// What the target answered instead.
    pub async fn begin(&mut self, thread: &Thread) -> Result<(), Fault> {
        let plan = thread.plan.clone();
        let users = &plan.scenario.users[self.group];
        if users.sessions {
            self.handshake(thread, users).await?;
            let subscriptions = users.work.iter().filter_map(|work| match &work.kind {
                Kind::Stream { subscribe, .. } => Some(subscribe),
                _ => None,
            });
            for call in subscriptions.flatten() {
                let mut message = self.message(thread, users, Verb::Post, Some(&call.body), None);
                let want = self.want(call, &mut message);
                self.unmeasured(thread, users, &mut message, want).await?;
            }
        }
        self.prepare(thread, users);
        Ok(())
    }

    async fn handshake(&mut self, thread: &Thread, users: &Users) -> Result<(), Fault> {
        self.session = None;
        let mut message = self.message(thread, users, Verb::Post, Some(&users.initialize), None);
        let want = self.result(&mut message);
        self.unmeasured(thread, users, &mut message, want).await?;
        self.session = self.client.reader.session().map(str::to_owned);
        let mut message = self.message(thread, users, Verb::Post, Some(&users.initialized), None);
        self.unmeasured(thread, users, &mut message, Want::Accepted).await
    }

    /// End the session.
    pub async fn leave(&mut self, thread: &Thread) {
        let plan = thread.plan.clone();
        let users = &plan.scenario.users[self.group];
        if users.sessions && self.session.is_some() {
            let mut message = self.message(thread, users, Verb::Delete, None, None);
            drop(self.unmeasured(thread, users, &mut message, Want::Ended).await);
        }
        self.client.close();
    }

    /// Until it is over.
    pub async fn live(&mut self, thread: &Thread) {
        let plan = thread.plan.clone();
        let users = &plan.scenario.users[self.group];
        let weights: u64 = users.work.iter().map(|work| u64::from(work.weight)).sum();
        loop {
            let mut now = thread.now();
            let Some(due) = thread.due(self.group, now) else { return };
            if due > now {
                if !thread.wait(due).await {
                    return;
                }
                now = thread.now();
                thread.late(due, now);
            }
            let work = choose(users, thread.random.next() % weights);
            if users.sessions && self.session.is_none() && self.failures > 0 {
                // It was lost.
                if self.begin(thread).await.is_err() {
                    self.client.close();
                }
            }
            let is_fine = self.perform(thread, users, work, [due, now]).await;
            self.failures = if is_fine { 0 } else { self.failures + 1 };
            self.pause(thread, users).await;
        }
    }

    async fn pause(&mut self, thread: &Thread, users: &Users) {
        let Pace::Closed { think } = users.pace else { return };
        let rest = match self.failures {
            0 => Duration::ZERO,
            failures => REST.saturating_mul(1 << (failures - 1).min(10)).min(REST_MAX),
        };
        let left = Duration::from_nanos(thread.end().saturating_sub(thread.now()));
        let wait = think.max(rest).min(left);
        if !wait.is_zero() {
            thread.wait(thread.now() + wait.as_nanos() as u64).await;
        }
    }

    async fn perform(&mut self, thread: &Thread, users: &Users, index: usize, [due, sent]: [u64; 2]) -> bool {
        let work = &users.work[index];
        match &work.kind {
            Kind::LifeCycle { calls, steps } => {
                self.life_cycle(thread, users, work, (*calls, *steps), [due, sent]).await
            }
            Kind::Request | Kind::Stream { .. } => {
                let mut message = std::mem::replace(&mut self.messages[index], Message::empty());
                let fine = match work.kind {
                    Kind::Stream { hold, events_min, .. } => {
                        self.stream(thread, users, work, &mut message, [due, sent], (hold, events_min)).await
                    }
                    _ => {
                        let want = self.want(&work.call, &mut message);
                        let (operation, rate) = (work.operation, work.call.read_rate);
                        self.ask(thread, &mut message, Ask { operation, due, sent, want, rate, users }).await
                    }
                };
                self.messages[index] = message;
                fine
            }
        }
    }

    /// One request, measured; whether the answer was right.
    async fn ask(&mut self, thread: &Thread, message: &mut Message, ask: Ask<'_>) -> bool {
        let sent = ask.sent;
        let is_stream = matches!(ask.want, Want::Stream);
        let exchanged = self.client.exchange(message, ask.want, ask.rate, sent).await;
        let done = thread.now();
        if let Some(took) = self.client.connected.take() {
            thread.good(ask.users.connecting, [sent, sent, sent + took], 0);
        }
        let verdict = exchanged.and_then(|()| self.client.reader.verdict());
        if verdict.is_err() || !is_stream {
            self.client.settle(ask.users.requests_per_connection);
        }
        match verdict {
            Ok(()) => thread.good(ask.operation, [ask.due, sent, done], self.client.reader.bytes),
            Err(fault) => {
                if fault.kind == Fail::Status(404) && self.session.take().is_some() {
                    thread.lost_session();
                }
                thread.bad(ask.operation, ask.due, fault);
                return false;
            }
        }
        true
    }

    /// A request that nobody measures.
    async fn unmeasured(
        &mut self,
        thread: &Thread,
        users: &Users,
        message: &mut Message,
        want: Want,
    ) -> Result<(), Fault> {
        let exchanged = self.client.exchange(message, want, None, thread.now()).await;
        self.client.connected = None;
        let verdict = exchanged.and_then(|()| self.client.reader.verdict());
        self.client.settle(users.requests_per_connection);
        verdict
    }

    /// initialize, initialized, calls, DELETE. The first is due when all of it is; the others when the one before is done.
    async fn life_cycle(
        &mut self,
        thread: &Thread,
        users: &Users,
        work: &Work,
        (calls, steps): (u32, Steps),
        [due, sent]: [u64; 2],
    ) -> bool {
        self.session = None;
        let mut message = self.message(thread, users, Verb::Post, Some(&users.initialize), None);
        let want = self.result(&mut message);
        let mut fine = self
            .ask(thread, &mut message, Ask { operation: steps.initialize, due, sent, want, rate: None, users })
            .await;
        if fine {
            self.session = self.client.reader.session().map(str::to_owned);
            let mut message = self.message(thread, users, Verb::Post, Some(&users.initialized), None);
            let (due, want) = (thread.now(), Want::Accepted);
            let ask = Ask { operation: steps.initialized, due, sent: due, want, rate: None, users };
            fine = self.ask(thread, &mut message, ask).await;
            let mut message = self.message(thread, users, Verb::Post, Some(&work.call.body), Some(&work.call));
            for _ in 0..calls {
                if !fine {
                    break;
                }
                let (due, want) = (thread.now(), self.want(&work.call, &mut message));
                let ask = Ask { operation: steps.call, due, sent: due, want, rate: work.call.read_rate, users };
                fine = self.ask(thread, &mut message, ask).await;
            }
        }
        if self.session.is_some() {
            let mut message = self.message(thread, users, Verb::Delete, None, None);
            let (due, want) = (thread.now(), Want::Ended);
            fine &= self
                .ask(thread, &mut message, Ask { operation: steps.delete, due, sent: due, want, rate: None, users })
                .await;
        }
        self.session = None;
        if fine {
            thread.good(work.operation, [due, sent, thread.now()], 0);
        }
        fine
    }

    async fn stream(
        &mut self,
        thread: &Thread,
        users: &Users,
        work: &Work,
        message: &mut Message,
        [due, sent]: [u64; 2],
        (hold, events_min): (Duration, u64),
    ) -> bool {
        let id = self.next_id();
        message.set_id(&id);
        let (operation, rate) = (work.operation, work.call.read_rate);
        if !self.ask(thread, message, Ask { operation, due, sent, want: Want::Stream, rate, users }).await {
            return false;
        }
        let opened = thread.now();
        let (mut events, mut bytes) = (0, 0);
        let mut each = |so_far: &Streamed| {
            thread.streamed(so_far.events - events, so_far.bytes - bytes);
            (events, bytes) = (so_far.events, so_far.bytes);
        };
        let was_held = |now: u64| now - opened >= hold.as_nanos() as u64;
        let is_over = || was_held(thread.now()) || thread.now() >= thread.end() || thread.is_stopped();
        let followed = self.client.follow(Follow { rate, each: &mut each, is_over: &is_over }).await;
        let fault = match followed {
            Err(fault) => fault,
            Ok(streamed) if streamed.ended => {
                Fault::new(Fail::StreamEnded, format!("after {} events", streamed.events))
            }
            Ok(streamed) if streamed.events < events_min && was_held(thread.now()) => {
                Fault::new(Fail::FewEvents, format!("{} in {hold:?}, at least {events_min} wanted", streamed.events))
            }
            Ok(_) => return true,
        };
        thread.bad(operation, due, fault);
        false
    }

    fn next_id(&mut self) -> message::Id {
        self.ids += 1;
        message::id(self.ids)
    }

    fn result(&mut self, message: &mut Message) -> Want {
        let id = self.next_id();
        message.set_id(&id);
        Want::Result { id, to_tool: false, contains: None }
    }

    fn want(&mut self, call: &Call, message: &mut Message) -> Want {
        let id = self.next_id();
        message.set_id(&id);
        match call.status {
            200 => Want::Result { id, to_tool: call.method == "tools/call", contains: call.contains.clone() },
            status => Want::Status(status),
        }
    }

    /// The messages of all work for the session at hand.
    fn prepare(&mut self, thread: &Thread, users: &Users) {
        let messages = users.work.iter().map(|work| {
            let is_get = matches!(work.kind, Kind::Stream { .. }) && !users.is_modern();
            let (verb, body) = if is_get { (Verb::Get, None) } else { (Verb::Post, Some(&work.call.body)) };
            self.message(thread, users, verb, body, Some(&work.call))
        });
        self.messages = messages.collect();
    }

    fn message(&self, thread: &Thread, users: &Users, verb: Verb, body: Option<&Body>, call: Option<&Call>) -> Message {
        let is_initialize = body.is_some_and(|body| std::ptr::eq(body, &users.initialize));
        let head = Head {
            verb,
            address: &thread.plan.address,
            version: (!is_initialize).then_some(users.version.as_str()),
            session: self.session.as_deref(),
            mirrored: call.filter(|_| users.is_modern()).map(|call| (call.method.as_str(), call.name.as_deref())),
            token: self.token.as_ref(),
            fields: &users.fields,
            bytes: users.head_bytes,
        };
        Message::new(&head, body)
    }
}

fn choose(users: &Users, mut random: u64) -> usize {
    users
        .work
        .iter()
        .position(|work| match random.checked_sub(u64::from(work.weight)) {
            Some(rest) => {
                random = rest;
                false
            }
            None => true,
        })
        .unwrap_or(0)
}
