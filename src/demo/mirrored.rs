//! The modern era's request headers, held against the body that they mirror
//! (Streamable HTTP 2026-07-28, "Server Validation").

use std::borrow::Cow;

use serde::Deserialize;

use super::message::Params;
use crate::origin::mirrored::decode;

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

#[cfg(test)]
mod tests {
    use super::*;

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
