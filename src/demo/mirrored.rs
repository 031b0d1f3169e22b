//! The modern era's request headers, held against the body that they mirror
//! (Streamable HTTP 2026-07-28, "Server Validation").

use std::borrow::Cow;

use serde::Deserialize;

use super::message::Params;

/// What HTTP said of a POST besides its body; a value is without surrounding white space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    pub session: Option<&'a [u8]>,
    pub version: Option<&'a [u8]>,
    pub method: Option<&'a [u8]>,
    pub name: Option<&'a [u8]>,
    /// `Mcp-Param-Region`, the one parameter that the tools list as mirrored.
    pub region: Option<&'a [u8]>,
}

/// Compares all but the version; the sentence says what disagrees (-32020).
pub fn verify(headers: &Headers<'_>, method: &str, params: &Params<'_>) -> Result<(), &'static str> {
    match headers.method {
        None => return Err("Header mismatch: Mcp-Method is missing"),
        Some(value) if value != method.as_bytes() => {
            return Err("Header mismatch: Mcp-Method is not the body's method");
        }
        Some(_) => {}
    }
    let name = match method {
        "tools/call" | "prompts/get" => Some(&params.name),
        "resources/read" => Some(&params.uri),
        _ => None,
    };
    match (name, headers.name.map(decode)) {
        (Some(_), None) => return Err("Header mismatch: Mcp-Name is missing"),
        (Some(name), Some(header)) if header.as_deref() != Some(name.as_bytes()) => {
            return Err("Header mismatch: Mcp-Name is not the body's name");
        }
        _ => {}
    }
    if method == "tools/call" && params.name == "whoami" {
        return verify_region(headers.region, params);
    }
    Ok(())
}

fn verify_region(header: Option<&[u8]>, params: &Params<'_>) -> Result<(), &'static str> {
    #[derive(Default, Deserialize)]
    struct Arguments<'a> {
        #[serde(borrow, default)]
        region: Option<Cow<'a, str>>,
    }
    // Arguments of the wrong type are the tool's to refuse.
    let arguments: Arguments<'_> =
        params.arguments.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    match (arguments.region, header) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err("Header mismatch: Mcp-Param-Region has no counterpart in the body"),
        (Some(_), None) => Err("Header mismatch: Mcp-Param-Region is missing"),
        (Some(region), Some(header)) => match decode(header) {
            Some(value) if *value == *region.as_bytes() => Ok(()),
            _ => Err("Header mismatch: Mcp-Param-Region is not the body's region"),
        },
    }
}

/// A header value as the client meant it: plain visible ASCII, or base64 in `=?base64?` and `?=`.
fn decode(value: &[u8]) -> Option<Cow<'_, [u8]>> {
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

    #[test]
    fn compares_values_by_case_and_demands_what_the_method_needs() {
        let params = Params { name: "echo".into(), ..Params::default() };
        let check = |method, name| {
            let headers = Headers { method, name, ..Headers::default() };
            verify(&headers, "tools/call", &params).is_ok()
        };
        assert!(check(Some(b"tools/call"), Some(b"echo")));
        assert!(check(Some(b"tools/call"), Some(b"=?base64?ZWNobw==?=")));
        assert!(!check(Some(b"TOOLS/CALL"), Some(b"echo")));
        assert!(!check(Some(b"tools/call"), Some(b"Echo")));
        assert!(!check(Some(b"tools/call"), None));
        assert!(!check(None, Some(b"echo")));
    }
}
