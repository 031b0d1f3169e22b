//! What is left to do where the answer was made: calls that take time get started, streams get sent.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::CLOCK;
use super::endpoint::{self, Next};
use super::mcp::{Server, Stream};
use super::message::Version;
use super::session::Session;
use super::work;
use crate::net::{sleep, spawn};
use crate::origin::{self, Ended, Outgoing, Reader, Request, Service};

const TICK: Duration = Duration::from_secs(1);

impl Service for Server {
    fn answer(self: &Arc<Self>, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> origin::Next {
        match endpoint::answer(self, request, json, out) {
            Next::Answered => origin::Next::Answered,
            Next::Background(task, session) => {
                spawn(work::run_all(vec![task], session.streams.standalone(), false));
                origin::Next::Answered
            }
            Next::Call(stream) => origin::Next::Stream(call(stream)),
            Next::Attach(reader, session) => origin::Next::Stream(attach(reader, session)),
            Next::OneStream(session) => origin::Next::Stream(one_stream(Arc::clone(self), session)),
        }
    }
}

/// Runs a call's works; a modern one is cancelled when its client leaves, a legacy stream stays for the client to resume.
fn call(stream: Stream) -> Outgoing {
    let Stream { log, works, session, guards, listen } = stream;
    let reader = log.attach(None);
    if !works.is_empty() {
        let ends_log = session.as_ref().is_none_or(|session| !session.streams.is_one());
        spawn(work::run_all(works, log, ends_log));
    }
    let number = reader.number();
    let first = priming(&reader, session.as_deref());
    let done = move |ended| {
        // Whatever is bound to the connection goes with it: cancelled if it still runs.
        drop((guards, listen));
        forget(ended, number, session.as_deref());
    };
    Outgoing { first, ..Outgoing::new(reader, done) }
}

/// The stream that a GET opened.
fn attach(reader: Reader, session: Arc<Session>) -> Outgoing {
    let number = reader.number();
    let first = priming(&reader, Some(&session));
    Outgoing { first, ..Outgoing::new(reader, move |ended| forget(ended, number, Some(&session))) }
}

/// The stream of a 2024-11-05 session: where to POST, then everything.
fn one_stream(server: Arc<Server>, session: Arc<Session>) -> Outgoing {
    let reader = session.streams.standalone().attach(None);
    let first = format!("event: endpoint\ndata: /messages?sessionId={}\n\n", session.id.as_str()).into_bytes();
    let done = move |_| {
        server.sessions.end(&session.id);
    };
    Outgoing { first, ..Outgoing::new(reader, done) }
}

fn priming(reader: &Reader, session: Option<&Session>) -> Vec<u8> {
    let mut first = Vec::new();
    if session.is_some_and(|session| session.version() >= Version::V2025_11_25) {
        reader.prime(&mut first);
    }
    first
}

fn forget(ended: Ended, number: Option<u32>, session: Option<&Session>) {
    if let (Ended::Whole, Some(number), Some(session)) = (ended, number, session) {
        session.streams.forget(number);
    }
}

/// Drives the clock resource.
pub async fn tick(server: Arc<Server>) {
    loop {
        sleep(TICK).await;
        server.catalog.tick();
        server.hub.updated(CLOCK);
    }
}
