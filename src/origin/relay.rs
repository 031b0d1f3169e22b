//! Event streams: from a log to the client, each batch of events in one send, until one side ends it.
//!
//! While it waits for events the relay watches the client: what its leaving means is for whoever made the stream to say.

use std::io;
use std::pin::pin;
use std::time::Duration;

use super::connection::Connection;
use super::events::{Reader, Step};
use super::http::{self, Reply, Transport};
use super::{Ended, Outgoing};
use crate::net::{Buffer, Expired};
use crate::wire::http1::encode;

/// Silence after which a comment line shows proxies and clients that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sends a stream to its end; false if the connection ends.
pub async fn run(
    connection: &mut Connection,
    transport: Transport,
    reply: Reply<'_>,
    output: Buffer,
    stream: Outgoing,
) -> io::Result<bool> {
    let Outgoing { mut reader, session, first, done } = stream;
    let reply = Reply { session: session.as_ref().map(|id| id.as_str()), ..reply };
    let ended = relay(connection, transport, reply, output, &mut reader, first).await;
    let how = *ended.as_ref().unwrap_or(&Ended::ClientLeft);
    done(how);
    if how == Ended::Whole {
        reader.finish();
    }
    // Without chunks only the connection's end says that this was all.
    Ok(ended? != Ended::ClientLeft && !transport.http10)
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
        let next = connection.attend(KEEP_ALIVE, pin!(reader.next(&mut events))).await?;
        step = match next {
            Some(Ok(step)) => Some(step),
            Some(Err(Expired)) => {
                events.extend_from_slice(b": keep-alive\n\n");
                Some(Step::Events)
            }
            None => return Ok(Ended::ClientLeft),
        };
        output = Buffer::small();
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
