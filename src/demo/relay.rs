//! Event streams: from a log to the client, each batch of events in one send, until one side ends it.
//!
//! While it waits for events the relay watches the client, because leaving means something: a modern
//! call is cancelled, a legacy stream stays for the client to resume.

use std::io;
use std::pin::pin;
use std::time::Duration;

use super::connection::Connection;
use super::events::{EventLog, Reader, Step};
use super::http::{self, Reply, Transport};
use super::mcp::Stream;
use super::message::Version;
use super::session::Session;
use super::work;
use crate::net::{Buffer, Either, Expired, race, spawn, within};
use crate::wire::http1::encode;

/// Silence after which a comment line shows proxies and clients that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A client that sends this much ahead of its answer is watched no longer.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// Runs a call's works and sends their stream; false if the connection ends.
pub async fn call(
    connection: &mut Connection,
    transport: Transport,
    reply: Reply<'_>,
    output: Buffer,
    stream: Stream,
) -> io::Result<bool> {
    let Stream { log, works, session, guards, listen } = stream;
    let mut reader = log.attach(None);
    if !works.is_empty() {
        let ends_log = session.as_ref().is_none_or(|session| !session.one_stream);
        spawn(work::run_all(works, log, ends_log));
    }
    let mut events = Vec::new();
    if session.as_ref().is_some_and(|session| session.version() >= Version::V2025_11_25) {
        reader.prime(&mut events);
    }
    let ended = relay(connection, transport, reply, output, &mut reader, events).await;
    // Whatever is bound to the connection goes with it: cancelled if it still runs.
    drop((guards, listen));
    finish(ended?, transport, reader, session.as_deref())
}

/// Sends the stream that a GET opened.
pub async fn attach(
    connection: &mut Connection,
    transport: Transport,
    reply: Reply<'_>,
    output: Buffer,
    mut reader: Reader,
    session: &Session,
) -> io::Result<bool> {
    let mut events = Vec::new();
    if session.version() >= Version::V2025_11_25 {
        reader.prime(&mut events);
    }
    let ended = relay(connection, transport, reply, output, &mut reader, events).await?;
    finish(ended, transport, reader, Some(session))
}

/// Sends the stream of a 2024-11-05 session: where to POST, then everything.
pub async fn one_stream(
    connection: &mut Connection,
    transport: Transport,
    reply: Reply<'_>,
    output: Buffer,
    session: &Session,
) -> io::Result<bool> {
    let mut reader = EventLog::attach(&session.standalone(), None);
    let events = format!("event: endpoint\ndata: /messages?sessionId={}\n\n", session.id.as_str()).into_bytes();
    let ended = relay(connection, transport, reply, output, &mut reader, events).await?;
    finish(ended, transport, reader, None)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Everything was said.
    Whole,
    Displaced,
    ClientLeft,
}

fn finish(ended: Ended, transport: Transport, reader: Reader, session: Option<&Session>) -> io::Result<bool> {
    if ended == Ended::Whole {
        if let (Some(session), Some(number)) = (session, reader.number()) {
            session.forget_stream(number);
        }
        reader.finish();
    }
    // Without chunks only the connection's end says that this was all.
    Ok(ended != Ended::ClientLeft && !transport.http10)
}

/// `events` goes out with the head.
async fn relay(
    connection: &mut Connection,
    transport: Transport,
    reply: Reply<'_>,
    mut output: Buffer,
    reader: &mut Reader,
    mut events: Vec<u8>,
) -> io::Result<Ended> {
    let chunked = !transport.http10;
    let reply = Reply { close: !transport.keep_alive || !chunked, ..reply };
    http::event_stream(output.vec(), reply, chunked);
    // The first events may be there already; if not, the head does not wait for them.
    let mut step = reader.ready(&mut events);
    loop {
        let ended = match step {
            Some(Step::End) => Some(Ended::Whole),
            Some(Step::Displaced) => Some(Ended::Displaced),
            Some(Step::Events) | None => None,
        };
        put_chunk(output.vec(), &events, chunked);
        events.clear();
        if ended.is_some() && chunked {
            output.vec().extend_from_slice(encode::LAST_CHUNK);
        }
        connection.send(output).await?;
        if let Some(ended) = ended {
            return Ok(ended);
        }
        step = wait(connection, reader, &mut events).await?;
        if step.is_none() {
            return Ok(Ended::ClientLeft);
        }
        output = Buffer::small();
    }
}

/// The next step of the log, with a comment line if it is long in coming; `None` if the client left.
async fn wait(connection: &mut Connection, reader: &mut Reader, events: &mut Vec<u8>) -> io::Result<Option<Step>> {
    loop {
        // Until the client sends something its connection needs no buffer.
        if connection.input.is_empty() {
            connection.input = Buffer::default();
        }
        let watched = connection.input.len() < AHEAD_BYTES_MAX;
        let client = within(KEEP_ALIVE, async {
            match watched {
                true => connection.stream.readable().await,
                false => std::future::pending().await,
            }
        });
        let first = race(pin!(reader.next(events)), pin!(client)).await;
        match first {
            Either::First(step) => return Ok(Some(step)),
            Either::Second(Ok(readable)) => readable?,
            Either::Second(Err(Expired)) => {
                events.extend_from_slice(b": keep-alive\n\n");
                return Ok(Some(Step::Events));
            }
        }
        if connection.fill().await? == 0 {
            return Ok(None);
        }
    }
}

fn put_chunk(out: &mut Vec<u8>, data: &[u8], chunked: bool) {
    if data.is_empty() {
        return;
    }
    if chunked {
        out.extend_from_slice(encode::chunk_head(data.len()).as_bytes());
    }
    out.extend_from_slice(data);
    if chunked {
        out.extend_from_slice(encode::CHUNK_END);
    }
}
