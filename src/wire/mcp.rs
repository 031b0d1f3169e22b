//! What the Model Context Protocol asks of whoever looks into its messages (Transports, 2025-11-25 and 2026-07-28).

use crate::wire::base64::decode_digits;
use crate::wire::json::{Kind, Peek};

/// The key of `params._meta` that makes a request a modern one.
pub const PROTOCOL_VERSION_META: &str = "io.modelcontextprotocol/protocolVersion";

/// Header names as they are sent.
pub mod header {
    pub const SESSION_ID: &str = "Mcp-Session-Id";
    pub const PROTOCOL_VERSION: &str = "MCP-Protocol-Version";
    pub const METHOD: &str = "Mcp-Method";
    pub const NAME: &str = "Mcp-Name";
}

/// JSON-RPC error codes.
pub mod code {
    pub const PARSE_ERROR: i32 = -32700;
    pub const INVALID_REQUEST: i32 = -32600;
    pub const METHOD_NOT_FOUND: i32 = -32601;
    pub const INVALID_PARAMS: i32 = -32602;
    pub const INTERNAL_ERROR: i32 = -32603;
    /// A header says other than the body (2026-07-28).
    pub const HEADER_MISMATCH: i32 = -32020;
    /// Not a version that the server speaks (2026-07-28).
    pub const UNSUPPORTED_VERSION: i32 = -32022;
}

/// Told apart per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: sessions.
    Legacy,
    /// 2026-07-28: no sessions; every request says its version.
    Modern,
}

/// A header of a modern request that contradicts its body, or is missing where it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("the header {0} does not match the body")]
    Differs(&'static str),
    #[error("the header {0} is missing")]
    Missing(&'static str),
}

/// Compare the headers of a modern message with its body, as everybody must who acts upon the body.
///
/// # Errors
/// The first header that differs or is missing; the answer is 400 with [`code::HEADER_MISMATCH`].
pub fn check_headers(
    peek: &Peek,
    version: Option<&[u8]>,
    method: Option<&[u8]>,
    name: Option<&[u8]>,
) -> Result<(), Mismatch> {
    let request = peek.kind() == Kind::Request;
    compare(header::PROTOCOL_VERSION, version, peek.protocol_version(), request)?;
    compare(header::METHOD, method, peek.method(), request)?;
    let named = matches!(peek.method(), Some(b"tools/call" | b"prompts/get" | b"resources/read"));
    compare(header::NAME, name, peek.name(), request && named)
}

fn compare(header: &'static str, sent: Option<&[u8]>, body: Option<&[u8]>, required: bool) -> Result<(), Mismatch> {
    match (sent, body) {
        (None, Some(_)) if required => Err(Mismatch::Missing(header)),
        (None, _) => Ok(()),
        (Some(sent), Some(body)) if sent == body => Ok(()),
        (Some(sent), Some(body)) => {
            let decoded = decode_value(sent).ok_or(Mismatch::Differs(header))?;
            if decoded == body { Ok(()) } else { Err(Mismatch::Differs(header)) }
        }
        // A name where the body has none.
        (Some(_), None) => Err(Mismatch::Differs(header)),
    }
}

/// Decode `=?base64?...?=`, as values that are not plain header text are sent; anything else stands for itself.
/// `None`: not base64 (RFC 4648 section 4).
fn decode_value(value: &[u8]) -> Option<Vec<u8>> {
    let Some(inner) = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?=")) else {
        return Some(value.to_vec());
    };
    let digits = inner.iter().rposition(|&b| b != b'=').map_or(0, |last| last + 1);
    if inner.len() % 4 != 0 || inner.len() - digits > 2 {
        return None;
    }
    decode_digits(&inner[..digits], *b"+/").map(|(bytes, _)| bytes)
}

/// Methods that change nothing, so that a request may be sent once more.
pub fn is_read_method(method: &[u8]) -> bool {
    matches!(
        method,
        b"ping"
            | b"server/discover"
            | b"tools/list"
            | b"resources/list"
            | b"resources/read"
            | b"resources/templates/list"
            | b"prompts/list"
            | b"prompts/get"
            | b"completion/complete"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Peek {
        let mut peek = Peek::new();
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"größe","_meta":
            {"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        peek.feed(body.as_bytes()).unwrap();
        peek.finish().unwrap();
        peek
    }

    #[test]
    fn headers_must_say_what_the_body_says() {
        let (peek, version) = (call(), Some(b"2026-07-28".as_slice()));
        let check = |version, method, name| check_headers(&peek, version, method, name);
        let name = Some("=?base64?Z3LDtsOfZQ==?=".as_bytes());
        assert_eq!(check(version, Some(b"tools/call"), name), Ok(()));
        assert_eq!(check(version, Some(b"tools/call"), Some("größe".as_bytes())), Ok(()));
        assert_eq!(check(version, Some(b"tools/list"), name), Err(Mismatch::Differs(header::METHOD)));
        assert_eq!(check(version, Some(b"tools/call"), Some(b"other")), Err(Mismatch::Differs(header::NAME)));
        assert_eq!(check(version, Some(b"tools/call"), Some(b"=?base64?!?=")), Err(Mismatch::Differs(header::NAME)));
        assert_eq!(
            check(Some(b"2025-11-25"), Some(b"tools/call"), name),
            Err(Mismatch::Differs(header::PROTOCOL_VERSION))
        );
        assert_eq!(check(version, None, name), Err(Mismatch::Missing(header::METHOD)));
        assert_eq!(check(version, Some(b"tools/call"), None), Err(Mismatch::Missing(header::NAME)));
    }
}
