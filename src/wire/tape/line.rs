//! What stands in the lines of a tape. One definition for both directions: fields as written, in the order of writing.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::base64;

/// One line.
#[derive(Debug)]
pub enum Line<'a> {
    Head(Head),
    Frame(Box<Frame<'a>>),
    Gap(Gap),
    Checkpoint(Checkpoint),
    End(End),
    /// Of a later version: nothing that this one knows.
    Unknown,
}

/// The first line of a tape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the format.
    #[serde(rename = "shadowcat_tape")]
    pub version: u32,
    /// 32 hexadecimal digits, the same in all parts of a tape.
    pub id: String,
    /// RFC 3339, UTC, microseconds.
    pub started: String,
    pub software: String,
    pub transport: Transport,
    #[serde(default, skip_serializing_if = "Server::is_empty")]
    pub server: Server,
    /// A hash of the session's id; none for requests without one.
    #[serde(default)]
    pub session: Option<String>,
    /// From 1; a tape that grew too large goes on in another file.
    #[serde(default = "first")]
    pub part: u32,
}

fn first() -> u32 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Stdio,
    Http,
}

/// What answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

impl Server {
    fn is_empty(&self) -> bool {
        self.command.is_empty() && self.upstream.is_none()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Client,
    Server,
    Proxy,
}

/// Where bytes came from, where that is not stdin or stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stderr,
}

/// Something that was said. At most one of `message`, `text` and `base64` is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frame<'a> {
    /// From 1 in each part, one more each.
    pub seq: u64,
    /// Since the head's `started`, on the monotonic clock.
    pub us: u64,
    pub from: Side,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// Which request and answer it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http<'a>>,
    /// What a message that has a method asks for, so that a reader need not look into it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<Rpc<'a>>,
    /// `seq` of the frame with the request that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// A JSON-RPC error, a tool that failed, or a status of 400 and above.
    #[serde(default, skip_serializing_if = "is_false")]
    pub error: bool,
    /// Something in it was replaced before it was written.
    #[serde(default, skip_serializing_if = "is_false")]
    pub redacted: bool,
    /// Bytes that were there and are not kept, behind those that are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: u64,
    /// JSON as it was, to the byte.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<Cow<'a, str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Names and values in the order in which they came.
pub type Headers<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// What a frame is in HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Http<'a> {
    /// A head, and the body if that came with it whole.
    Request {
        #[serde(borrow)]
        method: Cow<'a, str>,
        #[serde(borrow)]
        target: Cow<'a, str>,
        #[serde(borrow, default)]
        headers: Headers<'a>,
    },
    /// As the request.
    Response {
        status: u16,
        #[serde(borrow, default)]
        headers: Headers<'a>,
    },
    /// A body that did not come with its head.
    Body,
    /// A server-sent event, whose data are the frame's content.
    Event {
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        event: Option<Cow<'a, str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry: Option<u64>,
    },
    /// A comment line of an event stream, without its colon.
    Comment,
    /// Nothing more will come of this exchange.
    End {
        #[serde(borrow)]
        how: Cow<'a, str>,
    },
    /// Of a later version.
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rpc<'a> {
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    /// The tool, the prompt, the resource, or the task.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// As it stands in the message; none in a notification.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
}

/// Frames that could not be kept up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub frames: u64,
    pub bytes: u64,
}

/// What stands above it, back to the line behind the checkpoint before, or to the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Of the last frame.
    pub seq: u64,
    /// Where this line begins.
    pub bytes: u64,
    /// Eight hexadecimal digits.
    pub crc32c: String,
}

/// The last line, unless the recorder was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub why: Why,
    pub frames: u64,
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// What was recorded came to its end.
    Finished,
    /// It goes on in the next part.
    Rotated,
    /// Nothing was said for long.
    Idle,
    #[serde(other)]
    Other,
}

impl<'a> Frame<'a> {
    /// A frame without content; [`super::Writer`] numbers it.
    pub fn new(us: u64, from: Side) -> Frame<'a> {
        Frame {
            seq: 0,
            us,
            from,
            stream: None,
            connection: None,
            exchange: None,
            upstream: None,
            http: None,
            rpc: None,
            answers: None,
            error: false,
            redacted: false,
            cut: 0,
            message: None,
            text: None,
            base64: None,
        }
    }

    /// Keep `bytes` in the form that spells them best.
    pub fn hold(&mut self, bytes: &'a [u8]) {
        match std::str::from_utf8(bytes) {
            Ok("") => {}
            Ok(text) => match as_message(text) {
                Some(message) => self.message = Some(message),
                None => self.text = Some(Cow::Borrowed(text)),
            },
            Err(_) => self.base64 = Some(Cow::Owned(base64::encode(bytes))),
        }
    }

    /// The bytes that are kept, whatever their form; `None`: none, or no base64.
    pub fn content(&self) -> Option<Cow<'_, [u8]>> {
        match (self.message, &self.text, &self.base64) {
            (Some(message), ..) => Some(Cow::Borrowed(message.get().as_bytes())),
            (_, Some(text), _) => Some(Cow::Borrowed(text.as_bytes())),
            (.., Some(text)) => base64::decode(text).map(Cow::Owned),
            _ => None,
        }
    }
}

/// `text` as a message, if it is JSON that can stand in a line as it is: an object or a list, on one line, and nothing
/// around it.
pub fn as_message(text: &str) -> Option<&RawValue> {
    let bytes = text.as_bytes();
    let fits = matches!((bytes.first(), bytes.last()), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')));
    // Between its tokens there may be line ends, which would be the line's own.
    if !fits || memchr::memchr2(b'\n', b'\r', bytes).is_some() {
        return None;
    }
    serde_json::from_str(text).ok()
}
