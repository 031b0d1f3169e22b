//! Values of the headers that mirror a body (Streamable HTTP 2026-07-28, "Server Validation").

use std::borrow::Cow;

use crate::wire::base64;

/// A header value as the client meant it: plain visible ASCII, or base64 in `=?base64?` and `?=`.
pub fn decode(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return None;
    }
    match value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?=")) {
        None => Some(Cow::Borrowed(value)),
        Some(encoded) => base64::decode(std::str::from_utf8(encoded).ok()?).map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_specification_s_examples() {
        let decoded =
            |text: &'static str| decode(text.as_bytes()).map(|value| String::from_utf8_lossy(&value).into_owned());
        assert_eq!(decoded("us-west1").as_deref(), Some("us-west1"));
        assert_eq!(decoded("=?base64?SGVsbG8sIOS4lueVjA==?=").as_deref(), Some("Hello, 世界"));
        assert_eq!(decoded("=?base64?IHBhZGRlZCA=?=").as_deref(), Some(" padded "));
        assert_eq!(decoded("=?base64?bGluZTEKbGluZTI=?=").as_deref(), Some("line1\nline2"));
        assert_eq!(decoded("=?base64?SGVsbG8=").as_deref(), Some("=?base64?SGVsbG8="));
    }

    #[test]
    fn refuses_what_is_no_base64() {
        for bad in
            ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?SGVsbG9=?=", "=?base64?A===?=", "caf\u{e9}"]
        {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
