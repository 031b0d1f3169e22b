//! The bytes of a request: put together once, so that sending one again changes nothing but the digits of its id.
//! Sans-io.

use std::sync::Arc;

use serde_json::{Value, json};
use shadowcat::base::Secret;
use shadowcat::net::Buffer;
use shadowcat::wire::http1::encode;
use shadowcat::wire::mcp::{PROTOCOL_VERSION_META, header};

/// Ids have as many digits, so that no length changes with them.
pub const ID_DIGITS: usize = 10;
const ID_FIRST: u64 = 1_000_000_000;
const ID_COUNT: u64 = 9_000_000_000;
/// Of a body, what goes along with the head; the rest is shared by all who send it. Bytes.
const TOGETHER_BYTES: usize = 16 * 1024;
const AGENT: &str = concat!("shadowcat-loadtest/", env!("CARGO_PKG_VERSION"));

/// The digits of an id.
pub type Id = [u8; ID_DIGITS];

/// The `number`th id of a connection.
pub fn id(number: u64) -> Id {
    let mut rest = ID_FIRST + number % ID_COUNT;
    let mut digits = [0; ID_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// A JSON-RPC message.
#[derive(Clone, Debug)]
pub struct Body {
    pub bytes: Arc<[u8]>,
    /// Where the digits of its id are; `None` for a notification.
    id_at: Option<usize>,
}

impl Body {
    pub fn request(method: &str, params: &Value) -> Body {
        let start = br#"{"jsonrpc":"2.0","id":"#;
        let mut bytes = start.to_vec();
        bytes.extend_from_slice(&id(0));
        bytes.push(b',');
        Body { bytes: finish(bytes, method, params), id_at: Some(start.len()) }
    }

    pub fn notification(method: &str, params: &Value) -> Body {
        Body { bytes: finish(br#"{"jsonrpc":"2.0","#.to_vec(), method, params), id_at: None }
    }
}

fn finish(mut bytes: Vec<u8>, method: &str, params: &Value) -> Arc<[u8]> {
    let method = Value::from(method);
    bytes.extend_from_slice(format!(r#""method":{method}"#).as_bytes());
    if !params.is_null() {
        bytes.extend_from_slice(format!(r#","params":{params}"#).as_bytes());
    }
    bytes.push(b'}');
    bytes.into()
}

/// What a request of the modern era says of itself (2026-07-28, `_meta`).
pub fn with_meta(mut params: Value, version: &str) -> Value {
    if params.is_null() {
        params = json!({});
    }
    let meta = &mut params["_meta"];
    meta[PROTOCOL_VERSION_META] = version.into();
    meta["io.modelcontextprotocol/clientInfo"] = client();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    params
}

pub fn client() -> Value {
    json!({"name": "shadowcat-loadtest", "version": env!("CARGO_PKG_VERSION")})
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Post,
    Get,
    Delete,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Address {
    /// Path and query.
    pub path: String,
    pub host: String,
}

/// All that a head is made of.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub verb: Verb,
    pub address: &'a Address,
    pub version: Option<&'a str>,
    pub session: Option<&'a str>,
    /// What a modern head repeats of its body: the method, and the name if there is one.
    pub mirrored: Option<(&'a str, Option<&'a str>)>,
    pub token: Option<&'a Secret>,
    pub fields: &'a [(String, String)],
    /// Filled up to this many bytes, if it is shorter.
    pub bytes: usize,
}

/// A request that can be sent any number of times.
#[derive(Debug)]
pub struct Message {
    /// The head, and of the body what is sent along with it.
    pub first: Buffer,
    /// The rest of a long body.
    pub rest: Option<(Arc<[u8]>, usize)>,
    id_at: Option<usize>,
}

impl Message {
    pub fn new(head: &Head<'_>, body: Option<&Body>) -> Message {
        let length = body.map(|body| body.bytes.len());
        let mut bytes = write_head(head, length, 0);
        if bytes.len() < head.bytes {
            bytes = write_head(head, length, head.bytes - bytes.len());
        }
        let head_len = bytes.len();
        let mut rest = None;
        let mut id_at = None;
        if let Some(body) = body {
            let together = body.bytes.len().min(TOGETHER_BYTES);
            bytes.extend_from_slice(&body.bytes[..together]);
            rest = (together < body.bytes.len()).then(|| (body.bytes.clone(), together));
            id_at = body.id_at.map(|at| head_len + at);
        }
        Message { first: Buffer::from_vec(bytes), rest, id_at }
    }

    /// In the place of one that is being sent.
    pub fn empty() -> Message {
        Message { first: Buffer::default(), rest: None, id_at: None }
    }

    pub fn set_id(&mut self, id: &Id) {
        if let Some(at) = self.id_at {
            self.first.bytes_mut()[at..at + ID_DIGITS].copy_from_slice(id);
        }
    }
}

/// `padding`: how much longer it is to be, bytes.
fn write_head(head: &Head<'_>, length: Option<usize>, padding: usize) -> Vec<u8> {
    const PADDING: &str = "X-Padding";
    let mut out = Vec::new();
    let verb: &[u8] = match head.verb {
        Verb::Post => b"POST",
        Verb::Get => b"GET",
        Verb::Delete => b"DELETE",
    };
    let field = |out: &mut Vec<u8>, name: &str, value: &str| encode::field(out, name.as_bytes(), value.as_bytes());
    encode::request_line(&mut out, verb, head.address.path.as_bytes());
    field(&mut out, "Host", &head.address.host);
    field(&mut out, "User-Agent", AGENT);
    match head.verb {
        Verb::Post => {
            field(&mut out, "Content-Type", "application/json");
            field(&mut out, "Accept", "application/json, text/event-stream");
        }
        Verb::Get => field(&mut out, "Accept", "text/event-stream"),
        Verb::Delete => {}
    }
    for (name, value) in [(header::PROTOCOL_VERSION, head.version), (header::SESSION_ID, head.session)] {
        value.into_iter().for_each(|value| field(&mut out, name, value));
    }
    if let Some((method, name)) = head.mirrored {
        field(&mut out, header::METHOD, method);
        name.into_iter().for_each(|name| field(&mut out, header::NAME, name));
    }
    if let Some(token) = head.token {
        field(&mut out, "Authorization", &format!("Bearer {}", token.expose()));
    }
    for (name, value) in head.fields {
        field(&mut out, name, value);
    }
    if let Some(value) = padding.checked_sub(PADDING.len() + 4).filter(|_| padding > 0) {
        field(&mut out, PADDING, &"p".repeat(value));
    }
    if let Some(length) = length {
        encode::content_length(&mut out, length as u64);
    }
    encode::end(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use shadowcat::wire::http1::head::{HeadLimits, Name, Progress, RequestHead};
    use shadowcat::wire::json::{Kind, Peek};

    fn message(head_bytes: usize, body: &Body) -> Message {
        let address = Address { path: "/mcp".into(), host: "localhost:1".into() };
        let fields = [("X-Team".to_owned(), "a".to_owned())];
        let token = Secret::new("secret");
        let head = Head {
            verb: Verb::Post,
            address: &address,
            version: Some("2025-11-25"),
            session: Some("s-1"),
            mirrored: Some(("tools/call", Some("echo"))),
            token: Some(&token),
            fields: &fields,
            bytes: head_bytes,
        };
        Message::new(&head, Some(body))
    }

    #[test]
    fn a_message_is_what_it_says_and_has_the_size_that_was_asked_for() {
        let body = Body::request("tools/call", &json!({"name": "echo"}));
        let mut message = message(1024, &body);
        message.set_id(&id(41));
        let bytes = message.first.bytes();
        let mut head = RequestHead::default();
        let limits = HeadLimits { head_bytes: 4096, fields: 64, target_bytes: 64 };
        assert_eq!(head.parse(bytes, &limits), Ok(Progress::Complete));
        assert_eq!(head.len, 1024);
        for (name, value) in [
            (Name::Host, "localhost:1"),
            (Name::McpSessionId, "s-1"),
            (Name::McpProtocolVersion, "2025-11-25"),
            (Name::McpMethod, "tools/call"),
            (Name::McpName, "echo"),
            (Name::Authorization, "Bearer secret"),
            (Name::ContentLength, body.bytes.len().to_string().as_str()),
        ] {
            assert_eq!(head.find(bytes, name), Some(value.as_bytes()), "{name:?}");
        }
        let mut peek = Peek::new();
        peek.feed(&bytes[head.len..]).expect("JSON");
        peek.finish().expect("whole");
        assert_eq!(peek.kind(), Kind::Request);
        assert_eq!(peek.id(), Some(b"1000000041".as_slice()));
        assert_eq!((peek.method(), peek.name()), (Some(b"tools/call".as_slice()), Some(b"echo".as_slice())));
    }

    #[test]
    fn a_long_body_is_shared_but_for_its_beginning() {
        let text = "x".repeat(100_000);
        let body = Body::request("tools/call", &json!({"name": "echo", "arguments": {"text": text}}));
        let message = message(0, &body);
        let (rest, from) = message.rest.as_ref().expect("a rest");
        let sent = [&message.first.bytes()[message.first.len() - from..], &rest[*from..]].concat();
        assert_eq!(sent, &body.bytes[..]);
        assert!(Arc::ptr_eq(rest, &body.bytes));
    }

    #[test]
    fn ids_keep_their_length() {
        assert_eq!(&id(0), b"1000000000");
        assert_eq!(&id(ID_COUNT - 1), b"9999999999");
        assert_eq!(id(ID_COUNT), id(0));
    }
}
