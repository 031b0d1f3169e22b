//! What is said to one request.

use super::process::NotStarted;
use super::queue::Refused;
use crate::net::within;
use crate::origin::{self, Next, Reader, Reply, Request};
use crate::wire::jsonrpc;
use crate::wire::mcp::code;
use std::time::Duration;

/// An answer that takes longer than this is begun as a stream, so that nobody on the way takes the server for dead.
const SOON: Duration = Duration::from_secs(5);
/// When a client may ask a server again that is busy, seconds.
const BUSY: u32 = 1;

/// A request at hand, and room for the answer.
pub struct Asked<'a> {
    pub request: &'a Request<'a>,
    pub json: &'a mut Vec<u8>,
    pub out: &'a mut Vec<u8>,
}

impl Asked<'_> {
    /// 202, or 200 for what is done.
    pub fn done(&mut self, status: u16) -> Next {
        origin::answer(self.out, status, Reply::to(self.request), b"");
        Next::Answered
    }

    /// `id`: JSON of the id of the message that is refused, where there is one.
    pub fn refuse(&mut self, status: u16, id: Option<&str>, code: i32, reason: &str) -> Next {
        self.say(status, id, code, reason, None, None)
    }

    /// As [`refuse`](Asked::refuse); `data` is JSON.
    pub fn refuse_with(&mut self, status: u16, id: Option<&str>, code: i32, reason: &str, data: &str) -> Next {
        self.say(status, id, code, reason, Some(data), None)
    }

    /// 503, and when to ask again.
    pub fn refuse_for_now(&mut self, id: Option<&str>, reason: &str, seconds: u32) -> Next {
        self.say(503, id, code::INTERNAL_ERROR, reason, None, Some(seconds))
    }

    /// No server was started for this.
    pub fn not_started(&mut self, id: Option<&str>, why: NotStarted) -> Next {
        match why {
            NotStarted::TooMany(max) => {
                let reason = format!(
                    "all {max} servers are in use: end a session (DELETE), wait until one expires, or start the proxy with a \
                     larger --max-servers"
                );
                self.refuse_for_now(id, &reason, BUSY)
            }
            NotStarted::Closed => self.refuse_for_now(id, "the proxy is being stopped", BUSY),
            NotStarted::Failed(error) => {
                self.refuse_for_now(id, &format!("a server could not be started: {error}"), BUSY)
            }
        }
    }

    /// The server did not take a message.
    pub fn not_taken(&mut self, id: Option<&str>, why: Refused) -> Next {
        match why {
            Refused::Full => {
                self.refuse_for_now(id, "the server reads its stdin too slowly; too much waits for it", BUSY)
            }
            Refused::Closed => self.refuse_for_now(id, "the server is ending", BUSY),
        }
    }

    fn say(
        &mut self,
        status: u16,
        id: Option<&str>,
        code: i32,
        reason: &str,
        data: Option<&str>,
        retry_after: Option<u32>,
    ) -> Next {
        self.json.clear();
        jsonrpc::error(self.json, id.map(str::as_bytes), code, reason, data);
        origin::answer(self.out, status, Reply { retry_after, ..Reply::to(self.request) }, self.json);
        Next::Answered
    }
}

/// The answer to a call if it comes soon and nothing else does; else the stream goes to the client.
pub async fn whole(mut reader: Reader) -> Result<Box<[u8]>, Reader> {
    match within(SOON, reader.settled()).await {
        Ok(()) => reader.whole(),
        Err(_) => Err(reader),
    }
}
