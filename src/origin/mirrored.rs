//! Values of the headers that mirror a body (Streamable HTTP 2026-07-28, "Server Validation").

use std::borrow::Cow;

/// A header value as the client meant it: plain visible ASCII, or base64 in `=?base64?` and `?=`.
pub fn decode(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return None;
    }
    match value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?=")) {
        None => Some(Cow::Borrowed(value)),
        Some(encoded) => base64(encoded).map(Cow::Owned),
    }
}

/// RFC 4648 section 4: padded, and with zero bits behind the last byte.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut filled) = (0u32, 0u32);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        filled += 6;
        if filled >= 8 {
            filled -= 8;
            bytes.push((bits >> filled) as u8);
            bits &= (1 << filled) - 1;
        }
    }
    (padding <= 2 && bits == 0).then_some(bytes)
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
