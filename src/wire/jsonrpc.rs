//! JSON-RPC 2.0 messages that the proxy itself makes.

use std::io::Write;

/// An error answer. `id`: raw JSON of the request's id, `null` if it is not known; `data`: raw JSON.
pub fn error(out: &mut Vec<u8>, id: Option<&[u8]>, code: i32, message: &str, data: Option<&str>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id.unwrap_or(b"null"));
    // Writing into a vector cannot fail.
    let _ = write!(out, r#","error":{{"code":{code},"message":"#);
    string(out, message);
    if let Some(data) = data {
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data.as_bytes());
    }
    out.extend_from_slice(b"}}");
}

/// A JSON string (RFC 8259 section 7).
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => {
                let _ = write!(out, "\\u{byte:04x}");
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_valid_json_whatever_the_message() {
        let mut out = Vec::new();
        error(&mut out, Some(br#""a\"b""#), -32000, "line\n\"quoted\" \\ é", Some(r#"{"x":1}"#));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["id"], "a\"b");
        assert_eq!(value["error"]["message"], "line\n\"quoted\" \\ é");
        assert_eq!(value["error"]["data"]["x"], 1);
        out.clear();
        error(&mut out, None, -32700, "", None);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap()["id"], serde_json::Value::Null);
    }
}
